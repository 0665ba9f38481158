"""Compare evaluations whose queries have images of their own patient in the index with hand-worked examples.

Nearest to the query first: an A of the query's patient, a B, an A of another. Of the whole index, by N:

    own patient may be found    A B A, 2 relevant: 1/1, 1/2, and for N = 3 the first min(3, 2): 1/2
    own patient left out        B A, 1 relevant: only the first counts, for every N: 0
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support.precision_cases import Case, on_circle, run, store


@pytest.fixture
def own_patient(connection: psycopg.Connection) -> list[int]:
    ids = store(connection, [
        Case(on_circle(1), "train", {"A": 1}), Case(on_circle(2), "train", {"B": 1}),
        Case(on_circle(3), "train", {"A": 1}), Case(on_circle(0), "test", {"A": 1}),
    ])  # fmt: skip
    for name, images in (("p", [ids[0], ids[3]]), ("q", [ids[2]])):
        connection.execute(
            "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, %s FROM cbir.dataset", [name]
        )
        connection.execute(
            "UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient WHERE pseudonym = %s)"
            " WHERE image_id = ANY(%s)", [name, images],
        )  # fmt: skip
    return ids


@pytest.mark.parametrize(("same_patient", "precision"), [(True, [1, 1 / 2, 1 / 2]), (False, [0, 0])])
def test_own_patient_counts_as_relevant_only_if_the_run_could_find_it(
    connection: psycopg.Connection, own_patient: list[int], same_patient: bool, precision: list[float]
) -> None:
    cutoffs = list(range(1, len(precision) + 1))
    summary = run(connection, len(precision), same_patient=same_patient)
    for figures in (
        "SELECT n, micro_precision FROM cbir.precision_by_index_size(%(run)s, '{1}', %(n)s)",
        "SELECT n, micro_precision FROM cbir.precision_by('run') WHERE run_id = %(run)s AND n = ANY(%(n)s)",
        "SELECT n, precision_at_n FROM cbir.query_precision WHERE run_id = %(run)s AND n = ANY(%(n)s)",
        "SELECT n, micro_precision FROM cbir.precision_without_leakage(%(run)s, 0, %(n)s) WHERE variant = 'all'",
    ):
        found = connection.execute(figures.encode(), {"run": summary.run_id, "n": cutoffs}).fetchall()
        assert sorted(found) == [(n, pytest.approx(precision[n - 1])) for n in cutoffs], figures
