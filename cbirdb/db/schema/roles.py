"""Manages cbirdb's group roles and the ownership of schema ``cbir``.

The roles belong to the cluster, and ``sql/dba/create_roles.sql`` creates them. ``sql/access`` lists their rights in a
database, and every upgrade grants them.
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
    """Run the administrator's script if a role is missing.

    :param script: ``sql/dba/create_roles.sql``.
    :raises DatabaseError: when a role is missing and this role may not create it.
    """
    if set(existing_roles(connection)) == set(ROLES):
        return
    try:
        try:
            with connection.transaction():
                connection.execute(script.read_bytes())
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject):
            # Another first command was faster, and has committed. The script adds what is still missing.
            with connection.transaction():
                connection.execute(script.read_bytes())
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            "This role may not create roles.",
            hint="A database administrator can run: cbirdb db roles --script | psql",
        ) from error


def existing_roles(connection: psycopg.Connection) -> list[str]:
    """Return the existing ones of cbirdb's roles, in the order of ``ROLES``."""
    with translated_errors():
        found = {
            row[0] for row in connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [[*ROLES]])
        }
    return [name for name in ROLES if name in found]


def check_search_role(connection: psycopg.Connection) -> None:
    """Refuse to upgrade a schema whose row-level security would not hold afterwards.

    :raises DatabaseError: when row-level security is on and the owner of the schema cannot act as ``cbir_search``.
    """
    # Read from the tables: this role may have no right to read cbir.setting.
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
            f"Row-level security is on, but the schema's owner '{row[0]}' may not act as the role '{SEARCH}' yet.",
            hint="Ask a database administrator to run, as a superuser: cbirdb db roles --script | psql"
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
    """Switch row-level security for every table; return True if any role has access to a dataset.

    :param waits: waits for those who read the tables; None: the default.
    :raises DatabaseError: when this role does not own the schema.
    """
    waits = waits or LockWaits(connection)
    with translated_errors():
        return waits.retry(lambda: _set_row_security(waits, enabled))


def _set_row_security(waits: LockWaits, enabled: bool) -> bool:
    connection = waits.connection
    # Lock all tables at once and first, so that the following statements wait for nobody while they hold the locks.
    waits.lock_tables(protected_tables(connection))
    connection.execute("SELECT cbir.set_row_security(%s)", [enabled])
    return connection.execute("SELECT FROM cbir.dataset_access LIMIT 1").fetchone() is not None


def protected_tables(connection: psycopg.Connection) -> list[str]:
    """Return the tables that row-level security protects."""
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
        " AND cbir_internal.tenant_condition(relname) IS NOT NULL ORDER BY relname",
        [SCHEMA],
    )
    return [row[0] for row in found]


def unconfirmed_access(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Return the rows (role, dataset) of ``cbir.dataset_access`` without effect, because another role has the name
    now.
    """
    with translated_errors():
        return connection.execute(
            "SELECT a.role_name, a.dataset FROM cbir.dataset_access AS a"
            " INNER JOIN pg_roles AS r ON r.rolname = a.role_name WHERE a.role_oid IS DISTINCT FROM r.oid ORDER BY 1, 2"
        ).fetchall()


def confirm_access(connection: psycopg.Connection) -> int:
    """Give these rows effect for the roles that now have their names; return their number.

    :raises DatabaseError: when this role does not own the schema.
    """
    with translated_errors(), connection.transaction():
        return len(connection.execute("SELECT role_name FROM cbir.confirm_access()").fetchall())


@contextmanager
def acting_as_owner(connection: psycopg.Connection) -> Iterator[None]:
    """Act as the owner of the schemas while the block runs, in an open transaction; create a missing schema.

    If ``cbir_admin`` exists, it becomes the owner of a new schema and of a superuser's schema: functions that run as
    their owner must not run as a superuser. Another role keeps its schema.
    """
    before = one_value(connection.execute("SELECT current_setting('role')"))
    owner = _future_owner(connection)
    authorization = sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(owner)) if owner else sql.SQL("")
    for schema in (SCHEMA, INTERNAL_SCHEMA):
        # Check first: IF NOT EXISTS needs the right to create the schema even if it exists.
        if one_value(connection.execute("SELECT to_regnamespace(%s) IS NULL", [schema])):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)) + authorization)
    if owner is not None:
        _hand_over(connection, owner)
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
    yield
    connection.execute("SELECT set_config('role', %s, true)", [before])


def _future_owner(connection: psycopg.Connection) -> str | None:
    """Return the future owner of schema and tables; None: ownership and role stay unchanged."""
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
    """Give the schemas and their tables to this role if a superuser owns them."""
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
