"""Defines the commands' context and their shared options."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cbirdb.cli.renamed_option import RenamedOption
from cbirdb.cli.values import FilePath, NumberRange, Text
from cbirdb.config import Settings
from cbirdb.errors import ExitCode
from cbirdb.limits import LARGEST_MAX_PIXELS, MAX_PIXELS
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    import psycopg

    from cbirdb.allowed_roots import AllowedRoots
    from cbirdb.api import Database
    from cbirdb.encoders.base import LoadOptions

F = TypeVar("F", bound=Callable[..., Any])


def confirm(question: str, *, no: str = "Nothing was removed.") -> None:
    """Ask before something is removed; end the command if the answer is no."""
    if not click.confirm(question, err=True):
        click.echo(no, err=True)
        raise click.exceptions.Exit(int(ExitCode.USER))


def refuse_options(choice: str, names: Collection[str]) -> None:
    """Refuse options of the command line that would have no effect beside another.

    :param choice: the other option, as it was given.
    :param names: names of the parameters.
    :raises click.UsageError: for the first one that was given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{choice} and {parameter.opts[-1]} cannot be combined.")


@dataclass(frozen=True, slots=True)
class Context:
    """The state that the group hands to its commands."""

    settings: Settings
    quiet: bool = False
    verbose: bool = False

    def database(self) -> Database:
        """Return the database as the Python API gives it; the first call connects."""
        from cbirdb.api import Database

        return Database(self.settings, when_opened=self.warn_of_defects)

    @contextmanager
    def open_database(self) -> Iterator[psycopg.Connection]:
        """Open a connection to a database whose schema is up to date; translate the driver's errors in the block."""
        from cbirdb.db.errors import translated_errors
        from cbirdb.db.schema.open import open_database

        with open_database(self.settings) as connection, translated_errors():
            self.warn_of_defects(connection)
            yield connection

    def warn_of_defects(self, connection: psycopg.Connection, *, embedded: bool = False) -> None:
        """Warn of defects of a shared server's pgvector; of the embedded one's only if ``embedded`` is True.

        Users cannot update the embedded one, and cbirdb avoids its defects. A word at `db start` is enough.
        """
        from cbirdb.db.extension import extension_version
        from cbirdb.db.known_defects import how_to_update, missing_fixes, on_embedded_server

        if self.quiet or (on_embedded_server(connection) and not embedded):
            return
        if fixes := missing_fixes(extension_version(connection) or ""):
            click.echo(f"Warning: {fixes} {how_to_update(connection)}", err=True)

    def load_options(self, weights: Path | None, device: str, *, allow_other_weights: bool = False) -> LoadOptions:
        """Return the place of encoders' weights and the device to run on."""
        from cbirdb.encode.load import machine_options

        return machine_options(self.settings, weights, device, allow_other_weights=allow_other_weights)

    def allowed_roots(self, named: tuple[Path, ...], path_map: Path | None = None) -> AllowedRoots:
        """Return the folders that may be read: those of ingests on this machine, and those that the command names."""
        from cbirdb.allowed_roots import AllowedRoots

        return AllowedRoots.of_machine(self.settings.home_folder, named, path_map or self.settings.path_map)

    def connect(self) -> psycopg.Connection:
        """Open a further connection."""
        from cbirdb.db.connection import connect

        return connect(self.settings)

    def progress(self) -> Progress:
        """Return the receiver of progress."""
        if self.quiet:
            return SILENT
        from cbirdb.cli.progress import TerminalProgress

        return TerminalProgress()


pass_context = click.make_pass_decorator(Context)


