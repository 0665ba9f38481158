"""Builds, drops and reports the vector index of an encoder.

The build, its record and the statistics are one transaction: a build that is killed leaves nothing behind, and an
index that exists is one whose parameters are known.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.connection import see_extension, translated_errors
from cbirdb.db.embeddings import StoredEncoder, count_embeddings
from cbirdb.db.index_builds import IndexBuild, current_build, server_versions
from cbirdb.db.known_defects import refuse_unsafe_ivfflat
from cbirdb.db.schema import SCHEMA
from cbirdb.db.vector_index import IndexMethod
from cbirdb.errors import InputError
from cbirdb.index_audit import Floor, NoIndexError, audit_index
from cbirdb.index_choice import Choice
from cbirdb.index_settling import settle_search
from cbirdb.progress import SILENT, Progress, Task

log = logging.getLogger(__name__)

POLL_S = 0.5
Connect = Callable[[], psycopg.Connection]


def build_index(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    method: IndexMethod,
    *,
    connect: Connect,
    choice: Mapping[str, Any] | None = None,
    allow_ivfflat: bool = False,
    progress: Progress = SILENT,
) -> IndexBuild:
    """Build the encoder's vector index in place of the one it has, record it, and ANALYZE its table.

    :param connect: opens the second connection, on which the build's progress is watched.
    :param choice: what was measured when the method was chosen; recorded.
    :param allow_ivfflat: even on a shared server whose pgvector has a defect in IVFFlat builds.
    :raises InputError: when there are no embeddings, the server may not use the memory that the build cannot do without,
        or its pgvector is not fit for IVFFlat.
    """
    with translated_errors():
        refuse_unsafe_ivfflat(connection, encoder, method.name, progress, allowed=allow_ivfflat)
        rows = count_embeddings(connection, encoder)
        if rows == 0:
            raise InputError(
                f"There are no embeddings of '{encoder.name}' to index.", hint=f"Run: cbirdb encode -e {encoder.name}"
            )
        method = method.for_rows(rows)
        estimate = method.memory_estimate(rows, encoder.dim, encoder.precision)
        _compare_with_memory(connection, method, estimate, rows, progress)
        with progress.task(f"indexing {encoder.name}", total=None, unit="steps") as task, connection.transaction():
            _one_at_a_time(connection, encoder)
            see_extension(connection)
            name = _new_name(connection, encoder, method)
            table = sql.Identifier(SCHEMA, encoder.table)
            started = time.monotonic()
            with _watched(connection.info.backend_pid, connect, task), _memory_needed(estimate):
                connection.execute(method.create_statement(table, name, encoder.dim, encoder.precision))
            seconds = time.monotonic() - started
            old = _retire(connection, encoder)
            _record(connection, encoder, method, name, estimate, seconds, choice)
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(SCHEMA, encoder.table)))
            build = current_build(connection, encoder)
            # Last of all: it locks out searches until the transaction ends, which is now.
            _drop(connection, old)
    if build is None:
        raise InputError(f"The index of '{encoder.name}' was not recorded.", hint="Build it again.")
    return build


def build_chosen(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    choice: Choice,
    *,
    connect: Connect,
    seed: int = 0,
    floor: Floor | None = None,
    allow_ivfflat: bool = False,
    progress: Progress = SILENT,
) -> tuple[IndexBuild, str | None]:
    """Build what was chosen on a sample and audit it; where it fails on the whole table, build what came next.

    :returns: the index that is in use, and what its audit says against it (None: nothing).
    """
    floor = floor or Floor()
    for place, method in enumerate(choice.methods, start=1):
        recorded = choice.json(failed=choice.methods[: place - 1])
        built = build_index(
            connection,
            encoder,
            method,
            connect=connect,
            choice=recorded,
            allow_ivfflat=allow_ivfflat,
            progress=progress,
        )
        built, missed = _settle_and_audit(connection, encoder, built, method, seed, floor, progress)
        if missed is None or place == len(choice.methods):
            break
        progress.note(
            f"On all {built.rows_indexed:,} vectors {method.name} does not reach what it did on the sample: {missed}. The"
            " next method is built."
        )
    return built, missed


def _settle_and_audit(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    built: IndexBuild,
    method: IndexMethod,
    seed: int,
    floor: Floor,
    progress: Progress,
) -> tuple[IndexBuild, str | None]:
    fitted = method.for_rows(built.rows_indexed)
    built = settle_search(connection, encoder, built, fitted, seed=seed, floor=floor, progress=progress)
    try:
        built, measured = audit_index(connection, encoder, seed=seed, floor=floor, progress=progress)
    except NoIndexError:
        progress.note("The index was dropped by somebody else before it could be audited.")
        return built, None
    return built, measured.below(floor)


def drop_index(connection: psycopg.Connection, encoder: StoredEncoder) -> int:
    """Drop the encoder's vector index; returns how many there were.

    :raises InputError: when there is none.
    """
    with translated_errors(), connection.transaction():
        _one_at_a_time(connection, encoder)
        names = _retire(connection, encoder)
        if not names:
            raise InputError(
                f"The encoder '{encoder.name}' has no vector index.",
                hint=f"Build one: cbirdb index build -e {encoder.name}",
            )
        _drop(connection, names)
    return len(names)


def _compare_with_memory(
    connection: psycopg.Connection, method: IndexMethod, estimate: int, rows: int, progress: Progress
) -> None:
    row = connection.execute("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))").fetchone()
    memory = int(row[0]) if row else 0
    what = "lists" if method.name == "ivfflat" else "graph"
    progress.note(
        f"The {what} of {rows:,} vectors need{'' if what == 'lists' else 's'} about {estimate / 2**20:,.0f} MB;"
        f" maintenance_work_mem is {memory / 2**20:,.0f} MB."
    )
    if estimate > memory:
        outcome = "may be refused" if what == "lists" else "will be many times slower"
        progress.note(
            f"It will not fit and the build {outcome}; raise it first:"
            f" ALTER ROLE CURRENT_USER SET maintenance_work_mem = '{estimate * 11 // 10 // 2**20 + 1}MB';"
        )


@contextmanager
def _memory_needed(estimate: int) -> Iterator[None]:
    """IVFFlat's clustering does not begin at all where it may not use the memory that it needs."""
    try:
        yield
    except psycopg.errors.ProgramLimitExceeded as error:
        raise InputError(
            f"The server may not use the memory that this build needs: {error.diag.message_primary}.",
            hint=f"Run: ALTER ROLE CURRENT_USER SET maintenance_work_mem = '{estimate * 11 // 10 // 2**20 + 1}MB';",
        ) from error


