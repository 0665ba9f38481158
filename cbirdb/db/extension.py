"""Finds pgvector in this database: its version, and its schema."""

from __future__ import annotations

import psycopg

from cbirdb.db.rows import first_value


def extension_version(connection: psycopg.Connection) -> str | None:
    """Return pgvector's version in this database, such as ``0.8.5``; None if it is not installed."""
    return first_value(connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))


def version_tuple(version: str) -> tuple[int, ...]:
    """Parse a version: ``0.8.5`` -> (0, 8, 5)."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def add_extension_to_search_path(connection: psycopg.Connection) -> None:
    """Add pgvector's schema to the search path for this transaction."""
    connection.execute(
        """
        SELECT set_config(
            'search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), true
        )
        FROM pg_extension AS x INNER JOIN pg_namespace AS n ON n.oid = x.extnamespace
        WHERE x.extname = 'vector'
        """
    )
