"""Implements ``cbirdb encode``: turns pictures into embeddings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import (
    Context,
    accept_damaged_option,
    allow_root_option,
    dataset_option,
    device_option,
    dtype_option,
    format_option,
    max_pixels_option,
    pass_context,
    path_map_option,
    precision_option,
    weights_option,
)
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import COUNT, NumberRange, Text
from cbirdb.errors import ExitCode
from cbirdb.limits import IMAGE_TIMEOUT_S
from cbirdb.records import Precision

if TYPE_CHECKING:
    from cbirdb.encoders.base import DType
    from cbirdb.progress import Progress
    from cbirdb.records import OnConflict, Shard

LARGEST_BATCH, MOST_WORKERS, LONGEST_TIMEOUT_S = 1_000_000, 10_000, 86_400


@click.command()
@click.option(
    "-e", "--encoder", "names", type=Text(), multiple=True, required=True, metavar="NAME",
    help="Encoder; may be repeated. Each image is read once for all of them.",
)  # fmt: skip
@dataset_option
@device_option
@dtype_option
@weights_option
@precision_option
@click.option(
    "--batch-size", type=click.IntRange(1, LARGEST_BATCH), metavar="N",
    help="Images per step, reduced to fit into memory.  [default: 64 on a GPU; 8 on a CPU, fewer for large inputs]",
)  # fmt: skip
@click.option("--limit", type=COUNT, metavar="N", help="Encode no more than N images.")
@click.option(
    "--shard", metavar="I/N",
    help="Encode only every N-th image, starting with the I-th (from 0), to share work among N processes.  [default: from torchrun's or"
    " Slurm's variables, else everything]",
)  # fmt: skip
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    metavar="N",
    help="Processes that decode.  [default: one per core]",
)
@click.option(
    "--image-timeout", type=NumberRange(0, LONGEST_TIMEOUT_S, min_open=True), default=IMAGE_TIMEOUT_S, metavar="SECONDS",
    help="Longest time for one image; a slower one becomes a failure.",
)  # fmt: skip
@max_pixels_option
@allow_root_option
@path_map_option
@accept_damaged_option
@click.option(
    "--on-conflict", type=click.Choice(["keep", "replace", "skip"]), default="keep",
    help="What to do with two DICOM frames that have one SOP instance UID and other pixels: keep both, replace the older"
    " one, or skip the newer one.",
)  # fmt: skip
@format_option
@pass_context
def encode(
    context: Context,
    names: tuple[str, ...],
    datasets: tuple[str, ...],
    device: str,
    dtype: DType | None,
    weights: Path | None,
    allow_other_weights: bool,
    precision: Precision | None,
    batch_size: int | None,
    limit: int | None,
    shard: str | None,
    workers: int | None,
    image_timeout: float,
    max_pixels: int,
    allow_root: tuple[Path, ...],
    path_map: Path | None,
    accept_damaged: bool,
    on_conflict: OnConflict,
    output_format: str,
) -> int:
    """Compute the embeddings of all images that lack one, and store them.

    Running it again encodes the images that are still missing, and it can be killed at any moment. Several processes
    share the work with --shard, on one machine or many, without any coordination.
    """
    progress = context.progress()
    with context.database() as database:
        summaries = database.encode(
            names, datasets=datasets, device=device, dtype=dtype, weights=weights,
            allow_other_weights=allow_other_weights, precision=precision,
            batch_size=batch_size, limit=limit, shard=_shard(shard, progress), workers=workers,
            image_timeout_s=image_timeout, max_pixels=max_pixels, allow_roots=allow_root, path_map=path_map,
            accept_damaged=accept_damaged, on_conflict=on_conflict, progress=progress,
        )  # fmt: skip
    for summary in summaries:
        for line in summary.describe_failures(f"encoded by {summary.encoder}", "encode"):
            progress.note(line)
        if summary.damaged:
            progress.note(f"{summary.damaged:,} are damaged and recorded as such (cbir.image.damage).")
        for line in summary.describe_equal_uids():
            progress.note(line)
        if summary.without_file:
            progress.note(f"{summary.without_file:,} belong to datasets that were ingested without their images.")
        if summary.changed:
            progress.note(
                f"{summary.changed:,} were replaced or removed while {summary.encoder} encoded them. To encode the new"
                " files, run the same command again."
            )
        if summary.largest_batch is not None:
            progress.note(
                f"Memory ran out with {summary.encoder}; batches of {summary.largest_batch} fitted. Next time:"
                f" --batch-size {summary.largest_batch}"
            )
    write_rows([summary.row() for summary in summaries], output_format)
    return int(ExitCode.PARTIAL if any(summary.failed for summary in summaries) else ExitCode.OK)


def _shard(given: str | None, progress: Progress) -> Shard:
    from cbirdb.parallel.shards import parse_shard, shard_of_process, tasks_without_step

    if given is not None:
        return parse_shard(given)
    shard, launcher = shard_of_process(os.environ)
    if launcher is not None:
        progress.note(
            f"This is shard {shard.index}/{shard.count}, from {launcher}'s variables. Other processes take the other images."
        )
    elif tasks := tasks_without_step(os.environ):
        progress.note(
            f"This process takes all images: Slurm's job has {tasks} tasks, but its script runs once. To share them: srun"
            " cbirdb encode ..."
        )
    return shard
