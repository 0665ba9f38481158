"""Implements ``cbirdb compare``: compares encoders on the same queries."""

from __future__ import annotations

import click

from cbirdb.cli.metrics import parse_cutoffs
from cbirdb.cli.options import Context, cutoffs_option, format_option, pass_context, resamples_option
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import Text


@click.command()
@click.option(
    "-e",
    "--encoder",
    "encoders",
    type=Text(),
    multiple=True,
    metavar="NAME",
    help="Encoder; give two or more to compare every pair.",
)
@cutoffs_option
@resamples_option
@format_option
@pass_context
def compare(
    context: Context, encoders: tuple[str, ...], cutoffs: str, resamples: int, seed: int, output_format: str
) -> None:
    """Compare encoders on the same queries: differences of P@N with intervals and p values.

    Takes each encoder's latest run with test queries. A difference is precision_a minus precision_b; low and high are
    its 95 % bounds. p is the p value of a paired randomisation test by patient, p_holm the same adjusted for all rows
    shown.
    """
    from cbirdb.metrics.confidence import compare as run
    from cbirdb.metrics.precision import describe_runs

    progress = context.progress()
    with context.open_database() as connection:
        rows, notes = run(
            connection, encoders, cutoffs=parse_cutoffs(cutoffs), resamples=resamples, seed=seed, progress=progress
        )
        runs = {row[name] for row in rows for name in ("run_a", "run_b")}
        for line in [*describe_runs(connection, runs), *notes]:
            progress.note(line)
        progress.note(f"{len(rows)} comparisons; {resamples:,} resamples of whole patients, seed {seed}.")
    write_rows(
        rows, output_format,
        columns=("encoder_a", "encoder_b", "mean", "n", "difference", "low", "high", "p", "p_holm"),
    )  # fmt: skip
