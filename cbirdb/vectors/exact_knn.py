"""Finds the true nearest neighbours of many queries by blocked matrix products, in one pass over the vectors.

``choose_kernel.py`` chooses the code that multiplies and compares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cbirdb.vectors.choose_kernel import choose_kernels, one_thread_each
from cbirdb.vectors.kernels import Floats, Kernel
from cbirdb.vectors.normalize import row_norms

FIRST_PIECE = 2048
"""Vectors of the first piece, after which every query has a limit. The larger it is, the fewer pairs later pieces
find.
"""
BLOCKS_AHEAD = 4
"""Blocks that wait or are compared while another is received."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The ``min(k, n)`` nearest of n vectors to each query, nearest first."""

    ids: NDArray[np.int64]
    """Ids of the neighbours, shape (queries, k)."""
    distances: Floats
    """Cosine distances, shape (queries, k)."""


def exact_neighbours(
    queries: Floats,
    blocks: Iterable[tuple[NDArray[np.int64], Floats]],
    k: int,
    *,
    device: str = "auto",
    expected: int = 0,
) -> Neighbours:
    """Compare every query with every vector; the queries bound the memory, not the number of vectors.

    :param queries: shape (m, dim), of any length above zero.
    :param blocks: ids of shape (n,) with vectors of shape (n, dim); a query that is among them finds itself.
    :param k: neighbours per query. Of several vectors at the k-th distance, any may be returned.
    :param device: auto, cuda, cuda:N or cpu.
    :param expected: number of vectors that will come; 0 if unknown.
    :raises InputError: when the device does not exist.
    """
    chosen = choose_kernels(_normalized(queries), device, expected)
    shares = [_Share(kernel, k) for kernel in chosen]
    working: deque[Sequence[Future[None]]] = deque()
    with one_thread_each(chosen), ExitStack() as stack:
        # One thread per share, so that no share waits for another at the end of a block.
        threads = [stack.enter_context(ThreadPoolExecutor(max_workers=1)) for _ in shares]
        for ids, vectors in blocks:
            unit = _normalized(vectors)
            if len(working) == BLOCKS_AHEAD:
                _wait_for(working.popleft())
            working.append(
                [thread.submit(share.compare, ids, unit) for thread, share in zip(threads, shares, strict=True)]
            )
        for futures in working:
            _wait_for(futures)
        finished = [thread.submit(share.finish) for thread, share in zip(threads, shares, strict=True)]
        parts = [future.result() for future in finished]
    return Neighbours(np.concatenate([part.ids for part in parts]), np.concatenate([part.distances for part in parts]))


def _wait_for(working: Sequence[Future[None]]) -> None:
    for future in working:
        future.result()


class _Share:
    """The queries of one kernel."""

    def __init__(self, kernel: Kernel, k: int) -> None:
        self._kernel = kernel
        self._kept = _Nearest(kernel.queries, k)
        self._k = k
        self._largest = max(1, kernel.product_bytes // (4 * max(1, kernel.queries)))
        # Pieces that double find about k new pairs per query each.
        self._piece = min(self._largest, max(4 * k, FIRST_PIECE))

    def compare(self, ids: NDArray[np.int64], vectors: Floats) -> None:
        """Add the near pairs of some unit vectors, piece by piece."""
        start = 0
        while start < len(ids):
            part = slice(start, start + self._piece)
            rows, columns, distances = self._kernel.pairs_below(vectors[part], self._kept.limit, self._k)
            self._kept.add(rows, ids[part][columns], distances)
            start += self._piece
            self._piece = min(self._largest, 2 * self._piece)

    def finish(self) -> Neighbours:
        """Return the nearest neighbours of these queries."""
        return self._kept.finish()


class _Nearest:
    """The k nearest so far, and a pool of pairs below the limits that are not yet merged.

    A pair is its id and a key, a number in the order of (row, distance): sorting one key is several times as fast as
    sorting two, and moves half the data. A limit is the k-th distance at the last merge. It is too large at worst, so
    nothing is lost. A merge waits until the pool is as large as the kept pairs, to spread its cost.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.limit: Floats = np.full(queries, np.inf, np.float32)
        self._k = k
        self._keys = np.empty(0, np.uint64)
        self._ids = np.empty(0, np.int64)
        self._pool: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._pooled = 0

    def add(self, rows: NDArray[np.int64], ids: NDArray[np.int64], distances: Floats) -> None:
        """Add pairs below the limits to the pool."""
        self._pool.append((_sort_keys(rows, distances), ids))
        self._pooled += len(rows)
        if self._pooled >= max(len(self._keys), self._k):
            self._merge()

    def finish(self) -> Neighbours:
        """Merge the rest; return ids and distances, nearest first, ties by id."""
        self._merge()
        shape = (len(self.limit), len(self._keys) // max(1, len(self.limit)))
        ids, distances = self._ids.reshape(shape), _distances_of(self._keys).reshape(shape)
        # Merging has ordered everything but ties, which go by id.
        tied = np.flatnonzero((distances[:, 1:] == distances[:, :-1]).any(axis=1))
        order = np.lexsort((ids[tied], distances[tied]), axis=1)
        ids[tied] = np.take_along_axis(ids[tied], order, axis=1)
        return Neighbours(ids, distances)

    def _merge(self) -> None:
        keys, ids = (np.concatenate(parts) for parts in zip((self._keys, self._ids), *self._pool, strict=True))
        order = np.argsort(keys)
        keys = keys[order]
        counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(self.limit))
        ends = np.cumsum(counts)
        is_kept = np.arange(len(keys)) < np.repeat(ends - counts + self._k, counts)
        self._keys, self._ids = keys[is_kept], ids[order[is_kept]]
        full = counts >= self._k
        self.limit[full] = _distances_of(keys[(ends - counts)[full] + self._k - 1])
        self._pool, self._pooled = [], 0


def _sort_keys(rows: NDArray[np.int64], distances: Floats) -> NDArray[np.uint64]:
    """Return keys with the row in the upper half and the distance in the lower half."""
    bits = distances.view(np.uint32)
    # The bits of floats have the order of the floats once the negative ones are inverted.
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (rows.astype(np.uint64) << np.uint64(32)) | ordered


def _distances_of(keys: NDArray[np.uint64]) -> Floats:
    ordered = keys.astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return bits.view(np.float32)


def _normalized(vectors: Floats) -> Floats:
    result: Floats = np.divide(vectors, row_norms(vectors)[:, None].astype(np.float32), dtype=np.float32)
    return result
