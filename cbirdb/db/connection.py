"""Opens connections, and says in one sentence why one cannot be had."""

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
    """The connection string; starts the embedded server when no other was named."""
    if settings.dsn is not None:
        return settings.dsn
    if not settings.embedded:
        return ""  # libpq reads its own variables
    return EmbeddedServer(settings.home_folder).start()


def connect(settings: Settings) -> psycopg.Connection:
    """Open a connection in autocommit mode: every transaction in cbirdb is an explicit ``transaction()`` block.

    Waits for a server that has no connection left, or that starts or recovers, for ``BUSY_S``.

    :raises DatabaseError: when there is no server, the password is wrong, the database does not exist, ...
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
            prepare_threshold=None,  # a pooler may hand the next transaction to a session that knows none of ours
        )
    except psycopg.ProgrammingError:
        # Nothing of libpq's own words: they quote the string, and a password may stand in it.
        raise DatabaseError(
            "The connection string is not valid.",
            hint="It looks like postgresql://user@host:5432/database or host=... dbname=...",
        ) from None
    except psycopg.OperationalError as error:
        raise connection_error(error) from error


def server_time(connection: psycopg.Connection) -> datetime:
    """The server's clock, as this transaction's rows have it."""
    now: datetime = one_value(connection.execute("SELECT now()"))
    return now
