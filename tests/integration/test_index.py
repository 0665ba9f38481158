"""``cbirdb index``: what is recorded, what is really there, and builds that wait, die or fail."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import StoredEncoder, register_encoder
from cbirdb.db.index_builds import server_versions
from cbirdb.db.vector_index import Hnsw
from cbirdb.index import build_index
from cbirdb.records import Precision
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Start = Callable[..., "subprocess.Popen[str]"]
Index = tuple[str, str, dict[str, str], bool]

PROGRAM = Path(sys.executable).with_name("cbirdb")
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


@pytest.fixture
def toy(connection: psycopg.Connection) -> StoredEncoder:
    return fill(connection)


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


# -- what is built and recorded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "operators"), [("half", "halfvec_cosine_ops"), ("single", "vector_cosine_ops")])
def test_the_index_is_what_was_asked_for(
    cli: Cli, connection: psycopg.Connection, precision: Precision, operators: str
) -> None:
    fill(connection, precision=precision)
    build(cli, "--m", 7, "--ef-construction", 33, "--ef-search", 44)
    assert [found[1:] for found in indexes(connection)] == [(operators, {"m": "7", "ef_construction": "33"}, True)]
    [(name, parameters, used)] = records(connection)
    assert (name, parameters, used) == (indexes(connection)[0][0], {"m": 7, "ef_construction": 33}, True)


def test_everything_about_a_build_is_recorded(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    printed = build(cli, "--m", 8, "--ef-construction", 40, "--ef-search", 60)
    row = connection.execute(
        """
        SELECT e.name, b.method, b.parameters, b.search_settings, b.rows_indexed,
               b.index_bytes = pg_relation_size(('cbir.' || quote_ident(b.index_name))::regclass), b.index_bytes > 8192,
               b.memory_estimate_bytes, b.build_seconds > 0, b.versions,
               b.built_at BETWEEN now() - interval '10 minutes' AND now(), b.dropped_at, b.index_build_id
        FROM cbir.index_build AS b JOIN cbir.encoder AS e USING (encoder_id)
        """
    ).fetchall()
    assert len(row) == 1
    assert row[0][:-1] == (
        "toy", "hnsw", {"m": 8, "ef_construction": 40}, {"hnsw.ef_search": 60}, ROWS, True, True,
        Hnsw(8, 40, 60).memory_estimate(ROWS, DIM, "half"), True, server_versions(connection), True, None,
    )  # fmt: skip
    assert set(printed) >= {"index_mb", "memory_estimate_mb", "seconds", "built_at"}
    assert {key: printed[key] for key in ("encoder", "build", "method", "parameters", "search", "rows")} == {
        "encoder": "toy", "build": row[0][-1], "method": "hnsw", "parameters": "m=8 ef_construction=40",
        "search": "hnsw.ef_search=60", "rows": ROWS,
    }  # fmt: skip


def test_versions_are_the_servers_own(connection: psycopg.Connection) -> None:
    versions = server_versions(connection)
    assert set(versions) == {"postgresql", "pgvector"}
    assert all(re.match(r"[0-9]+\.[0-9]+", version) for version in versions.values())


def test_defaults_are_those_of_the_method(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    build(cli)
    assert indexes(connection)[0][2] == {"m": "16", "ef_construction": "128"}
    assert connection.execute("SELECT search_settings FROM cbir.index_build").fetchone() == ({"hnsw.ef_search": 100},)


def test_the_table_is_analyzed(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    build(cli)
    assert connection.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", [TABLE]).fetchone() == (ROWS,)
    analyzed = connection.execute(
        "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relid = %s::regclass", [TABLE]
    )
    assert analyzed.fetchone() == (True,)
    columns = connection.execute(
        "SELECT attname FROM pg_stats WHERE schemaname = 'cbir' AND tablename = 'embedding_toy'"
    ).fetchall()
    assert ("image_id",) in columns


def test_status_says_what_build_said(cli: Cli, toy: StoredEncoder) -> None:
    built = build(cli, "--m", 8, "--ef-construction", 40)
    outcome = cli("index", "status", "-e", "toy", "--format", "json")
    assert outcome.code == 0
    assert outcome.rows == [built]
    assert "m=8 ef_construction=40" in cli("index", "status", "-e", "toy").out


def test_a_rebuild_replaces_the_index_and_keeps_its_record(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    first = build(cli, "--m", 8, "--ef-construction", 40)
    [(old, *_)] = indexes(connection)
    second = build(cli, "--m", 12, "--ef-construction", 50)
    [(new, _, options, used)] = indexes(connection)
    assert (options, used) == ({"m": "12", "ef_construction": "50"}, True)
    assert new != old
    assert second["build"] > first["build"]
    assert records(connection) == [
        (old, {"m": 8, "ef_construction": 40}, False),
        (new, {"m": 12, "ef_construction": 50}, True),
    ]
    assert cli("index", "status", "-e", "toy", "--format", "json").rows == [second]


def test_a_rebuild_indexes_what_was_added_since(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    assert build(cli)["rows"] == ROWS
    connection.execute(f"DELETE FROM {TABLE} WHERE image_id IN (SELECT image_id FROM {TABLE} LIMIT 50)")
    assert build(cli)["rows"] == ROWS - 50


def test_drop(cli: Cli, connection: psycopg.Connection, toy: StoredEncoder) -> None:
    build(cli)
    outcome = cli("index", "drop", "-e", "toy")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "The index of 'toy' is dropped.\n")
    assert indexes(connection) == []
    assert [used for _, _, used in records(connection)] == [False]
    for command in ("drop", "status"):
        assert "cbirdb index build -e toy" in one_sentence(cli("index", command, "-e", "toy"))
    build(cli)
    assert [used for _, _, used in records(connection)] == [False, True]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--m", 1], "--m must lie between 2 and 100, not 1."),
        (["--m", 101], "--m must lie between 2 and 100, not 101."),
        (["--m", -3], "--m must lie between 2 and 100, not -3."),
        (["--ef-construction", 3], "--ef-construction must lie between 4 and 1000, not 3."),
        (["--ef-construction", 1001], "--ef-construction must lie between 4 and 1000, not 1001."),
        (["--ef-search", 0], "--ef-search must lie between 1 and 1000, not 0."),
        (["--ef-search", 1001], "--ef-search must lie between 1 and 1000, not 1001."),
        (["--m", 64, "--ef-construction", 127], "--ef-construction must be at least twice --m, that is 128."),
    ],
)
def test_numbers_that_do_not_fit_are_one_sentence_and_change_nothing(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder, arguments: list[object], said: str
) -> None:
    assert one_sentence(cli("index", "build", "-e", "toy", *arguments)) == f"Error: {said}\n"
    assert indexes(connection) == records(connection) == []


@pytest.mark.parametrize("arguments", [["--m", 2, "--ef-construction", 4], ["--m", 100, "--ef-construction", 200]])
def test_the_bounds_themselves_are_what_the_server_takes(cli: Cli, toy: StoredEncoder, arguments: list[object]) -> None:
    build(cli, *arguments, "--ef-search", 1000)


def test_an_encoder_without_embeddings_is_not_indexed(cli: Cli, connection: psycopg.Connection) -> None:
    register_encoder(connection, "toy", dim=DIM, precision="half", spec={}, provenance={})
    said = one_sentence(cli("index", "build", "-e", "toy"))
    assert "There are no embeddings of 'toy' to index. Run: cbirdb encode -e toy" in said
    assert indexes(connection) == records(connection) == []


@pytest.mark.parametrize("command", ["build", "drop", "status"])
def test_an_encoder_that_was_never_used_or_does_not_exist(cli: Cli, toy: StoredEncoder, command: str) -> None:
    assert "cbirdb encode -e tiny-image" in one_sentence(cli("index", command, "-e", "tiny-image"))
    assert "Did you mean 'toy'?" in one_sentence(cli("index", command, "-e", "toys"))


# -- memory ------------------------------------------------------------------------------------------------------------

NO_LONGER_FITS = "no longer fits"


def set_memory(connection: psycopg.Connection, value: str) -> None:
    """For sessions to come; it goes with the test's database."""
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET maintenance_work_mem = {}").format(
            sql.Identifier(connection.info.dbname), sql.Literal(value)
        )
    )


