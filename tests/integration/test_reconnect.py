"""Test servers that go away during work: the work waits for a limited time, and committed rows are kept."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run
from cbirdb.config import Settings
from cbirdb.db.connection import connect
from cbirdb.db.reconnect import ReconnectingConnection
from cbirdb.db.schema.migrate import upgrade
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.encode import EncodeOptions, EncodeSummary
from cbirdb.encode import run as verb
from cbirdb.errors import DatabaseError, ExitCode, UnreachableError
from tests.support.picture_folder import write_pictures
from tests.support.waiting import eventually
from tests.support.worker_encoders import Slow

PICTURES = 60


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedServer]:
    """Start a server that a test may stop and must start again."""
    home = Path(tempfile.mkdtemp(prefix="cbirdb-server-"))  # not below pytest's folder, see tests/conftest.py
    embedded = EmbeddedServer(home)
    embedded.start()
    yield embedded
    embedded.stop()
    shutil.rmtree(home)


@pytest.fixture
def own_dsn(own_server: EmbeddedServer) -> Iterator[str]:
    """Make a database on that server with an up-to-date schema."""
    own_server.start()
    name = f"cbirdb_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(own_server.uri("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = own_server.uri(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        upgrade(connection)
    yield dsn
    own_server.start()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("sixty") / "pictures", PICTURES, classes=2)


@pytest.fixture
def ingested(own_dsn: str, pictures: Path) -> str:
    """Ingest all pictures on the own server; return the DSN."""
    assert run(["-q", "--dsn", own_dsn, "ingest", "folder", str(pictures)]) == 0
    return own_dsn


class Notes:
    """Record the notes of a progress display."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    @contextmanager
    def task(self, description: str, *, total: int | None, unit: str) -> Iterator[Notes]:
        yield self

    def advance(self, n: int = 1) -> None: ...

    def update(self, *, done: int, total: int | None = None) -> None: ...


def encode(
    dsn: str,
    *,
    seconds: float = 0.0,
    patience_s: float = 60.0,
    connect_as: str | None = None,
    notes: Notes | None = None,
) -> EncodeSummary:
    """Run the verb with one encoder that takes so long for every five pictures."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        (summary,) = verb.encode(
            connection,
            [Slow(seconds=seconds)],
            EncodeOptions(batch_size=5, patience_s=patience_s),
            connect=lambda: connect(Settings(dsn=connect_as or dsn)),
            progress=notes or Notes(),
        )
    return summary


def embeddings(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM cbir.embedding_slow").fetchone()[0]


@contextmanager
def running(work: Callable[[], EncodeSummary]) -> Iterator[Future[EncodeSummary]]:
    """Run work on a thread and wait for it at the end."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        yield thread.submit(work)


def wait_for_first(dsn: str, work: Future[EncodeSummary]) -> None:
    """Wait until some embeddings are committed, and not all."""
    deadline = time.monotonic() + 60
    while True:
        assert not work.done(), work.result()
        assert time.monotonic() < deadline
        with psycopg.connect(dsn) as connection:
            there = connection.execute("SELECT to_regclass('cbir.embedding_slow') IS NOT NULL").fetchone() == (True,)
        if there and 0 < embeddings(dsn) < PICTURES:
            return
        time.sleep(0.02)


def crash(server: EmbeddedServer) -> None:
    """End the server at once, so that it has to recover."""
    pid_file = server.data / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
    deadline = time.monotonic() + 60
    while pid_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stop", [EmbeddedServer.stop, pytest.param(crash, marks=pytest.mark.slow)], ids=["stopped", "crashed"]
)
def test_encode_continues_after_a_server_restart(
    own_server: EmbeddedServer, ingested: str, stop: Callable[[EmbeddedServer], object]
) -> None:
    notes = Notes()
    with running(lambda: encode(ingested, seconds=0.1, notes=notes)) as work:
        wait_for_first(ingested, work)
        stop(own_server)
        eventually(lambda: bool(notes.notes))
        own_server.start()
        summary = work.result(timeout=120)
    assert (summary.encoded + summary.already_there, summary.failed) == (PICTURES, 0)
    assert embeddings(ingested) == PICTURES
    assert notes.notes
    assert set(notes.notes) == {"The connection to the server was lost; trying again for up to 60 seconds."}
    assert len(notes.notes) <= 2, "once for the connection that reads, once for the one that writes"


