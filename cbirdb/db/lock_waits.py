"""Waits for locks without making searches wait: tries briefly, releases everything, tries again, names the blockers.

Every session that wants the same table queues behind a session that waits for a lock on it. If an ALTER TABLE waits for
one reader who is idle in a transaction, it stops all searches.
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
"""Seconds that a try may wait for locks that readers queue behind (ACCESS EXCLUSIVE)."""
WRITERS_QUEUE_S = 2.0
"""Seconds that a try may wait for a lock that only writers queue behind. After deadlock_timeout, one second, the server
cancels a blocking autovacuum.
"""
PAUSE_S = 1.0
"""Seconds between two tries, in which queued sessions go first."""
POLL_S = 0.2
PATIENCE_S = 1.0
"""Seconds after which the blockers of a lock are named."""
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class LockWaits:
    """Settings by which a connection waits for locks."""

    connection: psycopg.Connection
    note: Callable[[str], None] = log.warning
    """Called with one sentence that says who holds the lock."""
    connect: Connect | None = None
    """Opens a second connection that finds the blockers of the first. None: to the same server as the same role."""

    def retry(self, work: Callable[[], T], *, lock_timeout_s: float = READERS_QUEUE_S) -> T:
        """Run ``work`` in a transaction that limits its waits for locks; on timeout roll back, pause, and run it again.

        ``work`` may run many times. It may raise its own ``lock_timeout`` once it holds the locks that others want.
        """
        with ExitStack() as stack:
            named = False
            while True:
                try:
                    with self.connection.transaction():
                        _set_lock_timeout(self.connection, lock_timeout_s)
                        return work()
                except psycopg.errors.LockNotAvailable:
                    if not named:
                        stack.enter_context(self.naming_blockers(0))
                        named = True
                time.sleep(PAUSE_S)

    def lock_tables(self, tables: Sequence[str]) -> None:
        """Lock these tables of schema cbir against all other use, in the transaction of ``retry``.

        Waits for all of them together no longer than for one. Later waits in the transaction may take half as long.
        """
        deadline = time.monotonic() + READERS_QUEUE_S
        for table in tables:
            # The first tables are held while the others are waited for, so all share one limit.
            _set_lock_timeout(self.connection, max(deadline - time.monotonic(), 0.001))
            self.connection.execute(
                sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(SCHEMA, table))
            )
        _set_lock_timeout(self.connection, READERS_QUEUE_S / 2)

    @contextmanager
    def naming_blockers(self, after_s: float = PATIENCE_S) -> Iterator[None]:
        """Name the sessions that block the connection while the block runs, whenever new ones do.

        :param after_s: seconds before the first look, which opens a second connection.
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
        named: set[int] = set()
        try:
            with self.connect() if self.connect else _connect_again(self.connection) as watcher:
                watcher.autocommit = True  # in one transaction the server would always show the same state
                while not done.wait(POLL_S):
                    blockers = watcher.execute(_BLOCKERS, [pid]).fetchall()
                    if {number for number, _ in blockers} - named:
                        self.note(f"Waiting for a lock that is held by {'; '.join(who for _, who in blockers)}.")
                    named |= {number for number, _ in blockers}
        except (psycopg.Error, CbirdbError) as error:
            # A failure to find the blockers must not end the wait.
            self.note(f"Waiting for a lock. Its holder could not be found: {str(error).splitlines()[0]}")


def _connect_again(connection: psycopg.Connection) -> psycopg.Connection:
    """Open another connection to the same host, also if several hosts were named."""
    info = connection.info
    return psycopg.connect(
        make_conninfo(info.dsn, host=info.host, port=str(info.port), password=info.password or None),
        connect_timeout=CONNECT_TIMEOUT_S,
    )


def _set_lock_timeout(connection: psycopg.Connection, seconds: float) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{max(round(seconds * 1000), 1)}ms"])


def wait_without_limit(connection: psycopg.Connection) -> None:
    """Remove the limit on waits in the transaction of ``retry``. Call it only once no session can queue behind its
    locks.
    """
    connection.execute("SELECT set_config('lock_timeout', '0', true)")


# Everybody may see role and pid; members of pg_read_all_stats see the rest. 0 is a prepared transaction.
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
