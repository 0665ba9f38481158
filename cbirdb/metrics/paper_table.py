"""Compares this database's figures with Table 1 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from cbirdb.errors import InputError
from cbirdb.metrics.precision import describe_runs, metrics

CUTOFFS = (1, 3, 5, 10)
Cells = tuple[float, float, float, float]
"""P@1, P@3, P@5, P@10, printed to three digits."""

TABLE_1: Mapping[str, tuple[Cells, Cells]] = {
    "resnet50": ((0.544, 0.538, 0.535, 0.529), (0.204, 0.193, 0.189, 0.182)),
    "vit-b16": ((0.560, 0.554, 0.550, 0.543), (0.217, 0.204, 0.199, 0.190)),
    "sam-vit-b": ((0.520, 0.517, 0.515, 0.511), (0.197, 0.187, 0.182, 0.175)),
    "medsam-vit-b": ((0.489, 0.483, 0.478, 0.470), (0.154, 0.146, 0.142, 0.134)),
    "clip-vit-l14": ((0.571, 0.567, 0.565, 0.559), (0.222, 0.213, 0.209, 0.202)),
    "medclip-vit": ((0.566, 0.561, 0.559, 0.554), (0.223, 0.211, 0.205, 0.198)),
    "biomedclip": ((0.594, 0.590, 0.588, 0.583), (0.240, 0.230, 0.224, 0.217)),
    "mae-vit-b": ((0.513, 0.507, 0.503, 0.497), (0.183, 0.177, 0.172, 0.166)),
    "dinov2-vit-b14": ((0.553, 0.548, 0.545, 0.540), (0.219, 0.204, 0.199, 0.192)),
}
"""Micro and macro precision of each encoder on the combined dataset (Denner et al., Table 1)."""
PRINTED = 0.0005
"""Half of the last printed digit: a smaller difference may be rounding."""
PAPER_DATA = (
    "The paper's table is for RadImageNet, NIH ChestX-ray14, MIMIC-CXR and CheXpert together: about 1.6 million images"
    " and 185 classes, test among train, exact search."
)


def compare_with_paper(connection: psycopg.Connection, *, encoder: str | None = None) -> list[dict[str, Any]]:
    """Return one row per cell of Table 1 for which this database has a figure, from each encoder's latest run.

    :param encoder: name; None: all of the paper's that have a run.
    :raises InputError: when there is no such run, or the encoder is not in the table.
    """
    if encoder is not None and encoder not in TABLE_1:
        raise InputError(f"'{encoder}' is not in the paper's table.", hint=f"The table has: {', '.join(TABLE_1)}.")
    rows = [
        row
        for row in metrics(connection, cutoffs=CUTOFFS, encoder=encoder, protocol="paper", query_split="test")
        if row["encoder"] in TABLE_1
    ]
    if not rows:
        raise InputError(
            "No encoder of the paper's table has a finished evaluation run.",
            hint="Run: cbirdb evaluate -e NAME, for one of " + ", ".join(TABLE_1) + ".",
        )
    return [_cell(row, mean) for row in rows for mean in ("micro", "macro")]


def _cell(row: Mapping[str, Any], mean: str) -> dict[str, Any]:
    printed = TABLE_1[row["encoder"]][mean == "macro"][CUTOFFS.index(row["n"])]
    here = row[f"{mean}_precision"]
    return {
        "run": row["run"],
        "encoder": row["encoder"],
        "mean": mean,
        "n": row["n"],
        "here": here,
        "paper": printed,
        "difference": here - printed,
        "queries": row["queries"],
        "classes": row["classes"],
        "mode": row["mode"],
    }


def describe_comparison(connection: psycopg.Connection, rows: list[dict[str, Any]]) -> list[str]:
    """Describe the data behind the figures, and count the cells that differ from the paper's."""
    differing = [row for row in rows if abs(row["difference"]) > PRINTED]
    largest = max((abs(row["difference"]) for row in rows), default=0.0)
    verdict = (
        f"{len(differing)} of {len(rows)} cells differ from the paper's, by up to {largest:.3f}."
        if differing
        else f"All {len(rows)} cells agree with the paper's to its printed digits."
    )
    return [*describe_runs(connection, sorted({row["run"] for row in rows})), PAPER_DATA, verdict]
