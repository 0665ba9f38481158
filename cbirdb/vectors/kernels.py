"""Multiplies queries with vectors and keeps near pairs: with NumPy, or with PyTorch on a CPU or GPU.

All kernels find the same pairs, up to the rounding of single-precision sums.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], Floats]
"""Row of the query, row (or id) of the vector, distance; each of shape (found,)."""
PRODUCT_BYTES = {"numpy": 32 << 20, "cpu": 64 << 20, "cuda": 256 << 20}
"""Approximate bytes of the products of one piece with all queries: with NumPy, with PyTorch on a CPU, on a GPU. On a
CPU the products should still be in its caches when compared; allocating new memory costs as much as the comparison.
"""


class Kernel(Protocol):
    """Compares its queries with blocks of vectors."""

    queries: int
    product_bytes: int
    """Largest bytes of the products with a piece, at four bytes each, whatever size the kernel's own numbers have."""

    def pairs_below(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        """Return the pairs whose cosine distance is below the query's limit.

        Without limits, return at least the ``k`` nearest of each query.

        :param vectors: unit vectors, shape (n, dim).
        :param limit: shape (queries,). Before the first limits all are infinite; after k vectors none is.
        """


class NumpyKernel:
    """Compares with NumPy, on one processor."""

    def __init__(self, queries: Floats, share_count: int = 1) -> None:
        self.queries = len(queries)
        self.product_bytes = PRODUCT_BYTES["numpy"] // share_count
        self._queries = queries
        self._products = np.empty(0, np.float32)

    def pairs_below(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        size = len(self._queries) * len(vectors)
        if len(self._products) < size:
            self._products = np.empty(size, np.float32)
        products = self._products[:size].reshape(len(self._queries), len(vectors))
        np.matmul(self._queries, vectors.T, out=products)
        # A flat search for True is several times as fast as one by rows and columns.
        found = np.flatnonzero(products > self._least(products, limit, k)[:, None])
        rows, columns = np.divmod(found, len(vectors))
        return rows, columns, 1 - products.ravel()[found]

    @staticmethod
    def _least(products: Floats, limit: Floats, k: int) -> Floats:
        count = products.shape[1]
        if count <= k or not np.isinf(limit).all():
            return (1 - limit).astype(np.float32)
        return np.nextafter(np.partition(products, count - k, axis=1)[:, count - k], np.float32(-np.inf))


class TorchKernel:
    """Compares with PyTorch, on all processors or a GPU."""

    def __init__(self, queries: Floats, torch: Any, device: str) -> None:
        self._torch = torch
        self._device = device
        self.queries = len(queries)
        self.product_bytes = PRODUCT_BYTES[device.partition(":")[0]]
        self._queries = torch.from_numpy(queries).to(device)

    def pairs_below(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        products = self._queries @ self._torch.from_numpy(vectors).to(self._device).T
        if len(vectors) > k and np.isinf(limit).all():
            found = products >= products.topk(k, dim=1).values[:, -1:]
        else:
            found = products > self._torch.from_numpy(1 - limit).to(self._device)[:, None]
        rows, columns = found.nonzero(as_tuple=True)
        return rows.cpu().numpy(), columns.cpu().numpy(), (1 - products[rows, columns]).cpu().numpy()
