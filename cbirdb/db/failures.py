"""Rows of ``cbir.failure``: what went wrong with which file, and that it has gone well since."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import psycopg

from cbirdb.records import Failure

Stage = Literal["ingest", "encode", "import-embeddings"]


def record_failures(
    connection: psycopg.Connection,
    stage: Stage,
    failures: Iterable[Failure],
    *,
    dataset_ids: Mapping[str, int],
    encoder_id: int | None = None,
) -> None:
    """Store failures; one that is met again is counted, not repeated.

    :param dataset_ids: ids of the datasets by name; a failure that names none of them belongs to no dataset.
    """
    # The same file may fail twice in one batch, which one INSERT ... ON CONFLICT may not touch twice.
    unique = {(failure.dataset, failure.source, failure.line): failure for failure in failures}
    if not unique:
        return
    rows = [
        (dataset_ids.get(f.dataset) if f.dataset else None, f.source, f.line, f.reason, _plain(f.detail))
        for f in unique.values()
    ]
    datasets, sources, lines, reasons, details = zip(*rows, strict=True)
    connection.execute(
        "SELECT cbir_internal.record_failures(%s, %s, %s::bigint[], %s::text[], %s::int[], %s::text[], %s::text[])",
        [stage, encoder_id, list(datasets), list(sources), list(lines), list(reasons), list(details)],
    )


def _plain(text: str) -> str:
    """Without what PostgreSQL has no text for: messages of decoders may quote a file's bytes."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def resolve_failures(
    connection: psycopg.Connection,
    stage: Stage,
    dataset_id: int | None,
    sources: Sequence[str],
    *,
    encoder_id: int | None = None,
) -> None:
    """Mark what failed before and has gone well now."""
    connection.execute(
        "SELECT cbir_internal.resolve_failures(%s, %s, %s, %s)", [stage, encoder_id, dataset_id, list(sources)]
    )


def resolve_gone(connection: psycopg.Connection, dataset_ids: Collection[int], before: datetime) -> None:
    """Mark failures of an ingest that a later one, of all that the datasets have, did not meet again.

    :param before: when that one began, by the server's clock.
    """
    connection.execute("SELECT cbir_internal.resolve_gone_failures(%s::bigint[], %s)", [list(dataset_ids), before])


def resolve_gone_lists(connection: psycopg.Connection, folder: str, before: datetime) -> None:
    """The same for lists of a folder, which belong to no dataset."""
    connection.execute("SELECT cbir_internal.resolve_gone_lists(%s, %s)", [folder, before])


def has_unresolved(connection: psycopg.Connection, stage: Stage, encoder: str) -> bool:
    """Whether anything of a stage is unresolved for an encoder: mostly not, and then no batch need look."""
    query = "SELECT FROM cbir.failure_overview WHERE stage = %s AND encoder = %s AND NOT resolved LIMIT 1"
    return connection.execute(query, [stage, encoder]).fetchone() is not None
