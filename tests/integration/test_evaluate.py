"""Test ``cbirdb evaluate`` and ``cbirdb metrics`` on a real server: modes, splits, bad input, poor indexes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import psycopg
import pytest

from tests.conftest import Outcome
from tests.support.evaluations import TEST, TRAIN, Cli, evaluate, runs, write_catalogue


@pytest.fixture
def catalogue(connection: psycopg.Connection) -> list[int]:
    return write_catalogue(connection)


def test_exact_bypasses_the_index_and_approximate_uses_it(
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


def test_indexed_query_does_not_find_itself(cli: Cli, catalogue: list[int], connection: psycopg.Connection) -> None:
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


def test_evaluate_dataset_searches_only_that_dataset(
    cli: Cli, catalogue: list[int], connection: psycopg.Connection
) -> None:
    summary = evaluate(cli, "--dataset", "two", "-k", 100)
    assert (summary["queries"], summary["indexed"]) == (TEST // 2, TRAIN // 2)
    found = connection.execute(
        "SELECT DISTINCT d.name FROM cbir.neighbour JOIN cbir.image USING (image_id) JOIN cbir.dataset AS d USING (dataset_id)"
    ).fetchall()
    assert found == [("two",)]


def test_k_above_the_number_of_images_returns_all_images(
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
        (("-e", "toy", "-k", 0), "0 is not in the range 1<=x<=10000", ""),
        (("-e", "toy", "-k", -1), "-1 is not in the range", ""),
        (("-e", "toy", "-k", 10_001), "10001 is not in the range", ""),
        (("-e", "toi"), "no encoder named 'toi'", "Did you mean 'toy'"),
        (("-e", "tiny-image"), "no embeddings of 'tiny-image'", "cbirdb encode -e tiny-image"),
        (("-e", "toy", "--dataset", "tow"), "no dataset named 'tow'", "Did you mean 'two'"),
    ],
)
def test_bad_input_gives_its_sentence_and_leaves_no_run(
    cli: Cli,
    catalogue: list[int],
    connection: psycopg.Connection,
    arguments: Sequence[object],
    sentence: str,
    hint: str,
) -> None:
    outcome = cli("evaluate", *arguments)
    assert outcome.code == (2 if "-k" in arguments else 1)
    assert sentence in outcome.err
    assert hint in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out
    assert runs(connection) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-n", "11"), "P@11 is not available: run 1 kept 10 neighbours. Give -n 1 to 10"),
        (("-n", "0"), "'0' is not a list of numbers"),
        (("-n", "x"), "'x' is not a list of numbers"),
        (("-n", "1,,2"), "'1,,2' is not a list of numbers"),
        (("-n", "²"), "is not a list of numbers"),
        (("-n", "5-1"), "5-1"),
        (("--run", "99"), "no finished evaluation run 99"),
        (("-e", "other"), "There is no encoder named 'other'."),
    ],
)
def test_metrics_refuses_unknown_cutoffs_runs_and_encoders(
    cli: Cli, catalogue: list[int], arguments: Sequence[object], sentence: str
) -> None:
    evaluate(cli, "-k", 10)
    outcome = cli("metrics", *arguments)
    assert outcome.code == (2 if "list of numbers" in outcome.err else 1)
    assert sentence in outcome.err
    assert not outcome.out


def test_metrics_without_a_run_says_that_there_is_none(cli: Cli) -> None:
    outcome = cli("metrics")
    assert outcome.code == 1
    assert "no finished evaluation run" in outcome.err


def test_range_of_cutoffs_gives_one_row_each(cli: Cli, catalogue: list[int]) -> None:
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


def test_metrics_shows_the_latest_run_or_the_one_asked_for(cli: Cli, catalogue: list[int]) -> None:
    first, second = evaluate(cli, "-k", 10)["run"], evaluate(cli, "-k", 10)["run"]
    assert {row["run"] for row in cli("metrics", "--format", "json").rows} == {second}
    assert {row["run"] for row in cli("metrics", "--run", first, "--format", "json").rows} == {first}


def test_run_through_a_poor_or_unaudited_index_is_not_final(
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
    assert re.search(
        r"results are not final: recall at 10 is 0\.\d+, below the floor of 0\.99\.$", outcome.err, re.MULTILINE
    )
    outcome, poor = approximate()
    assert (outcome.code, poor["final"]) == (4, False)
    assert re.search(
        r"NOT FINAL: The index's audit: recall at 10 is 0\.\d+, below the floor of 0\.99\. Run: cbirdb", outcome.err
    )
    assert "cbirdb index build -e toy" in outcome.err
    assert "FAILED: of 72 stored vectors" in said(poor["run"])
    assert f"Run {poor['run']} is NOT FINAL" in said(poor["run"])
    # What is low enough for the user is final; earlier runs keep their audit.
    outcome, row = approximate("--floor-recall", 0, "--max-share-without-hit", 1)
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


def test_auto_mode_is_exact_up_to_a_number_of_multiplications(
    cli: Cli, catalogue: list[int], connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode() -> object:
        return cli("-q", "evaluate", "-e", "toy", "-k", 5, "--format", "json").rows[0]["mode"]

    queries, indexed = connection.execute(
        "SELECT count(*) FILTER (WHERE split = 'test'), count(*) FILTER (WHERE split = 'train') FROM cbir.image"
        " INNER JOIN cbir.embedding_toy USING (image_id)"
    ).fetchone() or (0, 0)
    dim = connection.execute("SELECT dim FROM cbir.encoder WHERE name = 'toy'").fetchone()
    assert queries * indexed > 0 < dim[0]
    monkeypatch.setattr("cbirdb.evaluate.run.EXACT_UP_TO", queries * indexed * dim[0] - 1)
    assert mode() == "exact"  # there is no index
    assert cli("-q", "index", "build", "-e", "toy", "--method", "hnsw").code == 0
    assert mode() == "approximate"
    monkeypatch.setattr("cbirdb.evaluate.run.EXACT_UP_TO", queries * indexed * dim[0])
    assert mode() == "exact"


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
def test_approximate_run_uses_the_index_and_nearly_equals_the_exact_run(
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


def test_query_that_the_index_leaves_short_is_completed(
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
