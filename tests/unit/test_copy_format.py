"""Compare our binary COPY with the format's definition and with the driver's own adapters."""

from __future__ import annotations

import struct

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector, Vector
from psycopg import sql

from cbirdb.db.copy import CHUNK_BYTES, HEADER, TRAILER, add_embeddings, copy_embeddings, encode_rows, row_type
from cbirdb.db.embeddings import StoredEncoder, register_encoder
from cbirdb.records import Precision

PRECISIONS: tuple[Precision, ...] = ("half", "single")


def by_struct(image_ids: list[int], embeddings: np.ndarray, precision: Precision) -> bytes:
    """Pack the rows: field count, then length and bytes of each field, big-endian; a vector is dim, 0, components."""
    code, size = ("e", 2) if precision == "half" else ("f", 4)
    dim = embeddings.shape[1]
    return b"".join(
        struct.pack(f">hiqihh{dim}{code}", 2, 8, image_id, 4 + size * dim, dim, 0, *map(float, row))
        for image_id, row in zip(image_ids, embeddings, strict=True)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_rows_are_encoded_as_the_format_prescribes(precision: Precision) -> None:
    embeddings = np.array([[0.5, -0.25, 1.0], [0.0, -0.0, 0.75]], dtype=np.float32)
    ids = [1, 2**62 + 7]
    assert encode_rows(np.array(ids, dtype=np.int64), embeddings, precision) == by_struct(ids, embeddings, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", ["C", "F"])
def test_random_rows_equal_struct_packing_in_any_memory_layout(precision: Precision, layout: str) -> None:
    embeddings = np.asarray(np.random.default_rng(0).normal(size=(20, 65)), dtype=np.float32, order=layout)
    ids = list(range(100, 120))
    assert encode_rows(np.array(ids, dtype=np.int64), embeddings, precision) == by_struct(ids, embeddings, precision)


@pytest.mark.parametrize(("precision", "kind"), [("half", HalfVector), ("single", Vector)])
def test_vector_field_equals_that_of_pgvectors_adapter(precision: Precision, kind: type) -> None:
    row = np.random.default_rng(1).normal(size=9).astype(np.float32)
    ours = encode_rows(np.array([1], dtype=np.int64), row[None], precision)
    assert ours[2 + 4 + 8 + 4 :] == kind(row).to_binary()


def test_half_precision_rounds_to_the_nearest_even() -> None:
    # Between 1 and 1 + 2**-10 there is no half; exactly in the middle the even one, 1, is taken.
    rows = np.array([[1 + 2**-11, 1 + 2**-11 + 2**-20]], dtype=np.float32)
    sent = encode_rows(np.array([1], dtype=np.int64), rows, "half")
    assert struct.unpack(">2e", sent[-4:]) == (1.0, 1 + 2**-10)


def test_no_rows_give_no_bytes() -> None:
    assert encode_rows(np.empty(0, dtype=np.int64), np.empty((0, 4), dtype=np.float32), "half") == b""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_postgresql_returns_the_same_bytes_that_it_received(
    connection: psycopg.Connection, precision: Precision
) -> None:
    kind = "halfvec" if precision == "half" else "vector"
    connection.execute(sql.SQL("CREATE TABLE cbir.sent (image_id bigint, embedding {}(7))").format(sql.SQL(kind)))
    embeddings = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)
    ids = np.array([3, 1, 4, 15, 9], dtype=np.int64)
    assert copy_embeddings(connection, "sent", ids, embeddings, precision) == 5
    with connection.cursor() as cursor, cursor.copy("COPY cbir.sent TO STDOUT (FORMAT binary)") as copy:
        received = b"".join(bytes(piece) for piece in copy)
    assert received == HEADER + encode_rows(ids, embeddings, precision) + TRAILER


def test_batch_larger_than_one_chunk_arrives_whole_and_in_order(connection: psycopg.Connection) -> None:
    dim = 2000
    count = 2 * CHUNK_BYTES // row_type(dim, "single").itemsize + 3
    connection.execute(f"CREATE TABLE cbir.sent (image_id bigint, embedding vector({dim}) STORAGE PLAIN)")
    embeddings = np.zeros((count, dim), dtype=np.float32)
    embeddings[:, 0] = np.arange(count)
    copy_embeddings(connection, "sent", np.arange(count, dtype=np.int64), embeddings, "single")
    row = connection.execute("SELECT count(*), bool_and(vector_norm(embedding) = image_id) FROM cbir.sent").fetchone()
    assert row == (count, True)


@pytest.fixture
def stored(connection: psycopg.Connection, request: pytest.FixtureRequest) -> StoredEncoder:
    """Register an encoder of dimension 2, in the precision that a test asks for, beside images 1 to 4."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('sent', 'test')")
    connection.execute(
        "INSERT INTO cbir.image (image_id, dataset_id, source) OVERRIDING SYSTEM VALUE"
        " SELECT n, (SELECT dataset_id FROM cbir.dataset), n::text FROM generate_series(1, 4) AS n"
    )
    return register_encoder(connection, "sent", dim=2, precision=request.param, spec={}, provenance={})


@pytest.mark.parametrize("stored", PRECISIONS, indirect=True)
def test_images_with_an_embedding_keep_it_and_the_others_get_theirs(
    connection: psycopg.Connection, stored: StoredEncoder
) -> None:
    first, second = np.array([[1, 0]] * 3, dtype=np.float32), np.array([[0.6, 0.8]] * 3, dtype=np.float32)
    assert add_embeddings(connection, stored, np.array([1, 2, 3], dtype=np.int64), first) == 3
    assert add_embeddings(connection, stored, np.array([2, 3, 4], dtype=np.int64), second) == 1
    assert add_embeddings(connection, stored, np.array([2, 3, 4], dtype=np.int64), second) == 0
    rows = connection.execute("SELECT image_id, embedding::vector::text FROM cbir.embedding_sent ORDER BY 1").fetchall()
    fourth = "[0.60009766,0.7998047]" if stored.precision == "half" else "[0.6,0.8]"
    assert rows == [(1, "[1,0]"), (2, "[1,0]"), (3, "[1,0]"), (4, fourth)]


@pytest.mark.parametrize("stored", PRECISIONS, indirect=True)
def test_vectors_sent_as_an_array_equal_vectors_sent_by_copy(
    connection: psycopg.Connection, stored: StoredEncoder
) -> None:
    ids = np.array([3, 1, 4], dtype=np.int64)
    unit = np.float32([[0.6, -0.8], [1, 0], [-(2**-20), 1]])
    copied = "SELECT array_agg((image_id, embedding)::text ORDER BY image_id) FROM cbir.embedding_sent"
    copy_embeddings(connection, stored.table, ids, unit, stored.precision)
    by_copy = connection.execute(copied).fetchone()
    connection.execute("TRUNCATE cbir.embedding_sent")
    copy_embeddings(connection, stored.table, ids[:1], unit[:1], stored.precision)  # so that COPY is of no use
    assert add_embeddings(connection, stored, ids, unit) == 2
    assert connection.execute(copied).fetchone() == by_copy
