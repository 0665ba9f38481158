"""Reconnects after a lost connection, for long work that should survive a restart of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg
import tenacity

from cbirdb.errors import BusyError, NotReadyError, UnreachableError

T = TypeVar("T")

PATIENCE_S = 60.0
"""Seconds that a server may be unreachable before the work ends."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0


class LostConnectionError(Exception):
    """Raised when the connection broke while in use; carries the driver's error."""


class ReconnectingConnection:
    """Runs pieces of work on a connection and retries them: on a new connection if it was lost, on the same after a
    deadlock.

    A piece is one transaction, or only reads, and may run twice: if the connection breaks during a commit, nobody knows
    if it succeeded.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection],
        *,
        patience_s: float = PATIENCE_S,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; connect on first use.

        :param note: called with one sentence for each lost connection.
        """
        self._connect = connect
        self._patience_s = patience_s
        self._note = note
        self._connection: psycopg.Connection | None = None
        self._given_up = False
        """The retry time is used up; later calls in this outage fail at once."""

    def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Call ``work`` with a working connection.

        :raises DatabaseError: when the server is unreachable for longer than the patience.
        """
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(
                (LostConnectionError, UnreachableError, psycopg.errors.DeadlockDetected)
            ),
            stop=tenacity.stop_after_delay(0 if self._given_up else self._patience_s),
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            before_sleep=self._note_outage,
            reraise=True,
        )
        try:
            result: T = tries(self._once, work)
        except LostConnectionError as error:
            self._given_up = True
            raise error.__cause__ or error from None
        except UnreachableError:
            self._given_up = True
            raise
        self._given_up = False
        return result

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, work: Callable[[psycopg.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
        try:
            return work(self._connection)
        except psycopg.errors.DiskFull:
            raise  # also if the server stopped because of it: waiting frees no space
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not self._connection.closed:
                raise
            self.close()
            raise LostConnectionError from error

    def _note_outage(self, state: tenacity.RetryCallState) -> None:
        # Report only the first try: later ones are in the same outage.
        error = state.outcome.exception() if state.outcome is not None else None
        lost = isinstance(error, (LostConnectionError, UnreachableError))
        if lost and state.attempt_number == 1 and state.next_action is not None:
            event = "The connection to the server was lost"
            if isinstance(error, (BusyError, NotReadyError)):
                event = error.message.rstrip(".")
            self._note(f"{event}; trying again for up to {self._patience_s:.0f} seconds.")
