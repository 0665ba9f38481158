"""Streams embeddings from the database as arrays, by binary COPY, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.copy import HEADER, row_type
from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.schema_name import SCHEMA
from cbirdb.records import Precision

Block = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Image ids of shape (n,), and their stored vectors of shape (n, dim)."""

BLOCK_BYTES = 4 << 20
"""Bytes of a block. Work on a block starts when it is complete; smaller blocks start sooner and stay in the caches."""
BLOCK_ROWS = 2048
"""Fewest rows of a block, since every block has a fixed cost."""


def read_embeddings(
    connection: psycopg.Connection, query: sql.Composable, dim: int, precision: Precision
) -> Generator[Block]:
    """Yield the rows of a query with two columns, an image id and a vector of the encoder's type, neither NULL.

    All rows have one size then, so a block becomes an array without parsing each row.
    """
    row = row_type(dim, precision)
    block = max(BLOCK_ROWS, BLOCK_BYTES // row.itemsize)
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
    pieces: list[bytes | bytearray | memoryview] = []
    start, size = len(HEADER), 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in copy:
            pieces.append(piece)
            size += len(piece)
            # The trailer is shorter than a row, so a whole block contains only rows.
            if size >= start + block * row.itemsize:
                data = b"".join(pieces)
                yield _arrays(data, row, start, block)
                pieces = [data[start + block * row.itemsize :]]
                start, size = 0, len(pieces[0])
    if rest := max(0, size - start) // row.itemsize:
        yield _arrays(b"".join(pieces), row, start, rest)


def iterate_embeddings(connect: Callable[[], psycopg.Connection], stored: StoredEncoder) -> Iterator[Block]:
    """Yield all embeddings of an encoder, as they are at one moment, on a connection of its own."""
    everything = sql.SQL("SELECT image_id, embedding FROM {}").format(sql.Identifier(SCHEMA, stored.table))
    with translated_errors(), connect() as connection, connection.transaction():
        add_extension_to_search_path(connection)
        yield from read_embeddings(connection, everything, stored.dim, stored.precision)


def _arrays(data: bytes, row: np.dtype[np.void], start: int, count: int) -> Block:
    rows = np.frombuffer(data, dtype=row, count=count, offset=start)
    return rows["image_id"].astype(np.int64), rows["embedding"].astype(np.float32)
