"""Reads the figures of linear probes, and adds intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from cbirdb.db.errors import translated_errors
from cbirdb.db.known_encoders import stored_encoder
from cbirdb.errors import InputError
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    from cbirdb.metrics.classification import Floats

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A stored linear probe."""

    probe_id: int
    encoder: str


def latest_probes(
    connection: psycopg.Connection, *, encoder: str | None = None, probe: int | None = None
) -> list[Probe]:
    """Return the latest matching linear probe of each encoder; None matches every value.

    :raises InputError: when there is none.
    """
    with translated_errors():
        found = connection.execute(
            "SELECT DISTINCT ON (encoder_id) probe_id, encoder FROM cbir.probe_overview"
            " WHERE (%(encoder)s::text IS NULL OR encoder = %(encoder)s)"
            " AND (%(probe)s::numeric IS NULL OR probe_id = %(probe)s) ORDER BY encoder_id, probe_id DESC",
            {"encoder": encoder, "probe": probe},
        ).fetchall()
        if not found and encoder is not None:
            stored_encoder(connection, encoder)
    if not found:
        whose = f" {probe}" if probe is not None else (f" of '{encoder}'" if encoder else "")
        raise InputError(
            f"There is no linear probe{whose}.",
            hint=f"Run: cbirdb classify -e {encoder or 'ENCODER'} --method linear",
        )
    return [Probe(*row) for row in found]


def overall(connection: psycopg.Connection, probe: Probe) -> Rows:
    """Return the figures of a probe: a row of ``cbir.probe_summary``, with C."""
    return _read(
        connection,
        "SELECT o.c, s.accuracy, s.balanced_accuracy, s.macro_f1, s.macro_auc, s.queries, s.classes"
        " FROM cbir.probe_summary AS s INNER JOIN cbir.probe_overview AS o ON o.probe_id = s.probe_id"
        " WHERE s.probe_id = %s",
        probe,
    )


def by_class(connection: psycopg.Connection, probe: Probe) -> Rows:
    """Return the figures of each class: rows of ``cbir.probe_by_class``."""
    return _read(
        connection,
        "SELECT class, precision, recall, f1, auc, queries, predictions, train_images FROM cbir.probe_by_class"
        " WHERE probe_id = %s ORDER BY class",
        probe,
    )


PROBE_FIGURES: Mapping[str, Callable[[psycopg.Connection, Probe], Rows]] = {
    "linear": overall,
    "linear-class": by_class,
}
"""Figures of linear probes that ``metrics --by`` offers."""


