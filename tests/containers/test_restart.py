"""Test a restart of the server's container in the middle of the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import psycopg
import pytest

from cbirdb.config import Settings
from cbirdb.db.connection import connect
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.encode import EncodeOptions
from cbirdb.encode import run as verb
from cbirdb.errors import DatabaseError, ExitCode
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw
from cbirdb.vectors.normalize import l2_normalize
from tests.conftest import Outcome
from tests.support.database_container import DatabaseContainer
from tests.support.worker_encoders import Slow

T = TypeVar("T")
Cli = Callable[..., Outcome]
DIM, VECTORS = 128, 30_000


@contextmanager
def running(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Run work on a thread and wait for it at the end."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield thread.submit(work)


def wait_until(what: Callable[[], bool], work: Future[T]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert not work.done(), work.result()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def count(dsn: str, table: str) -> int:
    """Count the rows of a table, or none if the table does not exist."""
    with psycopg.connect(dsn) as connection:
        if connection.execute("SELECT to_regclass(%s)", [f"cbir.{table}"]).fetchone() == (None,):
            return 0
        return int(connection.execute(f"SELECT count(*) FROM cbir.{table}").fetchone()[0])


def test_encode_survives_a_restart_of_the_container(
    database: DatabaseContainer, own_dsn: str, cli: Cli, pictures: Path
) -> None:
    assert cli("-q", "--dsn", own_dsn, "ingest", "folder", pictures).code == 0

    def encode() -> verb.EncodeSummary:
        with psycopg.connect(own_dsn, autocommit=True) as connection:
            (summary,) = verb.encode(
                connection,
                [Slow(seconds=0.2)],
                EncodeOptions(batch_size=5),
                connect=lambda: connect(Settings(dsn=own_dsn)),
            )
        return summary

    with running(encode) as work:
        wait_until(lambda: 0 < count(own_dsn, "embedding_slow") < 60, work)
        database.restart()
        before_the_end = count(own_dsn, "embedding_slow")
        summary = work.result(timeout=120)
    assert 0 < before_the_end < 60, "it was over before the restart"
    assert (summary.encoded + summary.already_there, summary.failed) == (60, 0)
    assert count(own_dsn, "embedding_slow") == 60


@pytest.fixture
def many_vectors(own_dsn: str) -> str:
    """Store so many vectors of encoder ``many`` that an index of them takes some seconds."""
    with psycopg.connect(own_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'test')")
        connection.execute(
            "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, n::text FROM cbir.dataset,"
            " generate_series(1, %s) AS n",
            [VECTORS],
        )
        ids = np.array([row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY image_id")])
        stored = register_encoder(connection, "many", dim=DIM, precision="half", spec={}, provenance={})
        vectors, _ = l2_normalize(np.random.default_rng(6).normal(size=(VECTORS, DIM)).astype(np.float32))
        copy_embeddings(connection, stored.table, ids, vectors, "half")
    return own_dsn


def test_index_build_cut_off_by_a_restart_leaves_nothing_and_can_be_repeated(
    database: DatabaseContainer, many_vectors: str, cli: Cli
) -> None:
    from cbirdb.db.embeddings import get_encoder

    dsn = many_vectors

    def build() -> object:
        with connect(Settings(dsn=dsn)) as connection:
            stored = get_encoder(connection, "many")
            return build_index(connection, stored, Hnsw(), connect=lambda: connect(Settings(dsn=dsn)))

    def half_way() -> bool:
        with psycopg.connect(dsn) as connection:
            row = connection.execute(
                "SELECT tuples_done FROM pg_stat_progress_create_index WHERE datname = 'cbirdb'"
            ).fetchone()
        return row is not None and row[0] > VECTORS // 100

    with running(build) as work:
        wait_until(half_way, work)
        database.restart()
        with pytest.raises(DatabaseError) as ended:
            work.result(timeout=60)
    assert ended.value.exit_code == ExitCode.DATABASE
    assert str(ended.value).startswith("The connection to the server was lost: ")
    assert "Run the same command again" in str(ended.value)
    assert (count(dsn, "index_build"), count(dsn, "embedding_many")) == (0, VECTORS)
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'cbir.embedding_many'::regclass"
        ).fetchall()
    assert left == [("cbir.embedding_many_pkey", True)]
    again = cli(
        "-q", "--dsn", dsn, "index", "build", "-e", "many", "--m", 4, "--ef-construction", 8, "--format", "json"
    )
    assert again.code == 0, again.err
    assert again.rows[0]["rows"] == VECTORS


@pytest.mark.parametrize("command", [["db", "status"], ["search", "--image-id", "1", "-e", "tiny-image"]])
def test_commands_say_that_the_server_is_down(
    database: DatabaseContainer, own_dsn: str, cli: Cli, command: list[str]
) -> None:
    database.container.stop(timeout=60)
    try:
        outcome = cli("-q", "--dsn", own_dsn, *command)
    finally:
        database.container.start()
        database.wait()
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith(f"Error: No server answers at 127.0.0.1 port {database.port}.")
