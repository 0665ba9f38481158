"""Every index method and precision: used when it should be, as good as its audit says, complete under filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.connection import see_extension
from cbirdb.db.embeddings import StoredEncoder, find_encoder
from cbirdb.db.index_builds import IndexBuild, current_build
from cbirdb.db.index_walks import apply_settings, index_walk
from cbirdb.db.migrate import upgrade
from cbirdb.db.vector_index import BitHnsw, Growth, Hnsw, IndexMethod, IvfFlat
from cbirdb.index import build_chosen, build_index
from cbirdb.index_audit import (
    Floor,
    Found,
    Measured,
    NoIndexError,
    Recall,
    Truth,
    audit_index,
    measure,
    walk_search,
)
from cbirdb.index_choice import Aim, Choice, Trial, Whole, ranked
from cbirdb.index_settling import settle_search
from cbirdb.records import Precision
from tests.conftest import Outcome
from tests.sql.test_similar_images import FILTERS, PICTURES, Picture, fill, scans, unit

Cli = Callable[..., Outcome]
ROWS, DIM, CLUSTERS = 2000, 64, 20
GOOD: list[IndexMethod] = [Hnsw(16, 64, 80), BitHnsw(16, 64, 300), IvfFlat(lists=20, probes=8)]
POOR: list[IndexMethod] = [Hnsw(2, 4, 1), BitHnsw(2, 4, 10), IvfFlat(lists=200, probes=1)]
SHARES = {"MR": 2, "CT": 10, "US": 100, "NM": 1000}
"""One image in so many has this modality; the first that fits counts."""


def clustered(rows: int = ROWS, *, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors in clusters, shape (rows, DIM); row n belongs to cluster n % CLUSTERS."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLUSTERS, DIM))
    vectors = centres[np.arange(rows) % CLUSTERS] + rng.normal(size=(rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pictures(rows: int = ROWS) -> list[Picture]:
    """Modalities of the shares above, drawn without regard to the clusters; the cluster as a label."""
    drawn = np.random.default_rng(1).permutation(rows)
    return [
        Picture(
            modality=next((name for name, every in reversed(SHARES.items()) if n % every == 0), "XR"),
            labels=(f"cluster/{at % CLUSTERS}",),
            study_date="2020-01-01" if at % 50 == 0 else None,
        )
        for at, n in enumerate(drawn)
    ]


@dataclass(frozen=True)
class Stored:
    """A filled database."""

    connection: psycopg.Connection
    encoder: StoredEncoder
    ids: list[int]
    vectors: NDArray[np.float32]

    def build(self, method: IndexMethod) -> IndexBuild:
        dsn = self.connection.info.dsn
        return build_index(self.connection, self.encoder, method, connect=lambda: psycopg.connect(dsn, autocommit=True))

    def nearest(self, query: NDArray[np.float32], k: int, **arguments: object) -> list[tuple[int, float, str]]:
        given = "".join(
            f", {name} => %({name})s" for name in arguments if name not in ("modality", "label", "image_ids")
        )
        filters = {name: arguments.get(name) for name in ("modality", "label", "image_ids")}
        rows = self.connection.execute(
            "SELECT image_id, distance, mode_used, complete FROM cbir.nearest_image('toy', %(query)s::vector, %(k)s, filter =>"
            " ROW(NULL, %(modality)s, NULL, %(label)s, NULL, NULL, NULL, %(image_ids)s)::cbir.image_filter"
            f"{given}) ORDER BY rank",
            {"query": Vector(query).to_text(), "k": k} | filters | arguments,
        ).fetchall()
        assert all(row[3] for row in rows)
        return [row[:3] for row in rows]


def make(connection: psycopg.Connection, precision: Precision = "half", rows: int = ROWS) -> Stored:
    vectors = clustered(rows)
    ids = fill(connection, vectors, pictures(rows), precision=precision)
    for table in ("image", "image_label", "study", "embedding_toy"):
        connection.execute(sql.SQL("ANALYZE cbir.{}").format(sql.Identifier(table)))
    encoder = find_encoder(connection, "toy")
    assert encoder is not None
    return Stored(connection, encoder, ids, vectors)


def explain(stored: Stored, build: IndexBuild, k: int) -> str:
    """The plan of a walk through the index in use."""
    with stored.connection.transaction():
        see_extension(stored.connection)
        walk = index_walk(stored.connection, build.method, build, rows=build.rows_indexed, dim=DIM, k=k)
        apply_settings(stored.connection, walk.settings)
        kind = "halfvec" if stored.encoder.precision == "half" else "vector"
        rows = stored.connection.execute(
            sql.SQL(
                "EXPLAIN SELECT e.image_id FROM cbir.embedding_toy AS e, (SELECT %s::{}({}) AS embedding) AS q"
                " ORDER BY {} LIMIT {}"
            ).format(sql.SQL(kind), sql.Literal(DIM), walk.nearest_first, sql.Literal(walk.kept)),
            [Vector(stored.vectors[0]).to_text()],
        ).fetchall()
    return "\n".join(row[0] for row in rows)


def recall(found: Sequence[tuple[int, float, str]], truth: Sequence[tuple[int, float, str]]) -> float:
    assert len(found) == len(truth)
    return sum(row[1] <= truth[-1][1] + 2e-6 for row in found) / len(truth)


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_an_index_is_not_used_or_misses_neighbours_or_rows_under_a_filter(
    connection: psycopg.Connection, precision: Precision, method: IndexMethod
) -> None:
    stored = make(connection, precision)
    build = stored.build(method)
    for k in (1, 10, 100):
        assert f"Index Scan using {build.index_name}" in explain(stored, build, k)
    queries = clustered(6, seed=7)
    for filters in ({}, *({"modality": name} for name in SHARES), {"label": "cluster/3"}, {"label": "cluster"}):
        for k in (10, 100):
            shares = []
            for query in queries:
                before = scans(connection, build.index_name)
                truth = stored.nearest(query, k, mode="exact", **filters)
                assert scans(connection, build.index_name) == before, "an exact search used the index"
                found = stored.nearest(query, k, mode="approximate", **filters)
                assert scans(connection, build.index_name) > before, "an approximate search did not use the index"
                shares.append(recall(found, truth))
                assert recall(stored.nearest(query, k, **filters), truth) >= 0.9
            assert np.mean(shares) >= 0.99, (filters, k, shares)


@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_exact_answers_differ_from_numpy_whatever_the_filter_leaves(
    connection: psycopg.Connection, method: IndexMethod
) -> None:
    stored = make(connection, "single", 600)
    stored.build(method)
    query = clustered(1, seed=3)[0]
    distances = 1 - stored.vectors.astype(float) @ query.astype(float)
    order = [stored.ids[n] for n in np.argsort(distances)]
    listed = set(stored.ids[5:400:7])
    for mode in ("exact", "auto"):
        # So few that comparing with all of them is what auto does.
        found = stored.nearest(query, 50, mode=mode, image_ids=[*listed, 10**15])
        assert [row[0] for row in found] == [i for i in order if i in listed][:50]
        assert {row[2] for row in found} == {"exact"}
    many = set(stored.ids) - {order[0], order[3]}
    found = stored.nearest(query, 5, mode="approximate", image_ids=list(many))
    wanted = [i for i in order if i in many]
    assert {row[2] for row in found} == {"approximate"}
    assert {row[0] for row in found} <= set(wanted[:10])
    assert found[0][0] == wanted[0]


def test_matches_that_all_lie_far_from_the_query_are_missed(connection: psycopg.Connection) -> None:
    stored = make(connection)
    for method in GOOD:
        build = stored.build(method)
        assert build.method == method.name
        for at in range(3):
            # Row n is of cluster n % CLUSTERS: the query lies in another cluster than everything that may be found.
            query, label = stored.vectors[at], f"cluster/{at + 9}"
            truth = stored.nearest(query, 100, mode="exact", label=label)
            for mode in ("auto", "approximate"):
                found = stored.nearest(query, 100, mode=mode, label=label)
                assert [row[1] for row in found] == pytest.approx([row[1] for row in truth], abs=2e-6)


def test_the_walk_is_taken_where_the_filter_lets_most_pass_and_not_where_few(connection: psycopg.Connection) -> None:
    stored = make(connection)
    stored.build(Hnsw(16, 64, 80))
    query = clustered(1, seed=5)[0]
    modes = {name: {row[2] for row in stored.nearest(query, 10, modality=name)} for name in SHARES}
    assert modes == {"MR": {"approximate"}, "CT": {"exact"}, "US": {"exact"}, "NM": {"exact"}}


def test_a_walk_is_taken_although_what_may_be_found_lies_elsewhere(connection: psycopg.Connection) -> None:
    stored = make(connection)
    build = stored.build(Hnsw(16, 64, 80))
    # Half of the rows, too many to be compared with at once; row n is of cluster n % CLUSTERS.
    near, far = (
        [i for n, i in enumerate(stored.ids) if (n % CLUSTERS in halves)] for halves in (range(10), range(10, 20))
    )
    for k in (5, 10):
        before = scans(connection, build.index_name)
        found = stored.nearest(stored.vectors[0], k, image_ids=near)
        assert {row[2] for row in found} == {"approximate"}
        assert scans(connection, build.index_name) == before + 2, "first a short walk, then the search"
        found = stored.nearest(stored.vectors[0], k, image_ids=far)
        assert {row[2] for row in found} == {"exact"}
        assert scans(connection, build.index_name) == before + 3, "a short walk only"
        assert found[0][1] == stored.nearest(stored.vectors[0], k, image_ids=far, mode="exact")[0][1]


def blocks(connection: psycopg.Connection, index_name: str) -> int:
    """How many pages of the index were read, by the server's own count."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT idx_blks_hit + idx_blks_read FROM pg_statio_user_indexes WHERE indexrelname = %s", [index_name]
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_where_all_that_is_near_passes_a_walk_goes_as_deep_as_if_matches_were_spread_evenly(
    connection: psycopg.Connection,
) -> None:
    stored = make(connection, rows=6000)
    build = stored.build(IvfFlat(lists=100, probes=2))
    own_kind = [i for n, i in enumerate(stored.ids) if n % CLUSTERS < 4]
    read = {}
    for mode in ("approximate", "auto"):
        scanned, before = scans(connection, build.index_name), blocks(connection, build.index_name)
        found = stored.nearest(stored.vectors[0], 30, mode=mode, image_ids=own_kind)
        read[mode] = blocks(connection, build.index_name) - before
        assert {row[2] for row in found} == {"approximate"}
        assert scans(connection, build.index_name) - scanned == {"approximate": 1, "auto": 2}[mode]
        assert recall(found, stored.nearest(stored.vectors[0], 30, mode="exact", image_ids=own_kind)) >= 0.9
    assert read["auto"] < read["approximate"]


