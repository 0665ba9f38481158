"""Shared by tests of ``cbirdb evaluate``: a small catalogue, the command, and when two results are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import psycopg
import pytest

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
TRAIN, TEST, DIM = 60, 12, 8


def write_catalogue(connection: psycopg.Connection) -> list[int]:
    """Images of three classes around three directions, 60 indexed ones and 12 queries, encoded by ``toy``."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('one', 'test'), ('two', 'test')")
    connection.execute("INSERT INTO cbir.label (name) VALUES ('A'), ('B'), ('C')")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split, modality)"
        " SELECT dataset_id, n::text, CASE WHEN n < %s THEN 'train' ELSE 'test' END, 'XR'"
        " FROM generate_series(0, %s) AS n JOIN cbir.dataset ON name = CASE n %% 2 WHEN 0 THEN 'one' ELSE 'two' END"
        " ORDER BY n",
        [TRAIN, TRAIN + TEST - 1],
    )
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id"
        " FROM cbir.image JOIN cbir.label ON name = substr('ABC', source::int % 3 + 1, 1)"
    )
    ids = [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY source::int")]
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(3, DIM))[np.arange(len(ids)) % 3] + 0.8 * rng.normal(size=(len(ids), DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = register_encoder(connection, "toy", dim=DIM, precision="single", spec={}, provenance={})
    copy_embeddings(connection, stored.table, np.array(ids), vectors.astype(np.float32), "single")
    return ids


def evaluate(cli: Cli, *arguments: object) -> dict[str, object]:
    outcome = cli("-q", "evaluate", "-e", "toy", "--format", "json", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.rows[0]


def runs(connection: psycopg.Connection) -> list[tuple[int, bool]]:
    return connection.execute("SELECT run_id, finished_at IS NOT NULL FROM cbir.search_run ORDER BY 1").fetchall()


def assert_same(found: Sequence[Sequence[object]], expected: Sequence[Sequence[object]]) -> None:
    """The same rows; distances within what sums in single precision round to."""
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        for value, wanted in zip(row, other, strict=True):
            if isinstance(wanted, list) and wanted and isinstance(wanted[0], float):
                assert value == pytest.approx(wanted, abs=1e-6)
            else:
                assert value == wanted
