"""Compare the monitoring views with what PostgreSQL itself reports."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.index import build_index
from cbirdb.index.methods import Hnsw
from cbirdb.vectors.normalize import l2_normalize

IMAGES, DIM = 500, 64
TABLE = "cbir.embedding_toy"


def rows(connection: psycopg.Connection, view: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.SQL("SELECT * FROM cbir.{}").format(sql.Identifier(view))).fetchall()


def value(connection: psycopg.Connection, query: str) -> Any:
    return connection.execute(query).fetchone()[0]


@pytest.fixture
def filled(connection: psycopg.Connection) -> psycopg.Connection:
    """Store 500 images with embeddings of ``toy``, and an encoder ``bare`` without any."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'test')")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, n::text FROM cbir.dataset,"
        " generate_series(1, %s) AS n",
        [IMAGES],
    )
    ids = np.array([row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY image_id")])
    register_encoder(connection, "bare", dim=4, precision="single", spec={}, provenance={})
    toy = register_encoder(connection, "toy", dim=DIM, precision="half", spec={}, provenance={})
    vectors, _ = l2_normalize(np.random.default_rng(1).normal(size=(IMAGES, DIM)).astype(np.float32))
    copy_embeddings(connection, toy.table, ids, vectors, "half")
    # What this session has counted is reported when it is idle; only then does ANALYZE's count stand.
    connection.execute("SELECT pg_stat_force_next_flush()")
    connection.execute(f"ANALYZE {TABLE}")
    return connection


def index(connection: psycopg.Connection, dsn: str) -> None:
    from cbirdb.db.embeddings import get_encoder

    build_index(connection, get_encoder(connection, "toy"), Hnsw(), connect=lambda: psycopg.connect(dsn))


def test_encoder_size_equals_the_sizes_that_postgresql_measures(filled: psycopg.Connection, dsn: str) -> None:
    found = {row["encoder"]: row for row in rows(filled, "encoder_size")}
    assert found["bare"]["images"] == 0
    assert found["bare"]["bytes_per_image"] is None
    toy = found["toy"]
    assert (toy["dim"], toy["precision"], toy["images"]) == (DIM, "half", IMAGES)
    assert toy["table_bytes"] == value(filled, f"SELECT pg_table_size('{TABLE}')")
    assert toy["key_bytes"] == value(filled, f"SELECT pg_relation_size('{TABLE}_pkey')")
    assert toy["vector_index_bytes"] == 0
    assert float(toy["bytes_per_image"]) == pytest.approx((toy["table_bytes"] + toy["key_bytes"]) / IMAGES, abs=0.1)
    # 64 components of two bytes, the row's header and its place on the page.
    assert 2 * DIM < toy["bytes_per_image"] < 2 * DIM + 200
    index(filled, dsn)
    toy = next(row for row in rows(filled, "encoder_size") if row["encoder"] == "toy")
    assert toy["vector_index_bytes"] == value(filled, "SELECT index_bytes FROM cbir.index_build")
    assert toy["total_bytes"] == value(filled, f"SELECT pg_total_relation_size('{TABLE}')")


def test_table_size_lists_every_table_largest_first(filled: psycopg.Connection) -> None:
    found = rows(filled, "table_size")
    names = {row["table_name"] for row in found}
    listed = filled.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'cbir'").fetchall()
    assert names == {name for (name,) in listed}
    sizes = [row["total_bytes"] for row in found]
    assert sizes == sorted(sizes, reverse=True)
    toy = next(row for row in found if row["table_name"] == "embedding_toy")
    assert toy["total_bytes"] == toy["table_bytes"] + toy["index_bytes"]
    assert toy["rows_estimate"] == IMAGES


def test_index_state_shows_the_index_in_use_and_the_rows_that_came_after_it(
    filled: psycopg.Connection, dsn: str
) -> None:
    before = rows(filled, "index_state")
    assert {(row["encoder"], row["index_name"], row["age"]) for row in before} == {
        ("bare", None, None),
        ("toy", None, None),
    }
    index(filled, dsn)
    index(filled, dsn)
    (toy,) = [row for row in rows(filled, "index_state") if row["encoder"] == "toy"]
    assert toy["index_build_id"] == 2, "the first was dropped"
    assert (toy["is_valid"], toy["method"], toy["rows_indexed"], toy["rows_now"]) == (True, "hnsw", IMAGES, IMAGES)
    assert toy["bytes_now"] == toy["bytes_when_built"] > 0
    assert 0 <= toy["age"].total_seconds() < 600
    assert toy["scans"] == 0
    with filled.transaction():
        filled.execute("SET LOCAL enable_seqscan = off")
        filled.execute(
            f"SELECT image_id FROM {TABLE} ORDER BY embedding <=> (SELECT embedding FROM {TABLE} LIMIT 1) LIMIT 1"
        )
        filled.execute("SELECT pg_stat_force_next_flush()")
    filled.execute(f"DELETE FROM {TABLE} WHERE image_id IN (SELECT image_id FROM {TABLE} LIMIT 20)")
    filled.execute("SELECT pg_stat_force_next_flush()")
    (toy,) = [row for row in rows(filled, "index_state") if row["encoder"] == "toy"]
    assert (toy["scans"], toy["rows_indexed"], toy["rows_now"]) == (1, IMAGES, IMAGES - 20)
    assert toy["last_scan_at"] >= toy["built_at"]


def test_failure_by_reason_counts_failures_and_first_and_last_time(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'test')")
    connection.execute(
        "INSERT INTO cbir.failure (stage, dataset_id, source, reason, detail, occurrences, resolved, first_at, last_at)"
        " SELECT 'ingest', dataset_id, source, reason, 'x', times, resolved, '2026-01-01'::timestamptz + times * '1 day'::interval,"
        " '2026-02-01'::timestamptz + times * '1 day'::interval FROM cbir.dataset, (VALUES"
        " ('a', 'corrupt', 2, false), ('b', 'corrupt', 1, false), ('c', 'corrupt', 1, true), ('e', 'empty file', 5, true)"
        ") AS v (source, reason, times, resolved)"
    )
    found = {row["reason"]: row for row in rows(connection, "failure_by_reason")}
    assert {name: (row["unresolved"], row["resolved"], row["occurrences"]) for name, row in found.items()} == {
        "corrupt": (2, 1, 4),
        "empty file": (0, 1, 5),
    }
    assert {row["dataset"] for row in found.values()} == {"d"}
    assert {row["encoder"] for row in found.values()} == {None}
    # The first time of the first, and the last of the last.
    assert [f"{found['corrupt'][at]:%m-%d}" for at in ("first_at", "last_at")] == ["01-02", "02-03"]


@pytest.fixture
def long_search(dsn: str) -> Iterator[int]:
    """Run a session that works on schema cbir for half a minute, unless it is ended; yield its pid."""
    with psycopg.connect(dsn, autocommit=True, application_name="cbirdb") as session:
        pid = session.info.backend_pid

        def search() -> None:
            with pytest.raises(psycopg.Error):
                session.execute("SELECT pg_sleep(30) FROM (SELECT count(*) FROM cbir.image) AS i")

        thread = threading.Thread(target=search)
        thread.start()
        yield pid
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [pid])
        thread.join(timeout=30)


def test_running_work_shows_a_long_search_and_not_itself(connection: psycopg.Connection, long_search: int) -> None:
    deadline = time.monotonic() + 20
    # It is listed from its start, a moment before it sleeps.
    while not (found := rows(connection, "running_work")) or found[0]["wait_event"] != "PgSleep":
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    (row,) = found
    assert (row["pid"], row["application_name"], row["state"]) == (long_search, "cbirdb", "active")
    assert row["blocked_by"] == []
    assert "pg_sleep" in row["query"]
    assert 0 <= row["running_for"].total_seconds() < 30


def test_running_work_does_not_show_a_reader_what_others_ask(
    connection: psycopg.Connection, dsn: str, long_search: int
) -> None:
    name = f"cbirdb_reader_{uuid.uuid4().hex[:8]}"
    role = sql.Identifier(name)
    connection.execute(sql.SQL("CREATE ROLE {}").format(role))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA cbir TO {}").format(role))
    connection.execute(sql.SQL("GRANT SELECT ON cbir.running_work TO {}").format(role))
    deadline = time.monotonic() + 20
    while not rows(connection, "running_work"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with psycopg.connect(make_conninfo(dsn, options=f"-c role={name}")) as reader:
        assert not [row for row in rows(reader, "running_work") if "pg_sleep" in (row["query"] or "")]
    connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_vacuum_state_counts_dead_rows_until_vacuum(filled: psycopg.Connection) -> None:
    filled.execute(f"ALTER TABLE {TABLE} SET (autovacuum_enabled = false)")
    filled.execute(f"DELETE FROM {TABLE} WHERE image_id IN (SELECT image_id FROM {TABLE} LIMIT 100)")
    filled.execute("SELECT pg_stat_force_next_flush()")
    (toy,) = [row for row in rows(filled, "vacuum_state") if row["encoder"] == "toy"]
    assert (toy["live_rows"], toy["dead_rows"], float(toy["dead_share"])) == (IMAGES - 100, 100, 0.2)
    assert toy["last_analyze_at"] is not None
    assert 0 < toy["transactions_until_forced_vacuum"] <= 200_000_000
    filled.execute(f"VACUUM {TABLE}")
    filled.execute("SELECT pg_stat_force_next_flush()")
    (toy,) = [row for row in rows(filled, "vacuum_state") if row["encoder"] == "toy"]
    assert toy["dead_rows"] == 0
    assert toy["last_vacuum_at"] is not None
