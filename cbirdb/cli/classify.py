"""Implements ``cbirdb classify``: kNN classification by the stored neighbours."""

from __future__ import annotations

import click

from cbirdb.cli.options import Context, encoder_option, format_option, pass_context
from cbirdb.cli.output import write_rows


@click.command()
@encoder_option
@click.option(
    "--by",
    type=click.Choice(["balanced-accuracy", "accuracy"]),
    default="balanced-accuracy",
    help="Choose k by this accuracy on the validation queries: the mean over classes, or over queries.",
)
@format_option
@pass_context
def classify(context: Context, encoder: str, by: str, output_format: str) -> None:
    """Classify test images by their nearest neighbours, with the k that is best for validation images.

    Reads two runs of the paper's protocol: cbirdb evaluate -e NAME, and the same with --query-split val.
    """
    from cbirdb.metrics.analyses import classify as run
    from cbirdb.metrics.precision import describe_runs

    criterion = by.replace("-", "_")
    progress = context.progress()
    with context.open_database() as connection:
        rows = run(connection, encoder, criterion=criterion)
        for line in describe_runs(connection, {rows[0]["val_run"], rows[0]["test_run"]}):
            progress.note(line)
    chosen = next(row for row in rows if row["chosen"])
    progress.note(
        f"k = {chosen['k']} is best on val ({by.replace('-', ' ')} {chosen[f'val_{criterion}']:.4f}); with it"
        f" test reaches {chosen[f'test_{criterion}']:.4f}."
    )
    write_rows(
        rows, output_format,
        columns=("k", "val_balanced_accuracy", "val_accuracy", "test_balanced_accuracy", "test_accuracy", "chosen"),
    )  # fmt: skip
