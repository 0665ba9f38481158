"""PostgreSQL with pgvector, as its own documentation shows it, and through cbirdb."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.connection import conninfo
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import StoredEncoder, drop_encoder, find_encoder, register_encoder
from cbirdb.db.schema.open import open_database
from cbirdb.index import build_index, choose_method
from cbirdb.index.methods import METHODS, BitHnsw, Hnsw, IndexMethod, IvfFlat
from search_peers.base import Built, Ids, Options, Peer, Vectors, widths

TABLE = "benchmark_peers"
DATASET = "benchmark-peers"
BATCH = 4096


def client(options: Options) -> psycopg.Connection:
    """A connection as an application has it: psycopg's defaults, vectors in binary, no threads beyond those allowed."""
    settings = options.server
    open_database(settings).close()  # the embedded server runs, the schema is there
    connection = psycopg.connect(conninfo(settings), autocommit=True)
    register_vector(connection)
    connection.execute("SELECT set_config('max_parallel_maintenance_workers', %s, false)", [str(options.threads - 1)])
    return connection


class PlainPgvector(Peer):
    """A table of vectors and an HNSW index at pgvector's defaults, m = 16 and ef_construction = 64."""

    name = "pgvector"
    kind = "server"
    default: ClassVar[dict[str, int] | None] = {"hnsw.ef_search": 40}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._connection = client(options)

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        table = sql.Identifier(TABLE)
        self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        self._connection.execute(
            sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, embedding vector({}))").format(
                table, sql.Literal(self.options.dim)
            )
        )
        started = time.perf_counter()
        with self._connection.cursor() as cursor:
            statement = sql.SQL("COPY {} (id, embedding) FROM STDIN (FORMAT binary)").format(table)
            with cursor.copy(statement) as copy:
                copy.set_types(["int8", "vector"])
                for number, vector in zip(ids.tolist(), vectors, strict=True):
                    copy.write_row((number, vector))
        loaded = time.perf_counter()
        self._connection.execute(sql.SQL("CREATE INDEX ON {} USING hnsw (embedding vector_cosine_ops)").format(table))
        seconds = time.perf_counter() - loaded
        self._connection.execute(sql.SQL("ANALYZE {}").format(table))
        size = self._connection.execute(
            "SELECT pg_total_relation_size(%s::regclass)", [table.as_string(self._connection)]
        ).fetchone()
        self._statement = sql.SQL("SELECT id FROM {} ORDER BY embedding <=> %s LIMIT %s").format(table)
        return Built(loaded - started, seconds, "HNSW 16/64 (defaults)", "single precision", size[0])

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{"hnsw.ef_search": width} for width in sorted({40, *widths(k)})]

    def use(self, setting: dict[str, int]) -> None:
        for name, value in setting.items():
            self._connection.execute("SELECT set_config(%s, %s, false)", [name, str(value)])

    def search(self, query: np.ndarray, k: int) -> list[int]:
        return [row[0] for row in self._connection.execute(self._statement, [query, k])]

    def close(self) -> None:
        self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(TABLE)))
        self._connection.close()


