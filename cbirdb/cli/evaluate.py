"""``cbirdb evaluate``: the neighbours that all metrics rest on."""

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
@click.option("--query-split", type=SPLIT, default="test", help="Images that are asked for.")
@click.option("--index-split", type=SPLIT, default="train", help="Images that are retrieved.")
@click.option(
    "-k", type=click.IntRange(1, LARGEST_K), default=100, help="Neighbours kept per query; P@N is known for N up to k."
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "exact", "approximate"]),
    default="auto",
    help="auto: exact without an index, and up to 30 trillion multiplications (queries x images x dimensions).",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    help="Of the queries on which an index's recall is measured.",
)
@click.option(
    "--protocol", type=click.Choice(["paper", "any-label"]), default="paper",
    help="paper: images with exactly one label, relevant is the same label. any-label: images with any, relevant shares"
    " one.",
)  # fmt: skip
@click.option(
    "--split-seed", type=click.IntRange(0, 2**63 - 1), default=0,
    help="Of the tenth of training patients that is val, where a dataset has no val.",
)  # fmt: skip
@click.option(
    "--exclude-patient",
    is_flag=True,
    help="Retrieve no images of the query's own patient.  [default: the protocol's: do]",
)
@floor_options
@device_option
@click.option(
    "--memory", "memory_mb", type=click.IntRange(64, LARGEST_MEMORY_MB), default=1024, metavar="MB",
    help="What an exact search of many images keeps for its queries; with less it goes over the images more often.",
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
    floor_zeros: float,
    device: str,
    memory_mb: int,
    output_format: str,
) -> int:
    """Retrieve for every query of a split, by the paper's protocol or another, and store what was found.

    Then: cbirdb metrics. Interrupted, the same command goes on where it stopped. Under the paper's protocol, images with
    no label or more than one take no part. Exit code 4: the search was approximate and its index is below the floor; the
    run is stored, and metrics say that it is not final.
    """
    from cbirdb.index import Floor

    progress = context.progress()
    with context.database() as database:
        summary = database.evaluate(
            encoder, datasets=datasets, query_split=query_split, index_split=index_split, k=k, mode=mode, seed=seed,
            protocol=protocol, split_seed=split_seed, same_patient=not exclude_patient,
            floor=Floor(floor_recall, floor_zeros), device=device, memory_mb=memory_mb, progress=progress,
        )  # fmt: skip
    _tell(progress, summary, protocol)
    row = summary.row()
    write_rows([row], output_format, columns=["run", "encoder", "mode", "k", "queries", "indexed", "ann_recall"])
    return int(ExitCode.PARTIAL if summary.not_final else ExitCode.OK)


def _tell(progress: Progress, summary: EvaluationSummary, protocol: Protocol) -> None:
    """What should be known about a run, one line each."""
    if summary.resumed:
        progress.note(
            f"Run {summary.run_id} was resumed: {summary.resumed:,} of its {summary.queries:,} queries had been stored"
            " before it was interrupted."
        )
    if summary.outdated:
        progress.note(
            "An interrupted run was started over: images, labels or embeddings of these splits have changed since."
        )
    if summary.not_encoded:
        progress.note(f"{_no_part(summary.not_encoded)} because there is no embedding of {summary.encoder}.")
    if summary.left_out:
        several = ", several, or an uncertain one" if protocol == "paper" else ""
        progress.note(f"{_no_part(summary.left_out)} because of the labels: none{several}.")
    if summary.without_relevant:
        progress.note(f"{summary.without_relevant:,} queries have no precision: no indexed image has their label.")
    if summary.short_queries:
        progress.note(f"{summary.short_queries:,} queries got fewer than {summary.k} neighbours although more exist.")
    if summary.index_audit:
        progress.note(f"Audit of the index {summary.index_audit}.")
    if summary.not_final:
        progress.note(f"The result is NOT FINAL: {summary.not_final}")


def _no_part(images: int) -> str:
    return "1 image takes no part" if images == 1 else f"{images:,} images take no part"
