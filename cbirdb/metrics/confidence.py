"""Confidence intervals of precision, and paired comparisons of encoders: SQL sums per patient and class, then resampling.

Methods and sources: ``bootstrap.py`` and docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.errors import translated_errors
from cbirdb.errors import InputError, OptionError
from cbirdb.metrics.bootstrap import Cells, bootstrap, holm, interval, sign_flip_p
from cbirdb.metrics.precision import Run, latest_runs
from cbirdb.progress import SILENT, Progress

RESAMPLES = 2000
MEANS = ("micro", "macro")
CellRow = tuple[Any, ...]
"""Cluster, label (None: any), number of values, and one sum of them or several."""


def add_intervals(
    connection: psycopg.Connection,
    rows: Sequence[dict[str, Any]],
    *,
    by: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Rows of ``metrics`` with the bounds of the 95 % intervals of both means.

    :param by: what the rows are grouped by, as ``metrics`` was asked.
    """
    if not rows:
        return []
    cutoffs = sorted({row["n"] for row in rows})
    bounds: dict[tuple[Any, ...], dict[str, float | None]] = {}
    with progress.task("resampling", total=len(rows), unit="figures") as task:
        for run, name, values in _read_values(connection, by, {row["run"] for row in rows}, cutoffs):
            # Over one class both means are the same.
            means = MEANS[:1] if by == "class" else MEANS
            found = {mean: _intervals(values, mean, resamples, seed) for mean in means}
            for figure, n in enumerate(cutoffs):
                bounds[run, name, n] = {
                    f"{mean}_{end}": value
                    for mean in MEANS
                    for end, value in zip(("low", "high"), found.get(mean, found[means[0]])[figure], strict=True)
                }
                task.advance(1)
    group = by.replace("-", "_")
    return [row | bounds[row["run"], "all" if by == "run" else row[group], row["n"]] for row in rows]


@dataclass(frozen=True, slots=True)
class _Values:
    """Precision of a group's lists: ``cluster`` and ``label`` (0: any) of shape (lists,), ``precision`` (lists, N)."""

    cluster: NDArray[np.int64]
    label: NDArray[np.int64]
    precision: NDArray[np.float64]


def _read_values(
    connection: psycopg.Connection, by: str, runs: Collection[int], cutoffs: Sequence[int]
) -> Iterator[tuple[int, str, _Values]]:
    """Run, name and values of each group of the runs' queries.

    Each column of a group comes as the bytes of its numbers, which NumPy takes as they are; rows would be a Python object
    for every number.
    """
    query = sql.SQL(
        """
        SELECT
            l.run_id, l.group_name, string_agg(int8send(query_image_id), ''), string_agg(int8send(cluster), ''),
            string_agg(int8send(coalesce(label_id, 0)), ''), {}
        FROM unnest(%s::bigint[]) AS r (run_id) CROSS JOIN LATERAL cbir.scored_list(%s, r.run_id) AS l
        GROUP BY l.run_id, l.group_name
        """
    ).format(
        sql.SQL(", ").join(
            [sql.SQL("string_agg(float8send(cbir_internal.modified_precision(hits, %s, relevant_count)), '')")]
            * len(cutoffs)
        )
    )
    with translated_errors(), connection.cursor(binary=True) as cursor:
        cursor.execute(query, [*cutoffs, list(runs), by.replace("-", "_")])
        for run, name, *numbers, precision in ((*row[:5], row[5:]) for row in cursor):
            image, cluster, label = (np.frombuffer(column, ">i8").astype(np.int64) for column in numbers)
            columns = [np.frombuffer(column, ">f8").astype(np.float64) for column in precision]
            # Parallel workers deliver in any order, and sums of another order differ in their last digits.
            order = np.lexsort((label, image))
            yield run, name, _Values(cluster[order], label[order], np.column_stack(columns)[order])


def _intervals(
    values: _Values, mean: str, resamples: int, seed: int
) -> list[tuple[float, float]] | list[tuple[None, None]]:
    """For each N; None where there is only one cluster, which says nothing about others."""
    # The mean over queries rests on the lists without a label where there are any.
    used = (values.label == 0) == (mean == "micro" and not values.label.all())
    cells = Cells(
        np.unique(values.cluster[used], return_inverse=True)[1],
        np.unique(values.label[used], return_inverse=True)[1],
        values.precision[used],
        np.ones(np.count_nonzero(used)),
    )
    if cells.clusters < 2:
        return [(None, None)] * values.precision.shape[1]
    means = bootstrap(cells, macro=mean == "macro", resamples=resamples, seed=seed)
    return [interval(of_figure) for of_figure in means.T]


