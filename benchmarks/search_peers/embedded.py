"""Runs vector databases that live in the caller's process and keep files. None of them may phone home from here."""

from __future__ import annotations

import os
import time

import numpy as np

from search_peers.base import Built, Ids, Options, Peer, Vectors, folder_bytes, search_widths
from search_peers.in_process import graph

COLLECTION = "images"


class LanceDb(Peer):
    """HNSW over vectors of 8 bits per component, reranked by the full vectors on disk."""

    name = "lancedb"
    kind = "embedded"
    needs = ("lancedb",)

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        os.environ["LANCE_CPU_THREADS"] = str(self.options.threads)  # it is read on first use
        import lancedb
        import pyarrow as pa
        from lancedb.index import HnswSq

        started = time.perf_counter()
        database = lancedb.connect(self.options.folder)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.options.dim)
        self._table = database.create_table(COLLECTION, pa.table({"id": ids, "vector": column}))
        loaded = time.perf_counter()
        self._table.create_index(
            "vector",
            config=HnswSq(distance_type="cosine", m=self.options.m, ef_construction=self.options.ef_construction),
        )
        seconds = time.perf_counter() - loaded
        parameters = f"IVF_HNSW_SQ {self.options.m}/{self.options.ef_construction}"
        note = "8-bit graph, refined"
        return Built(loaded - started, seconds, parameters, note, folder_bytes(self.options.folder))

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{"ef": width, "refine_factor": 2} for width in search_widths(k) if width >= 2 * k]

    def use(self, setting: dict[str, int]) -> None:
        self._setting = setting

    def search(self, query: np.ndarray, k: int) -> Ids:
        request = self._table.search(query).distance_type("cosine").ef(self._setting["ef"])
        return (
            request.refine_factor(self._setting["refine_factor"])
            .select(["id", "_distance"])
            .limit(k)
            .to_arrow()["id"]
            .to_numpy()
        )


class Chroma(Peer):
    """HNSW, filled while rows arrive."""

    name = "chroma"
    kind = "embedded"
    needs = ("chromadb",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._open()

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        started = time.perf_counter()
        configuration = {
            "space": "cosine", "max_neighbors": self.options.m, "ef_construction": self.options.ef_construction,
        }  # fmt: skip
        self._collection = self._client.create_collection(
            COLLECTION, configuration={"hnsw": configuration}, embedding_function=None
        )
        step = self._client.get_max_batch_size()
        for start in range(0, len(ids), step):
            piece = slice(start, start + step)
            self._collection.add(ids=[str(number) for number in ids[piece]], embeddings=vectors[piece])
        # It may postpone the last rows until a query.
        self._collection.query(query_embeddings=vectors[:1], n_results=1)
        seconds = time.perf_counter() - started
        return Built(
            0.0, seconds, graph(self.options), "filled at insert, threads its own", folder_bytes(self.options.folder)
        )

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{"ef_search": width} for width in search_widths(k)]

    def use(self, setting: dict[str, int]) -> None:
        # An open index keeps its setting, so reopen it.
        self._collection.modify(configuration={"hnsw": setting})
        self._client.close()
        self._open()
        self._collection = self._client.get_collection(COLLECTION, embedding_function=None)

    def search(self, query: np.ndarray, k: int) -> list[int]:
        found = self._collection.query(query_embeddings=[query], n_results=k, include=[])
        return [int(number) for number in found["ids"][0]]

    def close(self) -> None:
        self._client.close()

    def _open(self) -> None:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        self._client = chromadb.PersistentClient(path=str(self.options.folder), settings=settings)


class MilvusLite(Peer):
    """Milvus' protocol over FAISS indexes, one per segment of at most 100,000 rows.

    Its index types: FLAT, IVF_FLAT, IVF_SQ8, HNSW, HNSW_SQ (its own module ``milvus_lite.index.factory``).
    """

    name = "milvus-lite"
    kind = "embedded"
    needs = ("pymilvus", "milvus_lite", "faiss")
    batch = 5_000

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        from pymilvus import MilvusClient

        # Its server disconnects a client that pings while idle, as this client does every ten seconds.
        self._client = MilvusClient(
            str(options.folder / "milvus.db"), grpc_options={"grpc.keepalive_time_ms": 3_600_000}
        )

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        import faiss
        from pymilvus import DataType

        faiss.omp_set_num_threads(self.options.threads)
        started = time.perf_counter()
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.options.dim)
        self._client.create_collection(COLLECTION, schema=schema)
        for start in range(0, len(ids), self.batch):
            piece = slice(start, start + self.batch)
            rows = [
                {"id": int(number), "vector": vector} for number, vector in zip(ids[piece], vectors[piece], strict=True)
            ]
            self._client.insert(COLLECTION, rows)
        self._client.flush(COLLECTION)
        loaded = time.perf_counter()
        index = self._client.prepare_index_params()
        index.add_index(
            field_name="vector", index_type="HNSW", metric_type="COSINE",
            params={"M": self.options.m, "efConstruction": self.options.ef_construction},
        )  # fmt: skip
        self._client.create_index(COLLECTION, index)
        self._client.load_collection(COLLECTION)
        self._client.search(COLLECTION, data=[vectors[0]], limit=1)
        seconds = time.perf_counter() - loaded
        note = "HNSW of FAISS per segment"
        return Built(loaded - started, seconds, graph(self.options), note, folder_bytes(self.options.folder))

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{"ef": width} for width in search_widths(k)]

    def use(self, setting: dict[str, int]) -> None:
        self._params = {"params": setting}

    def search(self, query: np.ndarray, k: int) -> list[int]:
        found = self._client.search(COLLECTION, data=[query], limit=k, search_params=self._params)
        return [hit["id"] for hit in found[0]]

    def close(self) -> None:
        self._client.close()