@pytest.mark.parametrize("method", [Hnsw(16, 64, 80), IvfFlat(lists=20, probes=2)], ids=lambda method: method.name)
def test_matches_that_are_dense_near_the_query_only_are_all_that_is_found(
    connection: psycopg.Connection, method: IndexMethod
) -> None:
    stored = make(connection, rows=6000)
    build = stored.build(method)
    query = stored.vectors[0]
    near = [row[0] for row in stored.nearest(query, 25, mode="exact")]
    far = [i for n, i in enumerate(stored.ids) if n % CLUSTERS in range(10, 15)][:1455]
    before = scans(connection, build.index_name)
    found = stored.nearest(query, 40, image_ids=near + far)
    assert scans(connection, build.index_name) == before + 3, "a short walk, one for dense matches, the deep one"
    assert len(found) == 40
    assert [row[0] for row in found[:25]] == near


def test_what_a_filter_needs_beyond_the_largest_ef_search_is_not_walked_for(connection: psycopg.Connection) -> None:
    for k, share, kept in ((10, 0.1, 12), (100, 0.5, 125), (100, 0.1, 375), (100, 0.02, 555)):
        row = connection.execute(
            "SELECT w.kept, w.candidates >= 1.5 * w.kept / %(share)s, w.settings ->> 'hnsw.ef_search'"
            " FROM cbir.index_walk('hnsw', '{}', '{\"hnsw.ef_search\": 267}', 200000, 512, %(k)s, %(share)s) AS w",
            {"k": k, "share": share},
        ).fetchone()
        assert row is not None
        assert row[:2] == (kept, True)
        assert int(row[2]) == min(1000, 267 + 2 * (k / share - 10))


