"""A database of clustered vectors, with modalities of known shares, to be indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder, find_encoder
from cbirdb.db.index_builds import IndexBuild, current_build
from cbirdb.index import build_index
from cbirdb.index.methods import BitHnsw, Hnsw, IndexMethod, IvfFlat
from cbirdb.index.tune import tune_search
from cbirdb.records import Precision
from tests.support.stored_pictures import Picture, fill

ROWS, DIM, CLUSTERS = 2000, 64, 20
GOOD: list[IndexMethod] = [Hnsw(16, 64, 80), BitHnsw(16, 64, 300), IvfFlat(lists=20, probes=8)]
POOR: list[IndexMethod] = [Hnsw(2, 4, 1), BitHnsw(2, 4, 10), IvfFlat(lists=200, probes=1)]
SHARES = {"MR": 2, "CT": 10, "US": 100, "NM": 1000}
"""One image in so many has this modality; the first that fits counts."""


def clustered(rows: int = ROWS, *, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors in clusters, shape (rows, DIM); row n belongs to cluster n % CLUSTERS."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLUSTERS, DIM))
    vectors = centres[np.arange(rows) % CLUSTERS] + rng.normal(size=(rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pictures(rows: int = ROWS) -> list[Picture]:
    """Modalities of the shares above, drawn without regard to the clusters; the cluster as a label."""
    drawn = np.random.default_rng(1).permutation(rows)
    return [
        Picture(
            modality=next((name for name, every in reversed(SHARES.items()) if n % every == 0), "XR"),
            labels=(f"cluster/{at % CLUSTERS}",),
            study_date="2020-01-01" if at % 50 == 0 else None,
        )
        for at, n in enumerate(drawn)
    ]


@dataclass(frozen=True)
class Stored:
    """A filled database."""

    connection: psycopg.Connection
    encoder: StoredEncoder
    ids: list[int]
    vectors: NDArray[np.float32]

    def build(self, method: IndexMethod) -> IndexBuild:
        dsn = self.connection.info.dsn
        return build_index(self.connection, self.encoder, method, connect=lambda: psycopg.connect(dsn, autocommit=True))

    def nearest(self, query: NDArray[np.float32], k: int, **arguments: object) -> list[tuple[int, float, str]]:
        given = "".join(
            f", {name} => %({name})s" for name in arguments if name not in ("modality", "label", "image_ids")
        )
        filters = {name: arguments.get(name) for name in ("modality", "label", "image_ids")}
        rows = self.connection.execute(
            "SELECT image_id, distance, mode_used, complete FROM cbir_internal.nearest_image('toy', %(query)s::vector, %(k)s, filter =>"
            " ROW(NULL, %(modality)s, NULL, %(label)s, NULL, NULL, NULL, %(image_ids)s, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter"
            f"{given}) ORDER BY rank",
            {"query": Vector(query).to_text(), "k": k} | filters | arguments,
        ).fetchall()
        assert all(row[3] for row in rows)
        return [row[:3] for row in rows]


def make(connection: psycopg.Connection, precision: Precision = "half", rows: int = ROWS) -> Stored:
    vectors = clustered(rows)
    ids = fill(connection, vectors, pictures(rows), precision=precision)
    for table in ("image", "image_label", "study", "embedding_toy"):
        connection.execute(sql.SQL("ANALYZE cbir.{}").format(sql.Identifier(table)))
    encoder = find_encoder(connection, "toy")
    assert encoder is not None
    return Stored(connection, encoder, ids, vectors)


def recall(found: Sequence[tuple[int, float, str]], truth: Sequence[tuple[int, float, str]]) -> float:
    assert len(found) == len(truth)
    return sum(row[1] <= truth[-1][1] + 2e-6 for row in found) / len(truth)


def tune(connection: psycopg.Connection, stored: Stored, method: IndexMethod) -> IndexBuild:
    """Find out how to search through the index that is there."""
    build = current_build(connection, stored.encoder)
    assert build is not None
    return tune_search(connection, stored.encoder, build, method)
