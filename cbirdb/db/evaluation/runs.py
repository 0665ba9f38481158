"""Stores evaluation runs as rows: opens, resumes and holds them, and removes runs that nobody will finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.evaluation.selection import Counts, Selection
from cbirdb.db.index_builds import IndexBuild
from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.rows import one_value

RUN_LOCK = 0x63626965
"""First key of the advisory lock that a process holds on a run while it works on it."""
DAYS_KEPT = 7
"""Days for which a dead run waits for the command that resumes it."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Everything that determines a run's results. A dead run with the same definition and contents is resumed."""

    task: Selection
    protocol_text: str
    """The protocol in words."""
    datasets: list[str]
    k: int
    build: IndexBuild | None
    """The index to use; None: exact."""
    seed: int
    versions: Mapping[str, Any]

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``cbir.search_run``."""
        settings = {} if self.build is None else {"search_settings": self.build.search_settings}
        return {
            "encoder_id": self.task.encoder.encoder_id,
            "protocol": self.task.protocol,
            "definition": self.protocol_text,
            "split_seed": self.task.split_seed,
            "same_patient": self.task.same_patient,
            "datasets": self.datasets,
            "query_split": self.task.query_split,
            "index_split": self.task.index_split,
            "k": self.k,
            "mode": "exact" if self.build is None else "approximate",
            "index_build_id": None if self.build is None else self.build.index_build_id,
            "seed": self.seed,
            "versions": Jsonb({**self.versions, **settings}),
        }


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that only this process works on."""

    run_id: int
    stored: frozenset[int]
    """Queries that an earlier process stored."""
    outdated: bool
    """True if a run of the same definition was removed because its images, labels or embeddings have changed."""


@contextmanager
def held_run(connect: Callable[[], psycopg.Connection], definition: Definition, counts: Counts) -> Iterator[HeldRun]:
    """Resume the run of a dead process, or open a new one, and mark it as alive while the block runs.

    The mark is a lock of a transaction on its own connection. It vanishes with the process, and it also works behind a
    pooler that hands sessions on. Of two processes that want to resume a run, one gets its lock. If the block fails,
    stored results are kept for the next process. Dead runs of the encoder that nobody will resume are removed.
    """
    with connect() as own, connect() as marker, marker.transaction():
        keep_transaction_open(marker)
        run_id = _resume(own, marker, definition, counts)
        outdated = _remove_dead(own, definition, counts)
        if run_id is None:
            with own.transaction():  # nobody sees the run before it is marked
                run_id = _open(own, definition, counts)
                with LockWaits(marker).naming_blockers():  # anybody may hold it
                    marker.execute("SELECT pg_advisory_xact_lock(%s, %s)", [RUN_LOCK, run_id])
        stored = own.execute("SELECT query_image_id FROM cbir.search_result WHERE run_id = %s", [run_id])
        try:
            yield HeldRun(run_id, frozenset(row[0] for row in stored), outdated)
        except BaseException:
            if not own.closed and not own.broken:
                own.execute(
                    "DELETE FROM cbir.search_run AS r WHERE r.run_id = %(run)s AND r.finished_at IS NULL"
                    " AND NOT EXISTS (SELECT FROM cbir.search_result AS s WHERE s.run_id = %(run)s)",
                    {"run": run_id},
                )
            raise


def _resume(own: psycopg.Connection, marker: psycopg.Connection, definition: Definition, counts: Counts) -> int | None:
    """Return the fullest dead run of this definition and these contents, with its lock; None if there is none."""
    query = sql.SQL(
        "SELECT run_id FROM cbir.search_run AS r WHERE finished_at IS NULL AND fingerprint = %(fingerprint)s AND {same}"
        " ORDER BY (SELECT count(*) FROM cbir.search_result AS s WHERE s.run_id = r.run_id) DESC, run_id DESC"
    ).format(same=_same(definition.columns()))
    for (run_id,) in own.execute(query, definition.columns() | {"fingerprint": counts.fingerprint}).fetchall():
        if not one_value(marker.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [RUN_LOCK, run_id])):
            continue  # its process is alive, or another has taken it over
        # Another process may have finished or removed it between the two statements.
        unfinished = own.execute(
            "SELECT run_id FROM cbir.search_run WHERE run_id = %s AND finished_at IS NULL", [run_id]
        )
        if unfinished.fetchone() is not None:
            return int(run_id)
    return None


def _open(own: psycopg.Connection, definition: Definition, counts: Counts) -> int:
    values = definition.columns() | {
        "indexed_images": counts.indexed,
        "query_images": counts.queries,
        "fingerprint": counts.fingerprint,
    }
    query = sql.SQL("INSERT INTO cbir.search_run ({}) VALUES ({}) RETURNING run_id").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values))
    )
    return int(one_value(own.execute(query, values)))


def _remove_dead(own: psycopg.Connection, definition: Definition, counts: Counts) -> bool:
    """Remove dead runs of the encoder that nobody will resume.

    They have this definition but other contents, or were resumed as another run, or are too old. A run of a living
    process holds its lock.

    :returns: True if one of them had this definition and other contents.
    """
    query = sql.SQL(
        "SELECT run_id, coalesce({same} AND fingerprint <> %(fingerprint)s, FALSE) FROM cbir.search_run"
        " WHERE finished_at IS NULL AND encoder_id = %(encoder_id)s"
        " AND ({same} OR fingerprint IS NULL OR started_at < now() - make_interval(days => %(days)s))"
    ).format(same=_same(definition.columns()))
    values = definition.columns() | {"fingerprint": counts.fingerprint, "days": DAYS_KEPT}
    outdated = False
    for run_id, is_outdated in own.execute(query, values).fetchall():
        with own.transaction():
            removed = own.execute(
                "DELETE FROM cbir.search_run WHERE run_id = %s AND finished_at IS NULL"
                " AND pg_try_advisory_xact_lock(%s, %s::int)",
                [run_id, RUN_LOCK, run_id],
            ).rowcount
        outdated = outdated or (is_outdated and removed > 0)
    return outdated


def keep_transaction_open(connection: psycopg.Connection) -> None:
    """Disable the timeouts that would end this transaction while the work that it guards continues elsewhere."""
    connection.execute(
        "SELECT set_config(name, '0', TRUE) FROM pg_settings"
        " WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
    )


def _same(columns: Mapping[str, Any]) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} IS NOT DISTINCT FROM {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in columns
    )


def count_without_relevant(connection: psycopg.Connection, run_id: int) -> int:
    """Count the queries whose label no indexed image has."""
    query = "SELECT count(*) FROM cbir.search_result WHERE run_id = %s AND relevant_count = 0"
    return int(one_value(connection.execute(query, [run_id])))