@pytest.mark.parametrize(
    ("method", "settings", "widths"),
    [
        # From 4 lists at ten to 9 at a hundred by a power of the depth, 6 halfway; then as many as further rows fill.
        ("ivfflat", {"ivfflat.probes": 4, "at_100": 9}, {1: 4, 10: 4, 32: 6, 100: 9, 600: 9 + 9 * 500 * 200 / 100_000}),
        ("ivfflat", {"ivfflat.probes": 10}, {10: 10, 100: round(10 * (1 + 90 * 200 / 100_000))}),
        ("hnsw", {"hnsw.ef_search": 50, "at_100": 200}, {10: 50, 32: 101, 100: 200, 150: 300}),
        ("hnsw", {"hnsw.ef_search": 50}, {10: 50, 100: 230, 400: 830, 1000: 1000}),
        ("bit-hnsw", {"rerank": 100, "at_100": 400}, {10: 100, 32: 202, 100: 400, 1000: 2250}),
        ("bit-hnsw", {"rerank": 100}, {10: 100, 100: 563, 1000: 3163}),
    ],
)
def test_a_deeper_search_is_not_as_wide_as_settled(
    connection: psycopg.Connection, method: str, settings: dict[str, int], widths: dict[int, float]
) -> None:
    found = {}
    for k in widths:
        row = connection.execute(
            "SELECT w.settings ->> %s, w.kept FROM cbir.index_walk(%s, '{\"lists\": 200}', %s, 100000, 512, %s, 1) AS w",
            ["ivfflat.probes" if method == "ivfflat" else "hnsw.ef_search", method, Jsonb(settings), k],
        ).fetchone()
        assert row is not None
        found[k] = row[1] if method == "bit-hnsw" else int(row[0])
    assert found == widths