def probe_figures(
    connection: psycopg.Connection,
    by: str,
    *,
    encoder: str | None = None,
    probe: int | None = None,
    confidence: bool = False,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Rows:
    """Return the figures of the latest linear probe of each encoder.

    :param by: one of ``PROBE_FIGURES``.
    :param confidence: add the bounds of 95 % intervals, bootstrapped by patient.
    :raises InputError: when there is no such probe.
    """
    rows: Rows = []
    for found in latest_probes(connection, encoder=encoder, probe=probe):
        start = {"probe": found.probe_id, "encoder": found.encoder}
        figures = PROBE_FIGURES[by](connection, found)
        if confidence:
            figures = _add_intervals(connection, found, figures, resamples, seed, progress)
        rows += [start | row for row in figures]
    return rows


def describe_probes(connection: psycopg.Connection, probes: Collection[int]) -> list[str]:
    """Describe each probe in a sentence: images, datasets, and what happened to them since."""
    with translated_errors():
        found = connection.execute(
            """
            SELECT probe_id, encoder, train_images, val_images, test_images, array_to_string(datasets, ', '), c, criterion,
                   same_patient, not_final, erased_images, erased_fitted_images, merged_images
            FROM cbir.probe_overview WHERE probe_id = ANY(%s) ORDER BY probe_id
            """,
            [list(probes)],
        ).fetchall()
    lines = []
    for probe, encoder, train, val, test, datasets, c, criterion, same_patient, not_final, *since in found:
        erased, erased_fitted, merged = since
        line = (
            f"Probe {probe}: {encoder}, fitted to {train:,} train images of {datasets}; C = {c:g} is best for {val:,} val"
            f" images ({criterion.replace('_', ' ')}); {test:,} test images"
        )
        if not same_patient:
            line += "; no patient in two splits"
        if erased:
            line += f"; since then {erased:,} of its test images were erased, and the figures are those of the others"
        if erased_fitted:
            line += (
                f"; since then {erased_fitted:,} of its train and val images were erased, and the figures still rest on"
                " them"
            )
        if merged:
            line += f"; since then the patient of {merged:,} of its images was merged into another"
        lines.append(line + ".")
        if not_final is not None:
            lines.append(f"Probe {probe} is NOT FINAL: {not_final}")
    return lines


def _add_intervals(
    connection: psycopg.Connection, probe: Probe, rows: Rows, resamples: int, seed: int, progress: Progress
) -> Rows:
    """Add the bounds of each figure; None with only one patient, who says nothing about others."""
    from cbirdb.metrics.bootstrap import interval
    from cbirdb.metrics.classification import OF_CLASS, OF_PROBE

    names, of_class, of_probe = _resampled(connection, probe, resamples, seed, progress)
    added = []
    for row in rows:
        drawn = of_class[:, names.index(row["class"])] if "class" in row else of_probe
        bounds: dict[str, float | None] = {}
        for place, figure in enumerate(OF_CLASS if "class" in row else OF_PROBE):
            ends = interval(drawn[:, place]) if len(drawn) and row[figure] is not None else (None, None)
            bounds |= {f"{figure}_{end}": value for end, value in zip(("low", "high"), ends, strict=True)}
        added.append({name: value for figure in row for name, value in _with_bounds(figure, row[figure], bounds)})
    return added


def _with_bounds(name: str, value: object, bounds: Mapping[str, float | None]) -> list[tuple[str, object]]:
    """Return a figure with its bounds beside it; anything else alone."""
    ends = [end for end in (f"{name}_low", f"{name}_high") if end in bounds]
    return [(name, value), *((end, bounds[end]) for end in ends)]


def _resampled(
    connection: psycopg.Connection, probe: Probe, resamples: int, seed: int, progress: Progress
) -> tuple[list[str], Floats, Floats]:
    """Return names of classes, and the figures of resamples that draw whole patients.

    :returns: names; shape (resamples, classes, 4), and (resamples, 4); no resamples with only one patient.
    """
    import numpy as np

    from cbirdb.metrics.bootstrap import draws
    from cbirdb.metrics.classification import OF_CLASS, OF_PROBE, Answers, Ranking

    with translated_errors():
        # In the order of the probabilities; classes that cannot be predicted come last.
        names = [
            name for (name,) in connection.execute(
                "SELECT class FROM cbir.probe_by_class WHERE probe_id = %s ORDER BY position", # NULL comes last
                [probe.probe_id],
            )
        ]  # fmt: skip
        answers = connection.execute(
            "SELECT cluster_id, label, predicted_label, probabilities FROM cbir.probe_answer WHERE probe_id = %s"
            " ORDER BY image_id",
            [probe.probe_id], binary=True,
        ).fetchall()  # fmt: skip
    cluster = np.unique([row[0] for row in answers], return_inverse=True)[1]
    places = {name: place for place, name in enumerate(names)}
    probabilities = np.array([row[3] for row in answers], dtype=np.float64)
    table = Answers(
        np.array([places[row[1]] for row in answers]), np.array([places[row[2]] for row in answers]), len(names),
        tuple(map(Ranking.of, probabilities.T)),
    )  # fmt: skip
    clusters = int(cluster.max(initial=-1)) + 1
    resamples = resamples if clusters > 1 else 0
    of_class, of_probe = np.empty((resamples, len(names), len(OF_CLASS))), np.empty((resamples, len(OF_PROBE)))
    with progress.task("resampling", total=resamples, unit="resamples") as task:
        for resample, drawn in enumerate(draws(clusters, resamples, seed)):
            of_class[resample], of_probe[resample] = table.figures(drawn[cluster])
            task.advance()
    return names, of_class, of_probe


def _read(connection: psycopg.Connection, query: str, probe: Probe) -> Rows:
    with translated_errors():
        return connection.cursor(row_factory=dict_row).execute(query.encode(), [probe.probe_id]).fetchall()
