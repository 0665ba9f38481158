"""Streams embeddings out of the database as arrays, by binary COPY, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.copy import HEADER, row_type
from cbirdb.records import Precision

Block = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Image ids of shape (n,), and their vectors of shape (n, dim) as they are stored."""

BLOCK_BYTES = 16 << 20


def read_embeddings(
    connection: psycopg.Connection, query: sql.Composable, dim: int, precision: Precision
) -> Iterator[Block]:
    """The rows of a query with two columns, an image id and a vector of the encoder's type, none of them NULL.

    Rows are of one size then, so a block of them is an array without looking at each.
    """
    row = row_type(dim, precision)
    block = max(1, BLOCK_BYTES // row.itemsize) * row.itemsize
    pending = bytearray()
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        header = len(HEADER)
        for piece in copy:
            pending += piece
            if header and len(pending) >= header:
                del pending[:header]
                header = 0
            # What follows the last row is shorter than a row, so a whole block can only be rows.
            if len(pending) >= block:
                yield _arrays(bytes(pending[:block]), row)
                del pending[:block]
    rest = len(pending) // row.itemsize * row.itemsize
    if rest:
        yield _arrays(bytes(pending[:rest]), row)


def _arrays(data: bytes, row: np.dtype[np.void]) -> Block:
    rows = np.frombuffer(data, dtype=row)
    return rows["image_id"].astype(np.int64), rows["embedding"].astype(np.float32)