@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_a_search_leaves_the_settings_of_a_method_behind(connection: psycopg.Connection, method: IndexMethod) -> None:
    stored = make(connection, rows=300)
    build = stored.build(method)
    names = (
        "hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier", "ivfflat.probes",
        "ivfflat.iterative_scan", "ivfflat.max_probes", "enable_seqscan", "enable_sort", "enable_hashjoin", "jit",
    )  # fmt: skip

    def now() -> list[object]:
        return [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]

    connection.execute("SET hnsw.ef_search = 77; SET ivfflat.probes = 3; SET enable_sort = on")
    with connection.transaction():
        before = now()
        count = scans(connection, build.index_name)
        assert stored.nearest(stored.vectors[0], 5, mode="approximate", modality="MR", label="cluster")
        assert stored.nearest(stored.vectors[0], 5, label="cluster/1")
        assert now() == before
    assert scans(connection, build.index_name) > count


@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_a_method_needs_pgvector_in_the_schema_public(empty_database: str, method: IndexMethod) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Ext"')
        connection.execute('CREATE EXTENSION vector SCHEMA "Ext"')
        upgrade(connection)
        connection.execute('SET search_path = "Ext"')
        stored = make(connection, rows=200)
        connection.execute("SET search_path = ''")
        build = stored.build(method)
        rows = connection.execute(
            "SELECT mode_used FROM cbir.nearest_image('toy', %s::\"Ext\".vector, 5)",
            [Vector(stored.vectors[0]).to_text()],
        ).fetchall()
        assert {row[0] for row in rows} == {"approximate"}
        assert scans(connection, build.index_name) > 0
        connection.execute("SET search_path = pg_catalog")
        _, measured = audit_index(connection, stored.encoder, sample=20)
        assert measured.self_retrieval == 1


# -- filters -----------------------------------------------------------------------------------------------------------


def test_few_matching_images_are_others_than_matching_images(connection: psycopg.Connection) -> None:
    known = fill(connection, unit(len(PICTURES)), PICTURES)
    names = ("dataset", "modality", "anatomic_region", "label", "split", "study_from", "study_to", "image_ids")
    row = f"ROW({', '.join(f'%({name})s' for name in names)})::cbir.image_filter"
    for filters, wanted in FILTERS:
        if not filters:
            continue
        for listed in (None, [], known[:4], known):
            values: dict[str, Any] = dict.fromkeys(names) | filters | {"image_ids": listed}
            expected = sorted(known[n] for n in wanted if listed is None or known[n] in listed)
            plain = connection.execute(f"SELECT image_id FROM cbir.matching_image({row})", values).fetchall()
            assert sorted(found[0] for found in plain) == expected
            few = connection.execute(f"SELECT cbir.few_matching_images({row}, 1000)", values).fetchone()
            assert few is not None
            # A list alone is taken as it is: ids that no image has find nothing later.
            assert sorted(few[0]) == expected
            if expected:
                too_many = connection.execute(
                    f"SELECT cbir.few_matching_images({row}, {len(expected) - 1})", values
                ).fetchone()
                assert too_many == (None,)


