"""Build and drop the vector index of an encoder.

The build, its record and the statistics are one transaction: a build that is killed in it leaves nothing behind, and an
index in use is one whose parameters are known. The old index is dropped afterwards, so that searches never wait; a kill
before that leaves it, unused, to the next build or drop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import StoredEncoder, count_embeddings
from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.index_builds import IndexBuild, NoIndexError, current_build, leftover_indexes, server_versions
from cbirdb.db.known_defects import refuse_unsafe_ivfflat
from cbirdb.db.lock_waits import WRITERS_QUEUE_S, Connect, LockWaits, wait_without_limit
from cbirdb.db.rows import one_value
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError
from cbirdb.index.audit import Floor, audit_index
from cbirdb.index.choose import Choice
from cbirdb.index.methods import IndexMethod
from cbirdb.index.tune import tune_search
from cbirdb.progress import SILENT, Progress, Task

log = logging.getLogger(__name__)

POLL_S = 0.5


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
        waits = LockWaits(connection, progress.note)
        build = None
        with progress.task(f"indexing {encoder.name}", total=None, unit="steps") as task:
            while build is None:
                _drop_leftovers(waits, encoder)
                build = waits.retry(
                    lambda: _build_and_record(waits, connect, encoder, method, estimate, choice, task),
                    lock_timeout_s=WRITERS_QUEUE_S,
                )
            _drop_leftovers(waits, encoder)
    return build


def _build_and_record(
    waits: LockWaits,
    connect: Connect,
    encoder: StoredEncoder,
    method: IndexMethod,
    estimate: int,
    choice: Mapping[str, Any] | None,
    task: Task,
) -> IndexBuild | None:
    """Build in a transaction, and record that this index is in use; None where an earlier one is still to be dropped."""
    connection, table = waits.connection, sql.Identifier(SCHEMA, encoder.table)
    # What the build itself needs (SHARE), and only one can have: searches pass, writers and other builds wait.
    connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
    wait_without_limit(connection)
    if leftover_indexes(connection, encoder):
        # Of a build that ended while this one waited. Until it is gone searches do without an index.
        return None
    add_extension_to_search_path(connection)
    name = _new_name(connection, encoder, method)
    started = time.monotonic()
    with _watched(connection.info.backend_pid, connect, task), _memory_needed(estimate):
        connection.execute(method.create_statement(table, name, encoder.dim, encoder.precision))
    seconds = time.monotonic() - started
    with waits.naming_blockers():
        _retire(connection, encoder)
        _record(connection, encoder, method, name, estimate, seconds, choice)
        connection.execute(sql.SQL("ANALYZE {}").format(table))
    return current_build(connection, encoder)


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
        built, missed = _tune_and_audit(connection, encoder, built, method, seed, floor, progress)
        if missed is None or place == len(choice.methods):
            break
        progress.note(
            f"On all {built.rows_indexed:,} vectors {method.name} does not reach what it did on the sample: {missed}. The"
            " next method is built."
        )
    return built, missed


def _tune_and_audit(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    built: IndexBuild,
    method: IndexMethod,
    seed: int,
    floor: Floor,
    progress: Progress,
) -> tuple[IndexBuild, str | None]:
    fitted = method.for_rows(built.rows_indexed)
    try:
        built = tune_search(connection, encoder, built, fitted, seed=seed, floor=floor, progress=progress)
        built, measured = audit_index(connection, encoder, seed=seed, floor=floor, progress=progress)
    except NoIndexError as error:
        progress.note(f"The index was not audited: {error}")
        return built, None
    return built, measured.below(floor)


def drop_index(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    *,
    progress: Progress = SILENT,
) -> int:
    """Drop the encoder's vector index, and what killed builds and drops left; return how many there were.

    :raises InputError: when there is none.
    """
    waits = LockWaits(connection, progress.note)
    with translated_errors():
        retired = waits.retry(lambda: _retire_alone(connection, encoder), lock_timeout_s=WRITERS_QUEUE_S)
        if not retired:
            raise InputError(
                f"The encoder '{encoder.name}' has no vector index.",
                hint=f"Build one: cbirdb index build -e {encoder.name}",
            )
        _drop_leftovers(waits, encoder)
    return retired


def _retire_alone(connection: psycopg.Connection, encoder: StoredEncoder) -> int:
    """Retire the index while nobody builds; return how many are now to be dropped, by this session or by a waiting build."""
    connection.execute(
        sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.Identifier(SCHEMA, encoder.table))
    )
    _retire(connection, encoder)
    return len(leftover_indexes(connection, encoder))


def _compare_with_memory(
    connection: psycopg.Connection, method: IndexMethod, estimate: int, rows: int, progress: Progress
) -> None:
    memory = int(one_value(connection.execute("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))")))
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
    """Say how to allow the memory without which IVFFlat's clustering does not begin."""
    try:
        yield
    except psycopg.errors.ProgramLimitExceeded as error:
        raise InputError(
            f"The server may not use the memory that this build needs: {error.diag.message_primary}.",
            hint=f"Run: ALTER ROLE CURRENT_USER SET maintenance_work_mem = '{estimate * 11 // 10 // 2**20 + 1}MB';",
        ) from error


def _new_name(connection: psycopg.Connection, encoder: StoredEncoder, method: IndexMethod) -> str:
    number = one_value(connection.execute("SELECT coalesce(max(index_build_id), 0) + 1 FROM cbir.index_build"))
    # PostgreSQL cuts names at 63 bytes.
    return f"{encoder.table[:44]}_{method.name.replace('-', '_')}_{number}"


def _retire(connection: psycopg.Connection, encoder: StoredEncoder) -> None:
    """Record that the encoder's index is not in use any more."""
    connection.execute(
        "UPDATE cbir.index_build SET dropped_at = now() WHERE encoder_id = %s AND dropped_at IS NULL",
        [encoder.encoder_id],
    )


def _drop_leftovers(waits: LockWaits, encoder: StoredEncoder) -> None:
    """Drop the encoder's indexes that are not in use any more.

    CONCURRENTLY waits for those who read the table now, and lets everybody else read and write meanwhile.
    """
    for name in leftover_indexes(waits.connection, encoder):
        with waits.naming_blockers():
            waits.connection.execute(
                sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(SCHEMA, name))
            )


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
    """Report the progress of CREATE INDEX from a second connection while the block runs."""
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
