"""Builds, drops and reports the vector index of an encoder.

The build, its record and the statistics are one transaction: a build that is killed leaves nothing behind, and an
index that exists is one whose parameters are known.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.connection import translated_errors
from cbirdb.db.embeddings import StoredEncoder, count_embeddings
from cbirdb.db.migrate import extension_version
from cbirdb.db.tables import SCHEMA
from cbirdb.db.vector_index import IndexMethod
from cbirdb.errors import InputError
from cbirdb.progress import SILENT, Progress, Task

log = logging.getLogger(__name__)

POLL_S = 0.5
Connect = Callable[[], psycopg.Connection]


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """A row of ``cbir.index_build`` that is in use."""

    index_build_id: int
    encoder: str
    index_name: str
    method: str
    parameters: dict[str, Any]
    search_settings: dict[str, Any]
    rows_indexed: int
    index_bytes: int
    memory_estimate_bytes: int | None
    build_seconds: float
    built_at: Any

    def row(self) -> dict[str, object]:
        """The row that the command line prints."""
        return {
            "encoder": self.encoder,
            "build": self.index_build_id,
            "method": self.method,
            "parameters": _words(self.parameters),
            "search": _words(self.search_settings),
            "rows": self.rows_indexed,
            "index_mb": round(self.index_bytes / 2**20, 1),
            "memory_estimate_mb": round((self.memory_estimate_bytes or 0) / 2**20, 1),
            "seconds": round(self.build_seconds, 2),
            "built_at": self.built_at,
        }


def _words(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def build_index(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    method: IndexMethod,
    *,
    connect: Connect,
    progress: Progress = SILENT,
) -> IndexBuild:
    """Build the encoder's vector index in place of the one it has, record it, and ANALYZE its table.

    :param connect: opens the second connection, on which the build's progress is watched.
    :raises InputError: when there are no embeddings.
    """
    with translated_errors():
        rows = count_embeddings(connection, encoder)
        if rows == 0:
            raise InputError(
                f"There are no embeddings of '{encoder.name}' to index.", hint=f"Run: cbirdb encode -e {encoder.name}"
            )
        estimate = method.memory_estimate(rows, encoder.dim, encoder.precision)
        _compare_with_memory(connection, estimate, rows, progress)
        with progress.task(f"indexing {encoder.name}", total=None, unit="steps") as task, connection.transaction():
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"cbirdb index {encoder.name}"]
            )
            _drop(connection, encoder)
            name = _new_name(connection, encoder)
            started = time.monotonic()
            with _watched(connection.info.backend_pid, connect, task):
                connection.execute(method.create_statement(encoder.table, name, encoder.precision))
            seconds = time.monotonic() - started
            _record(connection, encoder, method, name, estimate, seconds)
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(SCHEMA, encoder.table)))
    build = current_build(connection, encoder)
    if build is None:
        raise InputError(
            f"The index of '{encoder.name}' was dropped by someone else meanwhile.", hint="Build it again."
        )
    return build


def drop_index(connection: psycopg.Connection, encoder: StoredEncoder) -> int:
    """Drop the encoder's vector index; returns how many there were.

    :raises InputError: when there is none.
    """
    with translated_errors(), connection.transaction():
        dropped = _drop(connection, encoder)
        if dropped == 0:
            raise InputError(
                f"The encoder '{encoder.name}' has no vector index.",
                hint=f"Build one: cbirdb index build -e {encoder.name}",
            )
    return dropped


def current_build(connection: psycopg.Connection, encoder: StoredEncoder) -> IndexBuild | None:
    """The build in use, or None."""
    row = connection.execute(
        """
        SELECT b.index_build_id, %s, b.index_name, b.method, b.parameters, b.search_settings, b.rows_indexed,
               b.index_bytes, b.memory_estimate_bytes, b.build_seconds, b.built_at
        FROM cbir.index_build AS b
        WHERE b.encoder_id = %s AND b.dropped_at IS NULL AND to_regclass('cbir.' || quote_ident(b.index_name)) IS NOT NULL
        ORDER BY b.index_build_id DESC LIMIT 1
        """,
        [encoder.name, encoder.encoder_id],
    ).fetchone()
    return IndexBuild(*row) if row else None


def _compare_with_memory(connection: psycopg.Connection, estimate: int, rows: int, progress: Progress) -> None:
    row = connection.execute("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))").fetchone()
    memory = int(row[0]) if row else 0
    progress.note(
        f"The graph of {rows:,} vectors needs about {estimate / 2**20:,.0f} MB;"
        f" maintenance_work_mem is {memory / 2**20:,.0f} MB."
    )
    if estimate > memory:
        progress.note(
            "It will not fit and the build will be many times slower; raise it first:"
            f" ALTER ROLE CURRENT_USER SET maintenance_work_mem = '{estimate * 11 // 10 // 2**20 + 1}MB';"
        )


def _new_name(connection: psycopg.Connection, encoder: StoredEncoder) -> str:
    row = connection.execute("SELECT coalesce(max(index_build_id), 0) + 1 FROM cbir.index_build").fetchone()
    return f"{encoder.table[:50]}_hnsw_{row[0] if row else 1}"


def _drop(connection: psycopg.Connection, encoder: StoredEncoder) -> int:
    names = connection.execute(
        "UPDATE cbir.index_build SET dropped_at = now() WHERE encoder_id = %s AND dropped_at IS NULL RETURNING index_name",
        [encoder.encoder_id],
    ).fetchall()
    for (name,) in names:
        connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(SCHEMA, name)))
    return len(names)


def _record(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    method: IndexMethod,
    name: str,
    estimate: int,
    seconds: float,
) -> None:
    connection.execute(
        sql.SQL(
            """
            INSERT INTO cbir.index_build (
                encoder_id, index_name, method, parameters, search_settings, rows_indexed, index_bytes,
                memory_estimate_bytes, build_seconds, versions
            )
            SELECT %s, %s, %s, %s, %s, (SELECT count(*) FROM {table}), pg_relation_size({index}::regclass), %s, %s, %s
            """
        ).format(
            table=sql.Identifier(SCHEMA, encoder.table),
            index=sql.Literal(sql.Identifier(SCHEMA, name).as_string(connection)),
        ),
        [
            encoder.encoder_id, name, method.name, Jsonb(method.parameters), Jsonb(method.search_settings),
            estimate, seconds, Jsonb(server_versions(connection)),
        ],
    )  # fmt: skip


def server_versions(connection: psycopg.Connection) -> dict[str, str]:
    """PostgreSQL's and pgvector's versions, recorded with every result."""
    row = connection.execute("SELECT current_setting('server_version')").fetchone()
    return {"postgresql": row[0] if row else "", "pgvector": extension_version(connection) or ""}


@contextmanager
def _watched(backend_pid: int, connect: Connect, task: Task) -> Iterator[None]:
    """Reports the progress of CREATE INDEX from a second connection while the block runs."""
    done = threading.Event()

    def watch() -> None:
        try:
            with connect() as watcher:
                while not done.wait(POLL_S):
                    row = watcher.execute(
                        "SELECT tuples_done, tuples_total FROM pg_stat_progress_create_index WHERE pid = %s",
                        [backend_pid],
                    ).fetchone()
                    if row and row[1]:
                        task.update(done=row[0], total=row[1])
        except (psycopg.Error, InputError) as error:
            # Not seeing how far it is must not stop the build.
            log.warning("the progress of the build cannot be shown: %s", error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