def test_the_estimate_takes_a_rare_or_common_label_for_an_average_one(connection: psycopg.Connection) -> None:
    labels = ["all/common"] * 900 + ["all/rare"] * 3 + [f"all/other/{n}" for n in range(97)]
    fill(connection, unit(1000), [Picture("big" if n % 100 else "small", (label,)) for n, label in enumerate(labels)])
    connection.execute("ANALYZE")
    for label, dataset, share in (
        ("all/common", None, 900), ("all/rare", None, 3), ("all", None, 1000), ("all/other", None, 97), ("none", None, 0),
        (None, "small", 10), (None, "big", 990), (None, "absent", 0),
    ):  # fmt: skip
        row = connection.execute(
            "SELECT cbir.estimated_matches(ROW(%s, NULL, NULL, %s, NULL, NULL, NULL, NULL)::cbir.image_filter)",
            [dataset, label],
        ).fetchone()
        assert row is not None
        assert max(1, share / 2) <= row[0] <= max(5, 2 * share), (label, dataset)


@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_under_row_level_security_a_search_goes_through_the_index(
    connection: psycopg.Connection, method: IndexMethod
) -> None:
    stored = make(connection, rows=400)
    build = stored.build(method)
    role = f"reader_{connection.info.dbname}"
    name = sql.Identifier(role)
    connection.execute(sql.SQL("CREATE ROLE {}").format(name))
    try:
        for statement in (
            "GRANT USAGE ON SCHEMA cbir TO {}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA cbir TO {}",
            "ALTER TABLE cbir.image ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY only_mr ON cbir.image TO {} USING (modality = 'MR')",
        ):
            connection.execute(sql.SQL(statement).format(name))
        query = clustered(1, seed=4)[0]
        truth = stored.nearest(query, 100, mode="exact", modality="MR")
        assert len(truth) == 100
        before = scans(connection, build.index_name)
        assert connection.execute("SELECT cbir.rows_are_restricted()").fetchone() == (False,)
        connection.execute(sql.SQL("SET ROLE {}").format(name))
        assert connection.execute("SELECT cbir.rows_are_restricted()").fetchone() == (True,)
        for mode in ("auto", "approximate", "exact"):
            found = stored.nearest(query, 100, mode=mode)
            assert [row[0] for row in found] == [row[0] for row in truth]
            assert {row[2] for row in found} == {"exact"}
            assert stored.nearest(query, 10, mode=mode, modality="CT") == []
            hidden = stored.nearest(query, 400, mode=mode, image_ids=stored.ids)
            assert {row[0] for row in hidden} <= {row[0] for row in stored_mr(connection, role)}
            labelled = stored.nearest(query, 400, mode=mode, label="cluster")
            assert {row[0] for row in labelled} == {row[0] for row in hidden}
        connection.execute("RESET ROLE")
        assert scans(connection, build.index_name) == before
    finally:
        connection.execute("RESET ROLE")
        connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(sql.SQL("DROP ROLE {}").format(name))


def stored_mr(connection: psycopg.Connection, role: str) -> list[tuple[int]]:
    """What the policy lets the role see."""
    assert connection.execute("SELECT current_user").fetchone() == (role,)
    return connection.execute("SELECT image_id FROM cbir.image").fetchall()


