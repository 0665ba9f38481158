"""Test how images become batches: as large as each encoder takes, and each stored as soon as it is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from cbirdb.encode import decode
from cbirdb.encode import run as verb
from cbirdb.progress import SILENT
from tests.conftest import Outcome
from tests.support.encode_checks import encode
from tests.support.waiting import eventually
from tests.support.worker_encoders import Projection

Cli = Callable[..., Outcome]
BATCH = 8


@pytest.fixture
def ingested(cli: Cli, class_folder: Path) -> None:
    """Ingest the twenty pictures."""
    assert cli("ingest", "folder", class_folder).code == 0


class Ordered(Projection):
    """Notes its batches in a list that several encoders share."""

    def __init__(self, name: str, batch_size: int, order: list[tuple[str, int]], **options: int) -> None:
        super().__init__(name, **options)
        self.batch_size = batch_size
        self._order = order

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self._order.append((self.spec.name, len(batch)))
        return super().encode(batch)


def test_each_encoder_gets_batches_of_its_own_size_in_the_order_of_the_images(
    connection: psycopg.Connection, ingested: None
) -> None:
    order: list[tuple[str, int]] = []
    encoders = [Ordered("small", 8, order), Ordered("large", 3, order, side=9)]
    for encoder in encoders:
        _ = encoder.golden
    order.clear()
    summaries = encode(connection, encoders)
    assert [summary.encoded for summary in summaries] == [20, 20]
    whole = [("small", 8), ("large", 3), ("large", 3), ("large", 2)]
    assert order == [*whole, *whole, ("small", 4), ("large", 3), ("large", 1)]


def test_batches_shrink_to_the_memory_that_all_inputs_may_take(
    connection: psycopg.Connection, ingested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inputs of one image take 4 * (16 + 81) bytes."""
    monkeypatch.setattr(decode, "memory_budget", lambda: decode.SLOTS * 4 * (16 + 81) * 5)
    order: list[tuple[str, int]] = []
    encoders = [Ordered("small", 8, order), Ordered("large", 3, order, side=9)]
    summaries = encode(connection, encoders)
    assert [summary.encoded for summary in summaries] == [20, 20]
    assert [size for name, size in order if name == "small"][1:] == [5] * 4
    assert [size for name, size in order if name == "large"][1:] == [3, 2] * 4


class Watching(Projection):
    """Before it computes its second batch it waits until the first one is stored."""

    def __init__(self, connection: psycopg.Connection) -> None:
        super().__init__("watching")
        self._connection = connection

    def stored(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM cbir.embedding_watching").fetchone()
        return count

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(self.batches) == 2:  # the golden picture and the first batch came before
            eventually(lambda: self.stored() == BATCH)
        return super().encode(batch)


class Asynchronous(Watching):
    """Computes only when its result is waited for, as a GPU may."""

    def submit(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        if len(self.batches) == 2:
            eventually(lambda: self.stored() == BATCH)
        pixels = batch.copy()
        return lambda: super(Watching, self).encode(pixels)


@pytest.mark.parametrize("kind", [Watching, Asynchronous])
def test_first_batch_is_stored_before_the_second_is_computed(
    connection: psycopg.Connection, dsn: str, ingested: None, kind: type[Watching]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as watching:
        (summary,) = encode(connection, [kind(watching)])
    assert summary.encoded == 20


def test_interrupted_encode_tells_how_many_images_each_encoder_has_stored(
    connection: psycopg.Connection, dsn: str, ingested: None
) -> None:
    class Interrupted(Projection):
        def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().encode(batch)

    class Notes:
        def __init__(self) -> None:
            self.said: list[str] = []
            self.task = SILENT.task

        def note(self, message: str) -> None:
            self.said.append(message)

    notes = Notes()
    with pytest.raises(KeyboardInterrupt):
        verb.encode(
            connection,
            [Projection("first"), Interrupted("second")],
            connect=lambda: psycopg.connect(dsn, autocommit=True),
            progress=notes,
        )
    assert notes.said == ["This run has stored 20 images for first, 16 images for second."]
