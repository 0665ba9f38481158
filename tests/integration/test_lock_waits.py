"""Test commands that wait for a lock: searches continue, the blocking session is named, and nothing is lost."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cbirdb.db.catalogue import check_pseudonym_key
from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.evaluation.runs import RUN_LOCK
from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.schema import migrate
from cbirdb.db.schema.roles import set_row_security
from tests.conftest import Logins, new_database
from tests.support.index_checks import TABLE, Cli, build, fill, indexes, one_sentence, records
from tests.support.waiting import eventually

Start = Callable[..., "subprocess.Popen[str]"]
PROGRAM = Path(sys.executable).with_name("cbirdb")
SEARCH = (
    "SELECT s.image_id, s.mode FROM cbir.similar_images('toy', image_id => (SELECT min(image_id) FROM cbir.image)) AS s"
)
COMMANDS = {
    "build": ("index", "build", "-e", "toy", "--method", "hnsw", "--m", "12"),
    "drop": ("index", "drop", "-e", "toy"),
    "row security": ("db", "row-security", "on"),
    "upgrade": ("db", "upgrade"),
}


@pytest.fixture
def dsn(role_server: str, role_template: str) -> Iterator[str]:
    """Make a database on the server that has cbirdb's roles, which row-level security needs."""
    with new_database(role_server, role_template) as dsn:
        yield dsn


@pytest.fixture
def toy(connection: psycopg.Connection) -> StoredEncoder:
    return fill(connection)


@pytest.fixture
def start() -> Iterator[Start]:
    """Provide a function that starts ``cbirdb`` as a process; kill the processes after the test."""
    processes: list[subprocess.Popen[str]] = []

    def call(dsn: str, *arguments: str) -> subprocess.Popen[str]:
        line = [PROGRAM, "--dsn", dsn, *arguments]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield call
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def idle_reader(dsn: str) -> Iterator[int]:
    """Search and read a view, and keep the transaction open for the block; yield the session's pid."""
    with psycopg.connect(dsn) as reader:
        reader.execute(SEARCH)
        reader.execute("SELECT FROM cbir.image_overview")
        yield reader.info.backend_pid
        reader.rollback()


def search(dsn: str) -> list[int]:
    """Search, and fail after waiting a second for a lock."""
    with psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=1s") as searcher:
        return [row[0] for row in searcher.execute(SEARCH)]