def server_notices(dsn: str, encoder: StoredEncoder, method: Hnsw) -> list[str]:
    """What pgvector itself says of a build."""
    said: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        build_index(connection, encoder, method, connect=lambda: psycopg.connect(dsn))
    return said


def test_too_little_memory_is_said_before_and_the_advice_mends_it(
    cli: Cli, connection: psycopg.Connection, dsn: str
) -> None:
    encoder = fill(connection, rows=3000, dim=512)
    method = Hnsw(4, 8)
    set_memory(connection, "1MB")
    outcome = cli("index", "build", "-e", "toy", "--m", 4, "--ef-construction", 8)
    assert outcome.code == 0
    assert "needs about 4 MB; maintenance_work_mem is 1 MB." in outcome.err
    advice = re.search(r"SET maintenance_work_mem = '([0-9]+MB)'", outcome.err)
    assert advice, outcome.err
    assert any(NO_LONGER_FITS in notice for notice in server_notices(dsn, encoder, method))
    set_memory(connection, advice[1])
    outcome = cli("index", "build", "-e", "toy", "--m", 4, "--ef-construction", 8)
    assert outcome.code == 0
    assert "The graph of 3,000 vectors needs about 4 MB" in outcome.err
    assert "SET maintenance_work_mem" not in outcome.err
    assert not any(NO_LONGER_FITS in notice for notice in server_notices(dsn, encoder, method))


