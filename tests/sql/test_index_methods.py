"""Test every index method and precision: it is used, meets its recall, and is complete under filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.index_builds import IndexBuild
from cbirdb.db.index_scan import apply_settings, index_walk
from cbirdb.db.schema.migrate import upgrade
from cbirdb.index import audit_index
from cbirdb.index.methods import Hnsw, IndexMethod, IvfFlat
from cbirdb.records import Precision
from tests.support.indexed_vectors import CLUSTERS, DIM, GOOD, SHARES, Stored, clustered, make, recall
from tests.support.stored_pictures import FILTERS, PICTURES, Picture, fill, scans, unit


def explain(stored: Stored, build: IndexBuild, k: int) -> str:
    """Return the plan of a walk through the index in use."""
    with stored.connection.transaction():
        add_extension_to_search_path(stored.connection)
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


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_index_is_used_and_reaches_the_recall_with_and_without_filters(
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
def test_exact_answers_under_a_list_of_images_equal_numpy(connection: psycopg.Connection, method: IndexMethod) -> None:
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


def test_matches_that_all_lie_far_from_the_query_are_found(connection: psycopg.Connection) -> None:
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


def test_auto_walks_the_index_when_a_filter_passes_most_rows_and_else_is_exact(connection: psycopg.Connection) -> None:
    stored = make(connection)
    stored.build(Hnsw(16, 64, 80))
    query = clustered(1, seed=5)[0]
    modes = {name: {row[2] for row in stored.nearest(query, 10, modality=name)} for name in SHARES}
    assert modes == {"MR": {"approximate"}, "CT": {"exact"}, "US": {"exact"}, "NM": {"exact"}}


def test_auto_walks_the_index_for_near_matches_and_is_exact_for_far_ones(connection: psycopg.Connection) -> None:
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
    """Return the server's count of index pages read."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT idx_blks_hit + idx_blks_read FROM pg_statio_user_indexes WHERE indexrelname = %s", [index_name]
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_auto_reads_fewer_pages_when_all_near_rows_match(
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
def test_matches_beyond_a_dense_near_group_are_found_too(connection: psycopg.Connection, method: IndexMethod) -> None:
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


def test_filter_widens_ef_search_up_to_1000_and_asks_for_more_candidates(connection: psycopg.Connection) -> None:
    for k, share, kept in ((10, 0.1, 12), (100, 0.5, 125), (100, 0.1, 375), (100, 0.02, 555)):
        row = connection.execute(
            "SELECT w.kept, w.candidates >= 1.5 * w.kept / %(share)s, jsonb_object(w.settings) ->> 'hnsw.ef_search'"
            " FROM cbir_internal.index_walk('hnsw', '{}', '{\"hnsw.ef_search\": 267}', 200000, 512, %(k)s, %(share)s) AS w",
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
def test_search_width_follows_the_tuned_widths_and_k(
    connection: psycopg.Connection, method: str, settings: dict[str, int], widths: dict[int, float]
) -> None:
    found = {}
    for k in widths:
        row = connection.execute(
            "SELECT jsonb_object(w.settings) ->> %s, w.kept FROM cbir_internal.index_walk(%s, '{\"lists\": 200}', %s, 100000, 512, %s, 1) AS w",
            ["ivfflat.probes" if method == "ivfflat" else "hnsw.ef_search", method, Jsonb(settings), k],
        ).fetchone()
        assert row is not None
        found[k] = row[1] if method == "bit-hnsw" else int(row[0])
    assert found == widths


@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_search_with_each_method_leaves_the_session_settings_unchanged(
    connection: psycopg.Connection, method: IndexMethod
) -> None:
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
def test_each_method_works_with_pgvector_in_another_schema(empty_database: str, method: IndexMethod) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Ext"')
        connection.execute('CREATE EXTENSION vector SCHEMA "Ext"')
        upgrade(connection)
        connection.execute('SET search_path = "Ext"')
        stored = make(connection, rows=200)
        connection.execute("SET search_path = ''")
        build = stored.build(method)
        rows = connection.execute(
            "SELECT mode_used FROM cbir_internal.nearest_image('toy', %s::\"Ext\".vector, 5)",
            [Vector(stored.vectors[0]).to_text()],
        ).fetchall()
        assert {row[0] for row in rows} == {"approximate"}
        assert scans(connection, build.index_name) > 0
        connection.execute("SET search_path = pg_catalog")
        _, measured = audit_index(connection, stored.encoder, sample=20)
        assert measured.self_retrieval == 1


def test_few_matching_images_returns_the_same_images_as_matching_image(connection: psycopg.Connection) -> None:
    known = fill(connection, unit(len(PICTURES)), PICTURES)
    names = ("dataset", "modality", "anatomic_region", "label", "split", "study_from", "study_to", "image_ids")
    row = f"ROW({', '.join(f'%({name})s' for name in names)}, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter"
    for filters, wanted in FILTERS:
        if not filters:
            continue
        for listed in (None, [], known[:4], known):
            values: dict[str, Any] = dict.fromkeys(names) | filters | {"image_ids": listed}
            expected = sorted(known[n] for n in wanted if listed is None or known[n] in listed)
            plain = connection.execute(f"SELECT image_id FROM cbir_internal.matching_image({row})", values).fetchall()
            assert sorted(found[0] for found in plain) == expected
            few = connection.execute(f"SELECT cbir_internal.few_matching_images({row}, 1000)", values).fetchone()
            assert few is not None
            # A list alone is taken as it is: ids that no image has find nothing later.
            assert sorted(few[0]) == expected
            if expected:
                too_many = connection.execute(
                    f"SELECT cbir_internal.few_matching_images({row}, {len(expected) - 1})", values
                ).fetchone()
                assert too_many == (None,)


def test_estimated_matches_tell_rare_labels_from_common_ones(connection: psycopg.Connection) -> None:
    labels = ["all/common"] * 900 + ["all/rare"] * 3 + [f"all/other/{n}" for n in range(97)]
    fill(connection, unit(1000), [Picture("big" if n % 100 else "small", (label,)) for n, label in enumerate(labels)])
    connection.execute("ANALYZE")
    for label, dataset, share in (
        ("all/common", None, 900), ("all/rare", None, 3), ("all", None, 1000), ("all/other", None, 97), ("none", None, 0),
        (None, "small", 10), (None, "big", 990), (None, "absent", 0),
    ):  # fmt: skip
        row = connection.execute(
            "SELECT cbir_internal.estimated_matches(ROW(%s, NULL, NULL, %s, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter)",
            [dataset, label],
        ).fetchone()
        assert row is not None
        assert max(1, share / 2) <= row[0] <= max(5, 2 * share), (label, dataset)


@pytest.mark.parametrize("method", GOOD, ids=lambda method: method.name)
def test_searches_under_a_foreign_row_policy_are_exact_and_show_only_its_rows(
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
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cbir, cbir_internal TO {}",
            "ALTER TABLE cbir.image ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY only_mr ON cbir.image TO {} USING (modality = 'MR')",
        ):
            connection.execute(sql.SQL(statement).format(name))
        query = clustered(1, seed=4)[0]
        truth = stored.nearest(query, 100, mode="exact", modality="MR")
        assert len(truth) == 100
        before = scans(connection, build.index_name)
        assert connection.execute("SELECT cbir_internal.rows_are_restricted()").fetchone() == (False,)
        connection.execute(sql.SQL("SET ROLE {}").format(name))
        assert connection.execute("SELECT cbir_internal.rows_are_restricted()").fetchone() == (True,)
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
    """Return what the policy lets the role see."""
    assert connection.execute("SELECT current_user").fetchone() == (role,)
    return connection.execute("SELECT image_id FROM cbir.image").fetchall()
