"""Test ``index build --method auto``: which methods it tries, takes, builds and reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cbirdb.db.index_builds import current_build
from cbirdb.index import Aim, Choice, Floor, build_chosen
from cbirdb.index.audit import Measured, Recall
from cbirdb.index.choose import Trial, Whole, ranked
from cbirdb.index.methods import BitHnsw, Growth, Hnsw, IndexMethod, IvfFlat
from cbirdb.index.tune import tune_search
from tests.conftest import Outcome
from tests.support.indexed_vectors import GOOD, POOR, make

Cli = Callable[..., Outcome]


def test_auto_takes_the_cheapest_passing_method_and_lists_its_trials(connection: psycopg.Connection, cli: Cli) -> None:
    make(connection)
    outcome = cli("index", "build", "-e", "toy", "--sample", 1000, "--seed", 3, "--format", "json")
    assert outcome.code == 0, outcome.err
    [built] = outcome.rows
    row = connection.execute("SELECT method, choice, audit FROM cbir.index_build").fetchone()
    assert row is not None
    method, choice, audit = row
    assert (choice["rows"], choice["seed"]) == (1000, 3)
    trials = choice["trials"]
    assert {trial["method"] for trial in trials} == {"hnsw", "bit-hnsw", "ivfflat"}
    [chosen] = [trial for trial in trials if trial["chosen"]]
    assert chosen["method"] == method == built["method"]
    assert chosen["passed"]
    assert chosen["cost_s"] == min(trial["cost_s"] for trial in narrowest(trials))
    for trial in trials:
        good = trial["recall_10"] >= 0.995 and trial["p1_10"] >= 0.9 and trial["zeros_10"] == 0
        assert trial["passed"] == (good and trial["recall_100"] >= 0.995)
        assert trial["settings"] in outcome.err
        assert f"cost_s {trial['cost_s']:.4g}" in outcome.err
        # The table has twice the rows of the sample: everything takes longer there, but for what a search of an empty table
        # takes, which may be all of it.
        assert trial["whole_p50_ms"] >= trial["p50_ms"]
        assert trial["whole_build_s"] >= round(2 * trial["build_s"], 1)
    assert audit["passed"]
    assert connection.execute("SELECT to_regclass('pg_temp.index_sample')").fetchone() == (None,)


def narrowest(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each index that was built for a trial, the narrowest searches that passed."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for trial in trials:
        built, widths = re.fullmatch(r"(.*?) ?(\S+=\d+ at_100=\d+)", trial["settings"]).groups()  # type: ignore[union-attr]
        before = found.get((trial["method"], built))
        if trial["passed"] and (before is None or numbers(widths) < numbers(before["settings"])[-2:]):
            found[trial["method"], built] = trial
    return list(found.values())


def numbers(text: str) -> list[int]:
    return [int(value) for value in re.findall(r"=(\d+)", text)]


def test_auto_says_that_no_method_passed_and_takes_the_best_recall(
    connection: psycopg.Connection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(connection)
    # A graph of two neighbours per element falls apart: no search setting reaches everything.
    monkeypatch.setattr("cbirdb.index.choose.CANDIDATES", (Hnsw(2, 4, 1), BitHnsw(2, 4, 10)))
    outcome = cli("index", "build", "-e", "toy", "--floor-recall", 1, "--format", "json")
    assert outcome.code == 4
    assert re.search(r"Approximate results are not final: recall at 10 is 0\.\d+, below the floor of 1", outcome.err)
    assert re.search(
        r"not good enough: recall at 10 is 0\.\d+, below 1, its first percentile is [0-9.]+, below 1", outcome.err
    )
    [built] = outcome.rows
    assert built["audit"].startswith("FAILED")
    row = connection.execute("SELECT choice FROM cbir.index_build WHERE dropped_at IS NULL").fetchone()
    assert row is not None
    trials = row[0]["trials"]
    assert not any(trial["passed"] for trial in trials)
    best = max(trials, key=lambda trial: trial["recall_10"] + trial["recall_100"])
    assert [trial["settings"] for trial in trials if trial["chosen"]] == [best["settings"]]


def test_auto_builds_the_next_method_when_one_fails_on_the_whole_table(connection: psycopg.Connection) -> None:
    stored = make(connection, rows=500)
    floor = Floor(recall=0.999, share_without_hit=0)
    # The first falls apart and never finds all; lists do when enough are probed; the last need not be built.
    methods: list[IndexMethod] = [Hnsw(2, 4, 1000), IvfFlat(probes=2), Hnsw()]
    chosen = trial(1, 2**20, 1)
    built, missed = build_chosen(
        connection, stored.encoder, Choice(methods, [chosen], chosen, 500, 500, 1000, 0, Aim.above(floor)), floor=floor,
        connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True),
    )  # fmt: skip
    assert (built.method, missed) == ("ivfflat", None)
    # A hundred of 500 rows lie in more than two of 22 lists.
    assert built.search_settings["at_100"] > 2
    used = connection.execute("SELECT method, dropped_at IS NULL FROM cbir.index_build ORDER BY index_build_id")
    assert used.fetchall() == [("hnsw", False), ("ivfflat", True)]

    again = tune_search(connection, stored.encoder, built, IvfFlat(built.parameters["lists"], probes=20))
    assert 1 <= again.search_settings["ivfflat.probes"] < 20, "too wide a search was not narrowed"
    assert current_build(connection, stored.encoder) == again


def trial(build_seconds: float, memory: int, p50_ms: float, *, allowed: int = 2**40, searches: int = 1) -> Trial:
    """Return a perfect trial with the expected cost of the whole table."""
    recall = Recall(1, 1, 0)
    whole = Whole(build_seconds, memory, p50_ms, memory <= allowed)
    return Trial(Hnsw(), 1, 1, Measured(300, 1, recall, recall, 1, 1, 0), True, whole, whole.cost(searches))


@pytest.mark.parametrize(
    ("searches", "memory", "taken"),
    [(1_000, 2**40, "quick to build"), (10_000_000, 2**40, "quick to search"), (10_000_000, 10**9, "quick to build")],
)
def test_cheapest_method_depends_on_searches_and_memory(searches: int, memory: int, taken: str) -> None:
    """Compare a build of 100 s with searches of 4 ms in 0.1 GB, and one of 1000 s with searches of 1 ms in 4 GB."""
    wholes = {"quick to build": (100.0, 10**8, 4.0), "quick to search": (1000.0, 4 * 10**9, 1.0)}
    tried = [
        (Hnsw(m=m), trial(*whole, allowed=memory, searches=searches))
        for m, whole in zip((8, 16), wholes.values(), strict=True)
    ]
    best = ranked(tried)[0][1].whole
    assert (best.build_seconds, best.memory_bytes, best.p50_ms) == wholes[taken]


def test_of_one_index_the_narrowest_search_that_passed_is_taken() -> None:
    cheap_by_chance, narrow = trial(1, 1, 1.0), trial(1, 1, 1.1)
    tried = [
        (Hnsw(), replace(cheap_by_chance, method=Hnsw(ef_search=90))),
        (Hnsw(), replace(narrow, method=Hnsw(ef_search=60))),
        (Hnsw(), replace(narrow, method=Hnsw(ef_search=40), passed=False)),
    ]
    assert ranked(tried) == [tried[1]]


def test_growth_of_each_method_equals_the_example_worked_by_hand() -> None:
    """From 10,000 rows to 1,000,000: 100 and 1,000 lists; 5 probes read 5 x 100 and 5 x 1,000 rows.

    K-means looks at 10,000 and 50,000 of them, ten times.
    """
    build = (1000 * (10 * 50_000 + 1_000_000)) / (100 * (10 * 10_000 + 10_000))
    assert IvfFlat(probes=5).growth(10_000, 1_000_000) == Growth(build, (1000 + 5000) / (100 + 500))
    build = (10 * 10_000 + 1_000_000) / (10 * 10_000 + 10_000)
    assert IvfFlat(lists=50, probes=5).growth(10_000, 1_000_000) == Growth(build, (50 + 100_000) / (50 + 1000))
    graph = Hnsw().growth(10_000, 1_000_000)
    assert (graph.build, graph.search) == pytest.approx((150, 100 ** (2 / 3)))
    for method in (*GOOD, *POOR):
        assert method.growth(5000, 5000) == Growth(1, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--method", "ivfflat", "--m", 8), 2, "--m is not an option of ivfflat"),
        (("--method", "hnsw", "--rerank", 50), 2, "--rerank is not an option of hnsw"),
        (("--method", "hnsw", "--at-100", 1001), 2, "--at-100 must lie between 0 and 1000, not 1001."),
        (
            ("--method", "ivfflat", "--probes", 9, "--at-100", 8),
            2,
            "at least what is set for ten, that is 9, or 0, not 8.",
        ),
        (("--probes", 3), 2, "--probes is not an option of hnsw"),
        (("--method", "ivfflat", "--probes", 0), 2, "--probes must lie between 1 and 32768, not 0."),
        (("--method", "ivfflat", "--lists", 40_000), 2, "--lists must lie between 0 and 32768, not 40000."),
        (("--method", "bit-hnsw", "--rerank", 9), 2, "--rerank must lie between 10 and 10000, not 9."),
        (("--sample", 0), 2, "0 is not in the range"),
        (("--searches", 0), 2, "0 is not in the range"),
    ],
)
def test_unfitting_options_are_refused_and_nothing_is_built(
    connection: psycopg.Connection, cli: Cli, arguments: Sequence[object], code: int, said: str
) -> None:
    make(connection, rows=30)
    outcome = cli("index", "build", "-e", "toy", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert connection.execute("SELECT count(*) FROM cbir.index_build").fetchone() == (0,)


def test_lists_beyond_the_allowed_memory_are_refused_with_advice(connection: psycopg.Connection, cli: Cli) -> None:
    make(connection)
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET maintenance_work_mem = '1MB'").format(sql.Identifier(connection.info.dbname))
    )
    outcome = cli("index", "build", "-e", "toy", "--method", "ivfflat", "--lists", 1500)
    assert outcome.code == 1
    assert "SET maintenance_work_mem" in outcome.err
    assert "memory" in outcome.err