def _new_name(connection: psycopg.Connection, encoder: StoredEncoder, method: IndexMethod) -> str:
    row = connection.execute("SELECT coalesce(max(index_build_id), 0) + 1 FROM cbir.index_build").fetchone()
    # PostgreSQL cuts names at 63 bytes.
    return f"{encoder.table[:44]}_{method.name.replace('-', '_')}_{row[0] if row else 1}"


def _one_at_a_time(connection: psycopg.Connection, encoder: StoredEncoder) -> None:
    """Wait until nobody else builds or drops an index of this encoder, until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"cbirdb index {encoder.name}"])


def _retire(connection: psycopg.Connection, encoder: StoredEncoder) -> list[str]:
    """Record that the encoder's index is dropped; returns the names of what is still to be dropped."""
    found = connection.execute(
        "UPDATE cbir.index_build SET dropped_at = now() WHERE encoder_id = %s AND dropped_at IS NULL"
        " RETURNING index_name",
        [encoder.encoder_id],
    )
    return [row[0] for row in found]


def _drop(connection: psycopg.Connection, names: list[str]) -> None:
    for name in names:
        connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(SCHEMA, name)))


def _record(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    method: IndexMethod,
    name: str,
    estimate: int,
    seconds: float,
    choice: Mapping[str, Any] | None,
) -> None:
    connection.execute(
        sql.SQL(
            """
            INSERT INTO cbir.index_build (
                encoder_id, index_name, method, parameters, search_settings, choice, rows_indexed, index_bytes,
                memory_estimate_bytes, build_seconds, versions
            )
            SELECT %s, %s, %s, %s, %s, %s, (SELECT count(*) FROM {table}), pg_relation_size({index}::regclass), %s, %s, %s
            """
        ).format(
            table=sql.Identifier(SCHEMA, encoder.table),
            index=sql.Literal(sql.Identifier(SCHEMA, name).as_string(connection)),
        ),
        [
            encoder.encoder_id, name, method.name, Jsonb(method.parameters), Jsonb(method.search_settings),
            Jsonb(dict(choice)) if choice is not None else None, estimate, seconds, Jsonb(server_versions(connection)),
        ],
    )  # fmt: skip


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
