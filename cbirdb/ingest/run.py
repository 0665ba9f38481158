"""Dataset files -> catalogue: reads a dataset, looks at each file once, and writes what it found, batch by batch.

Every batch is one transaction, so a run that is killed loses at most the batch in flight; run again, it goes on
where it was, because what is there already and has not changed is neither read nor written again.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Protocol

import psycopg

from cbirdb.allowed_roots import AllowedRoots, remember
from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.registry import open_dataset
from cbirdb.db import catalogue
from cbirdb.db.catalogue import ImageRow, PatientRow, StoredImage, StudyRow
from cbirdb.db.connection import server_time
from cbirdb.db.errors import translated_errors
from cbirdb.db.failures import record_failures, resolve_failures, resolve_gone, resolve_gone_lists
from cbirdb.errors import InputError, PixelError
from cbirdb.failure_summary import FailureTally
from cbirdb.ingest.inspect_files import LookPool, look_pool, looks
from cbirdb.ingest.skip_erased import without_erased, without_erased_files
from cbirdb.ingest.split_shares import SplitShares
from cbirdb.limits import MAX_PIXELS
from cbirdb.names import printable
from cbirdb.progress import SILENT, Progress
from cbirdb.pseudonyms import Pseudonyms
from cbirdb.records import POSITIVE, DatasetItem, Excluded, Failure, FileFacts, ImageRecord, Missing

log = logging.getLogger(__name__)

BATCH_WITH_FILES = 256
BATCH_WITHOUT_FILES = 5000


class MakePseudonyms(Protocol):
    """Gives patients' pseudonyms; ``create``: with a new key, where there is none yet."""

    def __call__(self, *, create: bool) -> Pseudonyms: ...


