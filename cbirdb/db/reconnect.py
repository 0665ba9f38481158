"""A connection that comes back: for long work that should outlive a restart of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg
import tenacity

from cbirdb.errors import BusyError, NotReadyError, UnreachableError

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long a server may be gone before the work ends."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0


class LostConnectionError(Exception):
    """The connection broke while it was in use; holds what the driver said."""


class ReconnectingConnection:
    """Does pieces of work on a connection, and each again: on a new one when the connection is lost in the middle, on
    the same when the server has stopped the work because it and another's were waiting for each other.

    A piece is one transaction, or reads only, and may run twice: where the connection breaks while it commits, nobody
    knows whether it did.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection],
        *,
        patience_s: float = PATIENCE_S,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Connects when first used.

        :param note: is told, in one sentence, of each connection that was lost.
        """
        self._connect = connect
        self._patience_s = patience_s
        self._note = note
        self._connection: psycopg.Connection | None = None
        self._given_up = False
        """The patience has run out once: of the same outage, no more of it is due to further work."""

    def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Call ``work`` with a connection that works.

        :raises DatabaseError: when the server has been gone for longer than the patience.
        """
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(
                (LostConnectionError, UnreachableError, psycopg.errors.DeadlockDetected)
            ),
            stop=tenacity.stop_after_delay(0 if self._given_up else self._patience_s),
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            before_sleep=self._tell,
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
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, work: Callable[[psycopg.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
        try:
            return work(self._connection)
        except psycopg.errors.DiskFull:
            raise  # also where the server went down over it: waiting makes no room
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not self._connection.closed:
                raise
            self.close()
            raise LostConnectionError from error

    def _tell(self, state: tenacity.RetryCallState) -> None:
        # The first try only: after that, it is the same outage.
        error = state.outcome.exception() if state.outcome is not None else None
        lost = isinstance(error, (LostConnectionError, UnreachableError))
        if lost and state.attempt_number == 1 and state.next_action is not None:
            what = "The connection to the server was lost"
            if isinstance(error, (BusyError, NotReadyError)):
                what = error.message.rstrip(".")
            self._note(f"{what}; trying again for up to {self._patience_s:.0f} seconds.")
