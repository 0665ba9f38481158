"""Implements ``cbirdb encoders``: manages encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cbirdb.cli.encoder_export import export
from cbirdb.cli.encoder_weights import added_specs, fetch, find_spec, verify
from cbirdb.cli.options import Context, confirm, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import Line, Text

if TYPE_CHECKING:
    from cbirdb.encoders.spec import TrainingScheme

TABLE = ("encoder", "dim", "training", "in_paper", "licence", "restrictions", "confirmed", "added")
"""Columns of the table; JSON and CSV have all."""


@click.group()
def encoders() -> None:
    """List, add, fetch, export, verify and drop encoders."""


encoders.add_command(export)


@encoders.command("list")
@format_option
@pass_context
def list_encoders(context: Context, output_format: str) -> None:
    """List the known encoders: the paper's nine, newer ones, and those that were added.

    Restrictions are uses that the owners forbid or exclude. Confirmed says where the SHA-256 of the weights is known
    from: the record, or the first fetch on this machine.
    """
    from cbirdb.encoders.identity import confirmation
    from cbirdb.encoders.shipped import SHIPPED

    added = added_specs(context)
    rows = [
        {
            "encoder": spec.name,
            "dim": spec.dim,
            "training": spec.training_scheme,
            "in_paper": spec.in_paper,
            "licence": spec.licence,
            "licence_source": spec.licence_source,
            "restrictions": "; ".join(spec.restrictions),
            "confirmed": confirmation(spec, context.settings.weights_folder),
            "weights": spec.weights,
            "revision": spec.revision,
            "embedding": spec.embedding,
            "preprocessing": spec.preprocessing,
            "added": spec.name in added,
        }
        for spec in {**SHIPPED, **added}.values()
    ]
    write_rows(rows, output_format, columns=TABLE)


@encoders.command()
@click.argument("name")
@format_option
@pass_context
def show(context: Context, name: str, output_format: str) -> None:
    """Show everything that determines an encoder's output, its licence and what the owners exclude."""
    from cbirdb.encoders.identity import confirmation

    spec = find_spec(context, name)
    shown = {**spec.as_json(), "confirmed": confirmation(spec, context.settings.weights_folder)}
    rows = [shown] if output_format != "table" else [{"property": key, "value": value} for key, value in shown.items()]
    write_rows(rows, output_format)


@encoders.command()
@click.argument("name")
@click.option("--loader", type=click.Choice(["hf", "open_clip", "timm"]), required=True, help="Library that runs it.")
@click.option(
    "--weights",
    required=True,
    type=Text(),
    metavar="ID",
    help="Repository at the model hub (OWNER/NAME), or a folder of this machine.",
)
@click.option(
    "--revision",
    type=Text(),
    metavar="COMMIT",
    help="Commit of the repository.  [default: its main branch, as fetched]",
)
@click.option("--dim", type=click.IntRange(1, 4000), metavar="N", help="Dimension.  [default: measured at first use]")
@click.option(
    "--pooling", metavar="NAME",
    type=click.Choice(["cls", "mean", "pooler", "logits", "image-features", "cls-unmasked", "sam-grid-mean"]),
    help="hf: part of the output that is the embedding: cls, mean, pooler, logits, image-features (models of images and"
    " texts), cls-unmasked (MAE), sam-grid-mean.  [default: cls]",
)  # fmt: skip
@click.option("--quick-gelu", is_flag=True, help="open_clip: the weights were trained with QuickGELU.")
@click.option(
    "--interpolate-offset", type=click.FloatRange(0, 1, max_open=True), metavar="X",
    help="hf: how DINOv2 resizes its position embeddings, with an offset of X, 0.1 in its original code, or 0 as newer"
    " versions of transformers do.  [default: 0]",
)  # fmt: skip
@click.option("--licence", type=Line(), default="unknown", help="Licence of the weights.")
@click.option(
    "--training", "training_scheme", default="unknown",
    type=click.Choice(["none", "self-supervised", "weakly-supervised", "fully-supervised", "unknown"]),
    help="Training scheme.",
)  # fmt: skip
@click.option("--citation", default="", help="Publication that describes it.")
@click.option(
    "--rendering", type=Line(), default="as-displayed",
    help="How DICOM is shown to it: as-displayed, ct-preset:NAME, hu-windows:LOW..HIGH,LOW..HIGH,LOW..HIGH, min-max or"
    " equalise.",
)  # fmt: skip
@pass_context
def add(
    context: Context,
    name: str,
    loader: str,
    weights: str,
    revision: str | None,
    dim: int | None,
    pooling: str | None,
    quick_gelu: bool,
    interpolate_offset: float | None,
    licence: str,
    training_scheme: TrainingScheme,
    citation: str,
    rendering: str,
) -> None:
    """Add an encoder to this database, to use by its NAME from now on.

    Nothing is loaded or downloaded yet: `encoders fetch NAME` and `encode -e NAME` come next.
    """
    from cbirdb.db.known_encoders import add_encoder, make_record

    record = make_record(
        name, loader=loader, weights=weights, revision=revision, dim=dim, pooling=pooling, quick_gelu=quick_gelu,
        interpolate_offset=interpolate_offset, licence=licence, training_scheme=training_scheme, citation=citation,
        rendering=rendering,
    )  # fmt: skip
    with context.open_database() as connection:
        add_encoder(connection, record)
    click.echo(f"Added '{name}'.", err=True)


@encoders.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def drop(context: Context, name: str, yes: bool) -> None:
    """Remove an encoder's embeddings, indexes and evaluation runs, and its record if it was added."""
    from cbirdb.db.embeddings import count_embeddings, drop_encoder, find_encoder
    from cbirdb.db.encoder_records import delete_record
    from cbirdb.db.known_encoders import added_encoders, stored_encoder
    from cbirdb.db.lock_waits import LockWaits
    from cbirdb.db.rights import require_delete, require_ownership

    with context.open_database() as connection:
        added = name in added_encoders(connection)
        stored = find_encoder(connection, name) if added else stored_encoder(connection, name)
        count = count_embeddings(connection, stored) if stored is not None else 0
        if stored is not None:
            require_ownership(connection, stored.table)
        for table in ("encoder", "encoder_record"):
            require_delete(connection, table)
        if not yes:
            confirm(f"Remove {count:,} embeddings of '{name}' and everything that depends on them?")
        if stored is None:
            delete_record(connection, name)
        else:
            waits = LockWaits(connection, context.progress().note)
            drop_encoder(connection, stored, waits=waits, and_then=lambda: delete_record(connection, name))
    click.echo(f"Removed {count:,} embeddings of '{name}'{' and its record' if added else ''}.", err=True)


encoders.add_command(fetch)
encoders.add_command(verify)
