"""The true nearest neighbours of many queries, by blocked matrix products: one pass over the vectors serves them all.

On a GPU where PyTorch sees one, else on the CPU: by PyTorch on many processors, by NumPy on few or without PyTorch.
NumPy multiplies with all processors but compares and chooses with one; so the queries are shared out, and each processor
does all three for its share.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cbirdb.errors import InputError
from cbirdb.vectors import row_norms

Floats = NDArray[np.float32]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], Floats]
"""Row of the query, row (or id) of the vector, distance; each of shape (found,)."""
PRODUCT_BYTES = {"numpy": 32 << 20, "cpu": 64 << 20, "cuda": 256 << 20}
"""A block is compared in pieces whose products with all queries take about this much: with NumPy, with PyTorch on a CPU, on a
GPU. On a CPU what is compared should still be in its caches, and new memory costs as much as the comparison."""

FIRST_PIECE = 2048
"""Vectors after which every query has its first limit, where the first block has as many; the larger, the fewer pairs later
pieces find."""
QUERIES_PER_SHARE = 128
"""At least: for fewer, going through the vectors costs more than comparing them."""
BLOCKS_AHEAD = 4
"""Blocks that wait or are compared while another is received."""
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
    """Compares its queries with some vectors."""

    queries: int
    product_bytes: int
    """What the products with a piece may take."""

    def nearer(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        """Pairs whose cosine distance is below the query's limit; without limits, at least the ``k`` nearest of each query.

        :param vectors: unit vectors, shape (n, dim).
        :param limit: shape (queries,); infinite for all queries, or for none unless there are fewer than k vectors.
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
    shares = [_Share(comparer, k) for comparer in _comparers(_normalized(queries), device)]
    working: deque[Sequence[Future[None]]] = deque()
    with _one_blas_thread_each(shares), ExitStack() as stack:
        # A thread for each share, so that none waits for another at the end of a block.
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
    """Some of the queries: those of one comparer."""

    def __init__(self, comparer: Comparer, k: int) -> None:
        self._comparer = comparer
        self._kept = _Nearest(comparer.queries, k)
        self._k = k
        self._largest = max(1, comparer.product_bytes // (4 * max(1, comparer.queries)))
        # Pieces that double find about k new pairs per query each.
        self._piece = min(self._largest, max(4 * k, FIRST_PIECE))

    def compare(self, ids: NDArray[np.int64], vectors: Floats) -> None:
        """Keep what is near of some unit vectors, in pieces."""
        start = 0
        while start < len(ids):
            part = slice(start, start + self._piece)
            rows, columns, distances = self._comparer.nearer(vectors[part], self._kept.limit, self._k)
            self._kept.add(rows, ids[part][columns], distances)
            start += self._piece
            self._piece = min(self._largest, 2 * self._piece)

    def finish(self) -> Neighbours:
        return self._kept.finish()


def _one_blas_thread_each(shares: Sequence[_Share]) -> AbstractContextManager[object]:
    """Keeps NumPy's matrix products from taking all processors each, where several are computed at a time."""
    if len(shares) == 1:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


class _Nearest:
    """The k nearest so far, and a pool of pairs below the limits that have not been merged yet.

    A pair is its id and a key, a number in the order of (row, distance): sorting one key is several times as fast as
    sorting two, and what is moved is half as much. A limit is the k-th distance at the last merge: too large at worst, so
    nothing is lost. Merging waits until the pool is as large as what is kept, so that its cost is spread.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.limit: Floats = np.full(queries, np.inf, np.float32)
        self._k = k
        self._keys = np.empty(0, np.uint64)
        self._ids = np.empty(0, np.int64)
        self._pool: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._pooled = 0

    def add(self, rows: NDArray[np.int64], ids: NDArray[np.int64], distances: Floats) -> None:
        self._pool.append((_sort_keys(rows, distances), ids))
        self._pooled += len(rows)
        if self._pooled >= max(len(self._keys), self._k):
            self._merge()

    def finish(self) -> Neighbours:
        self._merge()
        shape = (len(self.limit), len(self._keys) // max(1, len(self.limit)))
        ids, distances = self._ids.reshape(shape), _distances_of(self._keys).reshape(shape)
        # Merging has ordered all but ties, which go by id.
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
        near = np.arange(len(keys)) < np.repeat(ends - counts + self._k, counts)
        self._keys, self._ids = keys[near], ids[order[near]]
        full = counts >= self._k
        self.limit[full] = _distances_of(keys[(ends - counts)[full] + self._k - 1])
        self._pool, self._pooled = [], 0


class _NumpyComparer:
    def __init__(self, queries: Floats, shares: int = 1) -> None:
        self.queries = len(queries)
        self.product_bytes = PRODUCT_BYTES["numpy"] // shares
        self._queries = queries
        self._products = np.empty(0, np.float32)

    def nearer(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        size = len(self._queries) * len(vectors)
        if len(self._products) < size:
            self._products = np.empty(size, np.float32)
        products = self._products[:size].reshape(len(self._queries), len(vectors))
        np.matmul(self._queries, vectors.T, out=products)
        # A flat search for what is True is several times as fast as one by rows and columns.
        found = np.flatnonzero(products > self._least(products, limit, k)[:, None])
        rows, columns = np.divmod(found, len(vectors))
        return rows, columns, 1 - products.ravel()[found]

    @staticmethod
    def _least(products: Floats, limit: Floats, k: int) -> Floats:
        count = products.shape[1]
        if count <= k or not np.isinf(limit).all():
            return (1 - limit).astype(np.float32)
        return np.nextafter(np.partition(products, count - k, axis=1)[:, count - k], np.float32(-np.inf))


class _TorchComparer:
    def __init__(self, queries: Floats, torch: Any, device: str) -> None:
        self._torch = torch
        self._device = device
        self.queries = len(queries)
        self.product_bytes = PRODUCT_BYTES[device.partition(":")[0]]
        self._queries = torch.from_numpy(queries).to(device)

    def nearer(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        products = self._queries @ self._torch.from_numpy(vectors).to(self._device).T
        if len(vectors) > k and np.isinf(limit).all():
            found = products >= products.topk(k, dim=1).values[:, -1:]
        else:
            found = products > self._torch.from_numpy(1 - limit).to(self._device)[:, None]
        rows, columns = found.nonzero(as_tuple=True)
        return rows.cpu().numpy(), columns.cpu().numpy(), (1 - products[rows, columns]).cpu().numpy()


def _comparers(queries: Floats, device: str) -> Sequence[Comparer]:
    """One for all queries, or one for each processor's share of them."""
    if not device.startswith("cuda") and not _torch_pays():
        return _numpy_comparers(queries)
    try:
        import torch
    except ModuleNotFoundError:
        if device.startswith("cuda"):
            raise InputError(
                "A GPU needs PyTorch, which is not installed.", hint="pip install 'cbirdb[encoders]', or --device cpu"
            ) from None
        return _numpy_comparers(queries)
    gpus = torch.cuda.device_count()
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= gpus:
        raise InputError(
            f"There is no GPU '{device}': PyTorch sees {gpus}.", hint="Leave --device out, or give --device cpu."
        )
    return [_TorchComparer(queries, torch, device if device != "auto" else "cuda" if gpus else "cpu")]


def _numpy_comparers(queries: Floats) -> Sequence[Comparer]:
    shares = max(1, min(_processors(), len(queries) // QUERIES_PER_SHARE))
    return [_NumpyComparer(share, shares) for share in np.array_split(queries, shares)]


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _torch_pays() -> bool:
    """To import it takes seconds, and on few processors NumPy multiplies as fast."""
    may_be_gpu = any(any(Path("/dev").glob(name)) for name in GPU_FILES)
    return "torch" in sys.modules or may_be_gpu or _processors() >= MANY_PROCESSORS


def _sort_keys(rows: NDArray[np.int64], distances: Floats) -> NDArray[np.uint64]:
    """The row in the upper half, the distance in the lower."""
    bits = distances.view(np.uint32)
    # The bits of floats are in their order once the negative ones are turned round.
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (rows.astype(np.uint64) << np.uint64(32)) | ordered


def _distances_of(keys: NDArray[np.uint64]) -> Floats:
    ordered = keys.astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return bits.view(np.float32)


def _normalized(vectors: Floats) -> Floats:
    result: Floats = np.divide(vectors, row_norms(vectors)[:, None].astype(np.float32), dtype=np.float32)
    return result
