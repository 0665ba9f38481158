"""``cbirdb evaluate`` and ``cbirdb metrics`` on a real server: modes, splits, bad input, and runs that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from cbirdb import evaluate as module
from cbirdb import find_neighbours, matrix_search
from cbirdb.db import neighbours
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.db.runs import RUN_LOCK
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
TRAIN, TEST, DIM = 60, 12, 8


@pytest.fixture
def catalogue(connection: psycopg.Connection) -> list[int]:
    """Images of three classes around three directions, 60 indexed ones and 12 queries, encoded by ``toy``."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('one', 'test'), ('two', 'test')")
    connection.execute("INSERT INTO cbir.label (name) VALUES ('A'), ('B'), ('C')")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split, modality)"
        " SELECT dataset_id, n::text, CASE WHEN n < %s THEN 'train' ELSE 'test' END, 'XR'"
        " FROM generate_series(0, %s) AS n JOIN cbir.dataset ON name = CASE n %% 2 WHEN 0 THEN 'one' ELSE 'two' END"
        " ORDER BY n",
        [TRAIN, TRAIN + TEST - 1],
    )
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id"
        " FROM cbir.image JOIN cbir.label ON name = substr('ABC', source::int % 3 + 1, 1)"
    )
    ids = [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY source::int")]
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(3, DIM))[np.arange(len(ids)) % 3] + 0.8 * rng.normal(size=(len(ids), DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = register_encoder(connection, "toy", dim=DIM, precision="single", spec={}, provenance={})
    copy_embeddings(connection, stored.table, np.array(ids), vectors.astype(np.float32), "single")
    return ids


def evaluate(cli: Cli, *arguments: object) -> dict[str, object]:
    outcome = cli("-q", "evaluate", "-e", "toy", "--format", "json", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.rows[0]


def runs(connection: psycopg.Connection) -> list[tuple[int, bool]]:
    return connection.execute("SELECT run_id, finished_at IS NOT NULL FROM cbir.search_run ORDER BY 1").fetchall()


def test_exact_and_approximate_say_different_things(
    cli: Cli, catalogue: list[int], connection: psycopg.Connection
) -> None:
    exact = evaluate(cli, "-k", 20, "--mode", "exact")
    assert (exact["mode"], exact["ann_recall"], exact["queries"], exact["indexed"]) == ("exact", 1.0, TEST, TRAIN)
    assert cli("-q", "index", "build", "-e", "toy", "--method", "hnsw").code == 0

    def scans() -> int:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute("SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%hnsw%'")
        return int(row.fetchone()[0])  # type: ignore[index]

    before = scans()
    again = evaluate(cli, "-k", 20, "--mode", "exact")
    auto = evaluate(cli, "-k", 20)
    assert (again["mode"], auto["mode"]) == ("exact", "exact")
    assert scans() == before
    through_index = evaluate(cli, "-k", 20, "--mode", "approximate")
    assert scans() >= before + TEST
    assert through_index["mode"] == "approximate"
    assert 0.9 <= float(str(through_index["ann_recall"])) <= 1.0
    assert through_index["short_queries"] == 0

    def figures(run: object) -> list[float]:
        rows = cli("metrics", "--run", run, "-n", "1-20", "--format", "json").rows
        assert {row["mode"] for row in rows} == {"exact" if run != through_index["run"] else "approximate"}
        return [row["micro_precision"] for row in rows]

    assert figures(exact["run"]) == pytest.approx(figures(again["run"]), abs=1e-12)
    assert figures(through_index["run"]) == pytest.approx(figures(exact["run"]), abs=0.05)


def test_a_query_that_is_indexed_finds_itself(cli: Cli, catalogue: list[int], connection: psycopg.Connection) -> None:
    for mode in ("exact", "approximate"):
        if mode == "approximate":
            cli("-q", "index", "build", "-e", "toy")
        summary = evaluate(cli, "--query-split", "train", "--index-split", "train", "-k", 100, "--mode", mode)
        assert (summary["queries"], summary["indexed"], summary["short_queries"]) == (TRAIN, TRAIN, 0)
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE query_image_id = image_id), count(*) FROM cbir.neighbour WHERE run_id = %s",
            [summary["run"]],
        ).fetchone()
        assert row == (0, TRAIN * (TRAIN - 1))
        # Twenty images of each class; the query itself is not there to be found.
        relevant = connection.execute(
            "SELECT DISTINCT relevant_count, hits[array_upper(hits, 1)] FROM cbir.search_result WHERE run_id = %s",
            [summary["run"]],
        ).fetchall()
        assert relevant == [(TRAIN // 3 - 1, TRAIN // 3 - 1)]


def test_images_of_other_datasets_are_retrieved(cli: Cli, catalogue: list[int], connection: psycopg.Connection) -> None:
    summary = evaluate(cli, "--dataset", "two", "-k", 100)
    assert (summary["queries"], summary["indexed"]) == (TEST // 2, TRAIN // 2)
    found = connection.execute(
        "SELECT DISTINCT d.name FROM cbir.neighbour JOIN cbir.image USING (image_id) JOIN cbir.dataset AS d USING (dataset_id)"
    ).fetchall()
    assert found == [("two",)]


def test_k_above_what_exists_is_an_error_or_reported_as_short(
    cli: Cli, catalogue: list[int], connection: psycopg.Connection
) -> None:
    summary = evaluate(cli, "-k", 1000)
    assert summary["short_queries"] == 0
    assert connection.execute("SELECT DISTINCT cardinality(neighbour_ids) FROM cbir.search_result").fetchall() == [
        (TRAIN,)
    ]
    rows = cli("metrics", "-n", "60,1000", "--format", "json").rows
    assert [row["n"] for row in rows] == [60, 1000]
    # From N = 20 = all relevant images of each class on, P@N no longer changes.
    assert rows[0]["micro_precision"] == rows[1]["micro_precision"]


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (("-e", "toy", "--mode", "approximate"), "has no vector index", "cbirdb index build -e toy"),
        (("-e", "toy", "--query-split", "val"), "Split 'val' has no image", "cbirdb encode -e toy"),
        (("-e", "toy", "--index-split", "val"), "Split 'val' has no image", "cbirdb encode -e toy"),
        (("-e", "toy", "-k", 0), "-k must lie between 1 and 10,000, not 0", ""),
        (("-e", "toy", "-k", -1), "-k must lie between", ""),
        (("-e", "toy", "-k", 10_001), "-k must lie between", ""),
        (("-e", "toi"), "no encoder named 'toi'", "Did you mean 'toy'"),
        (("-e", "tiny-image"), "no embeddings of 'tiny-image'", "cbirdb encode -e tiny-image"),
        (("-e", "toy", "--dataset", "tow"), "no dataset named 'tow'", "Did you mean 'two'"),
    ],
)
def test_bad_input_is_not_one_sentence_or_leaves_a_run(
    cli: Cli,
    catalogue: list[int],
    connection: psycopg.Connection,
    arguments: Sequence[object],
    sentence: str,
    hint: str,
) -> None:
    outcome = cli("evaluate", *arguments)
    assert outcome.code == 1
    assert sentence in outcome.err
    assert hint in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out
    assert runs(connection) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-n", "11"), "P@11 is not known: run 1 kept 10 neighbours. Ask for -n 1 to 10"),
        (("-n", "0"), "P@0 is not known"),
        (("-n", "x"), "'x' is not a list of numbers"),
        (("-n", "1,,2"), "'1,,2' is not a list of numbers"),
        (("-n", "²"), "is not a list of numbers"),
        (("-n", "5-1"), "5-1"),
        (("--run", "99"), "no finished evaluation run 99"),
        (("-e", "other"), "There is no encoder named 'other'."),
    ],
)
def test_metrics_answer_what_cannot_be_answered(
    cli: Cli, catalogue: list[int], arguments: Sequence[object], sentence: str
) -> None:
    evaluate(cli, "-k", 10)
    outcome = cli("metrics", *arguments)
    assert outcome.code == 1
    assert sentence in outcome.err
    assert not outcome.out


