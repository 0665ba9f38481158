"""Drops and re-creates the functions, views and types of ``sql/`` at every upgrade, and keeps the grants on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import psycopg

from cbirdb.db.rows import first_value, one_value
from cbirdb.db.schema.roles import ROLES
from cbirdb.db.schema_name import INTERNAL_SCHEMA, SCHEMA
from cbirdb.errors import DatabaseError, SchemaError

log = logging.getLogger(__name__)


def repository_folder(name: str) -> Path:
    """Return ``sql/`` or ``alembic/``: at the top of a checkout, or inside the package installed from a wheel."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / f"_{name}", package.parent / name):
        if candidate.is_dir():
            return candidate
    raise SchemaError(f"The folder {name}/ is missing from this installation.", hint="Install cbirdb again.")


def sql_files() -> Iterator[Path]:
    """Yield the files of ``sql/`` in the order of their application: folders as in ``order.txt``, files by name."""
    top = repository_folder("sql")
    for line in (top / "order.txt").read_text().splitlines():
        if folder := line.partition("#")[0].strip():
            yield from sorted((top / folder).glob("*.sql"))


ROLES_SCRIPT = "dba/create_roles.sql"
"""Path below ``sql/``. No upgrade applies it, since roles belong to a whole server."""
Grant = tuple[str, str, str]
"""Kind of object (view, routine), its name, and a GRANT statement in force on it."""
SCHEMAS = [SCHEMA, INTERNAL_SCHEMA]


def drop_sql_objects(connection: psycopg.Connection, *, keep_triggers: bool = False) -> list[Grant]:
    """Drop the functions, views and types of the last upgrade; return the grants on them.

    ``CREATE OR REPLACE`` alone would keep objects that a newer version no longer has, and cannot drop a view's column.
    Objects that others created in the schema stay.

    :param keep_triggers: keep triggers and their functions, which are then replaced: DROP TRIGGER locks out searches.
    :raises SchemaError: when an object outside of cbirdb depends on one of them.
    """
    # With an empty search path PostgreSQL writes every name with its schema, as cbir.sql_object has it.
    connection.execute("SELECT set_config('search_path', '', true)")
    if one_value(connection.execute("SELECT to_regclass('cbir.sql_object') IS NULL")):
        return []
    grants: list[Grant] = connection.execute(_GRANTS, {"schemas": SCHEMAS, "own": [*ROLES]}).fetchall()
    try:
        if not keep_triggers:
            for (statement,) in connection.execute(_TRIGGERS).fetchall():
                connection.execute(statement)
            _check_foreign_code(connection)
        for (statement,) in connection.execute(_DROPS, {"schemas": SCHEMAS}).fetchall():
            connection.execute(statement)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise SchemaError(
            f"An object outside of cbirdb depends on its views: {error.diag.message_detail or error}",
            hint="Drop it, upgrade, and create it again.",
        ) from error
    # Functions that triggers keep are replaced, not re-created, and stay recorded.
    connection.execute(
        "DELETE FROM cbir.sql_object WHERE kind <> 'routine'"
        " OR NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = to_regprocedure(name))"
    )
    return grants


def _check_foreign_code(connection: psycopg.Connection) -> None:
    """Refuse to continue as a superuser if the schema's owner, who is none, has put their own code in the way.

    That code would run with a superuser's rights, whatever role is set. cbirdb's own triggers are already dropped.
    """
    found = [row[0] for row in connection.execute(_FOREIGN_CODE, {"schema": SCHEMA})]
    if found:
        raise SchemaError(
            f"An upgrade by a superuser would run code that is not cbirdb's: {', '.join(found)}.",
            hint="Upgrade as a role that is a member of the schema's owner and is no superuser.",
        )


def create_sql_objects(connection: psycopg.Connection, grants: list[Grant]) -> None:
    """Create the functions and views of ``sql/``, and restore the earlier grants on them.

    :raises SchemaError: when a file does not apply.
    """
    foreign = connection.execute(_OBJECTS, {"schemas": SCHEMAS}).fetchall()
    connection.execute("SELECT set_config('search_path', %s, true)", [_search_path(connection)])
    # A function may call one that a later file makes.
    connection.execute("SELECT set_config('check_function_bodies', 'off', true)")
    for path in sql_files():
        log.debug("applying %s", path.name)
        try:
            # Without parameters psycopg sends the file as one simple query, which may hold several statements.
            connection.execute(path.read_bytes())
        except psycopg.errors.LockNotAvailable:
            raise  # to be retried
        except psycopg.Error as error:
            raise SchemaError(f"{path.name} could not be applied: {error}") from error
    connection.execute("SELECT set_config('search_path', '', true)")
    ours = set(connection.execute(_OBJECTS, {"schemas": SCHEMAS}).fetchall()) - set(foreign)
    connection.cursor().executemany("INSERT INTO cbir.sql_object (kind, name) VALUES (%s, %s)", sorted(ours))
    for (statement,) in connection.execute(_REVOKES).fetchall():
        connection.execute(statement)
    for kind, name, statement in grants:
        moved = name.replace(f"{SCHEMA}.", f"{INTERNAL_SCHEMA}.", 1)
        if _may_be_granted(connection, kind, name):
            connection.execute(statement)
        elif kind == "routine" and _may_be_granted(connection, kind, moved):
            connection.execute(statement.replace(name, moved, 1))
        else:
            log.warning("not granted again because the object has changed: %s", statement)