def waiting(connection: psycopg.Connection) -> int | None:
    """Return the pid of a command that waits for a lock."""
    row = connection.execute(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = 'cbirdb' AND datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return row[0] if row else None


def wait_until_blocked(process: subprocess.Popen[str], connection: psycopg.Connection) -> int:
    pids: list[int] = []

    def is_blocked() -> bool:
        assert process.poll() is None, process.communicate()
        pids[:] = filter(None, [waiting(connection)])
        return bool(pids)

    eventually(is_blocked, seconds=60)
    return pids[0]


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read what the process says on stderr until the words are in it."""
    assert process.stderr is not None
    said = b""
    while words.encode() not in said:
        ready, _, _ = select.select([process.stderr], [], [], 30)
        part = os.read(process.stderr.fileno(), 65536) if ready else b""
        assert part, f"it says only: {said.decode()}"
        said += part


def ends_well(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return err


@pytest.mark.parametrize("command", [*COMMANDS, "encoders drop"])
def test_searches_answer_within_a_second_while_a_command_waits_for_a_reader(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder, command: str
) -> None:
    build(cli, "--m", 8)
    before = search(dsn)
    arguments = COMMANDS.get(command, ("encoders", "drop", "toy", "--yes"))
    with idle_reader(dsn) as reader:
        process = start(dsn, *arguments)
        wait_until_blocked(process, connection)
        # Longer than two tries and the pause between them.
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert sorted(search(dsn)) == sorted(before)
        assert process.poll() is None, process.communicate()
    err = ends_well(process)
    assert f"Waiting for a lock that is held by pid {reader} (role postgres, idle in transaction" in err
    assert ", in a transaction since 20" in err
    assert err.count("Waiting for a lock") == 1, "it is said once"
    if command == "build":
        assert [options["m"] for _, _, options, _ in indexes(connection)] == ["12"]
    elif command == "drop":
        assert indexes(connection) == []
    elif command == "row security":
        assert connection.execute(
            "SELECT relrowsecurity FROM pg_class WHERE oid = 'cbir.image'::regclass"
        ).fetchone() == (True,)
    elif command == "encoders drop":
        assert connection.execute("SELECT to_regclass(%s)", [TABLE]).fetchone() == (None,)


def test_upgrade_by_a_superuser_names_the_tables_that_it_locks_first(
    start: Start, dsn: str, connection: psycopg.Connection
) -> None:
    said = ends_well(start(dsn, "db", "upgrade")).splitlines()
    assert said[0].startswith("Searches must wait during this upgrade, which locks cbir.dataset, ")
    assert "cbir.image, cbir.patient, cbir.search_audit, cbir.setting." in said[0]
    set_row_security(connection, enabled=True)
    assert "cbir.search_result," in ends_well(start(dsn, "db", "upgrade")).splitlines()[0]


def test_tables_to_lock_include_those_of_pending_migrations(connection: psycopg.Connection) -> None:
    assert "cbir.search_run" not in migrate._tables_to_lock(connection)
    connection.execute("UPDATE cbir.alembic_version SET version_num = '0005'")
    assert "cbir.search_run" in migrate._tables_to_lock(connection)


TRIGGERS = "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
OBJECTS = "SELECT kind, name FROM cbir.sql_object ORDER BY 1, 2"


def test_repeated_upgrade_by_the_owner_does_not_wait_for_a_reader(role_database: str, logins: Logins) -> None:
    database = str(conninfo_to_dict(role_database)["dbname"])
    with logins.connect("admin", database) as owner, psycopg.connect(role_database) as reader:
        before = owner.execute(TRIGGERS).fetchall(), owner.execute(OBJECTS).fetchall()
        reader.execute("SELECT FROM cbir.image, cbir.patient, cbir.dataset, cbir.search_audit, cbir.setting")
        notes: list[str] = []
        migrate.upgrade(owner, LockWaits(owner, notes.append))
        assert notes == [], "it waited for the reader, or locks a table"
        after = owner.execute(TRIGGERS).fetchall(), owner.execute(OBJECTS).fetchall()
    assert after == before
    assert len(after[0]) > 5


# --- a kill between the commit of the new index and the drop of the old one -------------------------------------------


def queue_for_table(dsn: str) -> psycopg.Connection:
    """Wait for a lock that is granted when the build commits, and that the drop of the old index waits for."""
    holder = psycopg.connect(dsn)
    holder.execute(f"LOCK TABLE {TABLE} IN SHARE UPDATE EXCLUSIVE MODE".encode())
    return holder


def end(connection: psycopg.Connection, process: subprocess.Popen[str], pid: int) -> None:
    assert connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone() == (True,)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err


@pytest.fixture
def two_valid(cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder) -> tuple[str, str]:
    """Kill a rebuild before it drops the old index; return the names of both indexes."""
    build(cli, "--m", 8)
    with psycopg.connect(dsn) as recording, ThreadPoolExecutor(max_workers=1) as thread:
        recording.execute("LOCK TABLE cbir.index_build IN SHARE MODE")
        process = start(dsn, *COMMANDS["build"])
        pid = wait_until_blocked(process, connection)
        queued = thread.submit(queue_for_table, dsn)
        ungranted = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        eventually(lambda: connection.execute(ungranted).fetchone() == (2,))
        recording.rollback()
        with queued.result(timeout=30):
            assert wait_until_blocked(process, connection) == pid
            end(connection, process, pid)
    (old, *_), (new, *_) = indexes(connection)
    assert [used for _, _, used in records(connection)] == [False, True]
    assert [valid for *_, valid in indexes(connection)] == [True, True]
    assert records(connection)[1][0] == new
    return old, new


@pytest.fixture
def one_invalid(
    cli: Cli, start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> tuple[str, str]:
    """Kill a rebuild after it has invalidated the old index and waits for a reader; return the names of both."""
    build(cli, "--m", 8)
    with idle_reader(dsn):
        process = start(dsn, *COMMANDS["build"])
        eventually(lambda: not indexes(connection)[0][3])
        end(connection, process, wait_until_blocked(process, connection))
    (old, *_), (new, *_) = indexes(connection)
    assert [valid for *_, valid in indexes(connection)] == [False, True]
    return old, new


def nearest(connection: psycopg.Connection, mode: str) -> list[tuple[int, str]]:
    return connection.execute(
        "SELECT image_id, mode_used FROM cbir_internal.nearest_image('toy',"
        f" (SELECT embedding::vector FROM {TABLE} ORDER BY image_id LIMIT 1), mode => %s) ORDER BY rank".encode(),
        [mode],
    ).fetchall()


def label(connection: psycopg.Connection) -> None:
    """Give all images the same label and make half of them queries."""
    connection.execute("INSERT INTO cbir.label (name) VALUES ('one')")
    connection.execute("UPDATE cbir.image SET split = CASE WHEN image_id % 2 = 0 THEN 'test' ELSE 'train' END")
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id, value) SELECT image_id, label_id, 1 FROM cbir.image, cbir.label"
    )


def doctor_of_indexes(cli: Cli) -> dict[str, str]:
    (row,) = [row for row in cli("db", "doctor", "--format", "json").rows if row["check"] == "Vector indexes"]
    return row


def test_searches_are_exact_while_two_indexes_exist(connection: psycopg.Connection, two_valid: tuple[str, str]) -> None:
    exact = nearest(connection, "exact")
    assert nearest(connection, "auto") == nearest(connection, "approximate") == exact
    assert {used for _, used in exact} == {"exact"}


def test_partial_index_or_index_of_another_operator_does_not_affect_searches(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    build(cli)
    for rest in ("(embedding halfvec_cosine_ops) WHERE image_id < 10", "(embedding halfvec_l2_ops)"):
        connection.execute(f"CREATE INDEX ON {TABLE} USING hnsw {rest}".encode())
    assert {used for _, used in nearest(connection, "auto")} == {"approximate"}


def test_audit_and_approximate_evaluation_refuse_two_indexes(
    cli: Cli, connection: psycopg.Connection, two_valid: tuple[str, str]
) -> None:
    label(connection)
    for command in ("index audit -e toy", "evaluate -e toy -k 5 --mode approximate"):
        err = one_sentence(cli(*command.split()))
        assert f"a second index of the same kind, cbir.{two_valid[0]}" in err
        assert "Run: cbirdb index build -e toy" in err


@pytest.mark.parametrize("left", ["two_valid", "one_invalid"])
@pytest.mark.parametrize("command", ["build", "drop"])
def test_doctor_names_a_leftover_index_and_the_next_build_or_drop_removes_it(
    request: pytest.FixtureRequest, cli: Cli, connection: psycopg.Connection, left: str, command: str
) -> None:
    old, new = request.getfixturevalue(left)
    found = doctor_of_indexes(cli)
    assert found["result"] == "FAILED"
    assert found["detail"] == f"cbir.{old} of toy is not in use{', invalid' if left == 'one_invalid' else ''}"
    assert found["advice"] == "Run: cbirdb index build -e toy"
    if left == "one_invalid":
        assert {used for _, used in nearest(connection, "approximate")} == {"approximate"}
    assert cli(*COMMANDS[command]).code == 0
    names = [name for name, *_ in indexes(connection)]
    assert len(names) == (1 if command == "build" else 0)
    assert not {old, new} & set(names)
    found = doctor_of_indexes(cli)
    assert (found["result"], found["detail"]) == ("ok", f"{len(names)} in use, and no other")


def test_doctor_names_the_index_of_an_interrupted_reindex_and_build_removes_it(
    cli: Cli, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    build(cli)
    [(name, *_)] = indexes(connection)
    with psycopg.connect(dsn) as writer, psycopg.connect(dsn, autocommit=True) as repairing:
        writer.execute(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE".encode())
        repairing.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            repairing.execute(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(sql.Identifier("cbir", name)))
    assert doctor_of_indexes(cli)["detail"] == f"cbir.{name}_ccnew of toy is not in use, invalid"
    build(cli)
    assert len(indexes(connection)) == 1


def test_doctor_names_a_foreign_index_and_build_and_drop_keep_it(
    cli: Cli, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    connection.execute(
        f"CREATE INDEX by_hand ON {TABLE} USING hnsw (embedding halfvec_cosine_ops) WITH (m = 8)".encode()
    )
    build(cli, "--no-audit")
    found = doctor_of_indexes(cli)
    assert found["detail"] == "cbir.by_hand of toy is not in use"
    assert found["advice"].startswith("DROP INDEX CONCURRENTLY the indexes that cbirdb did not build")
    assert cli("index", "drop", "-e", "toy").code == 0
    assert [name for name, *_ in indexes(connection)] == ["by_hand"]


# --- who can be in the way, and who is named -----------------------------------------------------------------------------


def test_reader_cannot_hold_the_locks_that_builds_and_upgrades_take_first(role_database: str, logins: Logins) -> None:
    database = str(conninfo_to_dict(role_database)["dbname"])
    with psycopg.connect(role_database, autocommit=True) as superuser:
        fill(superuser)
    with logins.connect("reader", database) as reader:
        for table in (TABLE, "cbir.alembic_version"):
            for mode in ("ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege), reader.transaction():
                    reader.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        # What both began with once.
        reader.execute(
            "SELECT pg_advisory_lock(%s), pg_advisory_lock(hashtextextended('cbirdb index toy', 0))", [migrate.LOCK_KEY]
        )
        with logins.connect("admin", database) as owner:
            notes: list[str] = []
            migrate.upgrade(owner, LockWaits(owner, notes.append))
        assert notes == []


def test_first_upgrade_names_the_session_that_blocks_it(start: Start, empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [migrate.LOCK_KEY])
        process = start(empty_database, "db", "upgrade")
        assert process.stderr is not None
        assert f"held by pid {holder.info.backend_pid} (role postgres, idle" in process.stderr.readline()
    ends_well(process)


def test_two_upgrades_at_once_both_succeed(start: Start, empty_database: str) -> None:
    for process in [start(empty_database, "db", "upgrade") for _ in range(2)]:
        ends_well(process)


def test_lock_wait_names_pid_and_role_to_all_and_start_time_to_monitors(role_database: str, logins: Logins) -> None:
    database = str(conninfo_to_dict(role_database)["dbname"])
    notes: list[str] = []

    def note_and_leave(said: str) -> None:
        notes.append(said)
        reader.rollback()

    with logins.connect("admin", database) as owner:
        for member in (False, True):
            if member:
                with psycopg.connect(role_database) as superuser:
                    name = sql.Identifier(logins.names["admin"])
                    superuser.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(name))
            with psycopg.connect(logins.dsn("reader", database)) as reader:
                reader.execute("SELECT FROM cbir.image")
                set_row_security(owner, enabled=member, waits=LockWaits(owner, note_and_leave))
                held = (
                    f"Waiting for a lock that is held by pid {reader.info.backend_pid} (role {logins.names['reader']}"
                )
                if member:
                    assert notes.pop().startswith(f"{held}, idle in transaction, in a transaction since ")
                else:
                    assert notes.pop() == f"{held})."
                assert notes == []


def test_lock_wait_continues_when_the_blocking_session_cannot_be_looked_up(
    dsn: str, connection: psycopg.Connection
) -> None:
    notes: list[str] = []

    def note_and_leave(said: str) -> None:
        notes.append(said)
        reader.rollback()

    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT FROM cbir.image")
        nowhere = lambda: psycopg.connect(make_conninfo(dsn, dbname="nowhere"))  # noqa: E731
        set_row_security(connection, enabled=True, waits=LockWaits(connection, note_and_leave, nowhere))
    assert len(notes) == 1
    assert "Its holder could not be found" in notes[0]


def test_first_ingest_names_the_session_that_blocks_its_pseudonym_key(
    dsn: str, connection: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(dsn) as holder, ThreadPoolExecutor(max_workers=1) as thread:
        holder.execute("LOCK TABLE cbir.pseudonym_key IN SHARE ROW EXCLUSIVE MODE")
        checked = thread.submit(check_pseudonym_key, connection, "a fingerprint")
        eventually(lambda: f"held by pid {holder.info.backend_pid} (role postgres" in caplog.text)
        holder.rollback()
        checked.result(timeout=30)


def test_evaluation_names_the_session_that_blocks_its_run(
    start: Start, dsn: str, connection: psycopg.Connection, toy: StoredEncoder
) -> None:
    label(connection)
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s, 1)", [RUN_LOCK])
        process = start(dsn, "evaluate", "-e", "toy")
        read_until(process, f"held by pid {holder.info.backend_pid} (role postgres")
    ends_well(process)
