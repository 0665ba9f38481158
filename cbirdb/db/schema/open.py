"""Opens a database whose schema ``cbir`` is up to date."""

from __future__ import annotations

import psycopg

from cbirdb.config import Settings
from cbirdb.db.connection import connect
from cbirdb.db.errors import translated_errors
from cbirdb.db.schema.migrate import current_state, installed_state, upgrade_own
from cbirdb.errors import SchemaError


def open_database(settings: Settings) -> psycopg.Connection:
    """Open a connection to a database whose schema ``cbir`` is up to date.

    Upgrades the schema of the embedded server, which is ours, and no other.

    :raises SchemaError: when the schema is missing or of another version.
    """
    connection = connect(settings)
    try:
        ensure_schema(connection, settings)
    except BaseException:
        connection.close()
        raise
    return connection


def ensure_schema(connection: psycopg.Connection, settings: Settings) -> None:
    """Bring the embedded server's schema up to date; check anybody else's.

    :raises SchemaError: when the schema is missing or old.
    """
    with translated_errors():
        state = current_state(connection)
    if state == installed_state():
        return
    if settings.embedded:
        upgrade_own(connection)
        return
    if state is None:
        raise SchemaError("This database has no schema 'cbir' yet.", hint="Run: cbirdb db upgrade")
    raise SchemaError(
        f"The schema 'cbir' has another version ({state}) than this cbirdb ({installed_state()}).",
        hint="Run: cbirdb db upgrade",
    )