# -- builds that wait, die or fail -------------------------------------------------------------------------------------

BLOCKED = "application_name = 'cbirdb' AND datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def start(dsn: str) -> Iterator[Start]:
    """Starts ``cbirdb index build``, or another command of it, as a process; none outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def call(*arguments: object, command: str = "build") -> subprocess.Popen[str]:
        method = ["--method", "hnsw"] if command == "build" else []
        line = [PROGRAM, "--dsn", dsn, "-q", "index", command, "-e", "toy", *method, *map(str, arguments)]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield call
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def held(dsn: str, statement: str) -> Iterator[None]:
    """What the statement locks stays locked for the block."""
    with psycopg.connect(dsn) as holder:
        holder.execute(statement.encode())
        yield
        holder.rollback()


LOCK_BEFORE_ALL = "SELECT pg_advisory_xact_lock(hashtextextended('cbirdb index toy', 0))"
LOCK_TABLE = f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE"
"""As someone who is adding embeddings: the index cannot be created."""
LOCK_RECORDS = "LOCK TABLE cbir.index_build IN SHARE MODE"
"""The records can be read but not written: the new index is there, not yet recorded."""
LOCK_ENCODER = "SELECT FROM cbir.encoder FOR UPDATE"
"""No new record can be written: the old one is closed already, and the table not yet counted and analyzed."""


def wait_until_blocked(process: subprocess.Popen[str], connection: psycopg.Connection) -> int:
    """Return the build's session at the server as soon as it waits for what the test holds."""
    deadline = time.monotonic() + 60
    while True:
        found = connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {BLOCKED}".encode()).fetchall()
        if found:
            [(pid,)] = found
            return pid
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the build never came to the lock"
        time.sleep(0.005)


def wait_for_server(connection: psycopg.Connection) -> None:
    """A session whose client is gone ends when it next looks; what it had in hand is rolled back then."""
    deadline = time.monotonic() + 30
    while connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cbirdb' AND datname = current_database()"
    ).fetchone() != (0,):
        assert time.monotonic() < deadline, "the killed process's session lives on"
        time.sleep(0.01)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"