def test_encode_gives_up_on_an_absent_server_and_the_next_run_completes_it(
    own_server: EmbeddedServer, ingested: str
) -> None:
    with running(lambda: encode(ingested, seconds=0.1, patience_s=2)) as work:
        wait_for_first(ingested, work)
        own_server.stop()
        stopped = time.monotonic()
        with pytest.raises(DatabaseError) as ended:
            work.result(timeout=120)
        took = time.monotonic() - stopped
    assert ended.value.exit_code == ExitCode.DATABASE
    assert len(str(ended.value).splitlines()) == 1
    assert str(ended.value).startswith("No server answers at")
    # The patience is for the outage, and not for each batch that waits to be written.
    assert took < 12
    own_server.start()
    kept = embeddings(ingested)
    assert 0 < kept < PICTURES
    assert kept % 5 == 0
    summary = encode(ingested)
    assert (summary.encoded, summary.already_there, summary.failed) == (PICTURES - kept, kept, 0)


@contextmanager
def password_needed(server: EmbeddedServer, role: str) -> Iterator[None]:
    """Make the server ask this role for a password."""
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all {role} scram-sha-256\n{before}")
    with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD 'right'").format(sql.Identifier(role)))
        admin.execute("SELECT pg_reload_conf()")
        yield
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        rules.write_text(before)
        admin.execute("SELECT pg_reload_conf()")


def test_changed_password_ends_encode_at_once(own_server: EmbeddedServer, ingested: str) -> None:
    with password_needed(own_server, "locked"), psycopg.connect(ingested, autocommit=True) as admin:
        own_dsn = make_conninfo(ingested, user="locked", password="right")
        notes = Notes()
        with running(lambda: encode(ingested, seconds=0.1, connect_as=own_dsn, notes=notes)) as work:
            wait_for_first(ingested, work)
            admin.execute("ALTER ROLE locked PASSWORD 'wrong'")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'locked'")
            ended = time.monotonic()
            with pytest.raises(DatabaseError, match="The server refused the password") as refused:
                work.result(timeout=120)
            assert time.monotonic() - ended < 20, "it went on asking"
        assert not isinstance(refused.value, UnreachableError)
    assert encode(ingested).already_there > 0


# --- the connection itself -------------------------------------------------------------------------------------------


