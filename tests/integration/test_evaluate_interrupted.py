"""Test evaluations that fail, are killed and resumed, or whose images change: a run is complete, or there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
import pytest

from cbirdb.db.evaluation import neighbours
from cbirdb.db.evaluation.runs import RUN_LOCK
from cbirdb.evaluate import find_neighbours
from cbirdb.evaluate import run as module
from tests.support.evaluations import TEST, Cli, assert_same, evaluate, runs, write_catalogue
from tests.support.waiting import eventually


@pytest.fixture
def catalogue(connection: psycopg.Connection) -> list[int]:
    return write_catalogue(connection)


@pytest.fixture
def fail_in_first_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], list[Sequence[int]]]:
    """Provide a function that makes the first of two connections fail; it returns the list of batches that were begun.

    Batches of the other connection last until the evaluation tells it to stop.
    """
    begun: list[Sequence[int]] = []
    stop = threading.Event()
    monkeypatch.setattr(find_neighbours, "EXACT_PER_BATCH", 1)
    monkeypatch.setattr(module, "machine_cpus", lambda: 2)
    monkeypatch.setattr(find_neighbours, "threading", SimpleNamespace(Event=lambda: stop))

    def fail_with(error: BaseException) -> list[Sequence[int]]:
        def store(_self: object, _connection: object, queries: Sequence[int]) -> None:
            begun.append(queries)
            if len(begun) == 1:
                raise error
            stop.wait(10)

        monkeypatch.setattr(neighbours.Search, "store", store)
        return begun

    return fail_with


def test_evaluation_interrupted_by_ctrl_c_leaves_no_run_and_stops_searching(
    cli: Cli,
    catalogue: list[int],
    connection: psycopg.Connection,
    fail_in_first_batch: Callable[[BaseException], list[Sequence[int]]],
) -> None:
    begun = fail_in_first_batch(KeyboardInterrupt())
    assert cli("-q", "evaluate", "-e", "toy").code == 130
    assert runs(connection) == []
    assert len(begun) <= 2, "more than one batch of each connection"


def test_failed_evaluation_leaves_no_run_and_stops_searching(
    cli: Cli,
    catalogue: list[int],
    connection: psycopg.Connection,
    fail_in_first_batch: Callable[[BaseException], list[Sequence[int]]],
) -> None:
    begun = fail_in_first_batch(RuntimeError("a fault of the program"))
    with pytest.raises(RuntimeError, match="a fault of the program"):
        cli("-q", "evaluate", "-e", "toy")
    assert runs(connection) == []
    assert len(begun) <= 2, "more than one batch of each connection"


HANGING = """
import sys, time
from cbirdb.evaluate import run
from cbirdb.evaluate import find_neighbours
from cbirdb.evaluate import exact_search
from cbirdb.db.evaluation import neighbours
find_neighbours.COMMIT_FACTOR = 0
find_neighbours.EXACT_PER_BATCH = find_neighbours.QUERIES_PER_BATCH = 1
exact_search.BYTES_PER_MB = 1  # a query per pass
run.machine_cpus = lambda: 1
find_neighbours.SCAN_UP_TO = __pairs__
stored = []
def hanging(store):
    def hang_or_store(self, connection, query):
        if len(stored) == __before__:
            print("hanging", flush=True)
            time.sleep(600)
        store(self, connection, query)
        stored.append(query)
    return hang_or_store
