"""Test what an index audit measures, and how a search is tuned by it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from psycopg import sql

from cbirdb.db.embeddings import find_encoder
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.index_builds import current_build
from cbirdb.index import Floor, audit_index
from cbirdb.index.audit import NoIndexError, SearchResult, Truth, measure, walk_search
from cbirdb.index.methods import Hnsw, IndexMethod, IvfFlat
from cbirdb.records import Precision
from tests.conftest import Outcome
from tests.support.indexed_vectors import GOOD, POOR, ROWS, Stored, clustered, make, recall, tune
from tests.support.stored_pictures import fill

Cli = Callable[..., Outcome]


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize(("good", "poor"), list(zip(GOOD, POOR, strict=True)), ids=[method.name for method in GOOD])
def test_audit_passes_a_good_index_and_fails_a_poor_one(
    connection: psycopg.Connection, cli: Cli, precision: Precision, good: IndexMethod, poor: IndexMethod
) -> None:
    stored = make(connection, precision)
    stored.build(good)
    outcome = cli("index", "audit", "-e", "toy", "--sample", 200, "--format", "json")
    assert outcome.code == 0, outcome.err + outcome.out
    [row] = outcome.rows
    assert row["passed"]
    assert (row["self_retrieval"], row["zeros_10"], row["sample"]) == (1, 0, 200)
    assert min(row["recall_10"], row["recall_100"]) >= 0.99
    before = connection.execute("SELECT recall_at_10, recall_at_100, passed FROM cbir.index_audit").fetchall()
    assert before == [(row["recall_10"], row["recall_100"], True)]

    stored.build(poor)
    assert connection.execute("SELECT method, audited_at, passed FROM cbir.index_audit").fetchall() == [
        (poor.name, None, None)
    ]
    outcome = cli("index", "audit", "-e", "toy", "--sample", 200, "--format", "json")
    assert outcome.code == 4
    assert "cbirdb index build -e toy" in outcome.err
    [row] = outcome.rows
    recall = math.floor(row["recall_10"] * 10_000) / 10_000
    assert f"The index of 'toy': recall at 10 is {recall:g}, below the floor of 0.99" in outcome.err
    assert not row["passed"]
    assert min(row["recall_10"], row["recall_100"]) < 0.99
    assert row["p1_10"] <= row["recall_10"]
    after = connection.execute(
        "SELECT method, sample, self_retrieval, recall_at_10, recall_at_10_p1, queries_without_hit_at_10, recall_at_100,"
        " recall_at_100_p1, queries_without_hit_at_100, passed FROM cbir.index_audit"
    ).fetchall()
    names = ("self_retrieval", "recall_10", "p1_10", "zeros_10", "recall_100", "p1_100", "zeros_100")
    assert after == [(poor.name, 200, *(row[name] for name in names), False)]
    earlier = connection.execute("SELECT zeros_at_10, zeros_at_100 FROM cbir.index_audit").fetchall()
    assert earlier == [(row["zeros_10"], row["zeros_100"])]
    assert "FAILED" in cli("index", "status", "-e", "toy").err


def test_audit_measures_the_recall_of_real_searches(connection: psycopg.Connection) -> None:
    stored = make(connection, "single", 800)
    stored.build(IvfFlat(lists=80, probes=1))
    build, measured = audit_index(connection, stored.encoder, sample=800)
    wide = stored.vectors.astype(float)
    distances = 1 - wide @ wide.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)
    shares = {10: [], 100: []}  # type: dict[int, list[float]]
    selves = 0
    for n, vector in enumerate(stored.vectors):
        for k, listed in shares.items():
            found = stored.nearest(vector, k + 1, mode="approximate")
            others = [row[1] for row in found if row[0] != stored.ids[n]][:k]
            listed.append(sum(distance <= nearest[n, k - 1] + 2e-6 for distance in others) / k)
            selves += k == 10 and stored.ids[n] in {row[0] for row in found}
    for recall_, listed in ((measured.recall_at_10, shares[10]), (measured.recall_at_100, shares[100])):
        assert recall_.mean == pytest.approx(np.mean(listed), abs=1e-4)
        assert recall_.queries_without_hit == sum(share == 0 for share in listed)
        assert recall_.p1 == pytest.approx(np.percentile(listed, 1, method="lower"), abs=0.011)
    assert measured.self_retrieval == selves / 800
    assert measured.recall_at_10.mean < 0.9
    assert build.audit is not None
    assert build.audit == current_build(connection, stored.encoder).audit  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("finds", "self_retrieval", "recall_at_10", "without_hit"),
    [("itself", 1, 0, 3), ("others", 0, 1, 0), ("all", 1, 1, 0)],
)
def test_finding_the_query_itself_does_not_count_as_recall(
    finds: str, self_retrieval: float, recall_at_10: float, without_hit: int
) -> None:
    vectors = clustered(3)
    ids = np.arange(200)
    away = np.r_[0.0, np.linspace(0.1, 0.9, 199)]
    truth = Truth(
        ids[:3], vectors, np.array([np.r_[n, ids[ids != n]][:101] for n in range(3)]), np.array([away[:101]] * 3)
    )
    queries = [Vector(vector).to_text() for vector in vectors]

    def search(query: str, k: int) -> SearchResult:
        n = queries.index(query)
        itself, others = (n, 0.0), list(zip(ids[ids != n].tolist(), away[1:].tolist(), strict=True))
        far = [(1000 + m, 2.0) for m in range(k)]
        found = {"itself": [itself, *far], "others": others, "all": [itself, *others]}[finds][:k]
        return SearchResult([row[0] for row in found], [row[1] for row in found])

    measured = measure(search, truth)
    found = measured.recall_at_10
    assert (measured.self_retrieval, found.mean, found.queries_without_hit) == (
        self_retrieval,
        recall_at_10,
        without_hit,
    )


@pytest.mark.parametrize("rows", [1, 2, 11])
def test_audit_of_very_few_vectors_finds_them_all(connection: psycopg.Connection, rows: int) -> None:
    stored = make(connection, rows=rows)
    stored.build(Hnsw())
    _, measured = audit_index(connection, stored.encoder)
    assert (measured.sample, measured.self_retrieval, measured.recall_at_10.mean, measured.recall_at_100.mean) == (
        rows,
        1,
        1,
        1,
    )


def test_twenty_equal_vectors_count_as_found(connection: psycopg.Connection) -> None:
    vectors = np.repeat(clustered(30), 20, axis=0)
    fill(connection, vectors, precision="half")
    encoder = find_encoder(connection, "toy")
    assert encoder is not None
    stored = Stored(connection, encoder, [], vectors)
    stored.build(IvfFlat(lists=1, probes=1))
    _, measured = audit_index(connection, encoder, sample=600)
    assert (measured.self_retrieval, measured.recall_at_10.mean, measured.recall_at_100.mean) == (1, 1, 1)


def test_tuning_widens_too_narrow_a_search_and_records_it(connection: psycopg.Connection) -> None:
    stored = make(connection)
    narrow = IvfFlat(lists=40, probes=1)
    stored.build(narrow)
    build = tune(connection, stored, narrow)
    settings = build.search_settings
    assert 1 < settings["ivfflat.probes"] < settings["at_100"], "both depths are searched as wide as the deeper needs"
    assert current_build(connection, stored.encoder) == build
    build, measured = audit_index(connection, stored.encoder, sample=200)
    assert measured.below(Floor()) is None
    assert current_build(connection, stored.encoder) == build
    _, again = audit_index(connection, stored.encoder, sample=200)
    same = measured.recall_at_10, measured.recall_at_100, measured.self_retrieval
    assert (again.recall_at_10, again.recall_at_100, again.self_retrieval) == same


def test_after_tuning_unstored_queries_reach_the_floor(connection: psycopg.Connection) -> None:
    stored = make(connection)
    # Graphs are drawn at random, by workers in a race: one of 8 and 32 has corners now and then that no width reaches.
    narrow = Hnsw(12, 32, 10)
    stored.build(narrow)
    tune(connection, stored, narrow)
    _, measured = audit_index(connection, stored.encoder, sample=300)
    assert measured.below(Floor()) is None
    for k in (10, 100):
        shares = [
            recall(stored.nearest(query, k, mode="approximate"), stored.nearest(query, k, mode="exact"))
            for query in clustered(300, seed=8)
        ]
        assert np.mean(shares) >= 0.99


def test_audit_walks_the_index_as_a_search_does(connection: psycopg.Connection) -> None:
    stored = make(connection)
    for method in (*GOOD, *POOR):
        stored.build(method)
        with connection.transaction():
            add_extension_to_search_path(connection)
            walk = walk_search(connection, sql.Identifier("cbir", "embedding_toy"), stored.encoder, method, ROWS)
            for query in stored.vectors[:20]:
                for k in (10, 100):
                    found = stored.nearest(query, k, mode="approximate")
                    if found[0][2] == "approximate":
                        assert [row[0] for row in found] == list(walk(Vector(query).to_text(), k).ids)


def test_audit_without_an_index_or_with_bad_options_is_refused(connection: psycopg.Connection, cli: Cli) -> None:
    stored = make(connection, rows=50)
    with pytest.raises(NoIndexError, match="cbirdb index build -e toy"):
        audit_index(connection, stored.encoder)
    assert cli("index", "audit", "-e", "toy").code == 1
    assert cli("index", "audit", "-e", "toi").code == 1
    stored.build(GOOD[0])
    for arguments in (("--sample", 0), ("--floor-recall", 1.5), ("--max-share-without-hit", -1)):
        outcome = cli("index", "audit", "-e", "toy", *arguments)
        assert outcome.code == 2
        assert str(arguments[0]) in outcome.err
