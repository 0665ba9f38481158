"""Runs libraries in the caller's own process: no server, no transactions, nothing on disk unless saved."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from search_peers.base import Built, Ids, Options, Peer, Vectors, search_widths


class PaperFlat(Peer):
    """The paper's way: exact inner product in FAISS, the catalogue in pandas."""

    name = "paper"
    kind = "in process"
    needs = ("faiss", "pandas")

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        import faiss
        import pandas as pd

        started = time.perf_counter()
        self._index = faiss.IndexFlatIP(self.options.dim)
        self._index.add(vectors)
        self._catalogue = pd.DataFrame({"image_id": ids})
        return Built(0.0, time.perf_counter() - started, "flat", "exact", vectors.nbytes)

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{}]

    def use(self, setting: dict[str, int]) -> None:
        pass

    def search(self, query: np.ndarray, k: int) -> Ids:
        _, rows = self._index.search(query[None], k)
        return self._catalogue.iloc[rows[0]]["image_id"].to_numpy()


class FaissHnsw(Peer):
    """HNSW of FAISS, the yardstick of the others' latency."""

    name = "faiss-hnsw"
    kind = "in process"
    needs = ("faiss",)

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        import faiss

        self._ids = ids
        faiss.omp_set_num_threads(self.options.threads)
        started = time.perf_counter()
        self._index: Any = faiss.IndexHNSWFlat(self.options.dim, self.options.m, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = self.options.ef_construction
        self._index.add(vectors)
        seconds = time.perf_counter() - started
        return Built(0.0, seconds, graph(self.options), size_bytes=len(faiss.serialize_index(self._index)))

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{"efSearch": width} for width in search_widths(k)]

    def use(self, setting: dict[str, int]) -> None:
        self._index.hnsw.efSearch = setting["efSearch"]

    def search(self, query: np.ndarray, k: int) -> Ids:
        _, rows = self._index.search(query[None], k)
        return self._ids[rows[0]]


class Hnswlib(Peer):
    """HNSW by its inventors."""

    name = "hnswlib"
    kind = "in process"
    needs = ("hnswlib",)

    def build(self, ids: Ids, vectors: Vectors) -> Built:
        import hnswlib

        started = time.perf_counter()
        self._index = hnswlib.Index(space="cosine", dim=self.options.dim)
        self._index.init_index(
            max_elements=len(ids), M=self.options.m, ef_construction=self.options.ef_construction, random_seed=0
        )
        self._index.add_items(vectors, ids, num_threads=self.options.threads)
        seconds = time.perf_counter() - started
        return Built(0.0, seconds, graph(self.options), size_bytes=self._index.index_file_size())

    def settings(self, k: int) -> list[dict[str, int]]:
        return [{"ef": width} for width in search_widths(k)]

    def use(self, setting: dict[str, int]) -> None:
        self._index.set_ef(setting["ef"])

    def search(self, query: np.ndarray, k: int) -> Ids:
        found, _ = self._index.knn_query(query, k=k, num_threads=1)
        return found[0].astype(np.int64)


def graph(options: Options) -> str:
    """Describe the parameters of a graph."""
    return f"HNSW {options.m}/{options.ef_construction}"