@dataclass(slots=True)
class IngestSummary(FailureTally):
    """What happened to the items of a dataset. ``added`` includes those whose content was there already."""

    datasets: dict[str, int] = field(default_factory=dict)
    """Names and ids of the datasets that were written to."""
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    missing: int = 0
    duplicate: int = 0
    damaged: int = 0
    """Images with a report of damage, taken all the same."""
    stored_failed: int = 0
    """Failures of images that are in the catalogue, and stay there."""
    excluded: int = 0
    excluded_reasons: Counter[str] = field(default_factory=Counter)
    first_missing: list[str] = field(default_factory=list)
    without_label: int = 0
    label_names: set[str] = field(default_factory=set)
    missing_reasons: Counter[str] = field(default_factory=Counter)
    selection: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Images by split, modality and label; those with several labels count for each."""

    def row(self) -> dict[str, object]:
        """The one row that the command line ends with."""
        return {
            "dataset": ", ".join(self.datasets),
            "added": self.added,
            "updated": self.updated,
            "unchanged": self.unchanged,
            "missing": self.missing,
            "duplicate": self.duplicate,
            "excluded": self.excluded,
            "failed": self.failed,
        }


def ingest(
    connection: psycopg.Connection,
    reader_name: str,
    path: Path,
    *,
    options: ReadOptions | None = None,
    shares: SplitShares | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    accept_damaged: bool = False,
    recheck: bool = False,
    moved: bool = False,
    dry_run: bool = False,
    pseudonyms: MakePseudonyms | None = None,
    home: Path | None = None,
    progress: Progress = SILENT,
) -> IngestSummary:
    """Bring a dataset into the catalogue. Idempotent.

    :param reader_name: name in ``datasets.registry.READERS``.
    :param limit: look at no more than this many items.
    :param max_pixels: an image with more is a failure.
    :param accept_damaged: take images of which a decoder reports damage, and record what it reports.
    :param recheck: read and decode files again that have not changed.
    :param moved: the dataset's folder lies elsewhere than at the last time.
    :param dry_run: read everything, write nothing that lasts.
    :param pseudonyms: gives those of patients; asked only for datasets that tell patients apart.
    :param home: where this machine remembers that the dataset's folder may be read; None: nowhere.
    :raises InputError: when the path does not hold such a dataset.
    """
    options = options or ReadOptions()
    source = open_dataset(reader_name, path, options)
    total = min(source.total, limit) if limit is not None else source.total
    run = _Ingest(
        connection, reader_name, source, shares or SplitShares(), pseudonyms, options.allowed, moved=moved, recheck=recheck
    )  # fmt: skip
    size = BATCH_WITH_FILES if source.root is not None else BATCH_WITHOUT_FILES
    # A dry run does everything and takes it back, so that what it says is what would happen.
    whole = connection.transaction(force_rollback=True) if dry_run else nullcontext()
    with translated_errors(), progress.task("ingesting", total=total, unit="images") as task, whole:
        began = server_time(connection)
        if source.tells_patients:
            run.check_pseudonyms()
        run.open_datasets(source.datasets)
        if source.root is not None and home is not None and not dry_run:
            _remember(home, source.root, progress)
        with look_pool(max_pixels, accept_damaged=accept_damaged) as pool:
            items = islice(source.items, limit)
            while batch := list(islice(items, size)):
                run.batch(batch, pool)
                task.advance(len(batch))
        if limit is None:
            run.resolve_lists(source.lists)
            run.resolve_gone(source, began)
    return run.summary


def _remember(home: Path, root: Path, progress: Progress) -> None:
    try:
        remember(home, root)
    except OSError as error:
        progress.note(
            f"This machine cannot remember that the folder may be read ({error.strerror}), so later commands need"
            " --allow-root or CBIRDB_ALLOW_ROOT."
        )


class _Ingest:
    """One run: turns batches of items into rows and counts what became of them."""

    def __init__(
        self,
        connection: psycopg.Connection,
        reader: str,
        source: Source,
        shares: SplitShares,
        pseudonyms: MakePseudonyms | None,
        allowed: AllowedRoots,
        *,
        moved: bool,
        recheck: bool,
    ) -> None:
        self.summary = IngestSummary()
        self._connection = connection
        self._reader = reader
        self._folder = source.root
        self._root = str(source.root) if source.root is not None else None
        self._allowed = allowed
        self._names_tell_images = source.names_tell_images
        self._sources: dict[int, dict[str, str]] = {}
        self._shares = shares
        self._make_pseudonyms = pseudonyms
        self._pseudonyms: Pseudonyms | None = None
        self._moved = moved
        self._recheck = recheck
        self._seen: set[int] = set()
        self._unread_lists: set[str] = set()

    def check_pseudonyms(self) -> None:
        """Refuse another key than the database's before anything is written."""
        self._checked_pseudonyms()

    def open_datasets(self, names: Iterable[str]) -> None:
        """Make the datasets; refuses a name that belongs to another folder before anything is read."""
        with self._connection.transaction():
            for name in names:
                self._dataset_id(name)

    def batch(self, items: Sequence[DatasetItem], pool: LookPool) -> None:
        """Look at the files of a batch and write it in one transaction."""
        failures: list[Failure] = []
        records: dict[str, list[ImageRecord]] = defaultdict(list)
        repeated: dict[str, list[ImageRecord]] = defaultdict(list)
        for item in items:
            if isinstance(item, Excluded):
                self.summary.excluded += 1
                self.summary.excluded_reasons[item.reason] += 1
            elif isinstance(item, Missing):
                self._count_missing(item.source, item.reason)
            elif isinstance(item, Failure):
                failures.append(item)
                if item.dataset is None:
                    self._unread_lists.add(item.source)
            else:
                (repeated if self._is_repeated(item) else records)[item.dataset].append(item)
        with self._connection.transaction():
            failures = self._without_erased_files(failures)
            for dataset, group in records.items():
                failures += self._write(self._dataset_id(dataset), group, pool)
            failures += self._repeated(repeated.values())
            for failure in failures:
                if failure.dataset is not None:
                    self._dataset_id(failure.dataset)
            record_failures(self._connection, "ingest", failures, dataset_ids=self.summary.datasets)
        self.summary.count_failures(failures)

    def resolve_lists(self, lists: Iterable[str]) -> None:
        """Mark that list files which could not be read before have been read now."""
        mended = [name for name in lists if name not in self._unread_lists]
        if mended:
            resolve_failures(self._connection, "ingest", None, mended)

    def resolve_gone(self, source: Source, began: datetime) -> None:
        """Mark failures of files, rows and lists that are no longer there, once everything has been looked at."""
        if source.list_folder is not None:
            resolve_gone_lists(self._connection, printable(str(source.list_folder)), began)
        whole = bool(source.datasets) or source.list_folder is not None
        if whole and not self._unread_lists:
            resolve_gone(self._connection, self.summary.datasets.values(), began)

    def _is_repeated(self, record: ImageRecord) -> bool:
        key = hash((record.dataset, record.source))
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _repeated(self, groups: Iterable[Sequence[ImageRecord]]) -> list[Failure]:
        return [
            Failure(again.source, "repeated row", "the same file stands in an earlier row", again.dataset)
            for group in groups
            for again in self._without_erased(group)
        ]

    def _dataset_id(self, name: str) -> int:
        if name not in self.summary.datasets:
            self.summary.datasets[name] = catalogue.ensure_dataset(
                self._connection, name, self._reader, self._root, moved=self._moved
            )
        return self.summary.datasets[name]

    def _write(self, dataset_id: int, records: Sequence[ImageRecord], pool: LookPool) -> list[Failure]:
        records = self._without_erased(records)
        records, stored = self._stored(dataset_id, records)
        known = {source: image.row.facts for source, image in stored.items()}
        failures: list[Failure] = []
        rows: list[ImageRow] = []
        looked = looks(records, known, pool, self._folder, self._allowed, recheck=self._recheck)
        for record, look in zip(records, looked, strict=True):
            if isinstance(look, PixelError):
                if self._is_missing(record, look):
                    continue
                failures.append(Failure(record.source, look.reason, look.message, record.dataset))
                self.summary.stored_failed += record.source in stored
            else:
                rows.append(self._row(record, look))
                self.summary.damaged += look is not None and look.damage is not None
        new = [row for row in rows if row.source not in stored]
        before = {row.source: stored[row.source] for row in rows if row.source in stored}
        changed = {before[r.source].image_id: r for r in rows if r.source in before and before[r.source].row != r}
        self._store(dataset_id, new, changed)
        self.summary.unchanged += len(rows) - len(new) - len(changed)
        resolve_failures(self._connection, "ingest", dataset_id, [row.source for row in rows])
        return failures

    def _stored(
        self, dataset_id: int, records: Sequence[ImageRecord]
    ) -> tuple[Sequence[ImageRecord], dict[str, StoredImage]]:
        """What is there already, by the records' sources; records without files take the sources that are there.

        An image that lay in another folder, or came without its file, is found by its name where names tell images.
        """
        if not self._names_tell_images:
            return records, catalogue.stored_images(self._connection, dataset_id, [r.source for r in records])
        if dataset_id not in self._sources:
            self._sources[dataset_id] = catalogue.sources_by_name(self._connection, dataset_id)
        before = {
            record.source: self._sources[dataset_id].get(record.source.rpartition("/")[2], record.source)
            for record in records
        }
        records = [replace(r, source=before[r.source]) if r.path is None else r for r in records]
        found = catalogue.stored_images(self._connection, dataset_id, [*before, *before.values()])
        stored = {r.source: found.get(r.source) or found.get(before.get(r.source, "")) for r in records}
        return records, {source: image for source, image in stored.items() if image is not None}

    def _without_erased(self, records: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
        """Without those of erased patients, whose files are not even looked at."""
        kept = without_erased(self._connection, records, self._pseudonym)
        self._count_erased(len(records) - len(kept))
        return kept

    def _without_erased_files(self, failures: Sequence[Failure]) -> list[Failure]:
        kept = without_erased_files(self._connection, failures)
        self._count_erased(len(failures) - len(kept))
        return kept

    def _count_erased(self, images: int) -> None:
        if images:
            self.summary.excluded += images
            self.summary.excluded_reasons["erased patient"] += images

    def _is_missing(self, record: ImageRecord, error: PixelError) -> bool:
        """A file that a list names and that is not on disk: a partial download, counted and left out."""
        if error.reason != "file not found" or (record.path is not None and record.path.is_symlink()):
            return False
        self._count_missing(record.source, "not on disk")
        return True

    def _count_missing(self, source: str, reason: str) -> None:
        self.summary.missing += 1
        self.summary.missing_reasons[reason] += 1
        if len(self.summary.first_missing) < 3:
            self.summary.first_missing.append(source)

    def _row(self, record: ImageRecord, facts: FileFacts | None) -> ImageRow:
        split = record.split
        if record.split_by_content and facts is not None:
            split = self._shares.of(facts.sha256)
        self.summary.without_label += not record.labels
        self.summary.label_names.update(record.labels)
        for label in [name for name, value in record.labels.items() if value == POSITIVE] or ["no positive label"]:
            self.summary.selection[split or "none", record.modality or "none", label] += 1
        patient, study = self._people(record)
        return ImageRow(
            record.source, split, record.modality, record.anatomic_region, dict(record.labels), facts, record.view,
            patient, study,
        )  # fmt: skip

    def _checked_pseudonyms(self) -> Pseudonyms:
        if self._pseudonyms is None:
            if self._make_pseudonyms is None:
                raise InputError("This dataset tells patients apart: a key for their pseudonyms is needed.")
            known = catalogue.has_pseudonym_key(self._connection)
            self._pseudonyms = self._make_pseudonyms(create=not known)
            catalogue.check_pseudonym_key(self._connection, self._pseudonyms.fingerprint)
        return self._pseudonyms

    def _pseudonym(self, dataset: str, number: str) -> str:
        return self._checked_pseudonyms().of(dataset, number)

    def _people(self, record: ImageRecord) -> tuple[PatientRow | None, StudyRow | None]:
        """Patient and study as they are stored: by pseudonym."""
        patient, owner = None, ""
        if record.patient is not None:
            pseudonym = self._pseudonym(record.dataset, record.patient.key)
            patient, owner = PatientRow(pseudonym, record.patient.sex), f"{pseudonym}/"
        if record.study is None:
            return patient, None
        return patient, StudyRow(f"{owner}{record.study.key}", record.study.day, record.study.age_years)

    def _store(self, dataset_id: int, new: Sequence[ImageRow], changed: Mapping[int, ImageRow]) -> None:
        hashes = [row.facts.sha256 for row in new if row.facts is not None]
        known = catalogue.known_hashes(self._connection, hashes) if hashes else set()
        ids = catalogue.store_images(self._connection, dataset_id, new, changed)
        self.summary.added += len(ids)
        self.summary.unchanged += len(new) - len(ids)  # another process was faster
        self.summary.updated += len(changed)
        self.summary.duplicate += len(hashes) - len(set(hashes) - known)
