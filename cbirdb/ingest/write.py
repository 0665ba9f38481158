"""Write a batch of images and failures to the catalogue, in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import psycopg

from cbirdb.db import catalogue
from cbirdb.db.catalogue import ImageKey, ImageRow, StoredImage
from cbirdb.db.failures import record_failures, resolve_failures
from cbirdb.errors import PixelError
from cbirdb.ingest.classify import Batch
from cbirdb.ingest.inspect_files import Look
from cbirdb.ingest.paths import NotedPaths
from cbirdb.ingest.patients import Patients
from cbirdb.ingest.skip_erased import without_erased, without_erased_files
from cbirdb.ingest.split_shares import SplitShares
from cbirdb.ingest.stored import DatasetIds, StoredImages
from cbirdb.ingest.summary import IngestSummary
from cbirdb.records import Failure, FileFacts, ImageRecord

Inspect = Callable[[Sequence[ImageRecord], Mapping[ImageKey, FileFacts | None]], Sequence[Look]]
"""Looks at records' files, given the facts that are stored by source and frame."""


class BatchWriter:
    """Write batches, and count what became of their images."""

    def __init__(
        self,
        connection: psycopg.Connection,
        datasets: DatasetIds,
        stored: StoredImages,
        patients: Patients,
        shares: SplitShares,
        paths: NotedPaths,
        summary: IngestSummary,
    ) -> None:
        self._connection = connection
        self._datasets = datasets
        self._stored = stored
        self._patients = patients
        self._shares = shares
        self._paths = paths
        self._summary = summary

    def write(self, batch: Batch, inspect: Inspect) -> None:
        """Look at the files of a batch and write it in one transaction."""
        with self._connection.transaction():
            failures = self._skip_erased_failures(batch.failures)
            self._paths.note(failures)
            for dataset, records in batch.records.items():
                failures += self._write_images(self._datasets.id_of(dataset), records, inspect)
            failures += self._repeated(batch.repeated.values())
            for failure in failures:
                if failure.dataset is not None:
                    self._datasets.id_of(failure.dataset)
            record_failures(self._connection, "ingest", failures, dataset_ids=self._summary.datasets)
        self._summary.count_failures(failures)

    def _write_images(self, dataset_id: int, records: Sequence[ImageRecord], inspect: Inspect) -> list[Failure]:
        """Write one dataset's images; return those that could not be read."""
        records, stored = self._stored.match(dataset_id, self._skip_erased(records))
        looked = inspect(records, {key: image.row.facts for key, image in stored.items()})
        # Before the commit: a row whose file nobody finds would be worth nothing.
        self._paths.note(records)
        # After the files were read, because patients cannot be merged from here to the end of the transaction.
        self._patients.look_merged_up(records)
        failures: list[Failure] = []
        rows: list[ImageRow] = []
        for record, look in zip(records, looked, strict=True):
            if not isinstance(look, PixelError):
                rows.append(_with_stored_people(self._row(record, look), stored))
            elif _is_missing(record, look):
                self._summary.count_missing(record.source, "not on disk")
            else:
                failures.append(Failure(record.source, look.reason, look.message, record.dataset))
                self._summary.stored_failed += (record.source, record.frame) in stored
        self._store(dataset_id, rows, stored)
        resolve_failures(self._connection, "ingest", dataset_id, [row.source for row in rows])
        return failures

    def _row(self, record: ImageRecord, facts: FileFacts | None) -> ImageRow:
        split = record.split
        if record.split_by_content and facts is not None and facts.sha256 is not None:
            split = self._shares.of(facts.sha256)
        patient, study = self._patients.rows_of(record)
        if record.dicom is not None:
            # By patient, so that no picture of one person is on both sides; contents are not read yet.
            owner = patient.pseudonym if patient is not None else record.sop_uid or record.source
            split = self._shares.of(hashlib.sha256(owner.encode()).digest())
        self._summary.count_labels(record, split)
        self._summary.damaged += facts is not None and facts.damage is not None
        return ImageRow(
            record.source, split, record.modality, record.anatomic_region, dict(record.labels), facts, record.view,
            patient, study, record.frame, record.sop_uid, record.series_uid, record.dicom,
        )  # fmt: skip

    def _store(self, dataset_id: int, rows: Sequence[ImageRow], stored: Mapping[ImageKey, StoredImage]) -> None:
        new = [row for row in rows if row.key not in stored]
        old = [(stored[row.key], row) for row in rows if row.key in stored]
        changed = {before.image_id: row for before, row in old if before.row != row}
        hashes = [row.facts.sha256 for row in new if row.facts is not None and row.facts.sha256 is not None]
        known = catalogue.known_hashes(self._connection, hashes) if hashes else set()
        ids = catalogue.store_images(self._connection, dataset_id, new, changed)
        self._summary.added += len(ids)
        # Those that are new and were not added: another process was faster.
        self._summary.unchanged += len(rows) - len(ids) - len(changed)
        self._summary.updated += len(changed)
        self._summary.duplicate += len(hashes) - len(set(hashes) - known)

    def _repeated(self, groups: Iterable[Sequence[ImageRecord]]) -> list[Failure]:
        return [
            Failure(again.source, "repeated row", "the same file stands in an earlier row", again.dataset)
            for group in groups
            for again in self._skip_erased(group)
        ]

    def _skip_erased(self, records: Sequence[ImageRecord]) -> Sequence[ImageRecord]:
        """Leave out images of erased patients; their files are not even looked at."""
        kept = without_erased(self._connection, records, self._patients.pseudonym_of)
        self._summary.count_excluded("erased patient", len(records) - len(kept))
        return kept

    def _skip_erased_failures(self, failures: Sequence[Failure]) -> list[Failure]:
        kept = without_erased_files(self._connection, failures)
        self._summary.count_excluded("erased patient", len(failures) - len(kept))
        return kept


def _with_stored_people(row: ImageRow, stored: Mapping[ImageKey, StoredImage]) -> ImageRow:
    """Return the row with the facts about patient and study that stay as they are stored.

    A known sex stays where a record has none. Of a DICOM file that has not changed, sex, age and accession number stay:
    two files of one patient may state different ones, and each ingest would take another.
    """
    if row.key not in stored:
        return row
    before = stored[row.key].row
    same_file = row.dicom is not None and row.facts == before.facts
    if (
        row.patient is not None and before.patient is not None
        and row.patient.pseudonym == before.patient.pseudonym and (same_file or row.patient.sex is None)
    ):  # fmt: skip
        row = replace(row, patient=before.patient)
    if (
        same_file and row.dicom is not None and row.study is not None and before.study is not None
        and row.study.study_uid == before.study.study_uid
    ):  # fmt: skip
        age, accession = before.study.age_years, before.study.accession
        row = replace(
            row,
            study=replace(row.study, age_years=age, accession=accession),
            dicom=replace(row.dicom, accession=accession),
        )
    return row


def _is_missing(record: ImageRecord, error: PixelError) -> bool:
    """Tell a file that a list names and that is not on disk, as after a partial download: counted, not a failure."""
    return error.reason == "file not found" and not (record.path is not None and record.path.is_symlink())
