"""Brings schema ``cbir`` up to date: Alembic's tables first, then the functions and views of ``sql/``.

One transaction and one lock cover everything. So an upgrade happens completely or not at all, and two processes cannot
upgrade at once. If somebody blocks it, it releases everything and tries again, see ``lock_waits``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import extension_version, version_tuple
from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.rows import first_value, one_value
from cbirdb.db.schema.roles import (
    acting_as_owner,
    check_internal_schema,
    check_search_role,
    create_roles,
    protected_tables,
)
from cbirdb.db.schema.sql_objects import (
    ROLES_SCRIPT,
    create_sql_objects,
    drop_sql_objects,
    repository_folder,
    sql_files,
)
from cbirdb.db.schema_name import INTERNAL_SCHEMA, SCHEMA
from cbirdb.errors import SchemaError

LOCK_KEY = 0x63626972  # "cbir" in ASCII
MINIMUM_PGVECTOR = (0, 8, 4)
MINIMUM_POSTGRESQL = 160000


def alembic_arguments() -> dict[str, Any]:
    """Return Alembic's arguments, for the migrations and for the comparison in the tests."""
    # SQLAlchemy takes a quarter of a second to import and is needed nowhere else.
    from cbirdb.db.schema import access_tables, probe_tables  # noqa: F401 (add their tables to the metadata)
    from cbirdb.db.schema.tables import metadata

    return {
        "target_metadata": metadata,
        "version_table_schema": SCHEMA,
        "include_schemas": True,
        "include_name": _is_ours,
        "compare_server_default": False,
    }


def table_differences(connection: psycopg.Connection) -> list[str]:
    """Describe the differences between the tables of schema ``cbir`` and this version's, one sentence each."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    arguments = alembic_arguments()
    metadata = arguments.pop("target_metadata")
    with sqlalchemy_connection(connection) as bound:
        context = MigrationContext.configure(connection=bound, opts={**arguments, "target_metadata": metadata})
        found = compare_metadata(context, metadata)
    # A change of a column is a list of operations; any other change is one operation.
    return [_difference(part) for change in found for part in (change if isinstance(change, list) else [change])]


def _difference(operation: Sequence[Any]) -> str:
    """Describe an operation (such as ``add_column``) that the database would need."""
    kind, *operands = operation
    names = [getattr(part, "name", part) for part in operands if part is not None and not isinstance(part, dict)]
    verb, _, thing = str(kind).partition("_")
    missing = {"add": "missing", "remove": "not of this version", "modify": "changed"}.get(verb, verb)
    return f"{thing.replace('_', ' ')} {'.'.join(str(name) for name in names if name != SCHEMA)}: {missing}"


def _is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Return False for embedding tables, their vector indexes and foreign schemas, which Alembic must not see."""
    if kind == "schema":
        return name == SCHEMA
    return not (kind == "table" and str(name).startswith("embedding_"))


def upgrade(connection: psycopg.Connection, waits: LockWaits | None = None) -> None:
    """Create or update everything in schema ``cbir``. Safe to repeat, also by two processes at once.

    :param waits: waits for those who use the tables; None: the default.
    :raises SchemaError: when the server or the extension is missing or too old, or an object outside of cbirdb depends
        on one of its views.
    :raises DatabaseError: when a privilege is missing.
    """
    waits = waits or LockWaits(connection)
    with translated_errors():
        _check_server(connection)
        _check_extension(connection)
        check_search_role(connection)
        check_internal_schema(connection)
        if tables := _tables_to_lock(connection):
            waits.note(f"Searches must wait during this upgrade, which locks {', '.join(tables)}.")
        waits.retry(lambda: _upgrade(connection, waits))


