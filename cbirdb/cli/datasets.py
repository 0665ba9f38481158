"""``cbirdb datasets``: what can be read."""

from __future__ import annotations

import click

from cbirdb.cli.options import format_option
from cbirdb.cli.output import write_rows


@click.group()
def datasets() -> None:
    """List the dataset readers."""


@datasets.command("list")
@format_option
def list_readers(output_format: str) -> None:
    """List the dataset readers that `cbirdb ingest` knows."""
    from cbirdb.datasets.registry import READERS

    write_rows([{"dataset": reader.name, "what": reader.summary} for reader in READERS.values()], output_format)
