"""Neighbours that were found outside the server: they are measured again and stored by its own statements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.read_embeddings import Block, read_embeddings
from cbirdb.db.schema import SCHEMA

AMONG_LISTED: LiteralString = """
SELECT c.image_id, c.label_ids, (e.embedding <=> q.embedding) + 0 AS distance
FROM pg_temp.listed AS l
CROSS JOIN LATERAL unnest(l.image_ids) AS f (image_id)
INNER JOIN {table} AS e ON e.image_id = f.image_id
INNER JOIN candidate AS c ON c.image_id = f.image_id
WHERE l.query_image_id = q.image_id AND f.image_id <> q.image_id
  AND (%(same_patient)s OR c.patient_id IS DISTINCT FROM q.patient_id OR q.patient_id IS NULL)
ORDER BY distance, c.image_id
LIMIT %(k)s
"""


def list_images(connection: psycopg.Connection, lists: Mapping[int, NDArray[np.int64]]) -> None:
    """Replace the temporary table that ``AMONG_LISTED`` looks into: for each query the images to measure."""
    connection.execute(
        "CREATE TEMPORARY TABLE IF NOT EXISTS listed"
        " (query_image_id bigint PRIMARY KEY, image_ids bigint[] NOT NULL) ON COMMIT DROP"
    )
    connection.execute("TRUNCATE pg_temp.listed")
    with connection.cursor() as cursor, cursor.copy("COPY pg_temp.listed FROM STDIN") as copy:
        for query, images in lists.items():
            copy.write_row((query, images.tolist()))


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