# -- audits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize(("good", "poor"), list(zip(GOOD, POOR, strict=True)), ids=[method.name for method in GOOD])
def test_an_audit_passes_a_poor_index_or_fails_a_good_one(
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
    assert "below the floor" in outcome.err
    assert "cbirdb index build -e toy" in outcome.err
    [row] = outcome.rows
    assert not row["passed"]
    assert min(row["recall_10"], row["recall_100"]) < 0.99
    assert row["p1_10"] <= row["recall_10"]
    after = connection.execute(
        "SELECT method, sample, self_retrieval, recall_at_10, recall_at_10_p1, zeros_at_10, recall_at_100,"
        " recall_at_100_p1, zeros_at_100, passed FROM cbir.index_audit"
    ).fetchall()
    names = ("self_retrieval", "recall_10", "p1_10", "zeros_10", "recall_100", "p1_100", "zeros_100")
    assert after == [(poor.name, 200, *(row[name] for name in names), False)]
    assert "FAILED" in cli("index", "status", "-e", "toy").err


def test_an_audit_measures_something_else_than_what_search_finds_of_the_others(connection: psycopg.Connection) -> None:
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
    for recall_, listed in ((measured.near, shares[10]), (measured.far, shares[100])):
        assert recall_.mean == pytest.approx(np.mean(listed), abs=1e-4)
        assert recall_.zeros == sum(share == 0 for share in listed)
        assert recall_.p1 == pytest.approx(np.percentile(listed, 1, method="lower"), abs=0.011)
    assert measured.self_retrieval == selves / 800
    assert measured.near.mean < 0.9
    assert build.audit is not None
    assert build.audit == current_build(connection, stored.encoder).audit  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("finds", "self_retrieval", "near", "zeros"), [("itself", 1, 0, 3), ("others", 0, 1, 0), ("all", 1, 1, 0)]
)
def test_finding_itself_counts_as_recall(finds: str, self_retrieval: float, near: float, zeros: int) -> None:
    vectors = clustered(3)
    ids = np.arange(200)
    away = np.r_[0.0, np.linspace(0.1, 0.9, 199)]
    truth = Truth(
        ids[:3], vectors, np.array([np.r_[n, ids[ids != n]][:101] for n in range(3)]), np.array([away[:101]] * 3)
    )
    queries = [Vector(vector).to_text() for vector in vectors]

    def search(query: str, k: int) -> Found:
        n = queries.index(query)
        itself, others = (n, 0.0), list(zip(ids[ids != n].tolist(), away[1:].tolist(), strict=True))
        far = [(1000 + m, 2.0) for m in range(k)]
        found = {"itself": [itself, *far], "others": others, "all": [itself, *others]}[finds][:k]
        return Found([row[0] for row in found], [row[1] for row in found])

    measured = measure(search, truth)
    assert (measured.self_retrieval, measured.near.mean, measured.near.zeros) == (self_retrieval, near, zeros)


@pytest.mark.parametrize("rows", [1, 2, 11])
def test_an_audit_of_hardly_any_vectors_fails_or_divides_by_zero(connection: psycopg.Connection, rows: int) -> None:
    stored = make(connection, rows=rows)
    stored.build(Hnsw())
    _, measured = audit_index(connection, stored.encoder)
    assert (measured.sample, measured.self_retrieval, measured.near.mean, measured.far.mean) == (rows, 1, 1, 1)


def test_twenty_equal_vectors_count_as_not_found(connection: psycopg.Connection) -> None:
    vectors = np.repeat(clustered(30), 20, axis=0)
    fill(connection, vectors, precision="half")
    encoder = find_encoder(connection, "toy")
    assert encoder is not None
    stored = Stored(connection, encoder, [], vectors)
    stored.build(IvfFlat(lists=1, probes=1))
    _, measured = audit_index(connection, encoder, sample=600)
    assert (measured.self_retrieval, measured.near.mean, measured.far.mean) == (1, 1, 1)


def test_too_narrow_a_search_is_not_widened_or_not_recorded(connection: psycopg.Connection) -> None:
    stored = make(connection)
    narrow = IvfFlat(lists=40, probes=1)
    stored.build(narrow)
    build = settle(connection, stored, narrow)
    settings = build.search_settings
    assert 1 < settings["ivfflat.probes"] < settings["at_100"], "both depths are searched as wide as the deeper needs"
    assert current_build(connection, stored.encoder) == build
    build, measured = audit_index(connection, stored.encoder, sample=200)
    assert measured.passes(Floor())
    assert current_build(connection, stored.encoder) == build
    _, again = audit_index(connection, stored.encoder, sample=200)
    assert (again.near, again.far, again.self_retrieval) == (measured.near, measured.far, measured.self_retrieval)


