"""Implements ``cbirdb evaluate``: stores the neighbours that all metrics use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import (
    Context,
    dataset_option,
    device_option,
    encoder_option,
    floor_options,
    format_option,
    pass_context,
)
from cbirdb.cli.output import write_rows
from cbirdb.errors import ExitCode
from cbirdb.limits import LARGEST_K

if TYPE_CHECKING:
    from cbirdb.evaluate import EvaluationSummary, Mode, Protocol
    from cbirdb.progress import Progress

LARGEST_MEMORY_MB = 10_000_000
SPLIT = click.Choice(["train", "val", "test"])


@click.command()
@encoder_option
@dataset_option
@click.option("--query-split", type=SPLIT, default="test", help="Split of the queries.")
@click.option("--index-split", type=SPLIT, default="train", help="Split of the images to retrieve.")
@click.option(
    "-k",
    type=click.IntRange(1, LARGEST_K),
    default=100,
    help="Neighbours stored per query; P@N is available for N up to k.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "exact", "approximate"]),
    default="auto",
    help="auto: exact without an index, or up to 30 trillion multiplications (queries x images x dimensions).",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    help="Seed of the sample of queries that measures an index's recall.",
)
@click.option(
    "--protocol", type=click.Choice(["paper", "any-label"]), default="paper",
    help="paper: images with exactly one label; the same label is relevant. any-label: images with any label; one shared"
    " label is relevant.",
)  # fmt: skip
@click.option(
    "--split-seed", type=click.IntRange(0, 2**63 - 1), default=0,
    help="Seed that draws a tenth of the training patients as val, for a dataset without val.",
)  # fmt: skip
@click.option(
    "--exclude-patient",
    is_flag=True,
    help="Exclude images of the query's own patient.  [default: include them, as the paper does]",
)
@floor_options
@device_option
@click.option(
    "--memory", "memory_mb", type=click.IntRange(64, LARGEST_MEMORY_MB), default=1024, metavar="MB",
    help="Memory of an exact search of many images for its queries; with less, it reads the images more often.",
)  # fmt: skip
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
    protocol: Protocol,
    split_seed: int,
    exclude_patient: bool,
    floor_recall: float,
    max_share_without_hit: float,
    device: str,
    memory_mb: int,
    output_format: str,
) -> int:
    """Retrieve the neighbours of every query of a split, by the paper's protocol or another, and store them.

    Then run: cbirdb metrics. If interrupted, the same command continues. The paper's protocol excludes images with no
    label or more than one. Exit code 4: the search was approximate and its index is below the floor. The run is stored,
    but metrics report it as not final.
    """
    from cbirdb.index import Floor

    progress = context.progress()
    with context.database() as database:
        summary = database.evaluate(
            encoder, datasets=datasets, query_split=query_split, index_split=index_split, k=k, mode=mode, seed=seed,
            protocol=protocol, split_seed=split_seed, same_patient=not exclude_patient,
            floor=Floor(floor_recall, max_share_without_hit), device=device, memory_mb=memory_mb, progress=progress,
        )  # fmt: skip
    _note_summary(progress, summary, protocol)
    row = summary.row()
    write_rows([row], output_format, columns=["run", "encoder", "mode", "k", "queries", "indexed", "ann_recall"])
    return int(ExitCode.PARTIAL if summary.not_final else ExitCode.OK)


def _note_summary(progress: Progress, summary: EvaluationSummary, protocol: Protocol) -> None:
    """Print the remarks about a run, one line each."""
    if summary.resumed:
        progress.note(
            f"Run {summary.run_id} was resumed: {summary.resumed:,} of its {summary.queries:,} queries were stored before"
            " the interruption."
        )
    if summary.outdated:
        progress.note(
            "An interrupted run was restarted: images, labels or embeddings of these splits have changed since."
        )
    if summary.not_encoded:
        progress.note(f"{no_part(summary.not_encoded)} because there is no embedding of {summary.encoder}.")
    if summary.left_out:
        several = ", several, or an uncertain one" if protocol == "paper" else ""
        progress.note(f"{no_part(summary.left_out)} because of their labels: none{several}.")
    if summary.without_relevant:
        progress.note(f"{summary.without_relevant:,} queries have no precision: no indexed image has their label.")
    if summary.short_queries:
        progress.note(f"{summary.short_queries:,} queries got fewer than {summary.k} neighbours, although more exist.")
    if summary.index_audit:
        progress.note(f"Audit of the index {summary.index_audit}.")
    if summary.not_final:
        progress.note(f"The result is NOT FINAL: {summary.not_final}")


def no_part(images: int) -> str:
    """Say that so many images take no part."""
    return "1 image takes no part" if images == 1 else f"{images:,} images take no part"
