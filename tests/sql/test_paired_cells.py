"""Compare the paired figures of two encoders with a hand-worked example where queries have several labels.

Indexed: A at 0 degrees, B at 10, C at 20, one image each, so only the first neighbour of a list counts for a label. Two
queries: q carries A and B, r carries C. The first neighbour of each:

    encoder   q, at    finds   any of its labels   A   B       r, at    finds   C
    toy       1 deg    A       1                   1   0       19 deg   C       1
    other     11 deg   B       1                   0   1       1 deg    A       0
"""

from __future__ import annotations

import psycopg
import pytest

from cbirdb.metrics.confidence import compare
from tests.support.precision_cases import Case, on_circle, run, second_encoder, store


@pytest.fixture
def runs(connection: psycopg.Connection) -> tuple[int, int, list[int]]:
    """Return the runs of both encoders and the ids of the queries."""
    ids = store(connection, [
        *(Case(on_circle(at), "train", {name: 1}) for at, name in ((0, "A"), (10, "B"), (20, "C"))),
        Case(on_circle(1), "test", {"A": 1, "B": 1}), Case(on_circle(19), "test", {"C": 1}),
    ])  # fmt: skip
    first = run(connection, 3, protocol="any-label").run_id
    second_encoder(connection, ids, [on_circle(at) for at in (0, 10, 20, 11, 1)], protocol="any-label")
    row = connection.execute("SELECT max(run_id) FROM cbir.search_run").fetchone()
    assert row is not None
    return first, row[0], ids[3:]


def test_paired_cells_equal_the_example_worked_by_hand(
    connection: psycopg.Connection, runs: tuple[int, int, list[int]]
) -> None:
    first, second, (q, r) = runs
    found = connection.execute(
        "SELECT c.cluster, l.name, c.total_a, c.total_b, c.number FROM cbir.paired_precision_cell(%s, %s, '{1}') AS c"
        " LEFT JOIN cbir.label AS l USING (label_id) ORDER BY c.cluster DESC, l.name NULLS FIRST",
        [first, second],
    ).fetchall()
    # Nobody knows whose the queries are: each is a cluster of its own, by its negative id.
    assert found == [
        (-q, None, 1, 1, 1),
        (-q, "A", 1, 0, 1),
        (-q, "B", 0, 1, 1),
        (-r, None, 1, 0, 1),
        (-r, "C", 1, 0, 1),
    ]


def test_queries_of_one_patient_form_one_cluster(
    connection: psycopg.Connection, runs: tuple[int, int, list[int]]
) -> None:
    connection.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'p' FROM cbir.dataset")
    connection.execute("UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient) WHERE split = 'test'")
    found = connection.execute(
        "SELECT c.total_a, c.total_b, c.number FROM cbir.paired_precision_cell(%s, %s, '{1}') AS c WHERE label_id IS NULL",
        runs[:2],
    ).fetchall()
    assert found == [(2, 1, 2)]


def test_compare_under_any_label_equals_the_means_worked_by_hand(
    connection: psycopg.Connection, runs: tuple[int, int, list[int]]
) -> None:
    """Micro, over q and r: 1 and 1/2. Macro, over A, B and C: (1 + 0 + 1) / 3 and (0 + 1 + 0) / 3."""
    (micro, macro), notes = compare(connection, ["toy", "other"], cutoffs=[1], resamples=100)
    assert notes == []
    assert [micro["precision_a"], micro["precision_b"], micro["queries"]] == pytest.approx([1, 1 / 2, 2])
    assert [macro["precision_a"], macro["precision_b"], macro["queries"]] == pytest.approx([2 / 3, 1 / 3, 2])
