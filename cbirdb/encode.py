"""Pictures -> embeddings in the database: decode in threads, encode in batches, COPY and commit each batch.

What is in the table is done; what is not is what the next run does. A run that is killed loses the batch in flight
and nothing else.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.catalogue import count_images
from cbirdb.db.connection import translated_errors
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import (
    PendingImage,
    StoredEncoder,
    check_datasets,
    count_pending,
    pending_images,
    register_encoder,
)
from cbirdb.db.failures import record_failures, resolve_failures
from cbirdb.encoders.base import Encoder
from cbirdb.errors import InputError, PixelError
from cbirdb.pixels import read_rgb
from cbirdb.progress import SILENT, Progress
from cbirdb.records import Failure, Precision
from cbirdb.tally import FailureTally
from cbirdb.vectors import l2_normalize, why_unusable

log = logging.getLogger(__name__)

BATCHES_AHEAD = 3
"""Batches that are being decoded while one is being encoded: bounds memory, keeps the encoder fed."""


@dataclass(slots=True)
class EncodeSummary(FailureTally):
    """What happened to the images that lacked an embedding."""

    encoder: str
    encoded: int = 0
    already_there: int = 0
    without_file: int = 0

    def row(self) -> dict[str, object]:
        """The row that the command line prints."""
        return {
            "encoder": self.encoder,
            "encoded": self.encoded,
            "already_there": self.already_there,
            "without_file": self.without_file,
            "failed": self.failed,
        }


def encode(
    connection: psycopg.Connection,
    encoder: Encoder,
    *,
    datasets: Sequence[str] = (),
    precision: Precision | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> EncodeSummary:
    """Give every image that lacks one an embedding of this encoder.

    :param datasets: names; empty: all.
    :param precision: of a new encoder's table; None: half.
    :param limit: encode no more than this many images.
    :raises InputError: when there is nothing in the catalogue.
    :raises EncoderError: when stored embeddings came from other weights or another preprocessing.
    """
    spec = encoder.spec
    with translated_errors():
        check_datasets(connection, datasets)
        _check_not_empty(connection)
        stored = register_encoder(
            connection,
            spec.name,
            dim=spec.dim,
            precision=precision,
            spec=asdict(spec),
            provenance=asdict(encoder.provenance),
        )
        pending = count_pending(connection, stored, datasets)
        total = min(pending, limit) if limit is not None else pending
        run = _Encode(connection, encoder, stored)
        run.summary.without_file = count_pending(connection, stored, datasets, with_file=False)
        run.summary.already_there = count_images(connection, datasets) - pending - run.summary.without_file
        images = islice(pending_images(connection, stored, datasets), limit)
        with progress.task(f"encoding {spec.name}", total=total, unit="images") as task:
            for batch, pictures in _decoded(images, encoder, batch_size):
                run.batch(batch, pictures)
                task.advance(len(batch))
        if limit is None:
            # What another process encoded between the count and now is there already, too.
            done = run.summary.encoded + run.summary.failed + run.summary.without_file
            run.summary.already_there = count_images(connection, datasets) - done
    return run.summary


def _check_not_empty(connection: psycopg.Connection) -> None:
    if connection.execute("SELECT 1 FROM cbir.image LIMIT 1").fetchone() is None:
        raise InputError("There are no images in this database yet.", hint="Run: cbirdb ingest folder PATH")


Picture = NDArray[np.float32] | PixelError


def _decoded(
    images: Iterator[PendingImage], encoder: Encoder, batch_size: int
) -> Iterator[tuple[list[PendingImage], list[Picture]]]:
    """Batches of images with the encoder's input for each, decoded ahead of need by threads."""

    def prepare(image: PendingImage) -> Picture:
        try:
            return encoder.preprocess(read_rgb(Path(image.root) / image.source))
        except PixelError as error:
            return error

    threads = min(16, (os.cpu_count() or 1) + 1)
    waiting: deque[tuple[list[PendingImage], list[Future[Picture]]]] = deque()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            while True:
                while len(waiting) <= BATCHES_AHEAD and (batch := list(islice(images, batch_size))):
                    waiting.append((batch, [pool.submit(prepare, image) for image in batch]))
                if not waiting:
                    return
                batch, futures = waiting.popleft()
                yield batch, [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Encode:
    """One run: encodes batches, writes them, and counts what became of them."""

    def __init__(self, connection: psycopg.Connection, encoder: Encoder, stored: StoredEncoder) -> None:
        self.summary = EncodeSummary(encoder.spec.name)
        self._connection = connection
        self._encoder = encoder
        self._stored = stored

    def batch(self, images: Sequence[PendingImage], pictures: Sequence[Picture]) -> None:
        """Encode the pictures that could be read and write embeddings and failures in one transaction."""
        failures: list[tuple[PendingImage, str, str]] = []
        readable: list[PendingImage] = []
        inputs: list[NDArray[np.float32]] = []
        for image, picture in zip(images, pictures, strict=True):
            if isinstance(picture, PixelError):
                failures.append((image, picture.reason, picture.message))
            else:
                readable.append(image)
                inputs.append(picture)
        good: list[PendingImage] = []
        embeddings = np.empty((0, self._stored.dim), np.float32)
        if inputs:
            raw = self._encoder.encode(inputs)
            embeddings, usable = l2_normalize(raw)
            for image, row, is_usable in zip(readable, raw, usable, strict=True):
                if is_usable:
                    good.append(image)
                else:
                    failures.append((image, "no direction", f"the embedding is a {why_unusable(row)}"))
            embeddings = embeddings[usable]
        self._write(good, embeddings, failures)

    def _write(
        self,
        images: Sequence[PendingImage],
        embeddings: NDArray[np.float32],
        failures: Sequence[tuple[PendingImage, str, str]],
    ) -> None:
        encoder_id = self._stored.encoder_id
        with self._connection.transaction():
            ids = np.array([image.image_id for image in images], dtype=np.int64)
            added = copy_embeddings(self._connection, self._stored.table, ids, embeddings, self._stored.precision)
            for dataset_id in {image.dataset_id for image in images}:
                sources = [image.source for image in images if image.dataset_id == dataset_id]
                resolve_failures(self._connection, "encode", dataset_id, sources, encoder_id=encoder_id)
            recorded = [Failure(image.source, reason, detail, image.dataset) for image, reason, detail in failures]
            datasets = {image.dataset: image.dataset_id for image, _, _ in failures}
            record_failures(self._connection, "encode", recorded, dataset_ids=datasets, encoder_id=encoder_id)
        self.summary.encoded += added
        self.summary.already_there += len(images) - added
        self.summary.count_failures(recorded)
