"""Waits for locks without making searches wait: tries for a moment, lets go of everything, tries again, says who blocks.

A session that waits for a lock makes everybody queue who wants the same table after it. One reader who is idle in a
transaction would stop all searches as soon as an ALTER TABLE waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import CbirdbError

log = logging.getLogger(__name__)

T = TypeVar("T")
Connect = Callable[[], psycopg.Connection]

READERS_QUEUE_S = 0.5
"""How long a try may wait for locks that readers queue behind (ACCESS EXCLUSIVE)."""
WRITERS_QUEUE_S = 2.0
"""How long a try may wait for a lock that only writers queue behind. After deadlock_timeout, a second, the server takes
an autovacuum out of the way."""
PAUSE_S = 1.0
"""Between two tries: who has queued meanwhile goes first."""
POLL_S = 0.2
PATIENCE_S = 1.0
"""A lock that takes longer has somebody to be named."""
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class LockWaits:
    """How a connection waits for locks."""

    connection: psycopg.Connection
    note: Callable[[str], None] = log.warning
    """Is told, in one sentence, what is waited for."""
    connect: Connect | None = None
    """Opens a second connection, on which is asked who blocks the first; None: to the same server as the same role."""

    def retry(self, work: Callable[[], T], *, lock_timeout_s: float = READERS_QUEUE_S) -> T:
        """Do ``work`` in a transaction that gives up a lock after so long; then roll back, pause, and do it again.

        ``work`` may run many times, and may allow itself more time (``lock_timeout``) once it holds what others want.
        """
        with ExitStack() as stack:
            named = False
            while True:
                try:
                    with self.connection.transaction():
                        _limit_waits(self.connection, lock_timeout_s)
                        return work()
                except psycopg.errors.LockNotAvailable:
                    if not named:
                        stack.enter_context(self.naming_blockers(0))
                        named = True
                time.sleep(PAUSE_S)

    def lock_tables(self, tables: Sequence[str]) -> None:
        """In the transaction of ``retry``: lock these tables of schema cbir against everybody else's use.

        Waits for all of them no longer than it may for one, and from then on for anything else half as long.
        """
        deadline = time.monotonic() + READERS_QUEUE_S
        for table in tables:
            # The first are held while others are waited for, so all share one limit.
            _limit_waits(self.connection, max(deadline - time.monotonic(), 0.001))
            self.connection.execute(
                sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(SCHEMA, table))
            )
        _limit_waits(self.connection, READERS_QUEUE_S / 2)

    @contextmanager
    def naming_blockers(self, after_s: float = PATIENCE_S) -> Iterator[None]:
        """While the block runs, say who keeps the connection waiting, each time that somebody else does.

        :param after_s: look no earlier, and open no second connection before.
        """
        done = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=[self.connection.info.backend_pid, after_s, done], daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, pid: int, after_s: float, done: threading.Event) -> None:
        if done.wait(after_s):
            return
        told: set[int] = set()
        try:
            with self.connect() if self.connect else _another(self.connection) as watcher:
                watcher.autocommit = True  # in one transaction the server would show the same state for ever
                while not done.wait(POLL_S):
                    blockers = watcher.execute(_BLOCKERS, [pid]).fetchall()
                    if {number for number, _ in blockers} - told:
                        self.note(f"Waiting for a lock that is held by {'; '.join(who for _, who in blockers)}.")
                    told |= {number for number, _ in blockers}
        except (psycopg.Error, CbirdbError) as error:
            # Not knowing who blocks must not end the wait.
            self.note(f"Waiting for a lock; who holds it could not be asked: {str(error).splitlines()[0]}")


def _another(connection: psycopg.Connection) -> psycopg.Connection:
    """One more of the same kind, to the host that answered where several were named."""
    info = connection.info
    return psycopg.connect(
        make_conninfo(info.dsn, host=info.host, port=str(info.port), password=info.password or None),
        connect_timeout=CONNECT_TIMEOUT_S,
    )


def _limit_waits(connection: psycopg.Connection, seconds: float) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{max(round(seconds * 1000), 1)}ms"])


def wait_without_limit(connection: psycopg.Connection) -> None:
    """In the transaction of ``retry``: from here on, wait for locks as long as it takes. Nobody may queue behind them."""
    connection.execute("SELECT set_config('lock_timeout', '0', true)")


# Role and pid are everybody's to see, the rest is shown to members of pg_read_all_stats. 0 is a prepared transaction.
_BLOCKERS = """
SELECT DISTINCT b.pid, CASE b.pid
    WHEN 0 THEN 'a prepared transaction (see pg_prepared_xacts)'
    ELSE concat(
        'pid ', b.pid, ' (', coalesce('role ' || a.usename, nullif(a.backend_type, 'client backend'), 'no role'),
        ', ' || a.state, ', in a transaction since ' || date_trunc('second', a.xact_start), ')'
    ) END
FROM unnest(pg_blocking_pids(%s)) AS b (pid)
LEFT JOIN pg_stat_activity AS a ON a.pid = b.pid
ORDER BY 1
"""
