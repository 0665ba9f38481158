"""Implements ``cbirdb import-embeddings``: loads the paper's published vectors."""

from __future__ import annotations

from pathlib import Path

import click

from cbirdb.cli.options import Context, dataset_option, encoder_option, format_option, pass_context, precision_option
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath
from cbirdb.errors import ExitCode
from cbirdb.records import Precision


@click.command("import-embeddings")
@encoder_option
@click.argument("files", nargs=-1, required=True, type=FilePath(path_type=Path))
@dataset_option
@precision_option
@format_option
@pass_context
def import_embeddings(
    context: Context,
    encoder: str,
    files: tuple[Path, ...],
    datasets: tuple[str, ...],
    precision: Precision | None,
    output_format: str,
) -> int:
    """Load the authors' HDF5 files for images that `cbirdb ingest paper-csv` has added.

    A new encoder name is registered with the dimension of the first vector.
    """
    from cbirdb.db.known_encoders import known_encoders
    from cbirdb.ingest import import_embeddings as run

    progress = context.progress()
    with context.open_database() as connection:
        known = known_encoders(connection).get(encoder)
        summary = run(
            connection, encoder, files, spec=known.as_json() if known else None, datasets=datasets,
            precision=precision, progress=progress,
        )  # fmt: skip
    if summary.unknown:
        progress.note(
            f"{summary.unknown:,} names match no image of the database, such as {', '.join(summary.first_unknown)}."
        )
    if summary.erased:
        progress.note(f"{summary.erased:,} left out: erased patient.")
    if summary.gone:
        progress.note(f"{summary.gone:,} left out: image removed meanwhile.")
    if summary.missing:
        progress.note(
            f"{summary.missing:,} images of the same datasets have no vector, such as {', '.join(summary.first_missing)}."
        )
    if summary.normalised:
        progress.note(f"{summary.normalised:,} vectors were scaled to unit length.")
    for line in summary.describe_failures("loaded", "import-embeddings"):
        progress.note(line)
    write_rows([summary.row()], output_format)
    incomplete = summary.failed or summary.unknown or summary.missing
    return int(ExitCode.PARTIAL if incomplete else ExitCode.OK)
