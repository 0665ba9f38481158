"""Stop commands by SIGTERM, alone or with all their processes: finished work is kept, and the exit code is 143."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from cbirdb.db.server.embedded import EmbeddedServer
from tests.conftest import Outcome
from tests.support.picture_folder import write_pictures
from tests.support.started_commands import Start, start_command, started_commands
from tests.support.waiting import eventually

PICTURES = 120
BATCH = 8
STOPPED = "Stopped. Finished work is kept; the same command continues from there."


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("many") / "pictures", PICTURES, classes=6)


@pytest.fixture
def start(dsn: str) -> Iterator[Start]:
    with started_commands(dsn) as start:
        yield start


@pytest.fixture
def ingested(cli: Callable[..., Outcome], pictures: Path) -> None:
    assert cli("ingest", "folder", pictures).code == 0


@pytest.fixture
def encoded(cli: Callable[..., Outcome], ingested: None) -> None:
    assert cli("encode", "-e", "tiny-image").code == 0


@contextmanager
def locked(dsn: str, statement: str) -> Iterator[None]:
    """Hold a lock that a command will wait for."""
    with psycopg.connect(dsn) as holder:
        holder.execute(statement)
        yield
        holder.rollback()


def wait_until_blocked(process: subprocess.Popen[str], connection: psycopg.Connection) -> None:
    def blocked() -> bool:
        assert process.poll() is None, process.communicate()
        return connection.execute(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'cbirdb'"
            " AND datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone() == (True,)

    eventually(blocked, seconds=60)


def group_members(group: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(folder.name))
    return members


def check_stopped(process: subprocess.Popen[str], connection: psycopg.Connection) -> list[str]:
    """Check how the command ended, and that nothing of it is left; return its lines before the last one."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out == ""
    *before, last = [line for line in err.splitlines() if line]
    assert last == STOPPED
    eventually(lambda: not group_members(process.pid))
    sessions = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cbirdb' AND datname = current_database()"
    )
    eventually(lambda: connection.execute(sessions).fetchone() == (0,))
    return before


def send(process: subprocess.Popen[str], receiver: str) -> None:
    """Send SIGTERM: to the command's first process, to all of them, or as ``timeout`` does, to one and then all."""
    if receiver != "group":
        process.terminate()
    if receiver != "process":
        os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("receiver", ["process", "group", "both"])
def test_terminated_encode_stores_the_batches_in_flight_and_tells_how_many(
    start: Start, dsn: str, connection: psycopg.Connection, ingested: None, receiver: str
) -> None:
    image = "SELECT FROM cbir.image WHERE image_id = (SELECT min(image_id) + 60 FROM cbir.image) FOR UPDATE"
    with locked(dsn, image):
        process = start("encode", "-e", "tiny-image", "--batch-size", BATCH)
        wait_until_blocked(process, connection)
        send(process, receiver)
    (line,) = check_stopped(process, connection)
    (stored,) = connection.execute("SELECT count(*) FROM cbir.embedding_tiny_image").fetchone()
    assert 64 <= stored < PICTURES
    assert stored % BATCH == 0
    assert line == f"This run has stored {stored} images for tiny-image."
    assert connection.execute("SELECT count(*) FROM cbir.failure").fetchone() == (0,)


@pytest.mark.parametrize("receiver", ["process", "group"])
def test_terminated_loading_ends_at_once(
    start: Start, connection: psycopg.Connection, ingested: None, tmp_path: Path, receiver: str
) -> None:
    process = start("encode", "-e", "tiny-image", "-e", "resnet50", "--weights", tmp_path)
    assert process.stderr.readline() == "loading resnet50 (2 of 2)\n"
    send(process, receiver)
    assert check_stopped(process, connection) == []


@pytest.mark.parametrize("receiver", ["process", "group"])
def test_terminated_ingest_keeps_committed_batches(
    start: Start, dsn: str, connection: psycopg.Connection, pictures: Path, receiver: str
) -> None:
    with locked(dsn, "LOCK TABLE cbir.image IN SHARE MODE"):
        process = start("ingest", "folder", pictures)
        wait_until_blocked(process, connection)
        send(process, receiver)
        assert check_stopped(process, connection) == []
    assert connection.execute("SELECT count(*) FROM cbir.image").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM cbir.failure").fetchone() == (0,)


@pytest.mark.parametrize("receiver", ["process", "group"])
@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "-e", "tiny-image", "--mode", "exact"),
        ("evaluate", "-e", "tiny-image", "--mode", "approximate"),
        ("index", "build", "-e", "tiny-image"),
        ("index", "build", "-e", "tiny-image", "--method", "hnsw"),
        ("search", "-e", "tiny-image", "--image-id", "1"),
    ],
    ids=" ".join,
)
def test_terminated_command_ends_while_it_waits_for_the_database(
    start: Start, dsn: str, connection: psycopg.Connection, encoded: None, command: tuple[str, ...], receiver: str
) -> None:
    with locked(dsn, "LOCK TABLE cbir.embedding_tiny_image IN ACCESS EXCLUSIVE MODE"):
        process = start(*command)
        wait_until_blocked(process, connection)
        send(process, receiver)
        said = check_stopped(process, connection)
    assert [line for line in said if not re.match(r"Waiting for a lock|Choosing|choosing", line)] == []


def test_ignored_sigterm_stays_ignored(start: Start, dsn: str, connection: psycopg.Connection, ingested: None) -> None:
    image = "SELECT FROM cbir.image WHERE image_id = (SELECT min(image_id) + 60 FROM cbir.image) FOR UPDATE"
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with locked(dsn, image):
            process = start("encode", "-e", "tiny-image", "--batch-size", BATCH)
            wait_until_blocked(process, connection)
            send(process, "process")
    finally:
        signal.signal(signal.SIGTERM, before)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Return an embedded server that does not exist yet."""
    server = EmbeddedServer(tmp_path_factory.mktemp("embedded") / "home")
    yield server
    server.stop()


@pytest.mark.parametrize("receiver", ["process", "group"])
def test_server_can_be_created_after_sigterm_ended_its_creation(new_server: EmbeddedServer, receiver: str) -> None:
    process = start_command("--home", new_server.home, "db", "start")
    eventually(lambda: any(new_server.home.glob("pgdata*/PG_VERSION")), seconds=60)
    send(process, receiver)
    assert process.wait(60) == 143
    process.communicate()
    again = start_command("--home", new_server.home, "db", "start")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert not list(new_server.home.glob("pgdata.new-*"))


def test_embedded_server_outlives_sigterm_to_the_group_of_the_command_that_started_it(
    new_server: EmbeddedServer, pictures: Path
) -> None:
    process = start_command("--home", new_server.home, "ingest", "folder", pictures)
    eventually(new_server.running, seconds=120)
    send(process, "group")
    process.communicate(timeout=60)
    assert process.returncode == 143
    pid = int((new_server.data / "postmaster.pid").read_text().split()[0])
    again = start_command("--home", new_server.home, "ingest", "folder", pictures)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert int((new_server.data / "postmaster.pid").read_text().split()[0]) == pid
