"""Implements ``cbirdb datasets``: lists dataset readers and removes datasets."""

from __future__ import annotations

import click

from cbirdb.cli.options import Context, confirm, format_option, pass_context
from cbirdb.cli.output import write_rows


@click.group()
def datasets() -> None:
    """List the dataset readers, and remove datasets."""


@datasets.command("list")
@format_option
def list_readers(output_format: str) -> None:
    """List the dataset readers that `cbirdb ingest` knows."""
    from cbirdb.datasets.registry import READERS

    write_rows([{"dataset": reader.name, "what": reader.summary} for reader in READERS.values()], output_format)


@datasets.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def drop(context: Context, name: str, yes: bool) -> None:
    """Remove a dataset with its images, labels, embeddings, failures, evaluation runs and linear probes.

    Files on disk stay.
    """
    from cbirdb.db.catalogue import drop_dataset
    from cbirdb.db.embeddings import check_datasets, count_pending
    from cbirdb.db.rights import require_delete

    with context.open_database() as connection:
        check_datasets(connection, [name])
        for table in ("dataset", "search_run", "probe_run"):
            require_delete(connection, table)
        count = count_pending(connection, [], [name]).total
        if not yes:
            confirm(f"Remove the {count:,} images of '{name}' and everything that depends on them?")
        drop_dataset(connection, name)
    click.echo(f"Removed the {count:,} images of '{name}'.", err=True)
