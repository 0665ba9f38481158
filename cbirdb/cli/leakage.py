"""Implements ``cbirdb leakage``: shows images that give away the answers of an evaluation."""

from __future__ import annotations

import click

from cbirdb.cli.metrics import parse_cutoffs
from cbirdb.cli.options import Context, cutoffs_option, encoder_option, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import COUNT, NumberRange


@click.command()
@encoder_option
@click.option("--run", "run_id", type=COUNT, metavar="ID", help="This run.  [default: the encoder's latest]")
@click.option(
    "--near",
    type=NumberRange(0, 2),
    default=0.001,
    help="Largest cosine distance of nearly identical images; depends on the encoder.",
)
@click.option("--causes", is_flag=True, help="Show the causes of leakage instead of P@N with and without it.")
@cutoffs_option
@format_option
@pass_context
def leakage(
    context: Context, encoder: str, run_id: int | None, near: float, causes: bool, cutoffs: str, output_format: str
) -> None:
    """Show P@N with and without images of the same patient, identical files and nearly identical images.

    "without touched queries" omits the queries that an indexed image gives away. "without leaking images" keeps all
    queries and omits those images from the index.
    """
    from cbirdb.metrics import latest_runs
    from cbirdb.metrics.analyses import leakage as what_leaks
    from cbirdb.metrics.analyses import precision_without_leakage
    from cbirdb.metrics.precision import check_cutoffs, describe_runs

    wanted = parse_cutoffs(cutoffs)
    progress = context.progress()
    with context.open_database() as connection:
        run = latest_runs(connection, encoder=encoder, run=run_id)[0]
        if not causes:
            check_cutoffs(wanted, run)  # before any output
        for line in describe_runs(connection, {run.run_id}):
            progress.note(line)
        rows = what_leaks(connection, run, near_distance=near)
        if not causes:
            for row in rows:
                unknown = f"; not known for {row['unknown']:,}" if row["unknown"] else ""
                progress.note(
                    f"{row['cause'].capitalize()}: {row['touched']:,} of {row['queries']:,} queries, by"
                    f" {row['images']:,} indexed images{unknown}."
                )
            rows = precision_without_leakage(connection, run, near_distance=near, cutoffs=wanted)
    write_rows([{"run": run.run_id, "encoder": encoder} | row for row in rows], output_format, columns=[*rows[0]])
