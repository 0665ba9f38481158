"""Test servers that run but accept no connection: commands wait for a limited time and start no second server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cbirdb.config import Settings
from cbirdb.db import busy_server
from cbirdb.db.connection import connect
from cbirdb.db.reconnect import ReconnectingConnection
from cbirdb.db.server import embedded
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.errors import BusyError, NotReadyError
from tests.integration.test_embedded_server import PROGRAM, cbirdb, environment, postmaster


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Start a server that allows few connections."""
    server = EmbeddedServer(Path(tempfile.mkdtemp(prefix="cbirdb-server-")))
    assert cbirdb(server.home, "db", "start").returncode == 0
    with psycopg.connect(server.uri(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET max_connections = 12")
        admin.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 1")
        admin.execute("CREATE ROLE ordinary LOGIN")
    server.stop()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.home)


def fill(server: EmbeddedServer, taken: ExitStack, **role: str) -> None:
    """Take every free connection."""

    def take_for_ever() -> None:
        while True:
            taken.enter_context(psycopg.connect(make_conninfo(server.uri(), **role)))

    with pytest.raises(psycopg.OperationalError, match=r"too many|reserved"):
        take_for_ever()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_server, "BUSY_S", 1.0)


def test_command_waits_until_a_full_server_has_a_free_connection(small: EmbeddedServer) -> None:
    before = postmaster(small)
    with ExitStack() as taken:
        fill(small, taken)
        process = subprocess.Popen(
            [PROGRAM, "db", "status"],
            env=environment(small.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.endswith("The server has no free connection left. Trying again for up to 15 seconds.\n")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out
    assert postmaster(small) == before


@pytest.mark.usefixtures("impatient")
def test_server_that_stays_full_raises_busy_and_no_second_server_starts(small: EmbeddedServer) -> None:
    before = postmaster(small)
    with ExitStack() as taken:
        fill(small, taken)
        for settings in (Settings(home=small.home), Settings(dsn=small.uri())):
            started = time.monotonic()
            with pytest.raises(BusyError, match=r"no free connection left\. Close unused sessions"):
                connect(settings)
            assert 1 <= time.monotonic() - started < 10
        assert small.running()
    assert postmaster(small) == before


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("role", "words"),
    [("ordinary", "no free connection for this role"), ("limited", "allows no more connections for this role")],
)
def test_role_at_its_connection_limit_gets_a_busy_error(small: EmbeddedServer, role: str, words: str) -> None:
    with ExitStack() as taken:
        fill(small, taken, user=role)
        with pytest.raises(BusyError, match=words):
            connect(Settings(dsn=make_conninfo(small.uri(), user=role)))


@pytest.mark.usefixtures("impatient")
def test_long_work_reports_a_full_server_and_continues_once_there_is_room(small: EmbeddedServer) -> None:
    notes: list[str] = []
    with ExitStack() as taken:
        fill(small, taken)

        def note_and_make_room(said: str) -> None:
            notes.append(said)
            taken.close()

        work = ReconnectingConnection(lambda: connect(Settings(dsn=small.uri())), note=note_and_make_room)
        assert work.run(lambda live: live.execute("SELECT 1").fetchone()) == (1,)
        work.close()
    assert notes == ["The server has no free connection left; trying again for up to 60 seconds."]


def test_full_server_can_be_stopped(small: EmbeddedServer) -> None:
    with ExitStack() as taken:
        fill(small, taken)
        done = cbirdb(small.home, "db", "stop")
        assert (done.returncode, done.stderr) == (0, "The server has stopped.\n")
    small.start()


def start_recovering(server: EmbeddedServer, seconds: int) -> None:
    """Restart the server so that it recovers from an archive, whose every answer takes some seconds."""
    server.stop()
    with (server.data / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'sleep {seconds}; false'\nhot_standby = off\n")
    signal_file = server.data / "recovery.signal"
    signal_file.touch()
    owner = server.data.stat()
    os.chown(signal_file, owner.st_uid, owner.st_gid)
    server._run(server._binaries(), "pg_ctl", "start", "-W", "-l", str(server.log_file), "-D", str(server.data))
    deadline = time.monotonic() + 30
    while True:
        assert time.monotonic() < deadline
        try:
            psycopg.connect(server.uri()).close()
        except psycopg.OperationalError as error:
            if "the database system is" in str(error):
                return
        time.sleep(0.01)


@pytest.fixture
def own() -> Iterator[EmbeddedServer]:
    """Start a server that a test may damage."""
    server = EmbeddedServer(Path(tempfile.mkdtemp(prefix="cbirdb-server-")))
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.home)


def test_command_waits_for_a_recovering_server(own: EmbeddedServer) -> None:
    start_recovering(own, 2)
    pid = postmaster(own)
    done = cbirdb(own.home, "db", "psql", "-At", "-c", "SELECT 7")
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    assert "The server is starting, recovering or shutting down. Trying again for up to 300 seconds." in done.stderr
    assert postmaster(own) == pid


def test_start_names_a_server_that_keeps_recovering_and_stop_stops_it(
    own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_recovering(own, 600)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 1)
    with pytest.raises(NotReadyError, match="starting, recovering or shutting down"):
        own.start()
    monkeypatch.undo()
    assert own.running()
    assert own.stop()


def crash(server: EmbeddedServer) -> None:
    """Write many rows and kill the session, so that the server replays its log; return while it does."""
    with psycopg.connect(server.uri(), autocommit=True) as writer:
        writer.execute("CREATE TABLE much AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 300000) AS n")
        os.kill(writer.info.backend_pid, signal.SIGKILL)
        while True:
            try:
                psycopg.connect(server.uri()).close()
            except psycopg.OperationalError as error:
                if "the database system is" in str(error):
                    return


def test_connect_waits_for_recovery_from_a_crash(own: EmbeddedServer) -> None:
    crash(own)
    with connect(Settings(home=own.home)) as again:
        assert again.execute("SELECT count(*) FROM much").fetchone() == (300000,)


def test_server_stopped_during_crash_recovery_keeps_all_committed_rows(own: EmbeddedServer) -> None:
    """PostgreSQL 18 hangs when a fast stop is requested during recovery."""
    crash(own)
    done = cbirdb(own.home, "db", "stop")
    assert (done.returncode, done.stderr) == (0, "The server has stopped.\n")
    assert not own.running()
    with connect(Settings(home=own.home)) as again:
        assert again.execute("SELECT count(*) FROM much").fetchone() == (300000,)


def test_hanging_server_is_reported_and_not_replaced(own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = postmaster(own)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(NotReadyError, match="does not answer"):
            own.start()
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert postmaster(own) == pid
