"""Runs the command ``cbirdb``: finds its sub-commands without importing them, and turns errors into one sentence."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from cbirdb.cli.stopping import sigterm_interrupts, terminated
from cbirdb.cli.values import FilePath, Text
from cbirdb.config import Settings
from cbirdb.errors import CbirdbError, ExitCode
from cbirdb.names import escape_controls_by_line

COMMANDS = {
    "demo": ("cbirdb.cli.demo:demo", "Run the whole pipeline on generated phantoms."),
    "db": ("cbirdb.cli.db:db", "Start, stop, inspect and upgrade the database."),
    "datasets": ("cbirdb.cli.datasets:datasets", "List the dataset readers, and remove datasets."),
    "ingest": ("cbirdb.cli.ingest:ingest", "Add a dataset's images and labels to the catalogue."),
    "encoders": ("cbirdb.cli.encoders:encoders", "List, add, fetch, export, verify and drop encoders."),
    "encode": ("cbirdb.cli.encode:encode", "Compute embeddings of all images that lack one."),
    "import-embeddings": ("cbirdb.cli.import_embeddings:import_embeddings", "Load the paper's published embeddings."),
    "index": ("cbirdb.cli.index:index", "Build, drop and show vector indexes."),
    "search": ("cbirdb.cli.search:search", "Find the images most similar to an image or a file."),
    "evaluate": ("cbirdb.cli.evaluate:evaluate", "Store the neighbours that all metrics use."),
    "metrics": ("cbirdb.cli.metrics:metrics", "Show P@N, micro and macro, in all or by group."),
    "compare": ("cbirdb.cli.compare:compare", "Compare encoders on the same queries: intervals and p values."),
    "leakage": ("cbirdb.cli.leakage:leakage", "Show P@N with and without images that give answers away."),
    "classify": ("cbirdb.cli.classify:classify", "Classify by nearest neighbours or a linear probe."),
    "erase": ("cbirdb.cli.erase:erase", "Erase a patient, with a certificate."),
    "patients": ("cbirdb.cli.patients:patients", "Make one patient of two who are one person."),
    "failures": ("cbirdb.cli.failures:failures", "List the files that could not be ingested, encoded or imported."),
}
"""Commands by name, with their place and their line of help. A new one is a file and a line here."""


class LazyGroup(click.Group):
    """Lists commands from ``COMMANDS`` and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command and name its environment variables."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        _name_variables(command, f"CBIRDB_{cmd_name}")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command if there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"There is no command '{args[0]}'." + (f" Did you mean '{close[0]}'?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _name_variables(command: click.Command, prefix: str) -> None:
    """Give every option the environment variable of its own name, whatever its parameter is called."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            name = f"{prefix}_{max(parameter.opts, key=len).lstrip('-')}".upper().replace("-", "_")
            # Keep a shared option's own variable. The names are already set if this process has run the command before.
            others = [parameter.envvar] if isinstance(parameter.envvar, str) else (parameter.envvar or [])
            parameter.envvar = list(dict.fromkeys([name, *others]))
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            _name_variables(child, f"{prefix}_{name}")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CBIRDB", "show_default": True},
)
@click.option(
    "--dsn", type=Text(), help="PostgreSQL connection string. Without it: libpq's variables, else an embedded server."
)
@click.option(
    "--home",
    type=FilePath(file_okay=False, path_type=Path),
    help="Folder of the embedded server.  [default: the user's data folder; /var/lib/cbirdb for root]",
)
@click.option("-v", "--verbose", count=True, help="Show more; twice: everything. Adds tracebacks to errors.")
@click.option("-q", "--quiet", is_flag=True, help="Show only results and errors.")
@click.version_option(package_name="cbirdb")
@click.pass_context
def cbirdb(ctx: click.Context, dsn: str | None, home: Path | None, verbose: int, quiet: bool) -> None:
    """Retrieve radiology images by content, inside PostgreSQL.

    Every option has an environment variable: CBIRDB_ and its name for those here (CBIRDB_DSN); CBIRDB_, the command and
    its name for the others (CBIRDB_ENCODE_DEVICE).
    """
    from cbirdb.cli.options import Context

    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    ctx.obj = Context(Settings(dsn=dsn, home=home), quiet=quiet, verbose=verbose > 0)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with one of the codes of ``errors.ExitCode``."""
    with sigterm_interrupts():
        code = run(arguments)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        result: Any = cbirdb.main(given, prog_name="cbirdb", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Stopped. Finished work is kept; the same command continues from there.", err=True)
        return int(ExitCode.TERMINATED if terminated() else ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CbirdbError as error:
        click.echo(f"Error: {escape_controls_by_line(str(error))}", err=True)
        _show_cause(error)
        return int(error.exit_code)
    except SystemExit:
        # Click exits so when a pipe is closed: the reader of our output (such as head) is done.
        return int(ExitCode.OK)
    except (UnicodeEncodeError, OSError) as error:
        click.echo(f"Error: {_in_words(error)}", err=True)
        _show_cause(error)
        return int(ExitCode.USER)
    return int(result) if isinstance(result, int) else int(ExitCode.OK)


def _in_words(error: UnicodeEncodeError | OSError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "A name is not UTF-8 text, and the database holds only UTF-8. Rename it."
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."


def _show_cause(error: BaseException) -> None:
    if logging.getLogger().isEnabledFor(logging.INFO):
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