def ends_well(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def nearest(dsn: str) -> list[int]:
    """A search by somebody who does not wait for locks."""
    with psycopg.connect(dsn, options="-c lock_timeout=2s") as searcher:
        found = searcher.execute(
            f"SELECT image_id FROM {TABLE} ORDER BY embedding <=>"
            f" (SELECT embedding FROM {TABLE} ORDER BY image_id LIMIT 1), image_id LIMIT 5"
        ).fetchall()
    return [row[0] for row in found]


@pytest.mark.parametrize("lock", [LOCK_BEFORE_ALL, LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_a_killed_first_build_leaves_neither_index_nor_record(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder, lock: str
) -> None:
    with held(dsn, lock):
        process = start()
        wait_until_blocked(process, connection)
        kill(process)
    wait_for_server(connection)
    assert indexes(connection) == records(connection) == []
    assert build(cli)["rows"] == ROWS
    assert len(indexes(connection)) == len(records(connection)) == 1


@pytest.mark.parametrize("lock", [LOCK_BEFORE_ALL, LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_a_killed_rebuild_leaves_the_old_index_in_use(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder, lock: str
) -> None:
    old = build(cli, "--m", 8)
    before = indexes(connection), records(connection)
    with held(dsn, lock):
        process = start("--m", 12)
        wait_until_blocked(process, connection)
        kill(process)
    wait_for_server(connection)
    assert (indexes(connection), records(connection)) == before
    assert cli("index", "status", "-e", "toy", "--format", "json").rows == [old]
    build(cli, "--m", 12)
    assert [options["m"] for _, _, options, _ in indexes(connection)] == ["12"]


@pytest.mark.parametrize("lock", [LOCK_BEFORE_ALL, LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_a_rebuild_whose_session_is_ended_fails_in_one_sentence_and_leaves_the_old_index_in_use(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder, lock: str
) -> None:
    old = build(cli, "--m", 8)
    before = indexes(connection), records(connection)
    with held(dsn, lock):
        process = start("--m", 12)
        pid = wait_until_blocked(process, connection)
        assert connection.execute("SELECT pg_terminate_backend(%s)", [pid]).fetchone() == (True,)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("Error: The connection to the server was lost")
    wait_for_server(connection)
    assert (indexes(connection), records(connection)) == before
    assert cli("index", "status", "-e", "toy", "--format", "json").rows == [old]


@pytest.mark.parametrize("lock", [LOCK_BEFORE_ALL, LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_searches_go_on_while_a_rebuild_waits_or_runs(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder, lock: str
) -> None:
    build(cli, "--m", 8)
    before = nearest(dsn)
    with held(dsn, lock):
        process = start("--m", 12)
        pid = wait_until_blocked(process, connection)
        asked = connection.execute(
            "SELECT mode, granted FROM pg_locks WHERE pid = %s AND relation = %s::regclass", [pid, TABLE]
        ).fetchall()
        assert "AccessExclusiveLock" not in [mode for mode, _ in asked]
        if lock in (LOCK_RECORDS, LOCK_ENCODER):
            assert ("ShareLock", True) in asked, "the new index is not made before the old one goes"
        assert nearest(dsn) == before
        assert [options["m"] for _, _, options, _ in indexes(connection)] == ["8"]
    ends_well(process)
    assert [options["m"] for _, _, options, _ in indexes(connection)] == ["12"]


def wait_for_both(connection: psycopg.Connection) -> None:
    """Return when two sessions wait for a lock."""
    deadline = time.monotonic() + 60
    while connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {BLOCKED}".encode()).fetchone() != (2,):
        assert time.monotonic() < deadline, "the two never came to the lock"
        time.sleep(0.005)


def test_a_drop_during_a_rebuild_waits_for_it_and_fails_neither(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    build(cli, "--m", 8)
    with held(dsn, LOCK_TABLE):
        rebuild = start("--m", 12)
        wait_until_blocked(rebuild, connection)
        drop = start(command="drop")
        wait_for_both(connection)
    ends_well(rebuild)
    ends_well(drop)
    assert indexes(connection) == []
    assert [used for _, _, used in records(connection)] == [False, False]


def test_two_builds_at_once_leave_one_index(
    start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    with held(dsn, LOCK_BEFORE_ALL):
        processes = [start("--m", 8), start("--m", 12)]
        wait_for_both(connection)
    for process in processes:
        ends_well(process)
    assert len(indexes(connection)) == 1
    assert [used for _, _, used in records(connection)] == [False, True]
    assert indexes(connection)[0][0] == records(connection)[1][0]
