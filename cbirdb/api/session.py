"""Hold the connection of one database: for one thread, opened when it is needed, closed for good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from cbirdb.config import Settings
from cbirdb.errors import InputError

if TYPE_CHECKING:
    import psycopg


class Session:
    """Give the connection to one call at a time. A context manager, which closes it."""

    def __init__(
        self, settings: Settings, *, when_opened: Callable[[psycopg.Connection], None] = lambda _connection: None
    ) -> None:
        """Name a database; the first call connects. Use :func:`cbirdb.connect` to connect at once.

        :param when_opened: called with each connection that was made and whose schema is up to date.
        """
        self.settings = settings
        self._when_opened = when_opened
        self._connection: psycopg.Connection | None = None
        self._has_schema = False
        self._closed = False
        self._busy = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The embedded server goes on; :meth:`stop_server` stops it."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    def stop_server(self) -> bool:
        """Close the connection and stop the embedded server; return whether it ran.

        :raises InputError: when a server was named.
        """
        if not self.settings.embedded:
            raise InputError(
                "A server was named, and only the embedded one can be stopped from here.", hint="Ask its administrator."
            )
        from cbirdb.db.server.embedded import EmbeddedServer

        self.close()
        return EmbeddedServer(self.settings.home_folder).stop()

    def open(self) -> None:
        """Connect now, where that has not been done; make the embedded server's schema."""
        with self._one_at_a_time():
            if self.settings.embedded:
                self._ready()
            else:
                self._connect()

    @property
    def connection(self) -> psycopg.Connection:
        """Return the connection, in autocommit mode, for what the methods do not offer."""
        with self._one_at_a_time():
            return self._ready()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Refuse a call while another runs, and turn the driver's errors into ours."""
        from cbirdb.db.errors import translated_errors

        if not self._busy.acquire(blocking=False):
            raise InputError(
                "This Database is at work already; a Database is for one thread.",
                hint="Wait for it, or use another: cbirdb.connect().",
            )
        try:
            with translated_errors():
                yield
        finally:
            self._busy.release()

    @contextmanager
    def _in_use(self) -> Iterator[psycopg.Connection]:
        with self._one_at_a_time():
            yield self._ready()

    def _ready(self) -> psycopg.Connection:
        """Return a connection to a database whose schema is up to date."""
        connection = self._connect()
        if not self._has_schema:
            from cbirdb.db.schema.open import ensure_schema

            ensure_schema(connection, self.settings)
            self._has_schema = True
            self._when_opened(connection)
        return connection

    def _connect(self) -> psycopg.Connection:
        if self._closed:
            raise InputError("This Database is closed.", hint="Connect again: cbirdb.connect().")
        if self._connection is None or self._connection.closed:
            self._connection = self._further_connection()
            self._has_schema = False
        return self._connection

    def _further_connection(self) -> psycopg.Connection:
        from cbirdb.db.connection import connect as open_connection

        return open_connection(self.settings)
