"""Opens connections, and explains a failure in one sentence."""

from __future__ import annotations

from datetime import datetime

import psycopg

from cbirdb.config import Settings
from cbirdb.db.busy_server import wait_while_busy
from cbirdb.db.errors import connection_error
from cbirdb.db.rows import one_value
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.errors import DatabaseError

CONNECT_TIMEOUT_S = 10


def conninfo(settings: Settings) -> str:
    """Return the connection string; start the embedded server if no other was named."""
    if settings.dsn is not None:
        return settings.dsn
    if not settings.embedded:
        return ""  # libpq reads its own variables
    return EmbeddedServer(settings.home_folder).start()


def connect(settings: Settings) -> psycopg.Connection:
    """Open a connection in autocommit mode: every transaction in cbirdb is an explicit ``transaction()`` block.

    Waits up to ``BUSY_S`` for a server that has no free connection, or that starts or recovers.

    :raises DatabaseError: when the server is missing, the password is wrong, the database does not exist, ...
    """
    target = conninfo(settings)
    return wait_while_busy(lambda: _connect(target))


def _connect(target: str) -> psycopg.Connection:
    try:
        return psycopg.connect(
            target,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="cbirdb",
            prepare_threshold=None,  # a pooler may hand the next transaction to a session without our prepared statements
        )
    except psycopg.ProgrammingError:
        # Do not repeat libpq's words: they quote the string, which may contain a password.
        raise DatabaseError(
            "The connection string is not valid.",
            hint="Write it like postgresql://user@host:5432/database or host=... dbname=...",
        ) from None
    except psycopg.OperationalError as error:
        raise connection_error(error) from error


def server_time(connection: psycopg.Connection) -> datetime:
    """Return the server's time, as this transaction's rows record it."""
    now: datetime = one_value(connection.execute("SELECT now()"))
    return now