class Cbirdb(Peer):
    """The product's way for applications: ``cbir.similar_images``, which describes what it finds and records the search."""

    name = "cbirdb"
    kind = "server"
    method: ClassVar[IndexMethod | None] = None
    """None: as the options say."""
    statement: ClassVar[str] = "SELECT image_id FROM cbir.similar_images(%s, query => %s, k => %s) ORDER BY rank"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._connection = client(options)

    @property
    def encoder_name(self) -> str:
        return f"benchmark-peers-{self.name}"

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        images = catalogue(self._connection, len(ids))
        self._id_of = dict(zip(images.tolist(), ids.tolist(), strict=True))
        drop_if_there(self._connection, self.encoder_name)
        encoder = register_encoder(
            self._connection, self.encoder_name, dim=self.options.dim, precision="half", spec={}, provenance={}
        )
        started = time.perf_counter()
        for start in range(0, len(ids), BATCH):
            piece = slice(start, start + BATCH)
            copy_embeddings(self._connection, encoder.table, images[piece], vectors[piece], "half")
        loaded = time.perf_counter()
        method = self._method(encoder)
        details = {"choice_s": round(time.perf_counter() - loaded, 1)} if self._chooses else {}
        built = build_index(self._connection, encoder, method, connect=self._watcher)
        self._build, self._settled = built.index_build_id, built.search_settings
        size = self._connection.execute(
            "SELECT pg_total_relation_size(format('cbir.%%I', %s::text)::regclass)", [encoder.table]
        ).fetchone()
        parameters = f"{built.method} " + "/".join(str(value) for value in built.parameters.values())
        return Built(loaded - started, built.build_seconds, parameters, "half precision", size[0], details)

    @property
    def _chooses(self) -> bool:
        return self.method is None and self.options.method == "auto"

    def _method(self, encoder: StoredEncoder) -> IndexMethod:
        if self._chooses:
            return choose_method(self._connection, encoder).method
        return self.method or METHODS[self.options.method]()

    def _watcher(self) -> psycopg.Connection:
        return psycopg.connect(conninfo(self.options.server), autocommit=True)

    def settings(self, k: int) -> list[dict[str, int]]:
        # cbir_internal.index_walk widens what is set for ten when more are asked for: the same sweep serves any k.
        name = next(setting for setting in self._settled if setting != "at_100")
        swept = {
            "hnsw.ef_search": [40, 80, 120, 200, 300, 450, 700],
            "rerank": [100, 200, 400, 800, 1600],
            "ivfflat.probes": [2, 4, 5, 6, 7, 9, 12, 20, 30, 45],
        }
        return [{name: value} for value in sorted({*swept[name], self._settled[name]})]

    def use(self, setting: dict[str, int]) -> None:
        # Where the audit writes it: every search reads it from there.
        self._connection.execute(
            "UPDATE cbir.index_build SET search_settings = %s WHERE index_build_id = %s",
            [Jsonb(setting), self._build],
        )

    def search(self, query: np.ndarray, k: int) -> list[int]:
        found = self._connection.execute(self.statement, [self.encoder_name, query, k])
        return [self._id_of[row[0]] for row in found]

    def close(self) -> None:
        drop_if_there(self._connection, self.encoder_name)
        if not self._connection.execute(
            "SELECT FROM cbir.encoder WHERE starts_with(name, 'benchmark-peers-')"
        ).fetchone():
            drop_catalogue(self._connection)
        self._connection.close()


class CbirdbHnsw(Cbirdb):
    """HNSW with the parameters of plain pgvector, asked through ``cbir_internal.nearest_image``: ids and distances only."""

    name = "cbirdb-hnsw"
    method = Hnsw(ef_construction=64)
    statement = "SELECT image_id FROM cbir_internal.nearest_image(%s, %s, %s) ORDER BY rank"


class CbirdbBitHnsw(CbirdbHnsw):
    """HNSW over signs, ranked again."""

    name = "cbirdb-bit-hnsw"
    method = BitHnsw()


class CbirdbIvfFlat(CbirdbHnsw):
    """Lists around k-means centres."""

    name = "cbirdb-ivfflat"
    method = IvfFlat()


def drop_if_there(connection: psycopg.Connection, name: str) -> None:
    """Drop an encoder with its vectors."""
    stored = find_encoder(connection, name)
    if stored is not None:
        drop_encoder(connection, stored)


def catalogue(connection: psycopg.Connection, rows: int) -> np.ndarray:
    """Ids of so many images, each with a label: made once, shared by all encoders."""
    query = (
        "SELECT image_id FROM cbir.image JOIN cbir.dataset USING (dataset_id) WHERE name = %s ORDER BY source::integer"
    )
    found = connection.execute(query, [DATASET]).fetchall()
    if len(found) != rows:
        drop_catalogue(connection)
        connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'folder')", [DATASET])
        connection.execute(
            "INSERT INTO cbir.image (dataset_id, source, modality) SELECT dataset_id, n::text, 'XR'"
            " FROM cbir.dataset, generate_series(1, %s) AS n WHERE name = %s",
            [rows, DATASET],
        )
        connection.execute("INSERT INTO cbir.label (name) VALUES (%s)", [DATASET])
        connection.execute(
            "INSERT INTO cbir.image_label (image_id, label_id) SELECT i.image_id, l.label_id"
            " FROM cbir.image AS i JOIN cbir.dataset AS d USING (dataset_id) JOIN cbir.label AS l ON l.name = d.name"
            " WHERE d.name = %s",
            [DATASET],
        )
        connection.execute("VACUUM ANALYZE cbir.image, cbir.image_label")
        found = connection.execute(query, [DATASET]).fetchall()
    return np.array([row[0] for row in found], dtype=np.int64)


def drop_catalogue(connection: psycopg.Connection) -> None:
    """Remove the images and their label."""
    connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [DATASET])
    connection.execute("DELETE FROM cbir.label WHERE name = %s", [DATASET])