def test_metrics_without_a_run_are_an_empty_table(cli: Cli) -> None:
    outcome = cli("metrics")
    assert outcome.code == 1
    assert "no finished evaluation run" in outcome.err


def test_a_range_of_cutoffs_is_not_one_row_each(cli: Cli, catalogue: list[int]) -> None:
    run = evaluate(cli)["run"]
    rows = cli("metrics", "-n", "1-99", "--format", "json").rows
    assert [row["n"] for row in rows] == list(range(1, 100))
    assert list(rows[0]) == [
        "run", "encoder", "n", "micro_precision", "micro_std", "macro_precision", "macro_std", "queries", "classes",
        "mode", "ann_recall",
    ]  # fmt: skip
    assert {row["run"] for row in rows} == {run}
    for by, column, groups in (
        ("class", "class", {"A", "B", "C"}),
        ("dataset", "dataset", {"one", "two"}),
        ("modality", "modality", {"XR"}),
        ("anatomic-region", "anatomic_region", {"(none)"}),
    ):
        rows = cli("metrics", "--by", by, "--format", "json").rows
        assert {row[column] for row in rows} == groups
        assert sum(row["queries"] for row in rows if row["n"] == 1) == TEST


def test_metrics_show_another_run_than_the_latest_of_each_encoder(cli: Cli, catalogue: list[int]) -> None:
    first, second = evaluate(cli, "-k", 10)["run"], evaluate(cli, "-k", 10)["run"]
    assert {row["run"] for row in cli("metrics", "--format", "json").rows} == {second}
    assert {row["run"] for row in cli("metrics", "--run", first, "--format", "json").rows} == {first}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_evaluation_leaves_its_run_or_goes_on_searching(
    cli: Cli,
    catalogue: list[int],
    connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(find_neighbours, "EXACT_PER_BATCH", 1)
    monkeypatch.setattr(module, "machine_cpus", lambda: 2)
    searched = []
    failed = threading.Event()

    def store(_self: object, _connection: object, queries: Sequence[int]) -> None:
        searched.append(list(queries))
        if len(searched) == 1:
            failed.set()
            raise error
        failed.wait(10)
        time.sleep(0.5)

    monkeypatch.setattr(neighbours.Search, "store", store)
    try:
        outcome = cli("-q", "evaluate", "-e", "toy")
    except (KeyboardInterrupt, RuntimeError):
        pass
    else:
        assert outcome.code != 0
    assert runs(connection) == []
    assert len(searched) < TEST / 2


HANGING = """
import sys, time
from cbirdb import evaluate, find_neighbours, matrix_search
from cbirdb.db import neighbours
find_neighbours.COMMIT_FACTOR = 0
find_neighbours.EXACT_PER_BATCH = find_neighbours.QUERIES_PER_BATCH = 1
matrix_search.BYTES_PER_MB = 1  # a query per pass
evaluate.machine_cpus = lambda: 1
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
    """An evaluation that stores so many queries, then hangs; it is killed when the block ends."""
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
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(100):
            held = connection.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s", [RUN_LOCK]
            ).fetchone()
            if held is None:
                return
            time.sleep(0.1)  # the server has yet to notice that the client is gone
    pytest.fail("the server still holds the lock of a dead client")


def results(connection: psycopg.Connection, run: object) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT r.query_image_id, r.label_id, r.relevant_count, neighbour_ids, distances, r.hits, l.label_id,"
        " l.relevant_count, l.hits FROM cbir.search_result AS r LEFT JOIN cbir.search_result_label AS l"
        " USING (run_id, query_image_id) WHERE r.run_id = %s ORDER BY 1, 7",
        [run],
    ).fetchall()


def assert_same(found: Sequence[Sequence[object]], expected: Sequence[Sequence[object]]) -> None:
    """The same rows; distances within what sums in single precision round to."""
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        for value, wanted in zip(row, other, strict=True):
            if isinstance(wanted, list) and wanted and isinstance(wanted[0], float):
                assert value == pytest.approx(wanted, abs=1e-6)
            else:
                assert value == wanted


WAYS = {
    "scans": ("--mode", "exact"),
    "matrix": ("--mode", "exact"),
    "index": ("--mode", "approximate"),
    "any label": ("--protocol", "any-label", "--exclude-patient"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_evaluation_starts_over_or_ends_up_with_other_results(
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
    assert f"Run {dead} was resumed: 5 of its {TEST} queries had been stored" in outcome.err
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
def test_a_run_is_resumed_although_what_takes_part_has_changed(
    cli: Cli, dsn: str, catalogue: list[int], connection: psycopg.Connection, change: str
) -> None:
    with hanging_evaluate(dsn, "-k", 20, before=5):
        pass
    ((dead, _),) = runs(connection)
    connection.execute(CHANGES[change], [catalogue[1]])
    outcome = cli("evaluate", "-e", "toy", "-k", 20, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "An interrupted run was started over" in outcome.err
    assert outcome.rows[0]["resumed"] == 0
    assert runs(connection) == [(outcome.rows[0]["run"], True)]
    assert outcome.rows[0]["run"] != dead


@pytest.mark.parametrize("arguments", [("-k", 19), ("--seed", 1), ("--dataset", "two"), ("--exclude-patient",)])
def test_a_run_of_other_options_is_resumed(
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
def test_a_run_whose_images_change_while_it_runs_is_finished(
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
    assert "came or went while the evaluation was running" in outcome.err
    assert [finished for _, finished in runs(connection)] == [False]


def test_two_processes_take_over_one_dead_run(
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


def test_a_living_evaluation_is_removed_or_an_old_dead_one_stays(
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


def test_a_run_through_a_poor_or_unknown_index_is_presented_as_final(
    cli: Cli, catalogue: list[int], connection: psycopg.Connection
) -> None:
    def approximate(*arguments: object) -> tuple[Outcome, dict[str, object]]:
        outcome = cli("evaluate", "-e", "toy", "-k", 20, "--mode", "approximate", "--format", "json", *arguments)
        return outcome, outcome.rows[0]

    def said(run: object) -> str:
        return cli("metrics", "--run", run).err

    assert cli("-q", "index", "build", "-e", "toy", "--method", "hnsw", "--no-audit").code == 0
    outcome, row = approximate()
    assert (outcome.code, row["final"]) == (4, False)
    assert "not audited" in outcome.err
    assert "cbirdb index audit -e toy" in outcome.err
    assert f"Run {row['run']} is NOT FINAL: The index has not been audited." in said(row["run"])

    assert cli("-q", "index", "audit", "-e", "toy").code == 0
    outcome, row = approximate()
    assert (outcome.code, row["final"], row["not_final"]) == (0, True, None)
    assert str(row["index_audit"]).startswith("passed: of 72 stored vectors 100.00% find themselves")
    assert "passed: of 72 stored vectors" in said(row["run"])
    assert "NOT FINAL" not in said(row["run"])

    build = ("index", "build", "-e", "toy", "--method", "ivfflat", "--lists", 20, "--probes", 1)
    outcome = cli(*build)
    assert outcome.code == 0
    assert "below the floor" in outcome.err
    outcome, poor = approximate()
    assert (outcome.code, poor["final"]) == (4, False)
    assert "The result is NOT FINAL: The index is below the floor" in outcome.err
    assert "cbirdb index build -e toy" in outcome.err
    assert "FAILED: of 72 stored vectors" in said(poor["run"])
    assert f"Run {poor['run']} is NOT FINAL" in said(poor["run"])
    # What is low enough for the user is final; earlier runs keep their audit.
    outcome, row = approximate("--floor-recall", 0, "--floor-zeros", 1)
    assert (outcome.code, row["final"]) == (0, True)
    audits = connection.execute(
        "SELECT index_audit IS NULL, index_audit ->> 'passed', not_final IS NULL FROM cbir.search_run ORDER BY run_id"
    ).fetchall()
    assert audits == [(True, None, False), (False, "true", True), (False, "false", False), (False, "false", True)]
    for view in ("run", "class", "dataset", "modality", "anatomic_region"):
        shown = connection.execute(f"SELECT DISTINCT run_id, not_final FROM cbir.precision_by_{view}").fetchall()
        recorded = connection.execute("SELECT run_id, not_final FROM cbir.search_run").fetchall()
        assert set(shown) == set(recorded), view
    exact = cli("evaluate", "-e", "toy", "--mode", "exact", "--format", "json")
    assert (exact.code, exact.rows[0]["final"], exact.rows[0]["index_audit"]) == (0, True, None)


@pytest.mark.parametrize(
    "method",
    [
        ("hnsw", "--m", 8, "--ef-construction", 64),
        ("bit-hnsw", "--rerank", 60),
        ("ivfflat", "--lists", 6, "--probes", 5),
    ],
    ids=lambda method: method[0],
)
@pytest.mark.parametrize("exclude", [(), ("--exclude-patient",)], ids=["", "exclude-patient"])
def test_an_approximate_run_differs_from_an_exact_one_or_passes_the_index_by(
    cli: Cli,
    catalogue: list[int],
    connection: psycopg.Connection,
    method: tuple[object, ...],
    exclude: tuple[str, ...],
) -> None:
    connection.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, name FROM cbir.dataset")
    connection.execute(
        "UPDATE cbir.image AS i SET patient_id = p.patient_id FROM cbir.patient AS p"
        " WHERE p.dataset_id = i.dataset_id AND i.source::int % 5 = 0"
    )
    assert cli("-q", "index", "build", "-e", "toy", "--method", *method).code == 0
    [(name,)] = connection.execute("SELECT index_name FROM cbir.index_build").fetchall()

    def scans() -> int:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s", [name]).fetchone()
        assert row is not None
        return int(row[0])

    def neighbours_of(mode: str, k: int) -> list[tuple[int, list[float]]]:
        outcome = cli("-q", "evaluate", "-e", "toy", "-k", k, "--mode", mode, "--format", "json", *exclude)
        assert outcome.code in (0, 4)
        row = outcome.rows[0]
        assert (row["mode"], row["short_queries"]) == (mode, 0)
        return connection.execute(
            "SELECT query_image_id, distances FROM cbir.search_result WHERE run_id = %s ORDER BY 1", [row["run"]]
        ).fetchall()

    before = scans()
    truth = neighbours_of("exact", 10)
    assert scans() == before
    found = neighbours_of("approximate", 10)
    assert scans() >= before + TEST
    right = [
        sum(distance <= best[-1] + 1e-6 for distance in distances) / len(best)
        for (_, distances), (_, best) in zip(found, truth, strict=True)
    ]
    assert sum(right) / len(right) >= 0.95
    # Every image that there is, most of which no walk of so few lists or candidates meets.
    everything, all_found = neighbours_of("exact", 60), neighbours_of("approximate", 60)
    assert [len(d) for _, d in all_found] == [len(d) for _, d in everything]


def test_a_query_that_the_index_leaves_short_is_not_completed(
    cli: Cli, catalogue: list[int], connection: psycopg.Connection
) -> None:
    assert cli("-q", "index", "build", "-e", "toy", "--method", "ivfflat", "--lists", 12, "--probes", 1).code == 0
    # As if it had been built of fewer rows: walks end after ten, of which most may not be found.
    connection.execute("UPDATE cbir.index_build SET rows_indexed = 4, search_settings = '{\"ivfflat.probes\": 1}'")
    connection.execute("DELETE FROM cbir.image WHERE source::int % 20 > 1 AND split = 'train'")
    row = cli("-q", "evaluate", "-e", "toy", "-k", 6, "--mode", "approximate", "--format", "json").rows[0]
    exact = cli("-q", "evaluate", "-e", "toy", "-k", 6, "--mode", "exact", "--format", "json").rows[0]
    assert (row["mode"], row["short_queries"], row["indexed"]) == ("approximate", 0, 6)
    found, truth = (
        connection.execute(
            "SELECT query_image_id, neighbour_ids FROM cbir.search_result WHERE run_id = %s ORDER BY 1", [run["run"]]
        ).fetchall()
        for run in (row, exact)
    )
    assert found == truth


def write_images(
    connection: psycopg.Connection, vectors: NDArray[np.float64], precision: Literal["half", "single"]
) -> None:
    """Images of some forty patients, a third of them queries, with one label or two."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('one', 'test')")
    connection.execute("INSERT INTO cbir.label (name) SELECT 'L' || n FROM generate_series(0, 8) AS n")
    connection.execute(
        "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, n::text FROM cbir.dataset, generate_series(0, 39) AS n"
    )
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split, patient_id)"
        " SELECT d.dataset_id, n::text, CASE WHEN n % 3 = 0 THEN 'test' ELSE 'train' END, p.patient_id"
        " FROM cbir.dataset AS d, generate_series(0, 599) AS n"
        " LEFT JOIN cbir.patient AS p ON p.pseudonym = (n % 60)::text ORDER BY n"
    )
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id FROM cbir.image JOIN cbir.label"
        " ON name = 'L' || (source::int / 7 % 9) OR (source::int % 5 = 0 AND name = 'L' || (source::int % 4))"
    )
    ids = [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY source::int")]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = register_encoder(connection, "toy", dim=vectors.shape[1], precision=precision, spec={}, provenance={})
    copy_embeddings(connection, stored.table, np.array(ids), unit.astype(np.float32), precision)


@pytest.fixture
def many(connection: psycopg.Connection) -> None:
    """Six hundred images in clusters, and pairs with the same vector."""
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(9, 16))[np.arange(600) // 7 % 9] + 0.5 * rng.normal(size=(600, 16))
    vectors[100:140] = vectors[200:240]
    write_images(connection, vectors, "half")


@pytest.fixture
def alike(connection: psycopg.Connection) -> None:
    """Six hundred images of five pictures: copies, copies but for rounding, and others that are ever less alike."""
    rng = np.random.default_rng(7)
    pictures = rng.normal(size=(5, 96))[np.arange(600) % 5]
    noise = np.where(np.arange(600) % 4 == 0, 0, 10.0 ** -(np.arange(600) % 8))
    write_images(connection, pictures + noise[:, None] * rng.normal(size=(600, 96)), "single")


OPTIONS = pytest.mark.parametrize(
    "options",
    [(), ("--protocol", "any-label"), ("--exclude-patient",), ("--query-split", "train"), ("-k", 399)],
    ids=lambda options: " ".join(map(str, options)) or "plain",
)


def by_scans_and_products(
    cli: Cli, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, *options: object
) -> Iterator[tuple[list[tuple[object, ...]], list[tuple[object, ...]]]]:
    """What an exact run stores, table by table, in either way."""
    monkeypatch.setattr(matrix_search, "MARGIN", 8)
    runs = []
    for scan_up_to in (10**9, 0):
        monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", scan_up_to)
        runs.append(evaluate(cli, "--mode", "exact", *options)["run"])
    for table in ("search_result", "search_result_label"):
        scanned, multiplied = (
            [
                row[1:]
                for row in connection.execute(f"SELECT * FROM cbir.{table} WHERE run_id = %s ORDER BY 2, 3", [run])
            ]
            for run in runs
        )
        yield scanned, multiplied


@pytest.mark.parametrize("memory", [64, 1024])
@OPTIONS
def test_products_find_other_neighbours_than_scans(
    cli: Cli, connection: psycopg.Connection, many: None, monkeypatch: pytest.MonkeyPatch, options: Sequence[object],
    memory: int,
) -> None:  # fmt: skip
    if memory == 64:  # several passes
        monkeypatch.setattr(matrix_search, "BYTES_PER_MB", 1000)
    results, labels = by_scans_and_products(cli, connection, monkeypatch, "--memory", memory, *options)
    assert len(results[0]) > 100
    assert_same(results[1], results[0])
    assert_same(labels[1], labels[0])


@OPTIONS
def test_copies_and_near_copies_are_in_another_order_than_the_servers(
    cli: Cli, connection: psycopg.Connection, alike: None, monkeypatch: pytest.MonkeyPatch, options: Sequence[object]
) -> None:
    monkeypatch.setattr(matrix_search, "DEEPER", 2)
    monkeypatch.setattr(matrix_search, "QUERIES_PER_BATCH", 50)
    margins = []
    wanted = matrix_search.MatrixSearch._wanted

    def noting(self: matrix_search.MatrixSearch, margin: int | None) -> int:
        margins.append(margin)
        return wanted(self, margin)

    monkeypatch.setattr(matrix_search.MatrixSearch, "_wanted", noting)
    arguments = options or ("-k", 20)
    results, labels = by_scans_and_products(cli, connection, monkeypatch, *arguments)
    assert_same(results[1], results[0])
    assert_same(labels[1], labels[0])
    # Of eighty images of a picture, twenty and a margin of eight do not tell which are the first.
    assert options or 32 in margins
    copies = connection.execute(
        "SELECT count(*) FROM cbir.neighbour WHERE distance = 0 AND run_id = (SELECT max(run_id) FROM cbir.search_run)"
    ).fetchone()
    assert copies is not None
    assert copies[0] > 100, "copies are no longer at the distance 0 that the server says"


def test_an_image_that_goes_while_products_are_computed_is_not_noticed(
    cli: Cli, connection: psycopg.Connection, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", 0)
    compare = matrix_search.exact_neighbours

    def changing(*arguments: Any, **options: Any) -> object:
        connection.execute(
            "DELETE FROM cbir.image WHERE image_id = (SELECT min(image_id) FROM cbir.image WHERE split = 'train')"
        )
        return compare(*arguments, **options)

    monkeypatch.setattr(matrix_search, "exact_neighbours", changing)
    outcome = cli("evaluate", "-e", "toy", "--mode", "exact")
    assert outcome.code == 1
    assert "came or went while the evaluation was running" in outcome.err
    assert not any(finished for _, finished in runs(connection))


def test_a_gpu_that_is_not_there_is_not_one_sentence(
    cli: Cli, many: None, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_neighbours, "SCAN_UP_TO", 0)
    outcome = cli("evaluate", "-e", "toy", "--mode", "exact", "--device", "cuda:7")
    assert outcome.code == 1
    assert "GPU" in outcome.err
    assert runs(connection) == []
