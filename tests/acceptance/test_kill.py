"""Kill commands at any moment and run them again: only the batch in flight is lost, nothing is stored twice."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import psycopg
import pytest

from cbirdb.ingest.embeddings import BATCH as IMPORT_BATCH
from cbirdb.ingest.run import BATCH_WITH_FILES
from tests.conftest import Outcome
from tests.support.picture_folder import write_pictures
from tests.support.started_commands import Start, started_commands

PICTURES = 600
BATCH = 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("many") / "pictures", PICTURES, classes=6)


@pytest.fixture
def start(dsn: str) -> Iterator[Start]:
    with started_commands(dsn, "--format", "json") as start:
        yield start


@pytest.fixture
def ingested(cli: Callable[..., Outcome], pictures: Path) -> None:
    assert cli("ingest", "folder", pictures).code == 0


def encode(start: Start, *arguments: object) -> subprocess.Popen[str]:
    return start("encode", "-e", "tiny-image", "--batch-size", BATCH, *arguments)


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    """Wait for the process to end well and return its row."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)[-1]


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"


def embeddings(connection: psycopg.Connection) -> int:
    if connection.execute("SELECT to_regclass('cbir.embedding_tiny_image')").fetchone() == (None,):
        return 0
    return _count(connection, "embedding_tiny_image")


def _count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM cbir.{table}").fetchone()
    assert row is not None
    return row[0]


def wait_until(what: Callable[[], bool], process: subprocess.Popen[str], complaint: str) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, complaint
        time.sleep(0.001)


def wait_until_blocked(process: subprocess.Popen[str], connection: psycopg.Connection) -> None:
    """Return when the process's session waits for a lock that the test holds: its batch is written, not committed."""
    waiting = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'cbirdb'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    )
    wait_until(lambda: connection.execute(waiting).fetchone() == (True,), process, "it never came to the locked image")


@contextmanager
def locked_image(dsn: str, position: int) -> Iterator[None]:
    """Lock the image at this position, from 0, so that no embedding of it can be written."""
    with psycopg.connect(dsn) as holder:
        holder.execute(
            "SELECT FROM cbir.image WHERE image_id ="
            " (SELECT image_id FROM cbir.image ORDER BY image_id LIMIT 1 OFFSET %s) FOR UPDATE",
            [position],
        )
        yield
        holder.rollback()


@contextmanager
def locked_source(dsn: str, pictures: Path, position: int) -> Iterator[None]:
    """Insert the picture at this position, from 0, without committing, so that no other session can ingest it."""
    sources = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    with psycopg.connect(dsn) as holder:
        holder.execute(
            "INSERT INTO cbir.dataset (name, reader, root) VALUES ('pictures', 'folder', %s)", [str(pictures)]
        )
        holder.commit()
        holder.execute(
            "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, %s FROM cbir.dataset", [sources[position]]
        )
        yield
        holder.rollback()


def wait_for_server(connection: psycopg.Connection) -> None:
    """Wait until the server has noticed that its client is gone and has rolled back the client's batch."""
    deadline = time.monotonic() + 30
    while connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cbirdb' AND datname = current_database()"
    ).fetchone() != (0,):
        assert time.monotonic() < deadline, "the killed process's session lives on"
        time.sleep(0.01)


@pytest.mark.parametrize("position", [0, 300, PICTURES - 1])
def test_encode_killed_with_a_batch_in_flight_loses_only_that_batch(
    start: Start, dsn: str, connection: psycopg.Connection, ingested: None, position: int
) -> None:
    with locked_image(dsn, position):
        process = encode(start)
        wait_until_blocked(process, connection)
        kill(process)
    wait_for_server(connection)
    kept = embeddings(connection)
    assert kept == position // BATCH * BATCH
    row = finish(encode(start))
    assert (row["encoded"], row["already_there"], row["failed"]) == (PICTURES - kept, kept, 0)
    assert embeddings(connection) == _count(connection, "image") == PICTURES
    assert _count(connection, "failure") == 0


@pytest.mark.parametrize("at_least", [1, 150])
def test_killed_encode_keeps_whole_batches_and_the_next_run_completes_them(
    start: Start, connection: psycopg.Connection, ingested: None, at_least: int
) -> None:
    process = encode(start)
    wait_until(lambda: embeddings(connection) >= at_least, process, "nothing was committed")
    kill(process)
    wait_for_server(connection)
    kept = embeddings(connection)
    assert at_least <= kept < PICTURES
    assert kept % BATCH == 0, "half a batch was committed"
    assert finish(encode(start))["encoded"] == PICTURES - kept
    assert embeddings(connection) == PICTURES


def test_killed_and_repeated_encode_stores_the_same_as_an_undisturbed_run(
    start: Start, dsn: str, connection: psycopg.Connection, ingested: None
) -> None:
    digest = "SELECT md5(string_agg(image_id || embedding::text, ' ' ORDER BY image_id)) FROM cbir.embedding_tiny_image"
    with locked_image(dsn, 100):
        process = encode(start)
        wait_until_blocked(process, connection)
        kill(process)
    finish(encode(start))
    interrupted = connection.execute(digest).fetchone()
    connection.execute("TRUNCATE cbir.embedding_tiny_image")
    finish(encode(start))
    assert connection.execute(digest).fetchone() == interrupted


