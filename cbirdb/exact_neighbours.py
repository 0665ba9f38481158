"""The true nearest neighbours of many queries, by blocked matrix products: one pass over the vectors serves them all.

On a GPU where PyTorch sees one, else on the CPU: by PyTorch on many processors, by NumPy on few or without PyTorch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cbirdb.errors import InputError

Floats = NDArray[np.float32]
PRODUCT_BYTES = 256 << 20
"""A block is compared in pieces whose products with all queries take about this much."""

SMALLEST_PIECE = 256
MANY_PROCESSORS = 8
"""From so many on PyTorch, which also compares and selects in parallel, is worth its import."""
GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")
"""What the drivers of NVIDIA, AMD and WSL show in /dev."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The ``min(k, n)`` nearest of n vectors to each query, nearest first."""

    ids: NDArray[np.int64]
    """Shape (queries, k)."""
    distances: Floats
    """Cosine distances, shape (queries, k)."""


class Comparer(Protocol):
    """Compares all queries with some vectors."""

    def nearer(self, vectors: Floats, limit: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Pairs whose cosine distance is below the query's limit: query's row, vector's row, distance; each (found,).

        :param vectors: unit vectors, shape (n, dim).
        :param limit: shape (queries,).
        """


def exact_neighbours(
    queries: Floats, blocks: Iterable[tuple[NDArray[np.int64], Floats]], k: int, *, device: str = "auto"
) -> Neighbours:
    """Compare every query with every vector; memory is bounded by the queries, not by the number of vectors.

    :param queries: shape (m, dim), of any length above zero.
    :param blocks: ids of shape (n,) with vectors of shape (n, dim); a query that is among them finds itself.
    :param k: neighbours per query; which of several at the k-th distance are among them is left open.
    :param device: auto, cuda, cuda:N or cpu.
    :raises InputError: when the device is not there.
    """
    compare = _comparer(_normalized(queries), device)
    kept = _Nearest(len(queries), k)
    largest = max(1, PRODUCT_BYTES // (4 * max(1, len(queries))))
    # The first vectors are all among the nearest so far. Pieces that double find about k new pairs per query each.
    piece = min(largest, max(k, SMALLEST_PIECE))
    for block_ids, vectors in blocks:
        start = 0
        while start < len(block_ids):
            part = slice(start, start + piece)
            rows, columns, distances = compare.nearer(_normalized(vectors[part]), kept.limit)
            kept.add(rows, block_ids[part][columns], distances)
            start += piece
            piece = min(largest, 2 * piece)
    return kept.finish()


class _Nearest:
    """The k nearest so far, and a pool of pairs below the limits that have not been merged yet.

    A limit is the k-th distance at the last merge: too large at worst, so nothing is lost. Merging waits until the pool
    is as large as what is kept, so that its cost is spread.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.limit: Floats = np.full(queries, np.inf, np.float32)
        self._k = k
        self._rows = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)
        self._distances = np.empty(0, np.float32)
        self._pool: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]] = []
        self._pooled = 0

    def add(self, rows: NDArray[np.int64], ids: NDArray[np.int64], distances: Floats) -> None:
        self._pool.append((rows, ids, distances))
        self._pooled += len(rows)
        if self._pooled >= max(len(self._rows), self._k):
            self._merge()

    def finish(self) -> Neighbours:
        self._merge()
        shape = (len(self.limit), len(self._rows) // max(1, len(self.limit)))
        order = np.lexsort((self._ids, self._distances, self._rows))
        return Neighbours(self._ids[order].reshape(shape), self._distances[order].reshape(shape))

    def _merge(self) -> None:
        rows, ids, distances = (
            np.concatenate(parts) for parts in zip((self._rows, self._ids, self._distances), *self._pool, strict=True)
        )
        order = np.argsort(_sort_key(rows, distances))
        rows, ids, distances = rows[order], ids[order], distances[order]
        first = np.searchsorted(rows, np.arange(len(self.limit)))
        near = np.arange(len(rows)) - first[rows] < self._k
        self._rows, self._ids, self._distances = rows[near], ids[near], distances[near]
        last = np.searchsorted(self._rows, np.arange(len(self.limit)), side="right") - 1
        full = np.bincount(self._rows, minlength=len(self.limit)) == self._k
        self.limit = np.where(full, self._distances[last], np.inf).astype(np.float32)
        self._pool, self._pooled = [], 0


class _NumpyComparer:
    def __init__(self, queries: Floats) -> None:
        self._queries = queries

    def nearer(self, vectors: Floats, limit: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        products = self._queries @ vectors.T
        rows, columns = np.nonzero(products > (1 - limit)[:, None])
        return rows, columns, 1 - products[rows, columns]


class _TorchComparer:
    def __init__(self, queries: Floats, torch: Any, device: str) -> None:
        self._torch = torch
        self._device = device
        self._queries = torch.from_numpy(queries).to(device)

    def nearer(self, vectors: Floats, limit: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        products = self._queries @ self._torch.from_numpy(vectors).to(self._device).T
        least = self._torch.from_numpy(1 - limit).to(self._device)
        rows, columns = (products > least[:, None]).nonzero(as_tuple=True)
        return rows.cpu().numpy(), columns.cpu().numpy(), (1 - products[rows, columns]).cpu().numpy()


def _comparer(queries: Floats, device: str) -> Comparer:
    if not device.startswith("cuda") and not _torch_pays():
        return _NumpyComparer(queries)
    try:
        import torch
    except ModuleNotFoundError:
        if device.startswith("cuda"):
            raise InputError(
                "A GPU needs PyTorch, which is not installed.", hint="pip install 'cbirdb[encoders]', or --device cpu"
            ) from None
        return _NumpyComparer(queries)
    gpus = torch.cuda.device_count()
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= gpus:
        raise InputError(
            f"There is no GPU '{device}': PyTorch sees {gpus}.", hint="Leave --device out, or give --device cpu."
        )
    return _TorchComparer(queries, torch, device if device != "auto" else "cuda" if gpus else "cpu")


def _torch_pays() -> bool:
    """To import it takes seconds, and on few processors NumPy multiplies as fast."""
    may_be_gpu = any(any(Path("/dev").glob(name)) for name in GPU_FILES)
    return "torch" in sys.modules or may_be_gpu or (os.cpu_count() or 1) >= MANY_PROCESSORS


def _sort_key(rows: NDArray[np.int64], distances: Floats) -> NDArray[np.uint64]:
    """Numbers in the order of (row, distance): sorting one key is several times as fast as sorting two."""
    bits = distances.view(np.uint32)
    # The bits of floats are in their order once the negative ones are turned round.
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (rows.astype(np.uint64) << np.uint64(32)) | ordered


def _normalized(vectors: Floats) -> Floats:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    result: Floats = (vectors / norms[:, None].astype(np.float32)).astype(np.float32, copy=False)
    return result