def compare(
    connection: psycopg.Connection,
    encoders: Sequence[str],
    *,
    cutoffs: Sequence[int],
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every pair of encoders on the queries that both have: difference of the means, its 95 % interval, p, and p adjusted
    for all rows together.

    :returns: the rows, and sentences on what should be known about them.
    :raises InputError: when there are fewer than two, one has no run, or the runs cannot be compared.
    """
    if len(set(encoders)) < 2:
        raise OptionError("A comparison needs two encoders or more.", hint="Give -e once for each.")
    runs = [latest_runs(connection, encoder=name, query_split="test")[0] for name in dict.fromkeys(encoders)]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    if max(cutoffs) > (smallest := min(run.k for run in runs)) or min(cutoffs) < 1:
        raise InputError(f"These runs kept {smallest} neighbours.", hint=f"Ask for -n 1 to {smallest}.")
    rows: list[dict[str, Any]] = []
    notes = [] if len({run.indexed_images for run in runs}) == 1 else [_different_indexes(runs)]
    pairs = list(combinations(runs, 2))
    with progress.task("comparing", total=len(pairs) * len(cutoffs), unit="comparisons") as task:
        for first, second in pairs:
            cells = _paired_cells(connection, first, second, cutoffs)
            for n in cutoffs:
                if not cells[n]:
                    raise InputError(f"Runs {first.run_id} and {second.run_id} have no query in common.")
                rows += [_compared(first, second, n, mean, cells[n], resamples, seed) for mean in MEANS]
                task.advance(1)
            notes += _unshared(first, second, rows[-1]["queries"])
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows, notes


def _compared(
    first: Run, second: Run, n: int, mean: str, cells: Sequence[CellRow], resamples: int, seed: int
) -> dict[str, Any]:
    macro = mean == "macro"
    of_a, of_b = _cells(cells, mean)
    difference = replace(of_a, total=of_a.total - of_b.total)
    low, high = _interval(difference, mean, resamples, seed)
    value_a, value_b = (table.macro() if macro else table.micro() for table in (of_a, of_b))
    return {
        "encoder_a": first.encoder,
        "encoder_b": second.encoder,
        "run_a": first.run_id,
        "run_b": second.run_id,
        "mean": mean,
        "n": n,
        "precision_a": value_a,
        "precision_b": value_b,
        "difference": value_a - value_b,
        "low": low,
        "high": high,
        "p": sign_flip_p(difference, macro=macro, resamples=resamples, seed=seed),
        "p_holm": None,
        "queries": int(_cells(cells, "micro")[0].number.sum()),
        "clusters": difference.clusters,
    }


def _interval(cells: Cells, mean: str, resamples: int, seed: int) -> tuple[float, float] | tuple[None, None]:
    """None where there is only one cluster, which says nothing about others."""
    if cells.clusters < 2:
        return None, None
    return interval(bootstrap(cells, macro=mean == "macro", resamples=resamples, seed=seed))


def _cells(rows: Sequence[CellRow], mean: str) -> list[Cells]:
    """The rows that a mean rests on, one table per total: for micro those without a label where there are any."""
    per_query = mean == "micro" and any(row[1] is None for row in rows)
    used = [row for row in rows if (row[1] is None) == per_query]
    clusters, labels, numbers, *totals = zip(*used, strict=True)
    cluster = np.unique(np.array(clusters, dtype=np.int64), return_inverse=True)[1]
    group = np.unique(np.array([label or 0 for label in labels], dtype=np.int64), return_inverse=True)[1]
    number = np.array(numbers, dtype=np.float64)
    return [Cells(cluster, group, np.array(total, dtype=np.float64), number) for total in totals]


def _paired_cells(
    connection: psycopg.Connection, first: Run, second: Run, cutoffs: Sequence[int]
) -> dict[int, list[CellRow]]:
    cells: dict[int, list[CellRow]] = {n: [] for n in cutoffs}
    with translated_errors():
        for n, *cell in connection.execute(
            "SELECT n, cluster, label_id, number, total_a, total_b FROM cbir.paired_precision_cell(%s, %s, %s)",
            [first.run_id, second.run_id, list(cutoffs)],
        ):
            cells[n].append(tuple(cell))
    return cells


def _check_comparable(first: Run, second: Run) -> None:
    """:raises InputError: when two runs did not ask the same question."""
    for what in ("protocol", "index_split", "split_seed", "same_patient", "datasets"):
        if getattr(first, what) != getattr(second, what):
            raise InputError(
                f"Run {first.run_id} of {first.encoder} and run {second.run_id} of {second.encoder} differ in their"
                f" {what.replace('_', ' ')}: {getattr(first, what)} and {getattr(second, what)}.",
                hint="Evaluate both encoders with the same options.",
            )


def _different_indexes(runs: Sequence[Run]) -> str:
    sizes = ", ".join(f"{run.encoder} {run.indexed_images:,}" for run in runs)
    return (
        f"The encoders retrieved from different numbers of images ({sizes}): part of a difference may come from that."
    )


def _unshared(first: Run, second: Run, shared: int) -> list[str]:
    """Says so when not all queries take part."""
    asked = max(first.query_images, second.query_images)
    if shared == asked:
        return []
    return [f"{first.encoder} against {second.encoder}: {shared:,} of {asked:,} queries have a precision under both."]
