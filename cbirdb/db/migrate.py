"""Brings schema ``cbir`` up to date: Alembic's tables first, then the functions and views of ``sql/``.

One transaction and one advisory lock for all of it, so that it either happens or does not, and two
processes cannot do it at once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from cbirdb.db.connection import translated_errors
from cbirdb.db.roles import acting_as_owner
from cbirdb.db.schema import SCHEMA
from cbirdb.errors import DatabaseError, SchemaError

log = logging.getLogger(__name__)

LOCK_KEY = 0x63626972  # "cbir" in ASCII
MINIMUM_PGVECTOR = (0, 8, 4)
MINIMUM_POSTGRESQL = 160000


def repository_folder(name: str) -> Path:
    """``sql/`` or ``alembic/``: at the top of a checkout, inside the package when installed from a wheel."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / f"_{name}", package.parent / name):
        if candidate.is_dir():
            return candidate
    raise SchemaError(f"The folder {name}/ is missing from this installation.", hint="Install cbirdb again.")


def alembic_arguments() -> dict[str, Any]:
    """What both the migrations and the comparison in the tests tell Alembic."""
    # SQLAlchemy takes a quarter of a second to import and is needed nowhere else.
    from cbirdb.db import access_tables  # noqa: F401 (adds its tables to the metadata)
    from cbirdb.db.tables import metadata

    return {
        "target_metadata": metadata,
        "version_table_schema": SCHEMA,
        "include_schemas": True,
        "include_name": _is_ours,
        "compare_server_default": False,
    }


def _is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Keeps embedding tables, their vector indexes and other people's schemas out of Alembic's sight."""
    if kind == "schema":
        return name == SCHEMA
    return not (kind == "table" and str(name).startswith("embedding_"))


def upgrade(connection: psycopg.Connection) -> None:
    """Create or update everything in schema ``cbir``. Safe to repeat, safe for two at once.

    :raises SchemaError: when the server or the extension is missing or too old, or an object outside of
        cbirdb depends on one of its views.
    :raises DatabaseError: when a privilege is missing.
    """
    with translated_errors(), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        _check_server(connection)
        ensure_extension(connection)
        # Views hold on to the columns that they show, so they go before the tables may change under them.
        grants = drop_sql_objects(connection)
        with acting_as_owner(connection):
            _run_alembic(connection)
            create_sql_objects(connection, grants)
            connection.execute("SELECT cbir.create_triggers(), cbir.grant_roles()")
            # Policies may name a role that has been created since, and cover a table that is new.
            connection.execute(
                "SELECT cbir.set_row_security(TRUE) FROM cbir.setting WHERE name = 'row_security' AND enabled"
            )
            connection.execute("COMMENT ON TABLE cbir.alembic_version IS 'The migration that these tables stand at.'")
            connection.execute(
                sql.SQL("COMMENT ON SCHEMA {} IS {}").format(
                    sql.Identifier(SCHEMA),
                    sql.Literal(f"Content-based image retrieval (cbirdb); state {installed_state()}"),
                )
            )


def upgrade_tables(connection: psycopg.Connection) -> None:
    """The tables alone, of an empty database: what the draft of the next migration starts from.

    Functions and views may already be written for the tables to come.
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
    """Check for pgvector; create it only where it is absent, which is the one step that may need a superuser."""
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
                "The extension pgvector is not in this database and this role may not create it.",
                hint="Ask a database administrator to run: CREATE EXTENSION vector;",
            ) from error
        installed = extension_version(connection)
    if version_tuple(installed or "0") < MINIMUM_PGVECTOR:
        wanted = ".".join(map(str, MINIMUM_PGVECTOR))
        raise SchemaError(
            f"pgvector {installed} is too old: it needs {wanted} or newer (index corruption, CVE-2026-3172).",
            hint="Install the newer package, then run: ALTER EXTENSION vector UPDATE;",
        )


def extension_version(connection: psycopg.Connection) -> str | None:
    """Pgvector's version in this database, such as ``0.8.5``; None when it is not there."""
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return row[0] if row else None


def version_tuple(version: str) -> tuple[int, ...]:
    """``0.8.5`` -> (0, 8, 5)."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _run_alembic(connection: psycopg.Connection) -> None:
    # Alembic takes long to import, too.
    from alembic import command
    from alembic.util.exc import CommandError

    with sqlalchemy_connection(connection) as bound:
        config = alembic_config()
        config.attributes["connection"] = bound
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SchemaError(
                "This database was made by a newer cbirdb than this one.", hint="Install the newer cbirdb."
            ) from error


def alembic_config() -> Any:
    """Alembic's configuration object, pointing at this installation's migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(repository_folder("alembic")).replace("%", "%%"))
    return config


