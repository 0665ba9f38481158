"""Measures pairs of a query and an image on the server that were listed outside of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.copy import HEADER, TRAILER
from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.evaluation.selection import ChangedError
from cbirdb.db.read_embeddings import Block, read_embeddings
from cbirdb.db.rows import one_value
from cbirdb.db.schema_name import SCHEMA

PAIRS_PER_BATCH = 300_000
"""Pairs per statement: one large join is several times as fast as many small ones."""

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

_MEASURE: LiteralString = """
SELECT coalesce(array_agg(distance ORDER BY query_image_id, image_id), '{{}}')
FROM (
    SELECT l.query_image_id, l.image_id, e.embedding <=> q.embedding AS distance
    FROM pg_temp.listed AS l
    INNER JOIN {table} AS e ON e.image_id = l.image_id
    INNER JOIN {table} AS q ON q.image_id = l.query_image_id
    OFFSET 0 -- or the vectors are sorted, not the distances
) AS measured
"""

_PAIR = np.dtype(
    [("fields", ">i2"), ("query_bytes", ">i4"), ("query", ">i8"), ("image_bytes", ">i4"), ("image", ">i8")]
)
"""A row of binary COPY."""


def list_images(connection: psycopg.Connection, queries: NDArray[np.int64], images: NDArray[np.int64]) -> None:
    """Replace the contents of the temporary table that the statements above read.

    :param queries: ids of shape (n,), one for each of ``images``.
    """
    connection.execute(
        "CREATE TEMPORARY TABLE IF NOT EXISTS listed"
        " (query_image_id bigint NOT NULL, image_id bigint NOT NULL) ON COMMIT DROP"
    )
    connection.execute("TRUNCATE pg_temp.listed")
    rows = np.empty(len(images), _PAIR)
    rows["fields"], rows["query_bytes"], rows["image_bytes"] = 2, 8, 8
    rows["query"], rows["image"] = queries, images
    with connection.cursor() as cursor, cursor.copy("COPY pg_temp.listed FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER + rows.tobytes() + TRAILER)
    # The planner needs the table's size, and the number of pairs of a query and an image.
    connection.execute("ANALYZE pg_temp.listed")


def measure_pairs(
    connection: psycopg.Connection, encoder: StoredEncoder, queries: NDArray[np.int64], images: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cosine distances that the server computes, of shape (n,).

    :param queries: ids of shape (n,), one for each of ``images``; no pair twice.
    :raises ChangedError: when an image has no embedding any more.
    """
    statement = sql.SQL(_MEASURE).format(table=sql.Identifier(SCHEMA, encoder.table))
    order = np.lexsort((images, queries))
    measured: list[float] = []
    for start in range(0, len(order), PAIRS_PER_BATCH):
        some = order[start : start + PAIRS_PER_BATCH]
        list_images(connection, queries[some], images[some])
        measured += one_value(connection.execute(statement, binary=True))
    if len(measured) != len(order):
        raise ChangedError
    distances = np.empty(len(order))
    distances[order] = measured
    return distances


def most_excluded(connection: psycopg.Connection, *, same_patient: bool) -> int:
    """Return the most indexed images that any one query must exclude: itself, and its patient's.

    The temporary tables of a prepared search must exist.
    """
    if same_patient:
        return 1
    most = connection.execute(
        "SELECT max(images) FROM (SELECT count(*) AS images FROM candidate WHERE patient_id IS NOT NULL"
        " AND patient_id IN (SELECT patient_id FROM query) GROUP BY patient_id) AS own"
    )
    return 1 + int(one_value(most) or 0)


def read_part(
    connection: psycopg.Connection, encoder: StoredEncoder, part: LiteralString, only: Sequence[int] | None = None
) -> Generator[Block]:
    """Yield embeddings of the images in one of a prepared search's temporary tables.

    :param only: ids of the images to read; None: all.
    """
    query = sql.SQL(
        "SELECT e.image_id, e.embedding FROM {table} AS e WHERE e.image_id IN (SELECT image_id FROM {part})"
    ).format(table=sql.Identifier(SCHEMA, encoder.table), part=sql.Identifier("pg_temp", part))
    if only is not None:
        query += sql.SQL(" AND e.image_id = ANY({}::bigint[])").format(sql.Literal(list(only)))
    return read_embeddings(connection, query, encoder.dim, encoder.precision)