def _upgrade(connection: psycopg.Connection, waits: LockWaits) -> None:
    _lock_out_upgrades(connection)
    ensure_extension(connection)
    keep_triggers = _keeps_triggers(connection)
    if not keep_triggers:
        waits.lock_tables(_tables_with_triggers(connection))
    # Views depend on the columns that they show, so drop them before the tables change.
    grants = drop_sql_objects(connection, keep_triggers=keep_triggers)
    with acting_as_owner(connection):
        _run_alembic(connection)
        create_sql_objects(connection, grants)
        connection.execute("SELECT cbir_internal.create_triggers(), cbir_internal.grant_roles()")
        # Last of all changes to functions and views: comments and grants need the owner, who changes here.
        connection.execute("SELECT cbir_internal.hand_over()")
        if connection.execute("SELECT enabled FROM cbir.setting WHERE name = 'row_security'").fetchone() == (True,):
            # Policies may name a role that was created meanwhile, and must cover new tables.
            waits.lock_tables(protected_tables(connection))
            connection.execute("SELECT cbir.set_row_security(TRUE)")
        connection.execute("COMMENT ON TABLE cbir.alembic_version IS 'The migration that these tables stand at.'")
        connection.execute(
            sql.SQL("COMMENT ON SCHEMA {} IS {}").format(
                sql.Identifier(SCHEMA),
                sql.Literal(f"Content-based image retrieval (cbirdb); state {installed_state()}"),
            )
        )
        connection.execute(
            sql.SQL("COMMENT ON SCHEMA {} IS 'Functions that only cbirdb itself calls.'").format(
                sql.Identifier(INTERNAL_SCHEMA)
            )
        )


def _lock_out_upgrades(connection: psycopg.Connection) -> None:
    """Lock out other upgrades until the transaction ends, by a lock that no reader can take."""
    lock = "LOCK TABLE cbir.alembic_version IN SHARE ROW EXCLUSIVE MODE"
    if current_revision(connection) is None:
        # The table does not exist yet. Anybody can take this lock; its holder is named.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        if current_revision(connection) is None:
            return
    connection.execute(lock)


