"""Turns pictures into embeddings in the database: decode in processes, encode in batches, COPY and commit each batch.

The next run encodes the images that the table lacks. A killed run loses only the batches in flight.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.embeddings import (
    PendingImage,
    StoredEncoder,
    check_datasets,
    count_pending,
    find_encoder,
    pending_page,
    pending_roots,
    register_encoder,
)
from cbirdb.db.errors import translated_errors
from cbirdb.db.reconnect import PATIENCE_S, ReconnectingConnection
from cbirdb.encode.decode import DecodeOptions, Decoder, Inputs
from cbirdb.encode.load import check_same_encoder
from cbirdb.encode.write import EmbeddingWriter, EncodedBatch, EncodeSummary
from cbirdb.encoders.base import Encoder
from cbirdb.errors import EncoderError, InputError
from cbirdb.pixels.rendering import Rendering
from cbirdb.progress import SILENT, Progress
from cbirdb.records import WHOLE, OnConflict, Precision, Shard
from cbirdb.vectors.normalize import l2_normalize, unusable_reason

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Selection of images, and options of the run."""

    datasets: Sequence[str] = ()
    """Names of datasets; empty: all."""
    precision: Precision | None = None
    """Precision of new encoders' tables. None: half."""
    batch_size: int | None = None
    """Images per step, reduced to fit into memory. None: each encoder's own default."""
    limit: int | None = None
    """Largest number of images to encode."""
    shard: Shard = WHOLE
    on_conflict: OnConflict = "keep"
    """Choice for two DICOM frames with one SOP instance UID and other pixels."""
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    patience_s: float = PATIENCE_S
    """Seconds that the database may be unreachable before the run ends."""


def encode(
    connection: psycopg.Connection,
    encoders: Sequence[Encoder],
    options: EncodeOptions | None = None,
    *,
    connect: Callable[[], psycopg.Connection],
    progress: Progress = SILENT,
) -> list[EncodeSummary]:
    """Give every image that lacks one an embedding of each encoder. Each image is read and decoded once.

    :param connect: opens further connections for reading and writing.
    :returns: a summary for each encoder.
    :raises InputError: when the catalogue is empty, or the folder of a dataset is not allowed here.
    :raises EncoderError: when stored embeddings came from other weights, preprocessing or number format.
    :raises DatabaseError: when the database is unreachable for longer than the patience. Written embeddings are kept.
    """
    options = options or EncodeOptions()
    datasets, shard = options.datasets, options.shard
    with translated_errors():
        check_datasets(connection, datasets)
        _check_not_empty(connection)
        stored = [_register(connection, encoder, options.precision) for encoder in encoders]
        pending = count_pending(connection, stored, datasets, shard)
        for dataset, root in pending_roots(connection, stored, datasets):
            options.decode.allowed.check(dataset, root)
        summaries = [
            EncodeSummary(item.name, already_there=max(0, pending.total - lacking - without), without_file=without)
            for item, lacking, without in zip(stored, pending.lacking, pending.without_file, strict=True)
        ]
        total = pending.images if options.limit is None else min(pending.images, options.limit)
        if options.batch_size is not None:
            for encoder in encoders:
                encoder.batch_size = options.batch_size
        if total:
            try:
                _run(encoders, stored, summaries, options, total, connect, progress)
            except KeyboardInterrupt:
                counts = ", ".join(f"{summary.encoded:,} images for {summary.encoder}" for summary in summaries)
                progress.note(f"This run has stored {counts}.")
                raise
        if total and options.limit is None:
            _count_again(summaries, stored, options, connect)
    for summary, encoder in zip(summaries, encoders, strict=True):
        summary.largest_batch = getattr(encoder, "largest_batch", None)
    return summaries


def _count_again(
    summaries: Sequence[EncodeSummary],
    stored: Sequence[StoredEncoder],
    options: EncodeOptions,
    connect: Callable[[], psycopg.Connection],
) -> None:
    """Update counts of existing embeddings and missing files after the run: others may ingest and encode meanwhile."""
    # Use a new connection: the server may have been restarted since the run began.
    counting = ReconnectingConnection(connect, patience_s=options.patience_s)
    try:
        pending = counting.run(partial(count_pending, encoders=stored, datasets=options.datasets, shard=options.shard))
    finally:
        counting.close()
    for summary, lacking, without in zip(summaries, pending.lacking, pending.without_file, strict=True):
        summary.without_file = without
        summary.already_there = max(0, pending.total - lacking - without - summary.encoded)


