"""``cbirdb encode``: pictures -> embeddings."""

from __future__ import annotations

from pathlib import Path

import click

from cbirdb.cli.options import (
    Context,
    dataset_option,
    device_option,
    format_option,
    pass_context,
    precision_option,
    weights_option,
)
from cbirdb.cli.output import write_rows
from cbirdb.errors import ExitCode
from cbirdb.records import Precision


@click.command()
@click.option(
    "-e", "--encoder", "names", multiple=True, required=True, metavar="NAME", help="Encoder; may be repeated."
)
@dataset_option
@device_option
@weights_option
@precision_option
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, help="Images per step; lower it if memory runs out."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Encode no more than N images.")
@format_option
@pass_context
def encode(
    context: Context,
    names: tuple[str, ...],
    datasets: tuple[str, ...],
    device: str,
    weights: Path | None,
    precision: Precision | None,
    batch_size: int,
    limit: int | None,
    output_format: str,
) -> int:
    """Compute the embeddings of all images that lack one, and load them.

    Running it again encodes what is missing; it can be killed at any moment.
    """
    from cbirdb.encode import encode as run
    from cbirdb.encoders.base import LoadOptions
    from cbirdb.encoders.registry import get_spec, load_encoder

    for name in names:
        get_spec(name)
    summaries = []
    progress = context.progress()
    with context.open_database() as connection:
        for name in names:
            encoder = load_encoder(name, LoadOptions(weights=weights, device=device))
            summary = run(
                connection, encoder, datasets=datasets, precision=precision, batch_size=batch_size, limit=limit,
                progress=progress,
            )  # fmt: skip
            summaries.append(summary)
            for line in summary.describe_failures(f"encoded by {name}", "encode"):
                progress.note(line)
            if summary.without_file:
                progress.note(f"{summary.without_file:,} belong to datasets that were ingested without their images.")
    write_rows([summary.row() for summary in summaries], output_format)
    return int(ExitCode.PARTIAL if any(summary.failed for summary in summaries) else ExitCode.OK)
