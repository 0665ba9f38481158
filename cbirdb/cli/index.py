"""``cbirdb index``: vector indexes."""

from __future__ import annotations

import click

from cbirdb.cli.options import Context, encoder_option, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.db.vector_index import DEFAULT_METHOD, METHODS

TABLE = ("build", "method", "parameters", "search", "rows", "index_mb", "seconds", "built_at")
"""What a table shows of a build; JSON and CSV have everything."""


@click.group()
def index() -> None:
    """Build, drop and show vector indexes."""


@index.command()
@encoder_option
@click.option("--method", type=click.Choice(["auto", *METHODS]), default="auto", help=f"auto: {DEFAULT_METHOD}.")
@click.option("--m", type=int, default=16, help="HNSW: neighbours per element and layer.")
@click.option("--ef-construction", type=int, default=128, help="HNSW: candidates while building.")
@click.option("--ef-search", type=int, default=100, help="HNSW: candidates while searching; recorded for all searches.")
@format_option
@pass_context
def build(
    context: Context, encoder: str, method: str, m: int, ef_construction: int, ef_search: int, output_format: str
) -> None:
    """Build the encoder's index on cosine distance, in place of the one it has."""
    from cbirdb.index import build_index
    from cbirdb.known_encoders import stored_encoder

    chosen = METHODS[DEFAULT_METHOD if method == "auto" else method](m, ef_construction, ef_search)
    with context.open_database() as connection:
        stored = stored_encoder(connection, encoder)
        built = build_index(connection, stored, chosen, connect=context.connect, progress=context.progress())
    write_rows([built.row()], output_format, columns=TABLE)


@index.command()
@encoder_option
@pass_context
def drop(context: Context, encoder: str) -> None:
    """Drop the encoder's index; searches are exact then."""
    from cbirdb.index import drop_index
    from cbirdb.known_encoders import stored_encoder

    with context.open_database() as connection:
        drop_index(connection, stored_encoder(connection, encoder))
    click.echo(f"The index of '{encoder}' is dropped.", err=True)


@index.command()
@encoder_option
@format_option
@pass_context
def status(context: Context, encoder: str, output_format: str) -> None:
    """Show the index in use, what it was built with and what searches set."""
    from cbirdb.db.index_builds import current_build
    from cbirdb.errors import InputError
    from cbirdb.known_encoders import stored_encoder

    with context.open_database() as connection:
        current = current_build(connection, stored_encoder(connection, encoder))
    if current is None:
        raise InputError(
            f"The encoder '{encoder}' has no vector index.", hint=f"Build one: cbirdb index build -e {encoder}"
        )
    write_rows([current.row()], output_format, columns=TABLE)