def _check_not_empty(connection: psycopg.Connection) -> None:
    if connection.execute("SELECT FROM cbir.image_overview LIMIT 1").fetchone() is None:
        raise InputError("There are no images in this database yet.", hint="Run: cbirdb ingest folder PATH")


def _register(connection: psycopg.Connection, encoder: Encoder, precision: Precision | None) -> StoredEncoder:
    """Return the encoder's row; create it, or check that the existing one computes the same."""
    spec = encoder.spec
    before = find_encoder(connection, spec.name)
    if before is not None:
        check_same_encoder(before, encoder)
    golden, usable = l2_normalize(encoder.golden[None])
    if not usable[0]:
        raise EncoderError(
            f"'{spec.name}' cannot encode an ordinary picture: its embedding is a {unusable_reason(encoder.golden)}.",
            hint="Its weights are damaged, or it cannot compute in this --dtype.",
        )
    return register_encoder(
        connection,
        spec.name,
        dim=encoder.dim,
        precision=precision,
        spec=spec.as_json(),
        provenance=asdict(encoder.provenance),
        golden_embedding=golden[0].tolist(),
    )


def _run(
    encoders: Sequence[Encoder],
    stored: Sequence[StoredEncoder],
    summaries: Sequence[EncodeSummary],
    options: EncodeOptions,
    total: int,
    connect: Callable[[], psycopg.Connection],
    progress: Progress,
) -> None:
    names = ", ".join(item.name for item in stored)
    reader, writing = (
        ReconnectingConnection(connect, patience_s=options.patience_s, note=progress.note) for _ in range(2)
    )
    renderings = [Rendering.parse(encoder.spec.rendering).sha256 for encoder in encoders]
    # The decoder's batches hold the largest batch of any encoder. Each encoder takes steps of its own size from them.
    decoded = max(encoder.batch_size for encoder in encoders)
    with (
        Decoder(encoders, decoded, options.decode) as decoder,
        EmbeddingWriter(writing, options.on_conflict) as writer,
        progress.task(f"encoding {names}", total=total, unit="images") as task,
    ):
        try:
            images = islice(_pending_images(reader, stored, options), options.limit)
            for inputs in decoder.batches(images):
                lacking = Counter(image_id for part in inputs for image_id in part.concerned)
                for number, step in _steps(encoders, inputs):
                    encoder = encoders[number]
                    result = encoder.submit(step.pixels) if step.images else partial(_nothing, encoder.dim)
                    writer.put(EncodedBatch(
                        stored[number], summaries[number], step.images, result, step.failures, step.damage, step.read,
                        renderings[number],
                    ))  # fmt: skip
                    lacking.subtract(step.concerned)
                    task.advance(sum(lacking[image_id] == 0 for image_id in step.concerned))
        finally:
            reader.close()


def _steps(encoders: Sequence[Encoder], inputs: Sequence[Inputs]) -> Iterator[tuple[int, Inputs]]:
    """Yield the steps of all encoders, with the encoder's number, in the order of the images.

    So all encoders finish an image at about the same time, and a kill leaves few images that only some have encoded.
    """
    steps = [
        (start, number, step)
        for number, (encoder, part) in enumerate(zip(encoders, inputs, strict=True))
        for start, step in part.steps(encoder.batch_size)
    ]
    for _, number, step in sorted(steps, key=lambda place: place[:2]):
        yield number, step


def _pending_images(
    reader: ReconnectingConnection, stored: Sequence[StoredEncoder], options: EncodeOptions
) -> Iterator[PendingImage]:
    """Yield images page by page, so that neither memory nor a transaction grows with the catalogue."""
    after = 0
    while page := reader.run(
        partial(pending_page, encoders=stored, datasets=options.datasets, shard=options.shard, after=after)
    ):
        yield from page
        after = page[-1].image_id


def _nothing(dim: int) -> NDArray[np.float32]:
    return np.empty((0, dim), np.float32)
