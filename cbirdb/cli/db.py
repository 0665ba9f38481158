"""Implements ``cbirdb db``: manages the database itself."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import Context, confirm, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.errors import DatabaseError, ExitCode, InputError

if TYPE_CHECKING:
    import psycopg


@click.group()
def db() -> None:
    """Start, stop, inspect and upgrade the database."""


@db.command()
@pass_context
def start(context: Context) -> None:
    """Start the embedded server and create its schema if needed."""
    _refuse_foreign(context)
    with context.open_database() as connection:
        context.warn_of_defects(connection, embedded=True)
    click.echo(f"The server is running. Its data are in {context.settings.home_folder}.", err=True)


@db.command()
@pass_context
def stop(context: Context) -> None:
    """Stop the embedded server."""
    _refuse_foreign(context)
    from cbirdb.db.server.embedded import EmbeddedServer

    stopped = EmbeddedServer(context.settings.home_folder).stop()
    click.echo("The server has stopped." if stopped else "The server was not running.", err=True)


@db.command()
@pass_context
def uri(context: Context) -> None:
    """Print the connection string, for psql and other programs."""
    from cbirdb.db.connection import conninfo

    with _any_database(context) as connection:
        printed = conninfo(context.settings) or connection.info.dsn
    click.echo(printed)


# psql's own -h names a host.
@db.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def psql(click_context: click.Context, arguments: tuple[str, ...]) -> None:
    """Open psql on the database; ARGUMENTS go to psql, such as -c 'SELECT ...'.

    -U, -h, -p, -d and DBNAME USERNAME mean the same as for psql. The rest of the connection comes from --dsn.
    """
    from shutil import which

    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from cbirdb.cli.psql_arguments import split_arguments
    from cbirdb.db.connection import conninfo
    from cbirdb.db.server.embedded import EmbeddedServer

    if arguments == ("-h",):
        click.echo(click_context.get_help())
        return
    context = click_context.ensure_object(Context)
    own, rest = split_arguments(arguments)
    if context.settings.embedded or not own:
        _any_database(context).close()
    program = which("psql")
    if program is None and not context.settings.embedded:
        raise InputError("psql is not installed.", hint="Install the package postgresql-client.")
    if context.settings.embedded:
        program = str(EmbeddedServer(context.settings.home_folder).psql())
        # Search names without a schema in ours first, so that \\d shows our tables.
        os.environ.setdefault("PGOPTIONS", "-c search_path=cbir,public")
    target = {name: str(value) for name, value in conninfo_to_dict(conninfo(context.settings)).items()}
    if own.keys() & {"user", "host", "hostaddr", "port", "service"}:
        target.pop("password", None)  # it belongs to another user or server
    if "host" in own:
        target.pop("hostaddr", None)  # it would take precedence
    target |= own
    if password := target.pop("password", None):
        os.environ["PGPASSWORD"] = password  # everybody can read a program's arguments
    sys.stdout.flush()
    os.execv(str(program), [str(program), "-d", make_conninfo("", **target), *rest])  # noqa: S606


@db.command()
@click.option("--if-needed", is_flag=True, help="Skip a schema that is up to date, without taking any lock.")
@pass_context
def upgrade(context: Context, *, if_needed: bool) -> None:
    """Create or update schema cbir. Safe to repeat; needs no superuser once the extension exists."""
    from cbirdb.db.connection import connect
    from cbirdb.db.errors import translated_errors
    from cbirdb.db.lock_waits import LockWaits
    from cbirdb.db.schema.migrate import current_revision, current_state, head_revision, installed_state, upgrade_own
    from cbirdb.db.schema.migrate import upgrade as run_upgrade

    wanted = head_revision()
    with connect(context.settings) as connection:
        with translated_errors():
            before = current_revision(connection)
            up_to_date = current_state(connection) == installed_state()
        if not (if_needed and up_to_date):
            _show_revocations(connection)
            waits = LockWaits(connection, context.progress().note)
            (upgrade_own if context.settings.embedded else run_upgrade)(connection, waits)
    click.echo(f"Schema 'cbir' is at migration {wanted}" + (", as before." if before == wanted else "."), err=True)


@db.command()
@click.option("--script", is_flag=True, help="Print the SQL that creates the roles, for an administrator's psql.")
@format_option
@pass_context
def roles(context: Context, script: bool, output_format: str) -> None:
    """Create cbirdb's group roles and grant them their rights. Add members with GRANT.

    Creating roles needs CREATEROLE, once per cluster. If they exist, this is `cbirdb db upgrade`, which grants.
    """
    from cbirdb.db.connection import connect
    from cbirdb.db.lock_waits import LockWaits
    from cbirdb.db.schema.migrate import upgrade_own
    from cbirdb.db.schema.roles import ROLES
    from cbirdb.db.schema.sql_objects import ROLES_SCRIPT, repository_folder

    if script:
        click.echo((repository_folder("sql") / ROLES_SCRIPT).read_text(), nl=False)
        return
    with connect(context.settings) as connection:
        _show_revocations(connection)
        upgrade_own(connection, LockWaits(connection, context.progress().note))
    write_rows([{"role": name, "may": duty} for name, duty in ROLES.items()], output_format)


@db.command("row-security")
@click.argument("state", type=click.Choice(["on", "off", "confirm"]))
@click.option("--yes", is_flag=True, help="Confirm without asking.")
@pass_context
def row_security(context: Context, state: str, yes: bool) -> None:
    """Switch row-level security. With on, every role sees only the datasets that cbir.dataset_access gives it.

    After a restore into another cluster, or when a role was dropped and created again, its rows in that table have no
    effect until an administrator confirms the names: confirm shows them and asks.
    """
    from cbirdb.db.lock_waits import LockWaits
    from cbirdb.db.schema.roles import confirm_access, set_row_security, unconfirmed_access

    with context.open_database() as connection:
        if state == "confirm":
            waiting = unconfirmed_access(connection)
            for role, dataset in waiting:
                click.echo(f"{role} would see {dataset}", err=True)
            if waiting and not yes:
                confirm("Are these the intended roles?", no="Nothing was changed.")
            count = confirm_access(connection) if waiting else 0
            click.echo(f"{count} rows of cbir.dataset_access are now in effect.", err=True)
            return
        _show_revocations(connection)
        waits = LockWaits(connection, context.progress().note)
        given = set_row_security(connection, enabled=state == "on", waits=waits)
    click.echo(f"Row-level security is {state}.", err=True)
    if state == "on" and not given:
        click.echo(
            "No role has access to a dataset yet, so only the owner sees any. Add rows to cbir.dataset_access.",
            err=True,
        )


@db.command()
@format_option
@pass_context
def status(context: Context, output_format: str) -> None:
    """Show the contents of the database: datasets, encoders, indexes, runs, failures."""
    from cbirdb.db.status import database_status

    with context.open_database() as connection:
        place = context.settings.home_folder if context.settings.embedded else connection.info.host
        kind = "embedded" if context.settings.embedded else "external"
        server = {"what": "server", "name": kind, "detail": f"PostgreSQL, running, {place}"}
        write_rows([server, *database_status(connection)], output_format)


@db.command()
@format_option
@pass_context
def doctor(context: Context, output_format: str) -> int:
    """Check server, extension, migrations, privileges and memory, and run one nearest-neighbour query."""
    from cbirdb.db.doctor import doctor as run_doctor

    with _any_database(context) as connection:
        checks = run_doctor(connection)
    write_rows([check.row() for check in checks], output_format)
    return int(ExitCode.OK if all(check.passed for check in checks) else ExitCode.PARTIAL)


def _show_revocations(connection: psycopg.Connection) -> None:
    """Print the server's notices about revoked rights."""

    def show(notice: psycopg.errors.Diagnostic) -> None:
        if (notice.message_primary or "").startswith("revoked: "):
            click.echo(notice.message_primary, err=True)

    connection.add_notice_handler(show)


def _any_database(context: Context) -> psycopg.Connection:
    """Open a connection. Create the schema on the embedded server; leave any other database unchanged."""
    from cbirdb.db.connection import connect
    from cbirdb.db.schema.open import open_database

    return open_database(context.settings) if context.settings.embedded else connect(context.settings)


def _refuse_foreign(context: Context) -> None:
    if not context.settings.embedded:
        raise DatabaseError(
            "This command is for the embedded server, but another server was named.",
            hint="Omit --dsn, CBIRDB_DSN and PGHOST.",
        )
