"""The true nearest neighbours of many queries, by blocked matrix products: one pass over the vectors serves them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The ``min(k, n)`` nearest of n vectors to each query, nearest first."""

    ids: NDArray[np.int64]
    """Shape (queries, k)."""
    distances: NDArray[np.float32]
    """Cosine distances, shape (queries, k)."""


def exact_neighbours(
    queries: NDArray[np.float32], blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], k: int
) -> Neighbours:
    """Compare every query with every vector; memory is bounded by a block times the queries.

    :param queries: shape (m, dim), of any length above zero.
    :param blocks: ids of shape (n,) with vectors of shape (n, dim); a query that is among them finds itself.
    :param k: neighbours per query; which of several at the k-th distance are among them is left open.
    """
    unit = _normalized(queries)
    ids = np.empty((len(queries), 0), np.int64)
    distances = np.empty((len(queries), 0), np.float32)
    for block_ids, vectors in blocks:
        found = 1 - unit @ _normalized(vectors).T
        nearest = _smallest(found, k)
        ids = np.concatenate([ids, block_ids[nearest]], axis=1)
        distances = np.concatenate([distances, np.take_along_axis(found, nearest, axis=1)], axis=1)
        kept = _smallest(distances, k)
        ids, distances = np.take_along_axis(ids, kept, axis=1), np.take_along_axis(distances, kept, axis=1)
    order = np.lexsort((ids, distances), axis=1)
    return Neighbours(np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1))


def _smallest(values: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Columns of the k smallest values of each row, in no order."""
    if values.shape[1] <= k:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, k - 1, axis=1)[:, :k]


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    result: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return result
