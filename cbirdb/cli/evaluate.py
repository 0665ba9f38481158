"""``cbirdb evaluate``: the neighbours that all metrics rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import Context, dataset_option, encoder_option, format_option, pass_context
from cbirdb.cli.output import write_rows

if TYPE_CHECKING:
    from cbirdb.evaluate import Mode

SPLIT = click.Choice(["train", "val", "test"])


@click.command()
@encoder_option
@dataset_option
@click.option("--query-split", type=SPLIT, default="test", help="Images that are asked for.")
@click.option("--index-split", type=SPLIT, default="train", help="Images that are retrieved.")
@click.option("-k", type=int, default=100, help="Neighbours kept per query; P@N is known for N up to k.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "exact", "approximate"]),
    default="auto",
    help="auto: exact up to 50,000 images or without an index.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    help="Of the queries on which an index's recall is measured.",
)
@format_option
@pass_context
def evaluate(
    context: Context,
    encoder: str,
    datasets: tuple[str, ...],
    query_split: str,
    index_split: str,
    k: int,
    mode: Mode,
    seed: int,
    output_format: str,
) -> None:
    """Retrieve for every query of a split, by the paper's protocol, and store what was found.

    Then: cbirdb metrics. Images with no label or more than one take no part.
    """
    from cbirdb.evaluate import evaluate as run
    from cbirdb.known_encoders import stored_encoder

    progress = context.progress()
    with context.open_database() as connection:
        stored = stored_encoder(connection, encoder)
        summary = run(
            connection, stored, connect=context.connect, datasets=datasets, query_split=query_split,
            index_split=index_split, k=k, mode=mode, seed=seed, progress=progress,
        )  # fmt: skip
    if summary.not_encoded:
        progress.note(f"{summary.not_encoded:,} images take no part because they have no embedding of {encoder}.")
    if summary.left_out:
        progress.note(f"{summary.left_out:,} images take no part because they have no label, or several.")
    if summary.without_relevant:
        progress.note(f"{summary.without_relevant:,} queries have no precision: no indexed image has their label.")
    if summary.short_queries:
        progress.note(f"{summary.short_queries:,} queries got fewer than {k} neighbours although more exist.")
    row = summary.row()
    write_rows([row], output_format, columns=["run", "encoder", "mode", "k", "queries", "indexed", "ann_recall"])