class sqlalchemy_connection:
    """Lends a psycopg connection to SQLAlchemy inside the transaction that is already open on it."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Any:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: _Borrowed(self._connection),
            poolclass=StaticPool,
            use_native_hstore=False,  # looking for that type wants a genuine psycopg connection
        )
        self._bound = self._engine.connect()
        return self._bound

    def __exit__(self, *exc: object) -> None:
        self._bound.close()


class _Borrowed:
    """A connection whose transaction belongs to somebody else: commit, rollback and close do nothing."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def installed_state() -> str:
    """Names what this installation would make of a database: its newest migration and a hash of ``sql/``."""
    digest = hashlib.sha256()
    for path in sql_files():
        digest.update(path.name.encode() + path.read_bytes())
    return f"{head_revision()} {digest.hexdigest()[:16]}"


def current_state(connection: psycopg.Connection) -> str | None:
    """The same of a database, as its last upgrade noted it in the schema's comment; None without a schema."""
    row = connection.execute(
        "SELECT substring(obj_description(oid, 'pg_namespace') FROM %s) FROM pg_namespace WHERE nspname = %s",
        [r"state ([0-9]+ [0-9a-f]+)", SCHEMA],
    ).fetchone()
    return row[0] if row else None


def current_revision(connection: psycopg.Connection) -> str | None:
    """The migration this database stands at; None when there is no schema yet."""
    found = connection.execute("SELECT to_regclass('cbir.alembic_version') IS NOT NULL").fetchone()
    if not (found and found[0]):
        return None
    row = connection.execute("SELECT version_num FROM cbir.alembic_version").fetchone()
    return row[0] if row else None


def head_revision() -> str:
    """The newest migration of this installation: the highest number among the files."""
    return max(path.name.split("_")[0] for path in (repository_folder("alembic") / "versions").glob("[0-9]*.py"))


def sql_files() -> Iterator[Path]:
    """The files of ``sql/`` in the order in which they are applied."""
    yield from sorted(repository_folder("sql").glob("[0-9]*/*.sql"), key=lambda path: (path.parent.name, path.stem))


Grant = tuple[str, str, str]
"""Kind of object (view, routine), its name, and the GRANT statement that was in force on it."""


def drop_sql_objects(connection: psycopg.Connection) -> list[Grant]:
    """Drop the functions, views and types that the last upgrade made; returns what was granted on them.

    ``CREATE OR REPLACE`` alone would keep what a newer version no longer has and cannot drop a view's column.
    What others have made in the schema is left alone.

    :raises SchemaError: when an object outside of cbirdb depends on one of them.
    """
    # With nothing on the search path PostgreSQL writes every name with its schema, as cbir.sql_object has it.
    connection.execute("SELECT set_config('search_path', '', true)")
    first_time = connection.execute("SELECT to_regclass('cbir.sql_object') IS NULL").fetchone()
    if first_time and first_time[0]:
        return []
    grants: list[Grant] = connection.execute(_GRANTS, {"schema": SCHEMA}).fetchall()
    try:
        for (statement,) in connection.execute(_TRIGGERS).fetchall():
            connection.execute(statement)
        _check_strangers(connection)
        for (statement,) in connection.execute(_DROPS, {"schema": SCHEMA}).fetchall():
            connection.execute(statement)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise SchemaError(
            f"Something outside of cbirdb depends on its views: {error.diag.message_detail or error}",
            hint="Drop it, upgrade, and create it again.",
        ) from error
    connection.execute("DELETE FROM cbir.sql_object")
    return grants


def _check_strangers(connection: psycopg.Connection) -> None:
    """Refuse to go on as a superuser where the schema's owner, who is none, has put code of his own into the way.

    It would run with a superuser's rights, whatever role is set. cbirdb's own triggers are gone by now.
    """
    found = [row[0] for row in connection.execute(_STRANGERS, {"schema": SCHEMA})]
    if found:
        raise SchemaError(
            f"An upgrade by a superuser would run what cbirdb did not make: {', '.join(found)}.",
            hint="Upgrade as a member of the schema's owner, who is no superuser.",
        )


def create_sql_objects(connection: psycopg.Connection, grants: list[Grant]) -> None:
    """Create the functions and views of ``sql/`` and grant on them again what was granted before.

    :raises SchemaError: when a file does not apply.
    """
    strangers = connection.execute(_OBJECTS, {"schema": SCHEMA}).fetchall()
    connection.execute("SELECT set_config('search_path', %s, true)", [_search_path(connection)])
    for path in sql_files():
        log.debug("applying %s", path.name)
        try:
            # Without parameters psycopg sends the file as one simple query, so it may hold several statements.
            connection.execute(path.read_bytes())
        except psycopg.Error as error:
            raise SchemaError(f"{path.name} could not be applied: {error}") from error
    connection.execute("SELECT set_config('search_path', '', true)")
    ours = set(connection.execute(_OBJECTS, {"schema": SCHEMA}).fetchall()) - set(strangers)
    connection.cursor().executemany("INSERT INTO cbir.sql_object (kind, name) VALUES (%s, %s)", sorted(ours))
    for kind, name, statement in grants:
        if _still_exists(connection, kind, name):
            connection.execute(statement)
        else:
            log.warning("not granted again, because the object has changed: %s", statement)