def settle(connection: psycopg.Connection, stored: Stored, method: IndexMethod) -> IndexBuild:
    """Find out how to search through the index that is there."""
    build = current_build(connection, stored.encoder)
    assert build is not None
    return settle_search(connection, stored.encoder, build, method)


def test_after_widening_queries_that_are_not_stored_find_less_than_the_floor(connection: psycopg.Connection) -> None:
    stored = make(connection)
    narrow = Hnsw(8, 32, 10)
    stored.build(narrow)
    settle(connection, stored, narrow)
    _, measured = audit_index(connection, stored.encoder, sample=300)
    assert measured.passes(Floor())
    for k in (10, 100):
        shares = [
            recall(stored.nearest(query, k, mode="approximate"), stored.nearest(query, k, mode="exact"))
            for query in clustered(300, seed=8)
        ]
        assert np.mean(shares) >= 0.99


def test_the_walk_of_an_audit_is_another_than_that_of_a_search(connection: psycopg.Connection) -> None:
    stored = make(connection)
    for method in (*GOOD, *POOR):
        stored.build(method)
        with connection.transaction():
            see_extension(connection)
            walk = walk_search(connection, sql.Identifier("cbir", "embedding_toy"), stored.encoder, method, ROWS)
            for query in stored.vectors[:20]:
                for k in (10, 100):
                    found = stored.nearest(query, k, mode="approximate")
                    if found[0][2] == "approximate":
                        assert [row[0] for row in found] == list(walk(Vector(query).to_text(), k).ids)


def test_without_an_index_or_under_row_level_security_an_audit_says_that_all_is_well(
    connection: psycopg.Connection, cli: Cli
) -> None:
    stored = make(connection, rows=50)
    with pytest.raises(NoIndexError, match="cbirdb index build -e toy"):
        audit_index(connection, stored.encoder)
    assert cli("index", "audit", "-e", "toy").code == 1
    assert cli("index", "audit", "-e", "toi").code == 1
    stored.build(GOOD[0])
    for arguments in (("--sample", 0), ("--floor-recall", 1.5), ("--floor-zeros", -1)):
        outcome = cli("index", "audit", "-e", "toy", *arguments)
        assert outcome.code == 1
        assert str(arguments[0]) in outcome.err


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_auto_takes_a_method_that_fails_or_does_not_say_what_it_tried(connection: psycopg.Connection, cli: Cli) -> None:
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
    assert chosen["cost_s"] == min(trial["cost_s"] for trial in trials if trial["passed"])
    for trial in trials:
        good = trial["recall_10"] >= 0.995 and trial["p1_10"] >= 0.9 and trial["zeros_10"] == 0
        assert trial["passed"] == (good and trial["recall_100"] >= 0.995)
        assert trial["settings"] in outcome.err
        assert f"cost_s {trial['cost_s']:.4g}" in outcome.err
        # The table has twice the rows of the sample: everything takes longer there.
        assert trial["whole_p50_ms"] > trial["p50_ms"]
        assert trial["whole_build_s"] >= round(2 * trial["build_s"], 1)
    assert audit["passed"]
    assert connection.execute("SELECT to_regclass('pg_temp.index_sample')").fetchone() == (None,)


