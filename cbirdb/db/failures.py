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
        """
        INSERT INTO cbir.failure (stage, encoder_id, dataset_id, source, line, reason, detail)
        SELECT %s, %s::bigint, new.*
        FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::text[], %s::text[]) AS new
        ON CONFLICT ON CONSTRAINT failure_key DO UPDATE SET
            occurrences = failure.occurrences + 1, last_at = now(), resolved = FALSE,
            reason = excluded.reason, detail = excluded.detail
        """,
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
        """
        UPDATE cbir.failure SET resolved = TRUE
        WHERE stage = %s AND dataset_id IS NOT DISTINCT FROM %s AND source = ANY(%s) AND NOT resolved
          AND encoder_id IS NOT DISTINCT FROM %s
        """,
        [stage, dataset_id, list(sources), encoder_id],
    )


def resolve_gone(connection: psycopg.Connection, dataset_ids: Collection[int], before: datetime) -> None:
    """Mark failures of an ingest that a later one, of all that the datasets have, did not meet again.

    :param before: when that one began, by the server's clock.
    """
    # What lies in a folder that could not be listed was not met, and may be there as it was.
    connection.execute(
        """
        UPDATE cbir.failure AS f SET resolved = TRUE
        WHERE f.stage = 'ingest' AND f.dataset_id = ANY(%(datasets)s) AND NOT f.resolved AND f.last_at < %(before)s
          AND NOT EXISTS (
              SELECT FROM cbir.failure AS u
              WHERE u.stage = 'ingest' AND u.dataset_id = f.dataset_id AND u.last_at >= %(before)s
                AND u.reason = 'unreadable' AND (u.source = '.' OR starts_with(f.source, u.source || '/'))
          )
        """,
        {"datasets": list(dataset_ids), "before": before},
    )


def resolve_gone_lists(connection: psycopg.Connection, folder: str, before: datetime) -> None:
    """The same for lists of a folder, which belong to no dataset."""
    connection.execute(
        "UPDATE cbir.failure SET resolved = TRUE WHERE stage = 'ingest' AND dataset_id IS NULL AND NOT resolved"
        " AND starts_with(source, %s) AND last_at < %s",
        [f"{folder.rstrip('/')}/", before],
    )


def has_unresolved(connection: psycopg.Connection, stage: Stage, encoder_id: int) -> bool:
    """Whether anything of a stage is unresolved for an encoder: mostly not, and then no batch need look."""
    query = "SELECT FROM cbir.failure WHERE stage = %s AND encoder_id = %s AND NOT resolved LIMIT 1"
    return connection.execute(query, [stage, encoder_id]).fetchone() is not None
