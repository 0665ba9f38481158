"""Test cbir.similar_images through a real HNSW index: it returns k rows if k exist, and reports how it found them."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from psycopg import sql

from cbirdb.db.embeddings import find_encoder
from cbirdb.index import build_index
from cbirdb.index.methods import IvfFlat
from tests.support.stored_pictures import Picture, fill, ids, index, index_name, put_in_studies, scans, search, unit


@pytest.fixture
def many(connection: psycopg.Connection) -> list[int]:
    """Store 300 images, ten of the rare modality MR, with an HNSW index."""
    known = fill(connection, unit(300), [Picture(modality="MR" if n % 30 == 0 else "XR") for n in range(300)])
    index(connection)
    return known


def test_approximate_search_returns_a_hundred_neighbours(connection: psycopg.Connection, many: list[int]) -> None:
    found = search(connection, many[0], k=100, mode="approximate")
    assert len(found) == 100
    assert {row["mode"] for row in found} == {"approximate"}
    exact = search(connection, many[0], k=100, mode="exact")
    assert len(set(ids(found)) & set(ids(exact))) >= 95


def test_k_above_the_number_of_images_returns_all_other_images(connection: psycopg.Connection, many: list[int]) -> None:
    for mode in ("approximate", "exact", "auto"):
        found = search(connection, many[0], k=10_000, mode=mode)
        assert set(ids(found)) == set(many) - {many[0]}
        assert all(row["complete"] for row in found)


@pytest.mark.parametrize(
    ("mode", "filters", "used"),
    [
        ("approximate", {}, True),
        ("auto", {}, True),
        ("approximate", {"modality": "XR"}, True),
        ("exact", {}, False),
        ("exact", {"modality": "XR"}, False),
        ("auto", {"modality": "MR"}, False),
    ],
)
def test_reported_mode_is_how_the_server_searched(
    connection: psycopg.Connection, many: list[int], mode: str, filters: dict[str, str], used: bool
) -> None:
    name = index_name(connection)
    before = scans(connection, name)
    found = search(connection, many[0], k=5, mode=mode, **filters)
    assert (scans(connection, name) > before) is used
    assert {row["mode"] for row in found} == {"approximate" if used else "exact"}


def test_exact_search_bypasses_the_index_whatever_the_planner_settings(
    connection: psycopg.Connection, many: list[int]
) -> None:
    name = index_name(connection)
    connection.execute("SET enable_seqscan = off")
    connection.execute("SET enable_sort = off")
    before = scans(connection, name)
    search(connection, many[0], k=5, mode="exact")
    assert scans(connection, name) == before


@pytest.mark.parametrize("limits", [{}, {"hnsw.max_scan_tuples": "1"}])
def test_selective_filter_returns_all_matches_of_an_approximate_search(
    connection: psycopg.Connection, many: list[int], limits: dict[str, str]
) -> None:
    for name, value in limits.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    query = unit(1, seed=5)[0]
    found = search(connection, query, k=50, mode="approximate", modality="MR")
    assert ids(found) == ids(search(connection, query, k=50, mode="exact", modality="MR"))
    assert len(found) == 10


def test_search_whose_index_walk_ends_early_still_returns_k_rows(
    connection: psycopg.Connection, many: list[int]
) -> None:
    connection.execute("SET hnsw.max_scan_tuples = 1")
    found = search(connection, unit(1, seed=5)[0], k=200, mode="approximate", modality="XR")
    assert len(found) == 200
    if {row["mode"] for row in found} == {"exact"}:
        assert ids(found) == ids(search(connection, unit(1, seed=5)[0], k=200, mode="exact", modality="XR"))


def test_approximate_search_returns_k_rows_after_deletions(connection: psycopg.Connection, many: list[int]) -> None:
    query = unit(1, seed=6)[0]
    nearest = ids(search(connection, query, k=150, mode="exact"))
    connection.execute("DELETE FROM cbir.image WHERE image_id = ANY(%s)", [nearest])
    found = search(connection, query, k=100, mode="approximate")
    assert len(found) == 100
    assert not set(ids(found)) & set(nearest)
    assert len(search(connection, query, k=200, mode="approximate")) == 150


def test_search_leaves_the_session_settings_unchanged(connection: psycopg.Connection, many: list[int]) -> None:
    names = ("hnsw.ef_search", "hnsw.iterative_scan", "enable_seqscan", "search_path")

    def now() -> list[str]:
        return [
            connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(*n.split(".")))).fetchone()[0] for n in names
        ]  # type: ignore[index]

    connection.execute("SET hnsw.ef_search = 77")
    connection.execute("SET enable_seqscan = on")
    session = now()
    with connection.transaction():
        connection.execute("SET LOCAL hnsw.iterative_scan = 'relaxed_order'")
        inside = now()
        assert search(connection, many[0], k=100, mode="approximate")
        assert now() == inside
        with pytest.raises(psycopg.errors.InvalidParameterValue), connection.transaction():
            search(connection, "[1,2]", mode="approximate")
        assert now() == inside
    assert now() == session


def test_first_search_on_a_new_connection_succeeds(dsn: str, many: list[int]) -> None:
    with psycopg.connect(dsn, autocommit=True) as fresh:
        assert len(search(fresh, many[0], k=7, mode="approximate")) == 7


def test_search_is_exact_after_the_index_was_dropped_by_hand(connection: psycopg.Connection, many: list[int]) -> None:
    connection.execute(sql.SQL("DROP INDEX cbir.{}").format(sql.Identifier(index_name(connection))))
    assert {row["mode"] for row in search(connection, many[0])} == {"exact"}
    with pytest.raises(psycopg.errors.UndefinedObject, match="no vector index"):
        search(connection, many[0], mode="approximate")


def test_short_index_walk_is_replaced_by_an_exact_search(connection: psycopg.Connection) -> None:
    """With as many lists as vectors, a walk for ten images visits four lists at most, which hold four."""
    known = fill(connection, unit(20))
    stored = find_encoder(connection, "toy")
    assert stored is not None
    build_index(
        connection, stored, IvfFlat(lists=20, probes=1),
        connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True),
    )  # fmt: skip
    name = index_name(connection)
    for mode in ("approximate", "auto"):
        before = scans(connection, name)
        found = search(connection, known[0], k=10, mode=mode)
        assert scans(connection, name) > before, "the index was tried"
        assert ids(found) == ids(search(connection, known[0], k=10, mode="exact"))
        assert {(row["mode"], row["complete"]) for row in found} == {("exact", True)}


def test_large_study_does_not_crowd_other_studies_out_of_its_search(connection: psycopg.Connection) -> None:
    """Its images are nearer to each other than to any other, and would fill the lists of neighbours."""
    own = unit(1) + np.random.default_rng(1).normal(scale=1e-3, size=(120, 8)).astype(np.float32)
    known = fill(connection, np.concatenate([own, unit(200, seed=4)]))
    put_in_studies(connection, known, ["query"] * 120 + [f"s{n // 2}" for n in range(200)])
    index(connection)
    name = index_name(connection)
    before = scans(connection, name)
    found = connection.execute(
        "SELECT study_uid, mode FROM cbir.similar_studies('toy', study_uid => 'query', k => 3)"
    ).fetchall()
    assert scans(connection, name) == before + 1 + 120, "one that asks for the mode, and one list for each image"
    assert {mode for _, mode in found} == {"approximate"}
    exact = connection.execute(
        "SELECT study_uid FROM cbir.similar_studies('toy', study_uid => 'query', k => 3, mode => 'exact')"
    ).fetchall()
    assert [uid for uid, _ in found] == [uid for (uid,) in exact]