def test_auto_hides_that_nothing_passed(
    connection: psycopg.Connection, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(connection)
    # A graph of two neighbours per element falls apart: no search setting reaches everything.
    monkeypatch.setattr("cbirdb.index_choice.CANDIDATES", (Hnsw(2, 4, 1), BitHnsw(2, 4, 10)))
    outcome = cli("index", "build", "-e", "toy", "--floor-recall", 1, "--format", "json")
    assert outcome.code == 4
    assert "approximate results will not count as final" in outcome.err
    assert "not good enough" in outcome.err
    [built] = outcome.rows
    assert built["audit"].startswith("FAILED")
    row = connection.execute("SELECT choice FROM cbir.index_build WHERE dropped_at IS NULL").fetchone()
    assert row is not None
    trials = row[0]["trials"]
    assert not any(trial["passed"] for trial in trials)
    best = max(trials, key=lambda trial: trial["recall_10"] + trial["recall_100"])
    assert [trial["settings"] for trial in trials if trial["chosen"]] == [best["settings"]]


def test_auto_stops_at_a_method_that_fails_on_the_whole_table(connection: psycopg.Connection) -> None:
    stored = make(connection, rows=500)
    floor = Floor(recall=0.999, zeros=0)
    # The first falls apart and never finds all; lists do when enough are probed; the last need not be built.
    methods: list[IndexMethod] = [Hnsw(2, 4, 1000), IvfFlat(probes=2), Hnsw()]
    chosen = trial(1, 2**20, 1)
    built, passed = build_chosen(
        connection, stored.encoder, Choice(methods, [chosen], chosen, 500, 500, 1000, 0, Aim.above(floor)), floor=floor,
        connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True),
    )  # fmt: skip
    assert (built.method, passed) == ("ivfflat", True)
    probes = built.search_settings["ivfflat.probes"]
    assert probes > 2
    used = connection.execute("SELECT method, dropped_at IS NULL FROM cbir.index_build ORDER BY index_build_id")
    assert used.fetchall() == [("hnsw", False), ("ivfflat", True)]

    again = settle_search(connection, stored.encoder, built, IvfFlat(built.parameters["lists"], probes=20))
    assert 1 <= again.search_settings["ivfflat.probes"] < 20, "too wide a search was not narrowed"
    assert current_build(connection, stored.encoder) == again


def trial(build_seconds: float, memory: int, p50_ms: float, *, allowed: int = 2**40, searches: int = 1) -> Trial:
    """A perfect one, with what the whole is expected to take."""
    recall = Recall(1, 1, 0)
    whole = Whole(build_seconds, memory, p50_ms, memory <= allowed)
    return Trial(Hnsw(), 1, 1, Measured(300, 1, recall, recall, 1, 1, 0), True, whole, whole.cost(searches))


@pytest.mark.parametrize(
    ("searches", "memory", "taken"),
    [(1_000, 2**40, "quick to build"), (10_000_000, 2**40, "quick to search"), (10_000_000, 10**9, "quick to build")],
)
def test_the_cheapest_does_not_follow_from_searches_and_memory(searches: int, memory: int, taken: str) -> None:
    """A build of 100 s with searches of 4 ms in 0.1 GB, one of 1000 s with searches of 1 ms in 4 GB."""
    wholes = {"quick to build": (100.0, 10**8, 4.0), "quick to search": (1000.0, 4 * 10**9, 1.0)}
    tried = [(Hnsw(), trial(*whole, allowed=memory, searches=searches)) for whole in wholes.values()]
    best = ranked(tried)[0][1].whole
    assert (best.build_seconds, best.memory_bytes, best.p50_ms) == wholes[taken]


def test_growth_differs_from_what_a_method_does_with_more_rows() -> None:
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
        (("--method", "hnsw", "--at-100", 1001), 1, "--at-100 must lie between 0 and 1000, not 1001."),
        (("--probes", 3), 2, "--probes is not an option of hnsw"),
        (("--method", "ivfflat", "--probes", 0), 1, "--probes must lie between 1 and 32768, not 0."),
        (("--method", "ivfflat", "--lists", 40_000), 1, "--lists must lie between 0 and 32768, not 40000."),
        (("--method", "bit-hnsw", "--rerank", 9), 1, "--rerank must lie between 10 and 10000, not 9."),
        (("--sample", 0), 1, "--sample must be at least 1, not 0."),
        (("--searches", 0), 1, "--searches must be at least 1, not 0."),
    ],
)
def test_options_that_do_not_fit_build_something(
    connection: psycopg.Connection, cli: Cli, arguments: Sequence[object], code: int, said: str
) -> None:
    make(connection, rows=30)
    outcome = cli("index", "build", "-e", "toy", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert connection.execute("SELECT count(*) FROM cbir.index_build").fetchone() == (0,)


def test_lists_that_need_more_memory_than_allowed_are_a_damaged_name(connection: psycopg.Connection, cli: Cli) -> None:
    make(connection)
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET maintenance_work_mem = '1MB'").format(sql.Identifier(connection.info.dbname))
    )
    outcome = cli("index", "build", "-e", "toy", "--method", "ivfflat", "--lists", 1500)
    assert outcome.code == 1
    assert "SET maintenance_work_mem" in outcome.err
    assert "memory" in outcome.err