def format_option(function: F) -> F:
    """Add ``--format``, the form of rows on stdout."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json", "csv"]),
        default="table",
        help="Format of the rows. JSON is one array of objects.",
    )(function)


def encoder_option(function: F) -> F:
    """Add ``-e``, one encoder."""
    return click.option(
        "-e", "--encoder", type=Text(), required=True, metavar="NAME", help="Encoder; see: cbirdb encoders list"
    )(function)


def dataset_option(function: F) -> F:
    """Add ``--dataset``, any number of times."""
    return click.option(
        "-d",
        "--dataset",
        "datasets",
        type=Text(),
        multiple=True,
        metavar="NAME",
        help="Only this dataset; may be repeated.",
    )(function)


def cutoffs_option(function: F) -> F:
    """Add ``-n``, the N of P@N, parsed by ``cbirdb.cli.metrics.parse_cutoffs``."""
    return click.option("-n", "cutoffs", default="1,3,5,10", metavar="N,N,...", help="The N of P@N; a range is 1-10.")(
        function
    )


def resamples_option(function: F) -> F:
    """Add ``--resamples`` and ``--seed`` of random estimates."""
    function = click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Seed of the random draws.")(
        function
    )
    return click.option(
        "--resamples", type=click.IntRange(100, 1_000_000), default=2000, help="Number of random redraws of patients."
    )(function)


def floor_options(function: F) -> F:
    """Add ``--floor-recall`` and ``--max-share-without-hit``, the least quality of an index whose answers are final."""
    without_hit = click.option(
        "--max-share-without-hit",
        cls=RenamedOption,
        old="--floor-zeros",
        type=NumberRange(0, 1),
        default=0.001,
        help="Largest share of queries that find none of their nearest images.",
    )
    recall = click.option(
        "--floor-recall", type=NumberRange(0, 1), default=0.99, help="Smallest mean recall of an index."
    )
    return recall(without_hit(function))


def precision_option(function: F) -> F:
    """Add ``--precision`` of stored vectors."""
    return click.option(
        "--precision",
        type=click.Choice(["half", "single"]),
        help="Store 16-bit or 32-bit floats.  [default: half for a new encoder]",
    )(function)


def allow_root_option(function: F) -> F:
    """Add ``--allow-root``, folders of this machine from which images may be read."""
    return click.option(
        "--allow-root", "allow_root", multiple=True, type=FilePath(path_type=Path), metavar="DIR",
        envvar="CBIRDB_ALLOW_ROOT", show_envvar=False,
        help="A folder of this machine from which images may be read, besides those ingested here; symbolic links may"
        " lead there. May be repeated; CBIRDB_ALLOW_ROOT separates folders by ':'.",
    )(function)  # fmt: skip


def path_map_option(function: F) -> F:
    """Add ``--path-map``, which says where the files of opaque names lie."""
    return click.option(
        "--path-map", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
        envvar="CBIRDB_PATH_MAP", show_envvar=True,
        help="File that maps opaque names to paths.  [default: in CBIRDB_HOME]",
    )(function)  # fmt: skip


def max_pixels_option(function: F) -> F:
    """Add ``--max-pixels`` of decoded images, for `ingest` and `encode`."""
    return click.option(
        "--max-pixels", type=click.IntRange(1, LARGEST_MAX_PIXELS), default=MAX_PIXELS, metavar="N",
        help="Most pixels of an image; a larger one is a failure. Give it at both `ingest` and `encode`.",
    )(function)  # fmt: skip


def accept_damaged_option(function: F) -> F:
    """Add ``--accept-damaged``, for `ingest`, `encode` and `search`."""
    return click.option(
        "--accept-damaged",
        is_flag=True,
        help="Accept images with missing or invalid data, and record them as damaged.",
    )(function)


def weights_option(function: F) -> F:
    """Add ``--weights DIR`` and ``--allow-other-weights``."""
    function = click.option(
        "--allow-other-weights",
        is_flag=True,
        help="Accept weights that are not the encoder's own. The encoder then has the name NAME@ and the first 8 digits of"
        " their SHA-256.",
    )(function)
    return click.option(
        "--weights",
        type=FilePath(path_type=Path),
        metavar="DIR",
        help="Folder of `encoders fetch --to`, or of one model's files.  [default: the folder of `encoders fetch`, else the"
        " model hub's cache]",
    )(function)


def dtype_option(function: F) -> F:
    """Add ``--dtype`` of the forward pass."""
    return click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Number format of the computation; recorded.  [default: as before; float32 for a new encoder]",
    )(function)


def _check_device(_context: click.Context, _parameter: click.Parameter, device: str) -> str:
    if not re.fullmatch(r"auto|cuda(:\d+)?|cpu", device):
        raise click.BadParameter(f"'{device}' is not one of auto, cuda, cuda:N (the GPU's number) and cpu.")
    return device


def device_option(function: F) -> F:
    """Add ``--device``."""
    return click.option(
        "--device",
        default="auto",
        callback=_check_device,
        metavar="auto|cuda|cuda:N|cpu",
        help="auto: a GPU if there is one. If there are several, each process of torchrun or Slurm takes its own.",
    )(function)
