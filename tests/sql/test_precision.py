"""Compare the metric views with a hand-worked example and an independent NumPy oracle of the paper's protocol."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row

from cbirdb.errors import InputError
from tests.support.precision_cases import HAND, Case, collections, on_circle, oracle, run, store

VIEWS = {
    "run": "precision_by_run",
    "class": "precision_by_class",
    "dataset": "precision_by_dataset",
    "modality": "precision_by_modality",
    "region": "precision_by_anatomic_region",
}


def view(connection: psycopg.Connection, by: str) -> dict[tuple[str, int], dict[str, Any]]:
    query = sql.SQL("SELECT * FROM cbir.{}").format(sql.Identifier(VIEWS[by]))
    rows = connection.cursor(row_factory=dict_row).execute(query).fetchall()
    return {(row["group_name"], row["n"]): row for row in rows}


def test_precision_views_equal_the_example_worked_by_hand(connection: psycopg.Connection) -> None:
    store(connection, HAND)
    summary = run(connection, 4)
    assert (summary.queries, summary.indexed, summary.without_relevant, summary.short_queries) == (4, 4, 1, 0)
    by_run = view(connection, "run")
    assert set(by_run) == {("all", n) for n in (1, 2, 3, 4)}
    names = ("micro_precision", "micro_std", "macro_precision", "macro_std")
    assert [by_run["all", 1][name] for name in names] == pytest.approx([2 / 3, (1 / 3) ** 0.5, 3 / 4, 0.5**0.5])
    for n in (2, 3, 4):
        assert [by_run["all", n][name] for name in names] == pytest.approx([0.5, 0, 0.5, 0], abs=1e-12)
    assert {(row["queries"], row["classes"], row["mode"], row["ann_recall"]) for row in by_run.values()} == {
        (3, 2, "exact", 1.0)
    }
    by_class = view(connection, "class")
    assert {name for name, _ in by_class} == {"A", "B"}
    assert [by_class["A", 1][name] for name in names] == pytest.approx([0.5, 0.5**0.5, 0.5, 0.5**0.5])
    assert [by_class["B", 1][name] for name in names] == [1.0, None, 1.0, None]


def test_query_precision_goes_up_to_the_k_of_each_run(connection: psycopg.Connection) -> None:
    store(connection, HAND)
    short, long = run(connection, 2), run(connection, 4)
    found = connection.execute("SELECT run_id, max(n), count(DISTINCT n) FROM cbir.query_precision GROUP BY run_id")
    assert {row[0]: row[1:] for row in found} == {short.run_id: (2, 2), long.run_id: (4, 4)}


@pytest.mark.parametrize("protocol", ["paper", "any-label"])
def test_query_without_a_patient_is_a_cluster_of_its_own(connection: psycopg.Connection, protocol: str) -> None:
    ids = store(connection, HAND)
    run(connection, 4, protocol=protocol)
    connection.execute(
        "WITH made AS (INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'p' FROM cbir.dataset"
        " LIMIT 1 RETURNING patient_id) UPDATE cbir.image SET patient_id = made.patient_id FROM made"
        " WHERE image_id = (SELECT min(query_image_id) FROM cbir.query_hits)"
    )
    found = connection.execute(
        "SELECT DISTINCT h.cluster_id, coalesce(i.patient_id, -i.image_id) FROM cbir.query_hits AS h"
        " INNER JOIN cbir.image AS i ON i.image_id = h.query_image_id"
    ).fetchall()
    assert len(found) >= 3
    assert all(cluster == wanted for cluster, wanted in found)
    assert sum(cluster > 0 for cluster, _ in found) == 1
    assert {-cluster for cluster, _ in found if cluster < 0} < set(ids)


def test_equal_distances_are_ordered_by_image_id(connection: psycopg.Connection) -> None:
    cases = [Case((1.0, 0.0), "train", {name: 1}) for name in "BABA"] + [Case((1.0, 0.0), "test", {"A": 1})]
    ids = store(connection, cases)
    run(connection, 4)
    found = connection.execute("SELECT image_id, relevant FROM cbir.neighbour ORDER BY rank").fetchall()
    assert found == list(zip(ids[:4], [False, True, False, True], strict=True))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases=collections(), k=st.integers(1, 16))
def test_metric_views_equal_an_independent_implementation(
    connection: psycopg.Connection, cases: list[Case], k: int
) -> None:
    store(connection, cases)
    run(connection, k)
    for by in VIEWS:
        wanted, found = oracle(cases, k, by), view(connection, by)
        assert set(found) == set(wanted), by
        for key, row in found.items():
            figures = tuple(
                row[name]
                for name in ("micro_precision", "micro_std", "macro_precision", "macro_std", "queries", "classes")
            )
            for figure, right in zip(figures, wanted[key], strict=True):
                assert (figure is None) == (right is None), (by, key, figures, wanted[key])
                # The square root of a rounding error of 1e-16 is 1e-8.
                assert figure is None or figure == pytest.approx(right, abs=3e-8), (by, key, figures, wanted[key])


def test_standard_deviation_of_equal_values_is_zero(connection: psycopg.Connection) -> None:
    """P@3 = 1/3 for each of many queries: sums of squares leave a rounding error, below or above zero."""
    index = [Case((1.0, 0.0), "train", {name: 1}) for name in "ABBAA"]
    store(connection, index + [Case((1.0, 0.0), "test", {"A": 1})] * 57)
    run(connection, 3)
    row = view(connection, "run")["all", 3]
    assert row["micro_precision"] == pytest.approx(1 / 3, abs=1e-12)
    assert row["micro_std"] == pytest.approx(0, abs=1e-7)
    assert row["macro_std"] == pytest.approx(0, abs=1e-12)


def test_metric_views_have_the_same_columns(connection: psycopg.Connection) -> None:
    store(connection, HAND)
    run(connection, 4)
    parts = [sql.SQL("SELECT * FROM cbir.{}").format(sql.Identifier(name)) for name in VIEWS.values()]
    rows = connection.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall()
    assert len(rows) == 4 + 2 * 4 + 4 + 4 + 4
    columns = {
        name: connection.execute(
            "SELECT attnum, attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY 1",
            [f"cbir.{name}"],
        ).fetchall()
        for name in VIEWS.values()
    }
    assert all(found == columns["precision_by_run"] for found in columns.values())


@pytest.mark.parametrize("by", VIEWS)
def test_unfinished_run_is_not_shown(connection: psycopg.Connection, by: str) -> None:
    store(connection, HAND)
    run(connection, 4)
    assert view(connection, by)
    connection.execute("UPDATE cbir.search_run SET finished_at = NULL")
    assert view(connection, by) == {}


@pytest.mark.parametrize("by", VIEWS)
def test_label_changed_after_the_run_keeps_its_result(connection: psycopg.Connection, by: str) -> None:
    store(connection, HAND)
    run(connection, 4)
    before = view(connection, by)
    connection.execute(
        "UPDATE cbir.image_label SET label_id = (SELECT label_id FROM cbir.label WHERE name = 'C');"
        " DELETE FROM cbir.image_label WHERE image_id % 2 = 0; UPDATE cbir.image SET split = 'val'"
    )
    assert view(connection, by) == before


def test_later_run_leaves_an_earlier_run_unchanged(connection: psycopg.Connection) -> None:
    store(connection, HAND)
    first = run(connection, 4)
    before = connection.execute("SELECT * FROM cbir.precision_by_class ORDER BY group_name, n").fetchall()
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = (SELECT min(image_id) FROM cbir.image)")
    run(connection, 2)
    again = connection.execute(
        "SELECT * FROM cbir.precision_by_class WHERE run_id = %s ORDER BY group_name, n", [first.run_id]
    ).fetchall()
    assert again == before


def test_images_that_take_no_part_are_counted(connection: psycopg.Connection) -> None:
    cases = [
        *HAND,
        Case(on_circle(3), "train", {"A": 1, "B": 1}),
        Case(on_circle(3), "train", {"A": 1, "B": -1}),
        Case(on_circle(3), "test", {"A": 0}),
        Case(on_circle(3), "test"),
        Case(on_circle(3), "val", {"A": 1}),
        Case(on_circle(3), "train", {"A": 1, "B": 0}),
    ]
    ids = store(connection, cases)
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = ANY(%s)", [[ids[0], ids[4]]])
    summary = run(connection, 4)
    assert (summary.queries, summary.indexed, summary.left_out, summary.not_encoded) == (3, 4, 4, 2)
    with pytest.raises(InputError, match="-k must lie between"):
        run(connection, 0)


@pytest.mark.parametrize(
    ("hits", "n", "relevant", "wanted"),
    [
        ([1, 1, 2], 3, 4, 2 / 3),
        ([1, 1, 2], 2, 4, 1 / 2),
        ([1, 1, 2], 5, 4, 2 / 4),  # a list shorter than min(5, 4) counts what it has
        ([1, 1, 2], 3, 2, 1 / 2),  # no more than the relevant ones can be asked for
        ([0, 0, 1], 2, 1, 0),
        ([], 3, 2, 0),
        ([1], 1, 0, None),
    ],
)
def test_modified_precision_equals_the_values_worked_by_hand(
    connection: psycopg.Connection, hits: list[int], n: int, relevant: int, wanted: float | None
) -> None:
    row = connection.execute(
        "SELECT cbir_internal.modified_precision(%s::smallint[], %s, %s)", [hits, n, relevant]
    ).fetchone()
    assert row == (wanted if wanted is None else pytest.approx(wanted),)


def test_list_shortened_by_an_erasure_counts_what_it_has(connection: psycopg.Connection) -> None:
    """Three A are indexed, of which the query's list of k = 2 has the nearest two. One of these is erased: of two relevant
    images that are left the list has one, so P@1 is 1 and P@2 is 1/2.
    """
    ids = store(connection, [Case(on_circle(at), "train", {"A": 1}) for at in (1, 2, 3)] + [
        Case(on_circle(0), "test", {"A": 1})
    ])  # fmt: skip
    connection.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'p' FROM cbir.dataset")
    connection.execute(
        "UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient) WHERE image_id = %s", [ids[0]]
    )
    run(connection, 2)
    connection.execute("SELECT * FROM cbir.erase_patient('p')")
    for figures in (
        "SELECT n, precision_at_n FROM cbir.query_precision",
        "SELECT n, precision_at_n FROM cbir.query_precision_by_label",
        "SELECT n, micro_precision FROM cbir.precision_by_run",
    ):
        assert sorted(connection.execute(figures.encode()).fetchall()) == [(1, 1.0), (2, 0.5)], figures