def _keeps_triggers(connection: psycopg.Connection) -> bool:
    """Return True if triggers can stay while their functions are replaced, so that tables need no lock that blocks
    readers.

    They cannot stay if a migration may change the table, or if a superuser would run code of the owner's triggers.
    """
    superuser = one_value(connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
    return current_revision(connection) == head_revision() and not superuser


def _tables_with_triggers(connection: psycopg.Connection) -> list[str]:
    found = connection.execute(
        "SELECT DISTINCT c.relname FROM pg_class AS c INNER JOIN pg_trigger AS t ON t.tgrelid = c.oid"
        " WHERE c.relnamespace = to_regnamespace(%s) AND NOT t.tgisinternal ORDER BY c.relname",
        [SCHEMA],
    )
    return [row[0] for row in found]


def _tables_to_lock(connection: psycopg.Connection) -> list[str]:
    """Return the tables from which an upgrade locks out readers: for triggers, for policies, and those in a
    migration.
    """
    revision = current_revision(connection)
    if revision is None:
        return []
    pending = [path.read_text() for path in _migrations() if path.name.split("_")[0] > revision]
    found = connection.execute(
        """
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'r' AND (
            c.relname = ANY (%(triggers)s)
            OR c.relrowsecurity
            OR %(pending)s ~ ('\\m' || c.relname || '\\M')
        )
        ORDER BY c.relname
        """,
        {
            "schema": SCHEMA,
            "triggers": [] if _keeps_triggers(connection) else _tables_with_triggers(connection),
            "pending": "\n".join(pending),
        },
    )
    return [f"{SCHEMA}.{row[0]}" for row in found]


def upgrade_own(connection: psycopg.Connection, waits: LockWaits | None = None) -> None:
    """Create the roles, then upgrade: for cbirdb's own server, and for those who may create roles."""
    create_roles(connection, repository_folder("sql") / ROLES_SCRIPT)
    upgrade(connection, waits)


def upgrade_tables(connection: psycopg.Connection) -> None:
    """Create only the tables, in an empty database: the start of the next migration's draft.

    Functions and views may already be written for future tables.
    """
    with translated_errors(), connection.transaction():
        ensure_extension(connection)
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
        _run_alembic(connection)


def _check_server(connection: psycopg.Connection) -> None:
    version = connection.info.server_version
    if version < MINIMUM_POSTGRESQL:
        raise SchemaError(f"PostgreSQL {version // 10000} is too old.", hint="cbirdb needs PostgreSQL 16 or newer.")


def ensure_extension(connection: psycopg.Connection) -> None:
    """Check for pgvector; create it if it is absent, the only step that may need a superuser."""
    installed = extension_version(connection)
    if installed is None:
        try:
            with connection.transaction():
                connection.execute("CREATE EXTENSION vector")
        except psycopg.errors.UndefinedFile as error:
            raise SchemaError(
                "This server does not have the extension pgvector.",
                hint="Install the pgvector package of this PostgreSQL version on the server.",
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaError(
                "The extension pgvector is not in this database, and this role may not create it.",
                hint="Ask a database administrator to run: CREATE EXTENSION vector;",
            ) from error
    _check_extension(connection)


def _check_extension(connection: psycopg.Connection) -> None:
    installed = extension_version(connection)
    if installed is not None and version_tuple(installed) < MINIMUM_PGVECTOR:
        wanted = ".".join(map(str, MINIMUM_PGVECTOR))
        raise SchemaError(
            f"pgvector {installed} is too old: cbirdb needs {wanted} or newer (index corruption, CVE-2026-3172).",
            hint="Install the newer package, then run: ALTER EXTENSION vector UPDATE;",
        )


def _run_alembic(connection: psycopg.Connection) -> None:
    from alembic import command
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import DBAPIError

    with sqlalchemy_connection(connection) as bound:
        config = alembic_config()
        config.attributes["connection"] = bound
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SchemaError("A newer cbirdb created this database.", hint="Install the newer cbirdb.") from error
        except DBAPIError as error:
            raise error.orig or error from error  # the driver's own error, which callers retry or translate


def alembic_config() -> Any:
    """Return Alembic's configuration object for this installation's migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(repository_folder("alembic")).replace("%", "%%"))
    return config


class sqlalchemy_connection:
    """Lends a psycopg connection to SQLAlchemy inside its open transaction."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Any:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: _Borrowed(self._connection),
            poolclass=StaticPool,
            use_native_hstore=False,  # looking for that type needs a genuine psycopg connection
        )
        self._bound = self._engine.connect()
        return self._bound

    def __exit__(self, *exc: object) -> None:
        self._bound.close()


class _Borrowed:
    """A connection whose transaction belongs to the caller: commit, rollback and close do nothing."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def installed_state() -> str:
    """Return this installation's state: its newest migration and a hash of ``sql/``."""
    digest = hashlib.sha256()
    for path in sql_files():
        digest.update(path.name.encode() + path.read_bytes())
    return f"{head_revision()} {digest.hexdigest()[:16]}"


def current_state(connection: psycopg.Connection) -> str | None:
    """Return a database's state, which its last upgrade wrote into the schema's comment; None without a schema."""
    state = connection.execute(
        "SELECT substring(obj_description(oid, 'pg_namespace') FROM %s) FROM pg_namespace WHERE nspname = %s",
        [r"state ([0-9]+ [0-9a-f]+)", SCHEMA],
    )
    return first_value(state)


def current_revision(connection: psycopg.Connection) -> str | None:
    """Return the migration of this database; None without a schema."""
    if not one_value(connection.execute("SELECT to_regclass('cbir.alembic_version') IS NOT NULL")):
        return None
    return first_value(connection.execute("SELECT version_num FROM cbir.alembic_version"))


def head_revision() -> str:
    """Return the newest migration of this installation: the highest number among the files."""
    return max(path.name.split("_")[0] for path in _migrations())


def _migrations() -> list[Path]:
    return sorted((repository_folder("alembic") / "versions").glob("[0-9]*.py"))
