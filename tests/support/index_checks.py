"""A table of random vectors, what ``cbirdb index`` printed of its index, and what the server has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import StoredEncoder, register_encoder
from cbirdb.records import Precision
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Index = tuple[str, str, dict[str, str], bool]
ROWS, DIM = 200, 16
TABLE = "cbir.embedding_toy"


def fill(
    connection: psycopg.Connection, *, rows: int = ROWS, dim: int = DIM, precision: Precision = "half"
) -> StoredEncoder:
    """Images of an encoder ``toy`` with random unit vectors."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('one', 'test')")
    ids = connection.execute(
        "INSERT INTO cbir.image (dataset_id, source)"
        " SELECT dataset_id, n::text FROM cbir.dataset, generate_series(1, %s) AS n RETURNING image_id",
        [rows],
    ).fetchall()
    encoder = register_encoder(connection, "toy", dim=dim, precision=precision, spec={}, provenance={})
    vectors = np.random.default_rng(1).normal(size=(rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copy_embeddings(connection, encoder.table, np.array([row[0] for row in ids]), vectors, precision)
    return encoder


def build(cli: Cli, *arguments: object) -> dict[str, Any]:
    chosen = () if "--method" in arguments else ("--method", "hnsw")
    outcome = cli("index", "build", "-e", "toy", "--format", "json", *chosen, *arguments)
    assert outcome.code == 0, outcome.err
    assert len(outcome.rows) == 1
    return outcome.rows[0]


def indexes(connection: psycopg.Connection) -> list[Index]:
    """Vector indexes that the server really has: name, operator class, options, whether searches may use it."""
    rows = connection.execute(
        """
        SELECT c.relname, o.opcname, c.reloptions, i.indisvalid AND i.indisready
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_am AS a ON a.oid = c.relam
        JOIN pg_opclass AS o ON o.oid = i.indclass[0]
        WHERE a.amname = 'hnsw' AND i.indrelid = to_regclass('cbir.embedding_toy')
        ORDER BY c.relname
        """
    ).fetchall()
    return [
        (name, operators, dict(option.split("=") for option in options), use) for name, operators, options, use in rows
    ]


def records(connection: psycopg.Connection) -> list[tuple[str, dict[str, int], bool]]:
    """All builds on record, oldest first: index, parameters, whether it is in use."""
    return connection.execute(
        "SELECT index_name, parameters, dropped_at IS NULL FROM cbir.index_build ORDER BY index_build_id"
    ).fetchall()


def one_sentence(outcome: Outcome) -> str:
    assert outcome.code == 1
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("Error: ")
    return outcome.err
