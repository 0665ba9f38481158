"""Binary COPY of embeddings, built from whole arrays.

PostgreSQL's binary COPY format: a header, then per row the number of fields and per field its length and its bytes,
big-endian, then a trailer. pgvector sends a vector as dim (int16), unused (int16) and its components (float32 for
``vector``, float16 for ``halfvec``). All rows of a batch have the same size, so one NumPy structured array *is* the
buffer; going row by row through the driver's adapters takes twice as long.
"""

from __future__ import annotations

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.schema_name import SCHEMA
from cbirdb.records import Precision

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
CHUNK_BYTES = 1 << 17
"""Rows are encoded in pieces of about this size, what a socket holds: while one is encoded, the server works on those
before it. Larger ones leave it waiting."""


def row_type(dim: int, precision: Precision) -> np.dtype[np.void]:
    """One row of binary COPY: (image_id bigint, embedding) with all lengths."""
    component = ">f2" if precision == "half" else ">f4"
    return np.dtype(
        [
            ("fields", ">i2"),
            ("image_id_bytes", ">i4"),
            ("image_id", ">i8"),
            ("embedding_bytes", ">i4"),
            ("dim", ">i2"),
            ("unused", ">i2"),
            ("embedding", component, (dim,)),
        ]
    )


def encode_rows(image_ids: NDArray[np.int64], embeddings: NDArray[np.float32], precision: Precision) -> bytes:
    """The rows in binary COPY format, without header and trailer.

    :param image_ids: shape (n,).
    :param embeddings: shape (n, dim), normalised.
    """
    dtype = row_type(embeddings.shape[1], precision)
    rows = np.zeros(len(image_ids), dtype=dtype)
    rows["fields"] = 2
    rows["image_id_bytes"] = 8
    rows["image_id"] = image_ids
    rows["embedding_bytes"] = 4 + dtype["embedding"].itemsize
    rows["dim"] = embeddings.shape[1]
    rows["embedding"] = embeddings
    return rows.tobytes()


def copy_embeddings(
    connection: psycopg.Connection,
    table: str,
    image_ids: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    precision: Precision,
) -> int:
    """Add embeddings to an embedding table in one transaction; images that have one already keep it.

    :param table: name of the table in schema ``cbir``.
    :param image_ids: shape (n,), each at most once.
    :param embeddings: shape (n, dim), normalised.
    :returns: number of rows added.
    """
    try:
        with connection.transaction():
            _send(connection, sql.Identifier(SCHEMA, table), image_ids, embeddings, precision)
        return len(image_ids)
    except (psycopg.errors.UniqueViolation, psycopg.errors.FeatureNotSupported):
        # Another process was faster with some of them, or the table is under row-level security. COPY can neither skip
        # rows nor ask a policy, so take the slow way round.
        return _copy_new_only(connection, sql.Identifier(SCHEMA, table), image_ids, embeddings, precision)


def _send(
    connection: psycopg.Connection,
    target: sql.Identifier,
    image_ids: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    precision: Precision,
) -> None:
    step = max(1, CHUNK_BYTES // row_type(embeddings.shape[1], precision).itemsize)
    statement = sql.SQL("COPY {} (image_id, embedding) FROM STDIN (FORMAT binary)").format(target)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(HEADER)
        for start in range(0, len(image_ids), step):
            piece = slice(start, start + step)
            copy.write(encode_rows(image_ids[piece], embeddings[piece], precision))
        copy.write(TRAILER)


def _copy_new_only(
    connection: psycopg.Connection,
    target: sql.Identifier,
    image_ids: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    precision: Precision,
) -> int:
    staging = sql.Identifier("arriving_embedding")
    with connection.transaction():
        connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT image_id, embedding FROM {} WHERE false"
            ).format(staging, target)
        )
        _send(connection, staging, image_ids, embeddings, precision)
        cursor = connection.execute(
            sql.SQL(
                "INSERT INTO {} (image_id, embedding) SELECT image_id, embedding FROM {} ON CONFLICT (image_id) DO NOTHING"
            ).format(target, staging)
        )
        connection.execute(sql.SQL("DROP TABLE {}").format(staging))
    return cursor.rowcount
