"""Writes embeddings and failures to the database, on a thread and a connection of its own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.catalogue import lock_images, record_damage, settle_pixels
from cbirdb.db.copy import add_embeddings
from cbirdb.db.embeddings import PendingImage, StoredEncoder, note_rendering
from cbirdb.db.failures import record_failures, resolve_failures
from cbirdb.db.reconnect import ReconnectingConnection
from cbirdb.errors import PixelError
from cbirdb.failure_summary import FailureTally
from cbirdb.records import Failure, FrameFacts, OnConflict
from cbirdb.vectors.normalize import l2_normalize, unusable_reason

SKIPPED = "an older file has its SOP instance UID; --on-conflict keep or replace takes this one"
SEARCHED_BY_ANOTHER = ("copy", "overtaken")
"""Outcomes of ``settle_pixels`` after which another image is searched in place of this one."""
QUEUED = 2
"""Batches that may wait for the GPU or the database before the next one is encoded: while a GPU computes one, the next is
copied to it.
"""


@dataclass(slots=True)
class EncodeSummary(FailureTally):
    """Outcome of a run for the images that lacked an embedding."""

    encoder: str
    encoded: int = 0
    already_there: int = 0
    without_file: int = 0
    damaged: int = 0
    """Images encoded despite a report of damage."""
    copies: int = 0
    """DICOM frames with the SOP instance UID and the pixels of another one, which is searched in their place."""
    conflicts: Counter[str] = field(default_factory=Counter)
    """DICOM frames with the SOP instance UID of another one and other pixels: kept, replaced or skipped."""
    changed: int = 0
    """Images whose file was replaced, or that were removed, while they were encoded: nothing is written of them."""
    largest_batch: int | None = None
    """Images per step that fitted, where memory ran out with more."""

    def describe_equal_uids(self) -> list[str]:
        """Say what became of DICOM frames whose SOP instance UID another one has."""
        lines = []
        if self.copies:
            lines.append(
                f"{self.copies:,} are copies: another file has their SOP instance UID and their pixels, and searches find"
                " that one (cbir.image.replaced_by)."
            )
        words = {
            "kept": "are kept beside it (--on-conflict)",
            "replaced": "take its place",
            "skipped": "are left out (cbirdb failures)",
        }
        lines += [
            f"{count:,} have the SOP instance UID of an older file and other pixels; they {words[outcome]}."
            for outcome, count in self.conflicts.items()
        ]
        return lines

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints."""
        return {
            "encoder": self.encoder,
            "encoded": self.encoded,
            "already_there": self.already_there,
            "without_file": self.without_file,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """One encoder's results for a batch."""

    stored: StoredEncoder
    summary: EncodeSummary
    images: Sequence[PendingImage]
    result: Callable[[], NDArray[np.float32]]
    """Waits for the raw embeddings, shape (len(images), dim)."""
    unreadable: Sequence[tuple[PendingImage, PixelError]]
    damage: Mapping[int, str]
    """Decoders' reports on accepted images, by image id."""
    read: Mapping[int, FrameFacts]
    """Hashes and sizes of DICOM frames, by image id."""
    rendering_sha256: str
    """How DICOM was shown to the encoder."""


class EmbeddingWriter:
    """Writes batches in order, each in one transaction. A context manager that ends when all are written."""

    def __init__(self, connection: ReconnectingConnection, on_conflict: OnConflict) -> None:
        self._connection = connection
        self._on_conflict = on_conflict
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedding writer")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Keep all computed embeddings, whatever ends the run. The first error is the one to report.
        self._thread.shutdown(wait=True, cancel_futures=False)
        self._connection.close()
        if kind is None:
            self._wait_and_check(0)

    def put(self, batch: EncodedBatch) -> None:
        """Queue a batch; wait while too many are queued.

        :raises DatabaseError: when an earlier batch could not be written.
        """
        self._wait_and_check(QUEUED)
        self._waiting.append(self._thread.submit(self._write, batch))

    def _wait_and_check(self, allowed: int) -> None:
        """Wait until at most ``allowed`` batches are queued; raise the errors of finished ones."""
        while self._waiting and (len(self._waiting) > allowed or self._waiting[0].done()):
            self._waiting.popleft().result()

    def _write(self, batch: EncodedBatch) -> None:
        # Wait here, not where the next images are decoded: a batch is stored as soon as it is computed.
        raw = batch.result()
        embeddings, usable = l2_normalize(raw)
        outcomes = self._settle(batch)
        hashes = {image.image_id: image.sha256 for image in [*batch.images, *(image for image, _ in batch.unreadable)]}
        # Nothing was written of skipped ones.
        hashes |= {key: read.sha256 for key, read in batch.read.items() if outcomes.get(key) != "skipped"}
        damage = {image_id: (hashes[image_id], report) for image_id, report in batch.damage.items()}
        if damage:
            # Before the embeddings: then a kill never leaves an embedding of a damaged image without its report.
            self._connection.run(lambda connection: record_damage(connection, damage))
        good: list[int] = []
        failures = [(image, error.reason, error.message) for image, error in batch.unreadable]
        for row, image in enumerate(batch.images):
            outcome = outcomes.get(image.image_id)
            if outcome == "skipped":
                failures.append((image, "same UID, other pixels", SKIPPED))
            elif outcome not in SEARCHED_BY_ANOTHER and usable[row]:
                good.append(row)
            elif outcome not in SEARCHED_BY_ANOTHER:
                reason = unusable_reason(raw[row])
                failures.append((image, "no direction", f"the embedding is a {reason}"))
        written = self._connection.run(
            lambda connection: _store(
                connection, batch, hashes, [batch.images[row] for row in good], embeddings[good], failures
            )
        )
        batch.summary.encoded += written.added
        batch.summary.damaged += len(damage)
        batch.summary.already_there += len(written.images) - written.added
        batch.summary.changed += len(good) + len(failures) - len(written.images) - len(written.failures)
        batch.summary.count_failures(written.failures)

    def _settle(self, batch: EncodedBatch) -> dict[int, str]:
        """Record the pixels of DICOM frames that were read for the first time, and settle equal UIDs."""
        known = {image.image_id for image in batch.images if image.sha256 is not None}
        first = {image_id: read for image_id, read in batch.read.items() if image_id not in known}
        if not first:
            return {}
        outcomes = self._connection.run(lambda connection: settle_pixels(connection, first, self._on_conflict))
        batch.summary.copies += sum(outcome == "copy" for outcome in outcomes.values())
        batch.summary.conflicts.update(
            outcome for outcome in outcomes.values() if outcome in ("kept", "replaced", "skipped")
        )
        return outcomes


@dataclass(frozen=True, slots=True)
class _Written:
    """The written part of a batch: everything but images that have changed or disappeared."""

    images: Sequence[PendingImage]
    """Images that have an embedding now."""
    added: int
    """Number of those that had none before."""
    failures: Sequence[Failure]


def _records(failures: Sequence[tuple[PendingImage, str, str]]) -> list[Failure]:
    return [Failure(_name(image), reason, detail, image.dataset) for image, reason, detail in failures]


def _name(image: PendingImage) -> str:
    """Return the name of an image in ``cbir.failure``: its file, and the number of its frame from the second on."""
    return image.source if image.frame == 0 else f"{image.source}#{image.frame + 1}"


def _store(
    connection: psycopg.Connection,
    batch: EncodedBatch,
    hashes: Mapping[int, bytes | None],
    images: Sequence[PendingImage],
    embeddings: NDArray[np.float32],
    failures: Sequence[tuple[PendingImage, str, str]],
) -> _Written:
    """Write embeddings and failures in one transaction, only for images unchanged since they were read.

    :param hashes: each image's hash when it was read, by its id.
    """
    stored = batch.stored
    with connection.transaction():
        same = _unchanged(connection, hashes, [*images, *(image for image, _, _ in failures)])
        kept = [row for row, image in enumerate(images) if image.image_id in same]
        images = [images[row] for row in kept]
        failures = [failure for failure in failures if failure[0].image_id in same]
        if any(image.image_id in batch.read for image in images):
            note_rendering(connection, stored, batch.rendering_sha256)
        ids = np.array([image.image_id for image in images], dtype=np.int64)
        added = add_embeddings(connection, stored, ids, embeddings[kept])
        for dataset_id in {image.dataset_id for image in images}:
            names = [_name(image) for image in images if image.dataset_id == dataset_id]
            resolve_failures(connection, "encode", dataset_id, names, encoder_id=stored.encoder_id)
        datasets = {image.dataset: image.dataset_id for image, _, _ in failures}
        records = _records(failures)
        record_failures(connection, "encode", records, dataset_ids=datasets, encoder_id=stored.encoder_id)
    return _Written(images, added, records)


def _unchanged(
    connection: psycopg.Connection, hashes: Mapping[int, bytes | None], images: Sequence[PendingImage]
) -> set[int]:
    """Return the ids of images whose file, according to the catalogue, is still the one that was read."""
    return lock_images(
        connection,
        {image.dataset_id for image in images},
        [image.image_id for image in images],
        [hashes[image.image_id] for image in images],
    )
