"""``cbirdb encoders``: what can encode."""

from __future__ import annotations

from dataclasses import asdict

import click

from cbirdb.cli.options import Context, format_option, pass_context
from cbirdb.cli.output import write_rows


@click.group()
def encoders() -> None:
    """List, show and drop encoders."""


@encoders.command("list")
@format_option
def list_encoders(output_format: str) -> None:
    """List the encoders that ship with cbirdb."""
    from cbirdb.encoders.registry import ENCODERS

    rows = [
        {
            "encoder": spec.name,
            "dim": spec.dim,
            "training": spec.training_scheme,
            "in_paper": spec.in_paper,
            "licence": spec.licence,
            "weights": spec.weights,
            "embedding": spec.embedding,
        }
        for spec in ENCODERS.values()
    ]
    write_rows(rows, output_format)


@encoders.command()
@click.argument("name")
@format_option
def show(name: str, output_format: str) -> None:
    """Show everything that determines an encoder's output."""
    from cbirdb.encoders.registry import get_spec

    spec = asdict(get_spec(name))
    rows = [spec] if output_format != "table" else [{"property": key, "value": value} for key, value in spec.items()]
    write_rows(rows, output_format)


@encoders.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def drop(context: Context, name: str, yes: bool) -> None:
    """Remove an encoder's embeddings, indexes and evaluation runs from the database."""
    from cbirdb.db.embeddings import count_embeddings, drop_encoder, get_encoder

    with context.open_database() as connection:
        stored = get_encoder(connection, name)
        count = count_embeddings(connection, stored)
        if not yes:
            click.confirm(f"Remove {count:,} embeddings of '{name}' and all that rests on them?", abort=True, err=True)
        drop_encoder(connection, stored)
    click.echo(f"Removed {count:,} embeddings of '{name}'.", err=True)
