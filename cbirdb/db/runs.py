"""Evaluation runs as rows: those that died, and what is counted when one ends."""

from __future__ import annotations

import psycopg

RUN_LOCK = 0x63626965
"""First key of the advisory lock that a process holds on a run while it works on it."""


def remove_unfinished_runs(connection: psycopg.Connection) -> None:
    """Remove what killed evaluations left behind; a run whose process lives holds its lock."""
    unfinished = connection.execute("SELECT run_id FROM cbir.search_run WHERE finished_at IS NULL").fetchall()
    for (run_id,) in unfinished:
        with connection.transaction():
            connection.execute(
                "DELETE FROM cbir.search_run WHERE run_id = %s AND finished_at IS NULL"
                " AND pg_try_advisory_xact_lock(%s, %s::int)",
                [run_id, RUN_LOCK, run_id],
            )


def count_without_relevant(connection: psycopg.Connection, run_id: int) -> int:
    """Queries whose label no indexed image carries."""
    row = connection.execute(
        "SELECT count(*) FROM cbir.search_result WHERE run_id = %s AND relevant_count = 0", [run_id]
    ).fetchone()
    return int(row[0]) if row else 0
