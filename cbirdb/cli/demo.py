"""Implements ``cbirdb demo``: runs the whole pipeline, then shows commands to try next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cbirdb.cli.options import Context, device_option, format_option, pass_context, weights_option
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cbirdb.demo import DemoResult
    from cbirdb.encoders.base import Encoder


@click.command()
@click.option(
    "--encoder",
    "names",
    type=Text(),
    multiple=True,
    default=("tiny-image",),
    metavar="NAME",
    help="Encoder; may be repeated.",
)
@click.option(
    "--out", type=FilePath(file_okay=False, path_type=Path), default=Path("demo-output"), help="Folder for pictures."
)
@weights_option
@click.option("--fetch", is_flag=True, help="Download missing weights from the internet.")
@device_option
@format_option
@pass_context
def demo(
    context: Context,
    names: tuple[str, ...],
    out: Path,
    weights: Path | None,
    allow_other_weights: bool,
    fetch: bool,
    device: str,
    output_format: str,
) -> None:
    """Run the whole pipeline on generated phantoms: no network, no Docker, no GPU needed.

    Generates labelled pictures, ingests, encodes, indexes, evaluates and searches them, prints the results, and ends
    with commands to try. Running it again keeps pictures and embeddings, and repeats index and evaluation.
    """
    from cbirdb.demo import demo as run
    from cbirdb.encode.load import fetch_missing, load_encoders

    options = context.load_options(weights, device, allow_other_weights=allow_other_weights)
    with context.open_database() as connection:
        # Load all models first: report a missing one before any work is done.
        if fetch:
            fetch_missing(connection, names, options)
        progress = context.progress()
        encoders = load_encoders(connection, names, options, progress=progress)
        result = run(
            connection, encoders, out, connect=context.connect, home=context.settings.home_folder, progress=progress
        )
    if output_format != "table":
        write_rows(result.overall, output_format)
        return
    _show(result, out, encoders)
    _show_next(context, result)


def _show(result: DemoResult, out: Path, encoders: Sequence[Encoder]) -> None:
    click.echo(
        f"{result.images} phantoms in {out / 'phantoms'}: 4 modalities, 8 anatomic regions, 18 findings, a long tail."
    )
    for encoder in encoders:
        click.echo(f"The vector of {encoder.spec.name}: {encoder.spec.embedding}.")
    click.echo(
        "\nPrecision at N of the test images among the train images, exact search (the form of the paper's Table 1)"
    )
    write_rows(_as_table_one(result.overall), "table")
    click.echo("The same for each class; macro precision gives the rare classes of the long tail equal weight")
    write_rows(_by_class(result.by_class), "table")
    for example in result.searches:
        click.echo(
            f"{example.encoder}: the train images most similar to image {example.image_id} ({example.query}), five of the ten"
        )
        rows = [
            {
                "rank": row["rank"],
                "distance": row["distance"],
                "labels": row["labels"],
                "image_id": row["image_id"],
                "mode": row["mode"],
            }
            for row in example.rows[:5]
        ]
        write_rows(rows, "table")
    click.echo("Contact sheets: " + ", ".join(str(example.sheet) for example in result.searches))


def _as_table_one(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        for mean, over in (("micro", f"{row['queries']} queries"), ("macro", f"{row['classes']} classes")):
            line = table.setdefault((row["encoder"], mean), {"encoder": row["encoder"], "mean": mean, "over": over})
            line[f"P@{row['n']}"] = row[f"{mean}_precision"]
    return list(table.values())


def _by_class(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["encoder"], row["class"])
        line = table.setdefault(key, {"encoder": row["encoder"], "class": row["class"], "queries": row["queries"]})
        line[f"P@{row['n']}"] = row["micro_precision"]
    return list(table.values())


def _show_next(context: Context, result: DemoResult) -> None:
    program = _program(context)
    # With several encoders, the one named last is the one that the user asked for: `make demo ENCODER=NAME`.
    last = result.searches[-1].encoder
    example = next(example for example in result.searches if example.encoder == last)
    image_id, encoder = example.image_id, example.encoder
    modality = example.rows[0]["modality"] if example.rows else "XR"
    click.echo("\nTry next:")
    for line in (
        f"search --image-id {image_id} -e {encoder} -k 5 --split train --sheet similar.png",
        f"metrics -e {encoder} --by modality",
        f"evaluate -e {encoder} --mode approximate",
        "ingest folder /path/to/your/images        # one sub-folder per class",
        f"encode -e {encoder}",
        "db doctor",
    ):
        click.echo(f"  {program} {line}")
    click.echo("\nThe same in SQL:")
    search = f"cbir.similar_images('{encoder}', image_id => {image_id}, k => 5, modality => '{modality}')"
    runs = "cbir.precision_by_run WHERE n IN (1, 3, 5, 10) ORDER BY run_id, n"
    for columns, relation in (
        ("rank, image_id, distance, labels, mode, complete", search),
        ("run_id, encoder, n, micro_precision, macro_precision", runs),
    ):
        click.echo(f'  {program} db psql -c "SELECT {columns} FROM {relation}"')  # noqa: S608 (printed, not run)
    if context.settings.embedded:
        click.echo(f"\nThe database keeps running for the next command. To stop it: {program} db stop")


def _program(context: Context) -> str:
    """Return the command by which the user would call this program again, from the same folder."""
    started = Path(sys.argv[0])
    program = os.path.relpath(started) if started.is_absolute() else str(started)
    if len(program) > len(str(started)):
        program = str(started)
    if os.path.dirname(os.path.abspath(started)) in os.environ.get("PATH", "").split(os.pathsep):  # noqa: PTH100, PTH120
        program = started.name
    if context.settings.home is not None and "CBIRDB_HOME" not in os.environ:
        program += f" --home {shlex.quote(str(context.settings.home))}"
    if context.settings.dsn is not None and "CBIRDB_DSN" not in os.environ:
        program += " --dsn ..."  # the string may hold a password
    return program