class Counted:
    """Open connections to a server and count them."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.tries = 0

    def __call__(self) -> psycopg.Connection:
        self.tries += 1
        return connect(Settings(dsn=self.dsn))


def end_session(dsn: str, pid: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        assert admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)


def test_connection_is_reused_until_lost_and_then_replaced(dsn: str) -> None:
    notes: list[str] = []
    opened = Counted(dsn)
    connection = ReconnectingConnection(opened, note=notes.append)
    assert opened.tries == 0, "it connects before it is needed"

    def pid(live: psycopg.Connection) -> int:
        return live.info.backend_pid

    def where(live: psycopg.Connection) -> int:
        return live.execute("SELECT pg_backend_pid()").fetchone()[0]

    first = connection.run(where)
    assert connection.run(where) == first
    assert (opened.tries, notes) == (1, [])
    end_session(dsn, first)
    second = connection.run(where)
    assert second != first
    assert opened.tries == 2
    assert notes == ["The connection to the server was lost; trying again for up to 60 seconds."]
    connection.close()
    connection.close()
    assert connection.run(pid) not in {first, second}
    connection.close()


def test_work_that_loses_its_connection_is_repeated_as_a_whole(dsn: str) -> None:
    connection = ReconnectingConnection(lambda: connect(Settings(dsn=dsn)))
    begun: list[int] = []

    def work(live: psycopg.Connection) -> int:
        with live.transaction():
            live.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('a', 'folder')")
            begun.append(live.info.backend_pid)
            if len(begun) < 3:
                end_session(dsn, live.info.backend_pid)
            live.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('b', 'folder')")
        return len(begun)

    assert connection.run(work) == 3
    assert len(set(begun)) == 3
    assert connection.run(lambda live: live.execute("SELECT count(*) FROM cbir.dataset").fetchone()) == (2,)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1 / 0", psycopg.errors.DivisionByZero),
        ("SELECT FROM nowhere", psycopg.errors.UndefinedTable),
        ("SET statement_timeout = 50; SELECT pg_sleep(10)", psycopg.errors.QueryCanceled),
        ("SET lock_timeout = 50; LOCK TABLE cbir.image", psycopg.errors.LockNotAvailable),
    ],
    ids=["division", "table", "cancelled", "locked"],
)
def test_error_on_a_living_connection_is_not_retried(dsn: str, statement: str, error: type[psycopg.Error]) -> None:
    opened = Counted(dsn)
    connection = ReconnectingConnection(opened)
    tries: list[str] = []

    def work(live: psycopg.Connection) -> None:
        tries.append(statement)
        with live.transaction():
            for part in statement.split("; "):
                live.execute(part)

    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE cbir.image")
        with pytest.raises(error):
            connection.run(work)
    assert (len(tries), opened.tries) == (1, 1)
    connection.run(lambda live: live.execute("SELECT 1"))
    assert opened.tries == 1
    connection.close()


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        ({"host": "/nowhere"}, UnreachableError, "No server answers at"),
        ({"host": "127.0.0.1", "port": "1"}, UnreachableError, "No server answers at"),
        ({"dbname": "nowhere"}, DatabaseError, "no such database or role"),
        ({"user": "nobody"}, DatabaseError, "no such database or role"),
    ],
    ids=["socket", "port", "database", "role"],
)
def test_only_an_unreachable_server_is_retried(
    dsn: str, part: dict[str, str], kind: type[DatabaseError], words: str
) -> None:
    opened = Counted(make_conninfo(dsn, **part))
    notes: list[str] = []
    connection = ReconnectingConnection(opened, patience_s=1, note=notes.append)
    with pytest.raises(DatabaseError, match=words) as refused:
        connection.run(lambda live: live.execute("SELECT 1"))
    assert type(refused.value) is kind
    if kind is UnreachableError:
        assert opened.tries > 1
        assert len(notes) == 1
    else:
        assert opened.tries == 1
        assert notes == []


def test_full_disk_is_not_retried_although_the_connection_was_lost(dsn: str) -> None:
    """Make the log unwritable: the server reports that, ends every session and restarts."""
    opened = Counted(dsn)
    connection = ReconnectingConnection(opened)

    def work(live: psycopg.Connection) -> None:
        try:
            live.execute("DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$")
        finally:
            end_session(dsn, live.info.backend_pid)
            live.close()

    with pytest.raises(psycopg.errors.DiskFull):
        connection.run(work)
    assert opened.tries == 1
    connection.close()


def test_connection_that_breaks_each_time_raises_the_drivers_error(dsn: str) -> None:
    connection = ReconnectingConnection(lambda: connect(Settings(dsn=dsn)), patience_s=1)

    def work(live: psycopg.Connection) -> None:
        end_session(dsn, live.info.backend_pid)
        live.execute("SELECT 1")

    with pytest.raises(psycopg.OperationalError):
        connection.run(work)
    assert connection.run(lambda live: live.execute("SELECT 1").fetchone()) == (1,)
    connection.close()