def _may_be_granted(connection: psycopg.Connection, kind: str, name: str) -> bool:
    """Return True if an object still exists and roles other than cbirdb's own may have rights on it."""
    lookup = (
        "SELECT to_regclass(%s) IS NOT NULL"
        if kind == "view"
        else "SELECT EXISTS (SELECT FROM cbir_internal.function_audience() WHERE routine = to_regprocedure(%s)"
        " AND audience NOT IN ('inner', 'owner'))"
    )
    return bool(one_value(connection.execute(lookup, [name])))


def _search_path(connection: psycopg.Connection) -> str:
    """Return a search path of schema ``cbir`` and pgvector's schema, with nothing of the caller's before them."""
    place = first_value(
        connection.execute(
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
            " WHERE extname = 'vector'"
        )
    )
    if place is None:
        raise DatabaseError("The extension pgvector is not in this database.", hint="Run: cbirdb db upgrade")
    # pg_temp must be last, or it is searched first: a caller could shadow a function's table or type with his own.
    return f"{SCHEMA}, {place}, pg_temp"


# Exclude the objects of an extension, which may have been created in this schema.
_OBJECTS = """
SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'type' END AS kind, oid::regclass::text AS name
FROM pg_class AS o WHERE relnamespace::regnamespace::text = ANY (%(schemas)s) AND relkind IN ('v', 'c')
AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = o.oid AND d.deptype = 'e')
UNION ALL
SELECT 'routine', oid::regprocedure::text
FROM pg_proc AS o WHERE pronamespace::regnamespace::text = ANY (%(schemas)s)
AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = o.oid AND d.deptype = 'e')
"""

_TRIGGERS = """
SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
FROM pg_trigger
WHERE NOT tgisinternal AND tgfoid::regprocedure::text IN (SELECT name FROM cbir.sql_object WHERE kind = 'routine')
ORDER BY 1
"""

# One DROP names all views, so that they may depend on each other but nothing else may depend on them. Routines come
# after the views that use them, and before the types that they return. Names are the server's spelling of existing
# objects, not the text of a table that the owner may write.
_DROPS = """
SELECT format('DROP %%s %%s', there.kind, string_agg(there.name, ', '))
FROM (
    SELECT 'VIEW' AS kind, c.oid::regclass::text AS name, 1 AS place
    FROM cbir.sql_object AS o INNER JOIN pg_class AS c ON c.oid = to_regclass(o.name)
    WHERE o.kind = 'view' AND c.relkind = 'v' AND c.relnamespace::regnamespace::text = ANY (%(schemas)s)
    UNION
    SELECT 'ROUTINE', p.oid::regprocedure::text, 2
    FROM cbir.sql_object AS o INNER JOIN pg_proc AS p ON p.oid = to_regprocedure(o.name)
    WHERE o.kind = 'routine' AND p.pronamespace::regnamespace::text = ANY (%(schemas)s)
      AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid)
    UNION
    SELECT 'TYPE', c.oid::regclass::text, 3
    FROM cbir.sql_object AS o INNER JOIN pg_class AS c ON c.oid = to_regclass(o.name)
    WHERE o.kind = 'type' AND c.relkind = 'c' AND c.relnamespace::regnamespace::text = ANY (%(schemas)s)
) AS there
GROUP BY there.kind, there.place
ORDER BY there.place
"""

_FOREIGN_CODE = """
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
    FROM pg_class WHERE relnamespace::regnamespace::text = ANY (%(schemas)s) AND relkind = 'v'
    AND ('view', oid::regclass::text) IN (SELECT kind, name FROM cbir.sql_object)
    UNION ALL
    SELECT 'routine', oid::regprocedure::text, proowner, proacl
    FROM pg_proc WHERE pronamespace::regnamespace::text = ANY (%(schemas)s)
    AND ('routine', oid::regprocedure::text) IN (SELECT kind, name FROM cbir.sql_object)
)
SELECT kind, name, format(
    'GRANT %%s ON %%s %%s TO %%s%%s', privilege_type, CASE kind WHEN 'view' THEN 'TABLE' ELSE 'ROUTINE' END, name,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM object CROSS JOIN LATERAL aclexplode(acl)
WHERE grantee <> owner AND grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname = ANY(%(own)s))
  -- Before there were audiences, everybody could call a function unless that was revoked: nobody's decision.
  AND (grantee <> 0 OR kind = 'view' OR num_nonnulls(
    to_regproc('cbir.function_audience'), to_regproc('cbir_internal.function_audience')
  ) > 0)
UNION ALL
SELECT 'view', name, format('GRANT %%s (%%I) ON %%s TO %%s%%s', privilege_type, attname, name,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM object JOIN pg_attribute ON kind = 'view' AND attrelid = to_regclass(name)
CROSS JOIN LATERAL aclexplode(attacl)
"""

# PostgreSQL lets everybody call a new function.
_REVOKES = """
SELECT format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine) FROM cbir_internal.function_audience() WHERE audience <> 'public'
"""
