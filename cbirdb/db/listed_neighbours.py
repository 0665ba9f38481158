"""Neighbours that were found outside the server: they are measured again and stored by its own statements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.copy import HEADER, TRAILER
from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.read_embeddings import Block, read_embeddings
from cbirdb.db.schema import SCHEMA

AMONG_LISTED: LiteralString = """
SELECT c.image_id, c.label_ids, (e.embedding <=> q.embedding) + 0 AS distance
FROM pg_temp.listed AS l
INNER JOIN {table} AS e ON e.image_id = l.image_id
INNER JOIN candidate AS c ON c.image_id = l.image_id
WHERE l.query_image_id = q.image_id AND l.image_id <> q.image_id
  AND (%(same_patient)s OR c.patient_id IS DISTINCT FROM q.patient_id OR q.patient_id IS NULL)
ORDER BY distance, c.image_id
LIMIT %(k)s
"""

# The same of all queries at once, which the planner can join by hashing: a few large joins instead of three look-ups per
# pair. Hits are cast after the rank is tested, since a whole list may be longer than smallint counts.
FOUND_AMONG_LISTED: LiteralString = """
LEFT JOIN (
    SELECT query_image_id,
           array_agg(image_id ORDER BY distance, image_id) AS ids,
           array_agg(distance::real ORDER BY distance, image_id) AS distances,
           array_agg(hits::smallint ORDER BY distance, image_id) AS hits
    FROM (
        SELECT query_image_id, image_id, distance, row_number() OVER nearest AS rank,
               count(*) FILTER (WHERE is_relevant) OVER nearest AS hits
        FROM (
            SELECT l.query_image_id, l.image_id, c.label_ids && s.label_ids AS is_relevant,
                   (e.embedding <=> v.embedding) + 0 AS distance
            FROM pg_temp.listed AS l
            INNER JOIN {table} AS e ON e.image_id = l.image_id
            INNER JOIN candidate AS c ON c.image_id = l.image_id
            INNER JOIN query AS s ON s.image_id = l.query_image_id
            INNER JOIN {table} AS v ON v.image_id = l.query_image_id
            WHERE l.image_id <> l.query_image_id
              AND (%(same_patient)s OR c.patient_id IS DISTINCT FROM s.patient_id OR s.patient_id IS NULL)
        ) AS measured
        WINDOW nearest AS (PARTITION BY query_image_id ORDER BY distance, image_id ROWS UNBOUNDED PRECEDING)
    ) AS ranked
    WHERE rank <= %(k)s
    GROUP BY query_image_id
) AS found ON found.query_image_id = q.image_id
"""

_PAIR = np.dtype(
    [("fields", ">i2"), ("query_bytes", ">i4"), ("query", ">i8"), ("image_bytes", ">i4"), ("image", ">i8")]
)
"""A row of binary COPY."""


def list_images(connection: psycopg.Connection, lists: Mapping[int, NDArray[np.int64]]) -> None:
    """Replace the temporary table that the statements above look into: for each query the images to measure."""
    connection.execute(
        "CREATE TEMPORARY TABLE IF NOT EXISTS listed"
        " (query_image_id bigint NOT NULL, image_id bigint NOT NULL) ON COMMIT DROP"
    )
    connection.execute("TRUNCATE pg_temp.listed")
    rows = np.empty(sum(map(len, lists.values())), _PAIR)
    rows["fields"], rows["query_bytes"], rows["image_bytes"] = 2, 8, 8
    if lists:
        rows["query"] = np.repeat(list(lists), [len(images) for images in lists.values()])
        rows["image"] = np.concatenate(list(lists.values()))
    with connection.cursor() as cursor, cursor.copy("COPY pg_temp.listed FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER + rows.tobytes() + TRAILER)
    # Joins are planned by its size, and by how many pairs a query and an image have.
    connection.execute("ANALYZE pg_temp.listed")


def most_barred(connection: psycopg.Connection, *, same_patient: bool) -> int:
    """How many of the images that may be found a single query may not find at most: itself, and its patient's.

    The temporary tables of a prepared search must be there.
    """
    if same_patient:
        return 1
    row = connection.execute(
        "SELECT max(images) FROM (SELECT count(*) AS images FROM candidate WHERE patient_id IS NOT NULL"
        " AND patient_id IN (SELECT patient_id FROM query) GROUP BY patient_id) AS own"
    ).fetchone()
    return 1 + int(row[0] or 0) if row else 1


def read_part(
    connection: psycopg.Connection, encoder: StoredEncoder, part: LiteralString, only: Sequence[int] | None = None
) -> Iterator[Block]:
    """Embeddings of the images in one of a prepared search's temporary tables; of some of them, where ids are given."""
    query = sql.SQL(
        "SELECT e.image_id, e.embedding FROM {table} AS e WHERE e.image_id IN (SELECT image_id FROM {part})"
    ).format(table=sql.Identifier(SCHEMA, encoder.table), part=sql.Identifier("pg_temp", part))
    if only is not None:
        query += sql.SQL(" AND e.image_id = ANY({})").format(sql.Literal(list(only)))
    return read_embeddings(connection, query, encoder.dim, encoder.precision)
