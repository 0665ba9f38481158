"""What several commands share: the context, and options of one meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cbirdb.config import Settings
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    import psycopg

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Context:
    """What the group hands to its commands."""

    settings: Settings
    quiet: bool = False
    verbose: bool = False

    @contextmanager
    def open_database(self) -> Iterator[psycopg.Connection]:
        """A connection to a database whose schema is up to date; the driver's errors in the block become ours."""
        from cbirdb.db.connection import open_database, translated_errors

        with open_database(self.settings) as connection, translated_errors():
            yield connection

    def connect(self) -> psycopg.Connection:
        """A further connection."""
        from cbirdb.db.connection import connect

        return connect(self.settings)

    def progress(self) -> Progress:
        """Where progress goes."""
        if self.quiet:
            return SILENT
        from cbirdb.cli.progress import TerminalProgress

        return TerminalProgress()


pass_context = click.make_pass_decorator(Context)


def format_option(function: F) -> F:
    """``--format``: how rows are written to stdout."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json", "csv"]),
        default="table",
        help="How rows are written. JSON is one array of objects.",
    )(function)


def encoder_option(function: F) -> F:
    """``-e``: one encoder."""
    return click.option("-e", "--encoder", required=True, metavar="NAME", help="Encoder; see: cbirdb encoders list")(
        function
    )


def dataset_option(function: F) -> F:
    """``--dataset``, as often as wanted."""
    return click.option(
        "-d", "--dataset", "datasets", multiple=True, metavar="NAME", help="Only this dataset; may be repeated."
    )(function)


def precision_option(function: F) -> F:
    """``--precision`` of stored vectors."""
    return click.option(
        "--precision",
        type=click.Choice(["half", "single"]),
        help="Stored as 16-bit or 32-bit floats.  [default: half for a new encoder]",
    )(function)


def weights_option(function: F) -> F:
    """``--weights DIR``."""
    return click.option(
        "--weights",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder with the model's files, for machines without internet.",
    )(function)


def device_option(function: F) -> F:
    """``--device``."""
    return click.option(
        "--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="auto: a GPU where there is one."
    )(function)
