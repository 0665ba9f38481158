"""cbirdb's group roles, and who owns schema ``cbir``.

The roles belong to the cluster and are made by ``sql/dba/create_roles.sql``; what each may do in a database is in
``sql/access`` and is granted by every upgrade.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from cbirdb.db.errors import translated_errors
from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.rows import first_value, one_value
from cbirdb.db.schema_name import INTERNAL_SCHEMA, SCHEMA
from cbirdb.errors import DatabaseError

log = logging.getLogger(__name__)

ROLES = {
    "cbir_reader": "searches and reads",
    "cbir_ingest": "also ingests, encodes and imports",
    "cbir_admin": "owns the schema: upgrades, indexes, evaluates, drops, erases",
    "cbir_auditor": "reads the audit and the certificates of erasure",
    "cbir_search": "owns the functions and views that readers use; has no members",
}
"""Names and duties, as in ``sql/dba/create_roles.sql``."""
ADMIN = "cbir_admin"
SEARCH = "cbir_search"


def create_roles(connection: psycopg.Connection, script: Path) -> None:
    """Run the administrator's script, where a role is missing.

    :param script: ``sql/dba/create_roles.sql``.
    :raises DatabaseError: when a role is missing and this one may not create it.
    """
    if set(existing_roles(connection)) == set(ROLES):
        return
    try:
        with connection.transaction():
            connection.execute(script.read_bytes())
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            "This role may not create roles.",
            hint="A database administrator can: cbirdb db roles --script | psql",
        ) from error


def existing_roles(connection: psycopg.Connection) -> list[str]:
    """Which of the roles there are, in the order of ``ROLES``."""
    with translated_errors():
        found = {
            row[0] for row in connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [[*ROLES]])
        }
    return [name for name in ROLES if name in found]


def check_search_role(connection: psycopg.Connection) -> None:
    """Refuse to upgrade a schema whose row-level security could not hold afterwards.

    :raises DatabaseError: when row-level security is on and the owner of the schema cannot act as ``cbir_search``.
    """
    # Asked of the tables and not of cbir.setting, which this role may not be able to read.
    row = connection.execute(
        """
        SELECT o.rolname, EXISTS (
            SELECT FROM pg_roles AS s WHERE s.rolname = %(search)s AND pg_has_role(o.oid, s.oid, 'SET')
        )
        FROM pg_class AS c
        INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
        INNER JOIN pg_roles AS o ON o.oid = n.nspowner
        WHERE c.oid = to_regclass('cbir.image') AND c.relrowsecurity
        """,
        {"search": SEARCH},
    ).fetchone()
    if row is not None and not row[1]:
        raise DatabaseError(
            f"Row-level security is on, and '{row[0]}', who owns the schema, may not act as the role '{SEARCH}' yet.",
            hint="A database administrator runs, as a superuser: cbirdb db roles --script | psql"
            + ("" if row[0] == ADMIN else f"; then: GRANT {SEARCH} TO {row[0]} WITH INHERIT FALSE, SET TRUE;"),
        )


def check_internal_schema(connection: psycopg.Connection) -> None:
    """Refuse to upgrade where ``cbir_internal`` cannot be made, or where its owner could put code of his own into it.

    :raises DatabaseError: says which statement a database administrator runs.
    """
    row = connection.execute(
        """
        SELECT
            quote_ident(o.rolname),
            i.nspowner IS NULL AND NOT has_database_privilege(current_database(), 'CREATE'),
            i.nspowner <> n.nspowner
            AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.oid = i.nspowner)
        FROM pg_namespace AS n
        INNER JOIN pg_roles AS o ON o.oid = n.nspowner
        LEFT JOIN pg_namespace AS i ON i.nspname = %(internal)s
        WHERE n.nspname = %(schema)s
        """,
        {"schema": SCHEMA, "internal": INTERNAL_SCHEMA},
    ).fetchone()
    if row is None:
        return
    owner, may_not_create, strange = row
    if may_not_create:
        raise DatabaseError(
            f"This version needs the schema '{INTERNAL_SCHEMA}', and this role may not create it.",
            hint=f"A database administrator runs: CREATE SCHEMA {INTERNAL_SCHEMA} AUTHORIZATION {owner};",
        )
    if strange:
        raise DatabaseError(
            f"The schema '{INTERNAL_SCHEMA}' belongs to another role than the schema '{SCHEMA}'.",
            hint=f"A database administrator looks at what is in it and runs: ALTER SCHEMA {INTERNAL_SCHEMA} OWNER TO {owner};",
        )


def set_row_security(connection: psycopg.Connection, *, enabled: bool, waits: LockWaits | None = None) -> bool:
    """Switch row-level security for every table; returns whether any role is given a dataset.

    :param waits: how this connection waits for those who read the tables.
    :raises DatabaseError: when this role does not own the schema.
    """
    waits = waits or LockWaits(connection)
    with translated_errors():
        return waits.retry(lambda: _set_row_security(waits, enabled))


def _set_row_security(waits: LockWaits, enabled: bool) -> bool:
    connection = waits.connection
    # All at once, before anything else: what follows waits for nobody while it holds them.
    waits.lock_tables(protected_tables(connection))
    connection.execute("SELECT cbir.set_row_security(%s)", [enabled])
    return connection.execute("SELECT FROM cbir.dataset_access LIMIT 1").fetchone() is not None


def protected_tables(connection: psycopg.Connection) -> list[str]:
    """Tables that row-level security is for."""
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
        " AND cbir_internal.tenant_condition(relname) IS NOT NULL ORDER BY relname",
        [SCHEMA],
    )
    return [row[0] for row in found]


def unconfirmed_access(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Rows of ``cbir.dataset_access``, role and dataset, that do not count because the role is not the one of then."""
    with translated_errors():
        return connection.execute(
            "SELECT a.role_name, a.dataset FROM cbir.dataset_access AS a"
            " INNER JOIN pg_roles AS r ON r.rolname = a.role_name WHERE a.role_oid IS DISTINCT FROM r.oid ORDER BY 1, 2"
        ).fetchall()


