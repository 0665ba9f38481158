"""Test index builds that wait, die, fail or run twice at once: searches continue, and no partial index remains."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.index import build as index_build
from tests.support.index_checks import ROWS, TABLE, Cli, build, fill, indexes, records
from tests.support.waiting import eventually

Start = Callable[..., "subprocess.Popen[str]"]
PROGRAM = Path(sys.executable).with_name("cbirdb")
BLOCKED = "application_name = 'cbirdb' AND datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def toy(connection: psycopg.Connection) -> StoredEncoder:
    return fill(connection)


@pytest.fixture
def start(dsn: str) -> Iterator[Start]:
    """Provide a function that starts ``cbirdb index`` commands as processes; kill them after the test."""
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
    """Hold the locks of a statement for the block."""
    with psycopg.connect(dsn) as holder:
        holder.execute(statement.encode())
        yield
        holder.rollback()


LOCK_TABLE = f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE"
"""The lock of someone who adds embeddings: the build has not begun."""
LOCK_RECORDS = "LOCK TABLE cbir.index_build IN SHARE MODE"
"""Blocks writing of records: the new index exists and is not yet recorded."""
LOCK_ENCODER = "SELECT FROM cbir.encoder FOR UPDATE"
"""Blocks the new record: the old one is closed already, and the table is not yet counted and analyzed."""


def blocked(connection: psycopg.Connection) -> list[int]:
    """Return the sessions of cbirdb that wait for a lock."""
    return [pid for (pid,) in connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {BLOCKED}".encode())]


def wait_until_blocked(process: subprocess.Popen[str], connection: psycopg.Connection) -> int:
    """Return the build's session at the server as soon as it waits for what the test holds."""
    pids: list[int] = []

    def is_blocked() -> bool:
        assert process.poll() is None, process.communicate()
        pids[:] = blocked(connection)
        return bool(pids)

    eventually(is_blocked, seconds=60)
    (pid,) = pids
    return pid


def wait_for_server(connection: psycopg.Connection) -> None:
    """Wait until the sessions of killed clients have ended and rolled back."""
    sessions = "SELECT FROM pg_stat_activity WHERE application_name = 'cbirdb' AND datname = current_database()"
    eventually(lambda: connection.execute(sessions).fetchone() is None)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"


def ends_well(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def nearest(dsn: str) -> list[int]:
    """Search without waiting for locks."""
    with psycopg.connect(dsn, options="-c lock_timeout=2s") as searcher:
        found = searcher.execute(
            f"SELECT image_id FROM {TABLE} ORDER BY embedding <=>"
            f" (SELECT embedding FROM {TABLE} ORDER BY image_id LIMIT 1), image_id LIMIT 5"
        ).fetchall()
    return [row[0] for row in found]


@pytest.mark.parametrize("lock", [LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_killed_first_build_leaves_no_index_and_no_record(
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


@pytest.mark.parametrize("lock", [LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_killed_rebuild_leaves_the_old_index_in_use(
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


@pytest.mark.parametrize("lock", [LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
def test_rebuild_whose_session_is_ended_fails_and_leaves_the_old_index_in_use(
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


@pytest.mark.parametrize("lock", [LOCK_TABLE, LOCK_RECORDS, LOCK_ENCODER])
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
    """Wait until two sessions wait for a lock."""
    eventually(lambda: len(blocked(connection)) == 2, seconds=60)


def test_drop_and_rebuild_at_once_both_succeed(
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
    # Either may be first. What is in use is what is there.
    used = [name for name, _, in_use in records(connection) if in_use]
    assert [name for name, *_ in indexes(connection)] == used
    assert len(records(connection)) == 2


def test_drop_counts_a_retired_index_that_a_waiting_build_dropped(
    cli: Cli, dsn: str, connection: psycopg.Connection, toy: StoredEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(cli)
    [(name, *_)] = indexes(connection)
    drop_leftovers = index_build._drop_leftovers

    def after_the_other(*arguments: Any) -> None:
        with psycopg.connect(dsn, autocommit=True) as waiting_build:
            waiting_build.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier("cbir", name)))
        drop_leftovers(*arguments)

    monkeypatch.setattr(index_build, "_drop_leftovers", after_the_other)
    with psycopg.connect(dsn, autocommit=True) as dropping:
        assert index_build.drop_index(dropping, toy) == 1
    assert indexes(connection) == []


def test_audit_during_a_drop_says_that_there_is_no_index(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    build(cli)
    [(name, *_)] = indexes(connection)
    with psycopg.connect(dsn) as dropping:
        dropping.execute("UPDATE cbir.index_build SET dropped_at = now()")
        dropping.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier("cbir", name)))
        audit = start(command="audit")
        wait_until_blocked(audit, connection)
        dropping.commit()
    _, err = audit.communicate(timeout=60)
    assert (audit.returncode, "has no vector index" in err) == (1, True), err


def test_two_builds_at_once_leave_one_index(
    start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    with held(dsn, LOCK_TABLE):
        processes = [start("--m", 8), start("--m", 12)]
        wait_for_both(connection)
    for process in processes:
        ends_well(process)
    assert len(indexes(connection)) == 1
    assert [used for _, _, used in records(connection)] == [False, True]
    assert indexes(connection)[0][0] == records(connection)[1][0]
