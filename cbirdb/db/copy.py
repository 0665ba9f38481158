"""Embeddings -> the database: binary COPY, built from whole arrays, or a binary array where COPY is refused.

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
from psycopg.adapt import Dumper
from psycopg.pq import Format

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.schema_name import SCHEMA
from cbirdb.records import Precision

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
CHUNK_BYTES = 1 << 17
"""Rows are encoded in pieces of about this size, what a socket holds: while one is encoded, the server works on those
before it. Larger ones leave it waiting."""
ARRAY_BYTES = 1 << 22
"""Vectors go out in arrays of about this size where COPY is refused: the server holds one at a time in memory."""
_TARGET = """
SELECT has_table_privilege(a.attrelid, 'INSERT') AND NOT row_security_active(a.attrelid), t.oid::int8, t.typarray::int8
FROM pg_attribute AS a INNER JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(%s) AND a.attname = 'embedding'
"""


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


def add_embeddings(
    connection: psycopg.Connection, stored: StoredEncoder, image_ids: NDArray[np.int64], embeddings: NDArray[np.float32]
) -> int:
    """Add embeddings to an encoder's table in one transaction; images that have one already keep it.

    :param image_ids: shape (n,), each at most once.
    :param embeddings: shape (n, dim), normalised.
    :returns: number of rows added.
    """
    found = connection.execute(_TARGET, [f"{SCHEMA}.{stored.table}"]).fetchone()
    may_copy, vector_oid, array_oid = found or (True, 0, 0)
    if may_copy:
        try:
            return copy_embeddings(connection, stored.table, image_ids, embeddings, stored.precision)
        except psycopg.errors.UniqueViolation:
            pass  # another process was faster with some of them, and COPY cannot skip rows
    step = max(1, ARRAY_BYTES // row_type(embeddings.shape[1], stored.precision).itemsize)
    added = 0
    with connection.transaction(), connection.cursor() as cursor:
        cursor.adapters.register_dumper(_VectorArray, _dumper(array_oid))
        for start in range(0, len(image_ids), step):
            piece = slice(start, start + step)
            array = _VectorArray(encode_array(embeddings[piece], stored.precision, vector_oid))
            row = cursor.execute(
                "SELECT cbir_internal.store_embeddings(%s, %s::bigint[], %s)",
                [stored.name, image_ids[piece].tolist(), array],
            ).fetchone()
            added += row[0] if row else 0
    return added


def encode_array(embeddings: NDArray[np.float32], precision: Precision, vector_oid: int) -> bytes:
    """The vectors as PostgreSQL sends an array in binary: dimensions, NULLs, type, length, first index, elements.

    :param embeddings: shape (n, dim), normalised.
    :param vector_oid: of the type of the elements.
    """
    full = row_type(embeddings.shape[1], precision)
    element = np.dtype([(name, full[name]) for name in ("embedding_bytes", "dim", "unused", "embedding")])
    rows = np.zeros(len(embeddings), dtype=element)
    rows["embedding_bytes"] = 4 + element["embedding"].itemsize
    rows["dim"] = embeddings.shape[1]
    rows["embedding"] = embeddings
    return np.array([1, 0, vector_oid, len(embeddings), 1], dtype=">i4").tobytes() + rows.tobytes()


class _VectorArray(bytes):
    """An array of vectors as it is sent."""


def _dumper(array_oid: int) -> type[Dumper]:
    """Sends a ``_VectorArray`` as it is, as of this type: pgvector's types have other ids in each database."""

    class VectorArrayDumper(Dumper):
        format = Format.BINARY
        oid = array_oid

        def dump(self, obj: bytes) -> bytes:
            return bytes(obj)

    return VectorArrayDumper


def copy_embeddings(
    connection: psycopg.Connection,
    table: str,
    image_ids: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    precision: Precision,
) -> int:
    """Add embeddings to a table by binary COPY in one transaction.

    :param table: name of the table in schema ``cbir``.
    :param image_ids: shape (n,), none of which is in the table.
    :param embeddings: shape (n, dim), normalised.
    :returns: number of rows added.
    :raises psycopg.errors.UniqueViolation: when the table has one of them; nothing is added then.
    """
    with connection.transaction():
        _send(connection, sql.Identifier(SCHEMA, table), image_ids, embeddings, precision)
    return len(image_ids)


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
