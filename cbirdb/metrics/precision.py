"""Reads the metric views."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from cbirdb.db.errors import translated_errors
from cbirdb.db.index_builds import describe_audit
from cbirdb.db.known_encoders import stored_encoder
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError

GROUPS: dict[str, str] = {
    "run": "precision_by_run",
    "class": "precision_by_class",
    "dataset": "precision_by_dataset",
    "modality": "precision_by_modality",
    "anatomic-region": "precision_by_anatomic_region",
}
"""Groups of queries, and the view of each."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished evaluation: its options, and its numbers of images."""

    run_id: int
    encoder: str
    k: int
    protocol: str
    query_split: str
    index_split: str
    split_seed: int
    same_patient: bool
    datasets: list[str]
    query_images: int
    indexed_images: int


def latest_runs(
    connection: psycopg.Connection,
    *,
    encoder: str | None = None,
    run: int | None = None,
    protocol: str | None = None,
    query_split: str | None = None,
) -> list[Run]:
    """Return the latest matching finished run of each encoder; None matches every value.

    :raises InputError: when there is none.
    """
    with translated_errors():
        found = connection.execute(
            """
            SELECT DISTINCT ON (r.encoder_id)
                r.run_id, r.encoder, r.k, r.protocol, r.query_split, r.index_split, r.split_seed, r.same_patient,
                r.datasets, r.query_images, r.indexed_images
            FROM cbir.run_overview AS r
            WHERE r.finished_at IS NOT NULL AND (%(encoder)s::text IS NULL OR r.encoder = %(encoder)s)
              AND (%(run)s::numeric IS NULL OR r.run_id = %(run)s)
              AND (%(protocol)s::text IS NULL OR r.protocol = %(protocol)s)
              AND (%(query_split)s::text IS NULL OR r.query_split = %(query_split)s)
            ORDER BY r.encoder_id, r.run_id DESC
            """,
            {"encoder": encoder, "run": run, "protocol": protocol, "query_split": query_split},
        ).fetchall()
        if not found and encoder is not None:
            stored_encoder(connection, encoder)
    if not found:
        whose = f" {run}" if run is not None else (f" of '{encoder}'" if encoder else "")
        queries = f" with queries of the split '{query_split}'" if query_split else ""
        option = f" --query-split {query_split}" if query_split not in (None, "test") else ""
        raise InputError(
            f"There is no finished evaluation run{whose}{queries}.",
            hint=f"Run: cbirdb evaluate -e {encoder or 'ENCODER'}{option}",
        )
    return [Run(*row) for row in found]


def metrics(
    connection: psycopg.Connection,
    *,
    by: str = "run",
    cutoffs: Sequence[int] = (1, 3, 5, 10),
    encoder: str | None = None,
    run: int | None = None,
    protocol: str | None = None,
    query_split: str | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a metric view.

    :param by: a key of ``GROUPS``.
    :param cutoffs: the N of P@N.
    :param encoder: name; None: all.
    :param run: id; None: the latest finished run of each encoder.
    :param protocol: only runs under this one; None: any.
    :param query_split: only runs whose queries are of this split; None: any.
    :raises InputError: when there is no such run, or a cutoff lies beyond the run's k.
    """
    with translated_errors():
        runs = latest_runs(connection, encoder=encoder, run=run, protocol=protocol, query_split=query_split)
        for found_run in runs:
            check_cutoffs(cutoffs, found_run)
        query = sql.SQL(
            "SELECT * FROM {} WHERE run_id = ANY(%s) AND n = ANY(%s) ORDER BY encoder, run_id, group_name, n"
        )
        found = connection.cursor(row_factory=dict_row).execute(
            query.format(sql.Identifier(SCHEMA, GROUPS[by])), [[found_run.run_id for found_run in runs], list(cutoffs)]
        )
        return [_row(row, by) for row in found]


def describe_runs(connection: psycopg.Connection, runs: Collection[int]) -> list[str]:
    """Describe each run in a sentence: images, datasets, mode, and quality of the index."""
    with translated_errors():
        found = connection.execute(
            """
            SELECT r.run_id, r.encoder, r.query_images, r.query_split, r.indexed_images, r.index_split,
                   array_to_string(r.datasets, ', '), r.mode, r.k, r.ann_recall, r.ann_recall_at, r.ann_recall_queries,
                   r.protocol, r.same_patient, r.index_audit, r.not_final, r.erased_images, r.erased_neighbours,
                   r.merged_images
            FROM cbir.run_overview AS r
            WHERE r.run_id = ANY(%s) ORDER BY r.run_id
            """,
            [list(runs)],
        ).fetchall()
    lines = []
    for run, encoder, queries, query_split, indexed, index_split, datasets, *rest in found:
        mode, k, recall, at, sample, protocol, same_patient, audit, not_final, erased, shortened, merged = rest
        line = (
            f"Run {run}: {encoder}, {queries:,} {query_split} images among {indexed:,} {index_split} images"
            f" of {datasets}; {mode}, k = {k}"
        )
        if mode == "approximate":
            line += f"; the index found {recall:.2%} of the true {at} nearest over {sample} queries; audit of the index {describe_audit(audit)}"
        if protocol != "paper":
            line += f"; protocol {protocol}"
        if not same_patient:
            line += "; without the query's own patient"
        if erased or shortened:
            line += (
                f"; since then {erased:,} of its images were erased and {shortened:,} entries removed from its lists,"
                " so the figures are not those of the original run"
            )
        if merged:
            line += (
                f"; since then the patient of {merged:,} of its images was merged into another, and the figures are those"
                " of before"
            )
        lines.append(line + ".")
        if not_final is not None:
            lines.append(f"Run {run} is NOT FINAL: {not_final}")
    return lines


def check_cutoffs(cutoffs: Sequence[int], run: Run) -> None:
    """Refuse a cutoff beyond the run's k.

    :raises InputError: when there is one.
    """
    for n in cutoffs:
        if not 1 <= n <= run.k:
            raise InputError(
                f"P@{n} is not available: run {run.run_id} kept {run.k} neighbours.",
                hint=f"Give -n 1 to {run.k}, or choose another run or encoder.",
            )


def _row(row: dict[str, Any], by: str) -> dict[str, Any]:
    start = {"run": row["run_id"], "encoder": row["encoder"]}
    if by != "run":
        start[by.replace("-", "_")] = row["group_name"]
    names = (
        "n", "micro_precision", "micro_std", "macro_precision", "macro_std", "queries", "classes", "mode", "ann_recall",
    )  # fmt: skip
    return start | {name: row[name] for name in names}
