"""Test ``cbirdb import-embeddings`` for images that were erased before or are removed while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Outcome
from tests.support.official_layouts import NIH_ROWS, write_key, write_nih14
from tests.support.published_vectors import add_images, unit, write
from tests.support.waiting import eventually

Cli = Callable[..., Outcome]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path)


def load(cli: Cli, path: Path) -> Outcome:
    return cli("import-embeddings", "-e", "paper", "--format", "json", path)


def test_later_imports_leave_out_vectors_of_an_erased_patient(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    cli("ingest", "nih14", write_nih14(tmp_path / "nih"), "--pseudonym-key", key, "--name", "nih")
    names = [f"images/{row[0]}" for row in NIH_ROWS[:3]] + ["images/unknown.png"]
    file = write(tmp_path / "a.h5", dict(zip(names, unit(4), strict=True)))
    first = load(cli, file)
    assert (first.code, first.rows[0]["added"], first.rows[0]["unknown"]) == (4, 3, 1)
    erased = cli("erase", "--patient-id", "2", "--dataset", "nih", "--pseudonym-key", key, "--yes")
    assert erased.code == 0, erased.err
    for _ in range(2):
        again = load(cli, file)
        assert (again.code, again.rows[0]["already_there"], again.rows[0]["failed"]) == (4, 2, 0), again.err
        assert "1 left out: erased patient." in again.err
        assert NIH_ROWS[2][0] not in again.err + again.out
    assert connection.execute("SELECT source, resolved FROM cbir.failure").fetchall() == [(names[3], False)]


def test_image_removed_during_import_is_left_out_and_the_others_are_loaded(
    cli: Cli, dsn: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    names = ["a.png", "b.png", "c.png"]
    add_images(connection, "P", names)
    vectors = dict(zip(names, unit(3), strict=True))
    file = write(tmp_path / "a.h5", {"a.png": vectors["a.png"]})
    assert load(cli, file).rows[0]["added"] == 1  # makes the table
    file = write(tmp_path / "b.h5", vectors | {"c.png": vectors["c.png"] * 0})
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        holder.execute("DELETE FROM cbir.image WHERE source IN ('b.png', 'c.png')")

        def commit_when_waited_for() -> None:
            waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            try:
                eventually(lambda: watcher.execute(waiting).fetchone() is not None)
            finally:
                holder.commit()

        finisher = threading.Thread(target=commit_when_waited_for)
        finisher.start()
        outcome = load(cli, file)
        finisher.join()
    assert outcome.code == 0, outcome.err
    assert {name: value for name, value in outcome.rows[0].items() if value} == {"encoder": "paper", "already_there": 1}
    assert "2 left out: image removed meanwhile." in outcome.err
    assert connection.execute("SELECT count(*) FROM cbir.failure").fetchone() == (0,)