neighbours.Search.store = hanging(neighbours.Search.store)
neighbours.Search.store_found = hanging(neighbours.Search.store_found)
from cbirdb.cli.main import main
main(sys.argv[1:])
"""


@contextmanager
def hanging_evaluate(dsn: str, *arguments: object, before: int, scan: int = 10**9) -> Iterator[None]:
    """Run an evaluation that stores so many queries, then hangs; kill it when the block ends."""
    program = HANGING.replace("__before__", str(before)).replace("__pairs__", str(scan))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "-q", "evaluate", "-e", "toy", *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"CBIRDB_DSN": dsn}, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The server notices a moment later that the client is gone.
        eventually(lambda: connection.execute(held, [RUN_LOCK]).fetchone() is None)


def results(connection: psycopg.Connection, run: object) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT r.query_image_id, r.label_id, r.relevant_count, neighbour_ids, distances, r.hits, l.label_id,"
        " l.relevant_count, l.hits FROM cbir.search_result AS r LEFT JOIN cbir.search_result_label AS l"
        " USING (run_id, query_image_id) WHERE r.run_id = %s ORDER BY 1, 7",
        [run],
    ).fetchall()


WAYS = {
    "scans": ("--mode", "exact"),
    "matrix": ("--mode", "exact"),
    "index": ("--mode", "approximate"),
    "any label": ("--protocol", "any-label", "--exclude-patient"),
}


@pytest.mark.parametrize("way", WAYS)
def test_killed_evaluation_resumes_and_gives_the_results_of_a_whole_run(
    cli: Cli,
    dsn: str,
    catalogue: list[int],
    connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    scan = 0 if way == "matrix" else 10**9
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", scan)
    if way == "index":
        assert cli("-q", "index", "build", "-e", "toy", "--method", "hnsw").code == 0
    with hanging_evaluate(dsn, "-k", 20, *WAYS[way], before=5, scan=scan):
        pass
    ((dead, finished),) = runs(connection)
    assert not finished
    kept = results(connection, dead)
    assert len(kept) == 5
    outcome = cli("evaluate", "-e", "toy", "-k", 20, *WAYS[way], "--format", "json")
    assert outcome.code == 0, outcome.err
    assert (outcome.rows[0]["run"], outcome.rows[0]["resumed"]) == (dead, 5)
    assert f"Run {dead} was resumed: 5 of its {TEST} queries were stored" in outcome.err
    assert runs(connection) == [(dead, True)]
    whole = evaluate(cli, "-k", 20, *WAYS[way])
    assert whole["resumed"] == 0
    assert_same(results(connection, dead), results(connection, whole["run"]))
    assert [row for row in results(connection, dead) if row in kept] == kept


CHANGES = {
    "a label": "UPDATE cbir.image_label SET label_id = (SELECT min(label_id) FROM cbir.label) WHERE image_id = %s",
    "an embedding": "UPDATE cbir.embedding_toy SET embedding = embedding WHERE image_id = %s",
    "an image": "DELETE FROM cbir.image WHERE image_id = %s",
    "a split": "UPDATE cbir.image SET split = 'val' WHERE image_id = %s",
}


@pytest.mark.parametrize("change", CHANGES)
def test_interrupted_run_starts_over_when_its_images_have_changed(
    cli: Cli, dsn: str, catalogue: list[int], connection: psycopg.Connection, change: str
) -> None:
    with hanging_evaluate(dsn, "-k", 20, before=5):
        pass
    ((dead, _),) = runs(connection)
    connection.execute(CHANGES[change], [catalogue[1]])
    outcome = cli("evaluate", "-e", "toy", "-k", 20, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "An interrupted run was restarted" in outcome.err
    assert outcome.rows[0]["resumed"] == 0
    assert runs(connection) == [(outcome.rows[0]["run"], True)]
    assert outcome.rows[0]["run"] != dead


@pytest.mark.parametrize("arguments", [("-k", 19), ("--seed", 1), ("--dataset", "two"), ("--exclude-patient",)])
def test_run_with_other_options_is_not_resumed(
    cli: Cli, dsn: str, catalogue: list[int], connection: psycopg.Connection, arguments: Sequence[object]
) -> None:
    with hanging_evaluate(dsn, "-k", 20, before=3):
        pass
    ((dead, _),) = runs(connection)
    outcome = cli("evaluate", "-e", "toy", "-k", 20, *arguments, "--format", "json")
    assert outcome.rows[0]["resumed"] == 0
    assert "started over" not in outcome.err
    assert runs(connection) == [(dead, False), (outcome.rows[0]["run"], True)]
    resumed = evaluate(cli, "-k", 20)
    assert (resumed["run"], resumed["resumed"]) == (dead, 3), "the interrupted run was lost to one of other options"


@pytest.mark.parametrize("factor", [0, 10**6], ids=["between transactions", "within the only one"])
def test_run_whose_images_change_while_it_runs_fails(
    cli: Cli,
    dsn: str,
    catalogue: list[int],
    connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    factor: int,
) -> None:
    monkeypatch.setattr(find_neighbours, "COMMIT_FACTOR", factor)
    monkeypatch.setattr(find_neighbours, "EXACT_PER_BATCH", 1)
    monkeypatch.setattr(module, "machine_cpus", lambda: 1)
    store = neighbours.Search.store

    def changing(self: neighbours.Search, own: psycopg.Connection, queries: Sequence[int]) -> None:
        store(self, own, queries)
        connection.execute(CHANGES["an embedding"], [catalogue[1]])

    monkeypatch.setattr(neighbours.Search, "store", changing)
    outcome = cli("evaluate", "-e", "toy")
    assert outcome.code == 1
    assert "changed during the evaluation" in outcome.err
    assert [finished for _, finished in runs(connection)] == [False]


def test_only_one_process_takes_over_a_dead_run(
    cli: Cli, dsn: str, catalogue: list[int], connection: psycopg.Connection
) -> None:
    with hanging_evaluate(dsn, "-k", 20, before=2):
        pass
    ((dead, _),) = runs(connection)
    # The first takes it over and hangs again; the second finds it locked and makes a run of its own.
    with hanging_evaluate(dsn, "-k", 20, before=3):
        assert runs(connection) == [(dead, False)]
        own = evaluate(cli, "-k", 20)
        assert (own["resumed"], own["run"] != dead) == (0, True)
        assert runs(connection) == [(dead, False), (own["run"], True)]
    third = evaluate(cli, "-k", 20)
    assert (third["run"], third["resumed"]) == (dead, 5)
    assert results(connection, dead) == results(connection, own["run"])


def test_running_evaluation_is_kept_and_an_old_dead_one_is_removed(
    cli: Cli, dsn: str, catalogue: list[int], connection: psycopg.Connection
) -> None:
    with hanging_evaluate(dsn, before=0):
        ((living, finished),) = runs(connection)
        assert not finished
        own = evaluate(cli, "-k", 5)["run"]
        assert runs(connection) == [(living, False), (own, True)]
        assert {row["run"] for row in cli("metrics", "-n", "1", "--format", "json").rows} == {own}
    second = evaluate(cli, "-k", 5)["run"]
    assert runs(connection) == [(living, False), (own, True), (second, True)], "it may still be resumed"
    connection.execute(
        "UPDATE cbir.search_run SET started_at = started_at - interval '8 days' WHERE run_id = %s", [living]
    )
    latest = evaluate(cli, "-k", 5)["run"]
    assert runs(connection) == [(own, True), (second, True), (latest, True)]