def confirm_access(connection: psycopg.Connection) -> int:
    """Let those rows count for the roles that have these names now; returns how many.

    :raises DatabaseError: when this role does not own the schema.
    """
    with translated_errors(), connection.transaction():
        return len(connection.execute("SELECT role_name FROM cbir.confirm_access()").fetchall())


@contextmanager
def acting_as_owner(connection: psycopg.Connection) -> Iterator[None]:
    """In an open transaction: make the schemas where there are none, and be their owner while the block runs.

    Where ``cbir_admin`` exists, a schema that is new, or that a superuser owns, becomes its: functions that run as
    their owner must not run as a superuser. A schema that another role owns stays that role's.

    :raises DatabaseError: when the schema of internal functions cannot be made or is somebody else's.
    """
    before = one_value(connection.execute("SELECT current_setting('role')"))
    owner = _future_owner(connection)
    whose = sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(owner)) if owner else sql.SQL("")
    for schema in (SCHEMA, INTERNAL_SCHEMA):
        # Asked before, as IF NOT EXISTS wants the right to create it even where it exists.
        if one_value(connection.execute("SELECT to_regnamespace(%s) IS NULL", [schema])):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)) + whose)
    if owner is not None:
        _hand_over(connection, owner)
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
    yield
    connection.execute("SELECT set_config('role', %s, true)", [before])


def _future_owner(connection: psycopg.Connection) -> str | None:
    """The role that schema and tables are to belong to; None: whoever they belong to, and this role stays what it is."""
    owner = connection.execute(
        """
        SELECT o.rolname FROM pg_namespace AS n INNER JOIN pg_roles AS o ON o.oid = n.nspowner
        WHERE n.nspname = %(schema)s AND NOT o.rolsuper AND pg_has_role(o.oid, 'SET')
        UNION ALL
        SELECT a.rolname FROM pg_roles AS a
        WHERE a.rolname = %(admin)s AND pg_has_role(a.oid, 'SET') AND NOT EXISTS (
            SELECT FROM pg_namespace AS n INNER JOIN pg_roles AS o ON o.oid = n.nspowner
            WHERE n.nspname = %(schema)s
              AND (NOT o.rolsuper OR NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
        )
        """,
        {"schema": SCHEMA, "admin": ADMIN},
    )
    return first_value(owner)


def _hand_over(connection: psycopg.Connection, owner: str) -> None:
    """Where a superuser owns a schema or a table in it, give them to this role."""
    to = sql.Identifier(owner)
    given = connection.execute(
        """
        SELECT 'SCHEMA', ARRAY[n.nspname::text]
        FROM pg_namespace AS n INNER JOIN pg_roles AS o ON o.oid = n.nspowner
        WHERE n.nspname IN (%(schema)s, %(internal)s) AND o.rolsuper
        UNION ALL
        SELECT 'TABLE', ARRAY[%(schema)s, c.relname]
        FROM pg_class AS c INNER JOIN pg_roles AS o ON o.oid = c.relowner
        WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'r' AND o.rolsuper
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
        """,
        {"schema": SCHEMA, "internal": INTERNAL_SCHEMA},
    ).fetchall()
    for kind, name in given:
        log.info("%s goes to %s", ".".join(name), owner)
        connection.execute(sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), sql.Identifier(*name), to))
