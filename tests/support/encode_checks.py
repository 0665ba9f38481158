"""Shared by tests of encoding: an encoder of four numbers, what was stored, what failed, and the verb itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import psycopg
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encode import EncodeOptions, EncodeSummary
from cbirdb.encode import run as verb
from cbirdb.encode.decode import DecodeOptions
from cbirdb.encoders.base import Encoder, Provenance
from cbirdb.encoders.spec import EncoderSpec
from tests.conftest import picture
from tests.support.worker_encoders import MARKS


def vectors(connection: psycopg.Connection, table: str = "embedding_tiny_image") -> dict[str, NDArray[np.float64]]:
    found = connection.execute(
        f"SELECT i.source, e.embedding::text FROM cbir.{table} AS e JOIN cbir.image AS i USING (image_id)"
    ).fetchall()
    return {source: np.array(text[1:-1].split(","), dtype=np.float64) for source, text in found}


def open_failures(connection: psycopg.Connection) -> list[tuple[str, str, int]]:
    return connection.execute(
        "SELECT source, reason, occurrences FROM cbir.failure WHERE stage = 'encode' AND NOT resolved ORDER BY source"
    ).fetchall()


def quarters(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image.convert("L").resize((2, 2), Image.Resampling.BOX), dtype=np.float32)


class MeanOfQuarters(Encoder):
    """A real encoder of four numbers: the mean grey of each quarter. ``spoil`` turns its result into a bad one."""

    def __init__(
        self, spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None, **made: object
    ) -> None:
        self.spec = EncoderSpec(
            name="quarters", family="test", dim=4, embedding="means", preprocessing="grey", licence="Apache-2.0",
            training_scheme="none", citation="",
        )  # fmt: skip
        self.provenance = replace(Provenance(weights_sha256="a" * 64, preprocessing_sha256="b" * 64), **made)
        self.preprocess = quarters
        self.input_shape = (2, 2)
        self._spoil = spoil or (lambda rows: rows)
        self.batches: list[int] = []

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        embeddings = batch.reshape(len(batch), 4).copy()
        return embeddings if len(batch) == 1 else self._spoil(embeddings)  # one alone is the golden picture


def marked_picture(seed: int, mark: str) -> Image.Image:
    """A picture that does to ``Quarters`` what its mark says."""
    image = picture(seed).convert("RGB")
    image.putpixel((0, 0), MARKS[mark])
    return image


def encode(
    connection: psycopg.Connection,
    encoders: Sequence[Encoder],
    *,
    timeout_s: float = 60.0,
    connect_s: float = 0.0,
    **options: object,
) -> list[EncodeSummary]:
    """The verb on the test's database, where making a connection takes so long."""

    def connect() -> psycopg.Connection:
        time.sleep(connect_s)
        return psycopg.connect(connection.info.dsn, autocommit=True)

    decode = DecodeOptions(timeout_s=timeout_s)
    return verb.encode(connection, encoders, EncodeOptions(decode=decode, **options), connect=connect)