def _still_exists(connection: psycopg.Connection, kind: str, name: str) -> bool:
    lookup = "SELECT to_regclass(%s) IS NOT NULL" if kind == "view" else "SELECT to_regprocedure(%s) IS NOT NULL"
    row = connection.execute(lookup, [name]).fetchone()
    return bool(row and row[0])


def _search_path(connection: psycopg.Connection) -> str:
    """Schema ``cbir``, the schema that pgvector was created in, and nothing of the caller's before them."""
    row = connection.execute(
        "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'vector'"
    ).fetchone()
    if row is None:
        raise DatabaseError("The extension pgvector is not in this database.", hint="Run: cbirdb db upgrade")
    # Named last, or it would be searched first: a caller could put a table or a type of his own in a function's way.
    return f"{SCHEMA}, {row[0]}, pg_temp"


# Not what belongs to an extension, which may have been created in this schema.
_OBJECTS = """
SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'type' END AS kind, oid::regclass::text AS name
FROM pg_class AS o WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('v', 'c')
AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = o.oid AND d.deptype = 'e')
UNION ALL
SELECT 'routine', oid::regprocedure::text
FROM pg_proc AS o WHERE pronamespace = %(schema)s::regnamespace
AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = o.oid AND d.deptype = 'e')
"""

_TRIGGERS = """
SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
FROM pg_trigger
WHERE NOT tgisinternal AND tgfoid::regprocedure::text IN (SELECT name FROM cbir.sql_object WHERE kind = 'routine')
ORDER BY 1
"""

# One DROP names all views, so that they may depend on each other but nothing else may depend on them. Routines come
# after the views that use them, and before the types that they return. Names are the server's own spelling of what is
# there, not the text of a table that the owner may write into.
_DROPS = """
SELECT format('DROP %%s %%s', there.kind, string_agg(there.name, ', '))
FROM (
    SELECT 'VIEW' AS kind, c.oid::regclass::text AS name, 1 AS place
    FROM cbir.sql_object AS o INNER JOIN pg_class AS c ON c.oid = to_regclass(o.name)
    WHERE o.kind = 'view' AND c.relkind = 'v' AND c.relnamespace = %(schema)s::regnamespace
    UNION
    SELECT 'ROUTINE', p.oid::regprocedure::text, 2
    FROM cbir.sql_object AS o INNER JOIN pg_proc AS p ON p.oid = to_regprocedure(o.name)
    WHERE o.kind = 'routine' AND p.pronamespace = %(schema)s::regnamespace
    UNION
    SELECT 'TYPE', c.oid::regclass::text, 3
    FROM cbir.sql_object AS o INNER JOIN pg_class AS c ON c.oid = to_regclass(o.name)
    WHERE o.kind = 'type' AND c.relkind = 'c' AND c.relnamespace = %(schema)s::regnamespace
) AS there
GROUP BY there.kind, there.place
ORDER BY there.place
"""

_STRANGERS = """
SELECT format('%%s %%I on %%s', found.kind, found.name, found.oid::regclass)
FROM (
    SELECT 'trigger' AS kind, t.tgname AS name, c.oid, c.relnamespace
    FROM pg_trigger AS t INNER JOIN pg_class AS c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'rule', r.rulename, c.oid, c.relnamespace
    FROM pg_rewrite AS r INNER JOIN pg_class AS c ON c.oid = r.ev_class
    WHERE c.relkind = 'r'
) AS found
INNER JOIN pg_namespace AS n ON n.oid = found.relnamespace
INNER JOIN pg_roles AS o ON o.oid = n.nspowner
WHERE n.nspname = %(schema)s AND NOT o.rolsuper
  AND (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user)
ORDER BY found.kind, found.name
"""

_GRANTS = """
WITH object (kind, name, owner, acl) AS (
    SELECT 'view', oid::regclass::text, relowner, relacl
    FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND relkind = 'v'
    AND ('view', oid::regclass::text) IN (SELECT kind, name FROM cbir.sql_object)
    UNION ALL
    SELECT 'routine', oid::regprocedure::text, proowner, proacl
    FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
    AND ('routine', oid::regprocedure::text) IN (SELECT kind, name FROM cbir.sql_object)
)
SELECT kind, name, format(
    'GRANT %%s ON %%s %%s TO %%s%%s', privilege_type, CASE kind WHEN 'view' THEN 'TABLE' ELSE 'ROUTINE' END, name,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM object CROSS JOIN LATERAL aclexplode(acl) WHERE grantee <> owner
UNION ALL
SELECT kind, name, format('REVOKE ALL ON ROUTINE %%s FROM PUBLIC', name)
FROM object WHERE kind = 'routine' AND NOT EXISTS (
    SELECT FROM aclexplode(coalesce(acl, acldefault('f', owner))) AS a WHERE a.grantee = 0)
UNION ALL
SELECT 'view', name, format('GRANT %%s (%%I) ON %%s TO %%s%%s', privilege_type, attname, name,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM object JOIN pg_attribute ON kind = 'view' AND attrelid = to_regclass(name)
CROSS JOIN LATERAL aclexplode(attacl)
"""
