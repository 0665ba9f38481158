"""The extension pgvector in this database: its version, and where it lies."""

from __future__ import annotations

import psycopg

from cbirdb.db.rows import first_value


def extension_version(connection: psycopg.Connection) -> str | None:
    """Pgvector's version in this database, such as ``0.8.5``; None when it is not there."""
    return first_value(connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))


def version_tuple(version: str) -> tuple[int, ...]:
    """``0.8.5`` -> (0, 8, 5)."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def see_extension(connection: psycopg.Connection) -> None:
    """For this transaction, put the schema that pgvector lies in on the search path, wherever that is."""
    connection.execute(
        """
        SELECT set_config(
            'search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), true
        )
        FROM pg_extension AS x INNER JOIN pg_namespace AS n ON n.oid = x.extnamespace
        WHERE x.extname = 'vector'
        """
    )
