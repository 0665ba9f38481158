"""Analyses the stored neighbours beyond P@N: index size, anatomy, kNN classification, leakage. Reads SQL functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from cbirdb.db.errors import translated_errors
from cbirdb.errors import InputError
from cbirdb.metrics.precision import Run, check_cutoffs, latest_runs

FRACTIONS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
KS = (1, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100)
CRITERIA = ("balanced_accuracy", "accuracy")
Rows = list[dict[str, Any]]


def by_index_size(connection: psycopg.Connection, run: Run, cutoffs: Sequence[int]) -> Rows:
    """Return P@N with random parts of the index: rows of ``cbir.precision_by_index_size``."""
    return _read(
        connection, "SELECT * FROM cbir.precision_by_index_size(%s, %s, %s)",
        [run.run_id, list(FRACTIONS), list(cutoffs)],
    )  # fmt: skip


def by_anatomy(connection: psycopg.Connection, run: Run, cutoffs: Sequence[int]) -> Rows:
    """Return how often neighbours share the region or the finding: rows of ``cbir.anatomy_up_to``."""
    return _read(
        connection,
        "SELECT group_name AS region, n, same_modality, same_region, same_finding, other_finding, finding_in_region,"
        " queries FROM cbir.anatomy_up_to(%s, %s) WHERE n = ANY(%s)"
        " ORDER BY group_name <> 'all', group_name, n",
        [max(cutoffs), run.run_id, list(cutoffs)],
    )


ANALYSES: Mapping[str, Callable[[psycopg.Connection, Run, Sequence[int]], Rows]] = {
    "index-size": by_index_size,
    "anatomy": by_anatomy,
}
"""Analyses that ``metrics --by`` offers beside the groups of queries."""


def analyse(
    connection: psycopg.Connection, by: str, *, cutoffs: Sequence[int], encoder: str | None, run: int | None
) -> Rows:
    """Return the rows of one of ``ANALYSES`` for the latest run of each encoder.

    :raises InputError: when there is no such run, or a cutoff lies beyond its k.
    """
    rows: Rows = []
    for found in latest_runs(connection, encoder=encoder, run=run):
        check_cutoffs(cutoffs, found)
        start = {"run": found.run_id, "encoder": found.encoder}
        rows += [start | row for row in ANALYSES[by](connection, found, cutoffs)]
    return rows


def classify(
    connection: psycopg.Connection, encoder: str, *, criterion: str = "balanced_accuracy", ks: Sequence[int] = KS
) -> Rows:
    """Classify the test queries by kNN, with k chosen on the validation queries; return one row per k.

    :param criterion: one of ``CRITERIA``; of equal values the smaller k is chosen.
    :raises InputError: when one of the two runs is missing, or they differ in more than their queries.
    """
    test = latest_runs(connection, encoder=encoder, query_split="test", protocol="paper")[0]
    val = latest_runs(connection, encoder=encoder, query_split="val", protocol="paper")[0]
    for setting in ("index_split", "split_seed", "same_patient", "datasets", "indexed_images"):
        if getattr(test, setting) != getattr(val, setting):
            raise InputError(
                f"The runs with test and val queries ({test.run_id} and {val.run_id}) differ in their"
                f" {setting.replace('_', ' ')}: {getattr(test, setting)} and {getattr(val, setting)}.",
                hint="Evaluate both with the same options.",
            )
    usable = [k for k in ks if k <= min(test.k, val.k)]
    query = "SELECT * FROM cbir.knn_accuracy(%s, %s)"
    on_val = {row["k"]: row for row in _read(connection, query, [val.run_id, usable])}
    best = max(usable, key=lambda k: (on_val[k][criterion], -k))
    return [
        {
            "encoder": encoder,
            "k": row["k"],
            "chosen": row["k"] == best,
            **{f"val_{name}": on_val[row["k"]][name] for name in CRITERIA},
            **{f"test_{name}": row[name] for name in CRITERIA},
            "val_queries": on_val[row["k"]]["queries"],
            "test_queries": row["queries"],
            "classes": row["classes"],
            "val_run": val.run_id,
            "test_run": test.run_id,
        }
        for row in _read(connection, query, [test.run_id, usable])
    ]


def leakage(connection: psycopg.Connection, run: Run, *, near_distance: float) -> Rows:
    """Count the queries that indexed images give away, per cause: rows of ``cbir.leakage``.

    :param near_distance: largest cosine distance of nearly identical images.
    """
    return _read(connection, "SELECT * FROM cbir.leakage(%s, %s)", [run.run_id, near_distance])


def precision_without_leakage(
    connection: psycopg.Connection, run: Run, *, near_distance: float, cutoffs: Sequence[int]
) -> Rows:
    """Return P@N with and without leaking images: rows of ``cbir.precision_without_leakage``.

    :param near_distance: largest cosine distance of nearly identical images.
    :raises InputError: when a cutoff lies beyond the run's k.
    """
    check_cutoffs(cutoffs, run)
    return _read(
        connection,
        "SELECT * FROM cbir.precision_without_leakage(%s, %s, %s)",
        [run.run_id, near_distance, list(cutoffs)],
    )


def _read(connection: psycopg.Connection, query: str, values: Sequence[object]) -> Rows:
    with translated_errors():
        return connection.cursor(row_factory=dict_row).execute(query.encode(), values).fetchall()