@pytest.mark.parametrize("position", [0, BATCH_WITH_FILES + 20, PICTURES - 1])
def test_ingest_killed_with_a_batch_in_flight_loses_only_that_batch(
    start: Start, dsn: str, connection: psycopg.Connection, pictures: Path, position: int
) -> None:
    with locked_source(dsn, pictures, position):
        process = start("ingest", "folder", pictures)
        wait_until_blocked(process, connection)
        kill(process)
    wait_for_server(connection)
    kept = _count(connection, "image")
    assert kept == position // BATCH_WITH_FILES * BATCH_WITH_FILES
    assert _count(connection, "image_label") == kept, "an image was committed without its label"
    row = finish(start("ingest", "folder", pictures))
    assert (row["added"], row["unchanged"], row["failed"]) == (PICTURES - kept, kept, 0)
    assert _count(connection, "image") == _count(connection, "image_label") == PICTURES
    assert _count(connection, "dataset") == 1


def test_two_concurrent_encodes_report_every_image_and_store_each_once(
    start: Start, connection: psycopg.Connection, ingested: None
) -> None:
    rows = [finish(process) for process in [encode(start), encode(start)]]
    assert sum(row["encoded"] for row in rows) == PICTURES
    assert [row["encoded"] + row["already_there"] for row in rows] == [PICTURES, PICTURES]
    assert [row["failed"] for row in rows] == [0, 0]
    assert embeddings(connection) == PICTURES
    assert _count(connection, "encoder") == 1


@pytest.mark.slow
def test_three_of_four_shards_complete_when_the_fourth_is_killed(
    start: Start, dsn: str, connection: psycopg.Connection, ingested: None
) -> None:
    ids = "SELECT image_id FROM cbir.image WHERE mod(image_id, 4) = 2 ORDER BY image_id"
    (position,) = connection.execute(
        f"SELECT count(*) FROM cbir.image WHERE image_id < ({ids} LIMIT 1 OFFSET 60)"
    ).fetchone()
    with locked_image(dsn, position):
        shards = [encode(start, "--shard", f"{index}/4") for index in range(4)]
        wait_until_blocked(shards[2], connection)
        others = [finish(shards[index]) for index in (0, 1, 3)]
        kill(shards[2])
    wait_for_server(connection)
    assert [(row["encoded"], row["already_there"], row["failed"]) for row in others] == [(PICTURES // 4, 0, 0)] * 3
    kept = embeddings(connection) - 3 * PICTURES // 4
    assert kept == 60 // BATCH * BATCH, "the killed shard kept other than its whole batches"
    row = finish(encode(start, "--shard", "2/4"))
    assert (row["encoded"], row["already_there"]) == (PICTURES // 4 - kept, kept)
    assert embeddings(connection) == PICTURES
    assert finish(encode(start))["already_there"] == PICTURES


def end_sessions(process: subprocess.Popen[str], connection: psycopg.Connection) -> None:
    """End the process's sessions at the server while one of them waits for a lock."""
    wait_until_blocked(process, connection)
    ended = connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'cbirdb' AND datname = current_database()"
    ).fetchall()
    assert set(ended) == {(True,)}


def lose_connection(process: subprocess.Popen[str], connection: psycopg.Connection) -> None:
    """End the process's session at the server and check its error message."""
    end_sessions(process, connection)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("Error: The connection to the server was lost")
    assert "Run the same command again" in err


def test_encode_reconnects_after_lost_connections_and_completes(
    start: Start, dsn: str, connection: psycopg.Connection, ingested: None
) -> None:
    with locked_image(dsn, 300):
        process = encode(start)
        end_sessions(process, connection)
        wait_until_blocked(process, connection)  # the same batch, on a new connection
    row = finish(process)
    assert (row["encoded"] + row["already_there"], row["failed"]) == (PICTURES, 0)
    assert embeddings(connection) == PICTURES


def test_ingest_that_loses_its_connection_says_so_and_keeps_committed_batches(
    start: Start, dsn: str, connection: psycopg.Connection, pictures: Path
) -> None:
    with locked_source(dsn, pictures, 300):
        lose_connection(start("ingest", "folder", pictures), connection)
    assert _count(connection, "image") == BATCH_WITH_FILES
    finish(start("ingest", "folder", pictures))
    assert _count(connection, "image") == PICTURES


def test_import_killed_with_a_batch_in_flight_loses_only_that_batch(
    start: Start, dsn: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    number, position = 2 * IMPORT_BATCH + 100, IMPORT_BATCH + 50
    vectors = np.random.default_rng(3).normal(size=(number, 6))
    names = [f"images/{n:06}.png" for n in range(number)]
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        for name, vector in zip(names, vectors, strict=True):
            file.create_dataset(name, data=(vector / np.linalg.norm(vector)).astype(np.float32))
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('published', 'paper-csv')")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, unnest(%s::text[]) FROM cbir.dataset", [names]
    )
    command = ("import-embeddings", "-e", "paper", tmp_path / "vectors.h5")
    with locked_image(dsn, position):
        process = start(*command)
        wait_until_blocked(process, connection)
        kill(process)
    wait_for_server(connection)
    assert _count(connection, "embedding_paper") == IMPORT_BATCH
    row = finish(start(*command))
    assert (row["added"], row["already_there"], row["missing"]) == (number - IMPORT_BATCH, IMPORT_BATCH, 0)
    assert _count(connection, "embedding_paper") == number
