"""Multiply in bfloat16 first, where the processors do that several times as fast (Intel's AMX)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbirdb.vectors.kernels import Floats, NumpyKernel, Pairs

ROUGH_IS_FASTER = 2
"""Rough products are taken from this many times the speed on: what they leave open is multiplied again."""
TIMED = 5
"""So often that is timed, as other work may come between."""
BFLOAT16_ROUNDING = 2.0**-8
"""Largest relative error of a component that is rounded to bfloat16, which has a significand of 8 bits."""
SUMMING = 2e-5
"""More than two errors together: of a sum in single precision over a pair of unit vectors (measured: up to 2.4e-6 for 16,000
components), and of a number up to 2 that is kept as two bfloat16 (up to 7.6e-6)."""
PAIR_COST = 60
"""A pair on its own costs as much as so many products of a block."""
PAIRS_AT_A_TIME = 128
"""What is gathered for them should still be in the second-level cache when it is multiplied."""


class Bfloat16Kernel:
    """Multiplies in bfloat16, and in single precision what may be near by that; all else is certain to be far.

    Of each query q and vector x only what differs from the queries' mean c is rounded, to q' and x': embeddings often lie in a
    narrow cone, and what they share would be rounded more coarsely than they differ. With y = x - c

        ``q.x - c.q = (q - c).y + c.y``
        ``(q - c).y <= q'.x' + |q - c| |y - x'| + |q - c - q'| |x'|``

    the second by the Cauchy-Schwarz inequality. With what is added to q'.x' the bound is one product of longer vectors.

    It is of no use where the k-th neighbour is less like the query than the mean of the queries is, as where queries are
    pictures of another kind than the images: that leaves everything open.
    """

    def __init__(self, queries: Floats, share_count: int, torch: Any) -> None:
        self.queries = len(queries)
        self._queries = queries
        self._precise = NumpyKernel(queries, share_count)
        self.product_bytes = 2 * self._precise.product_bytes  # they are half as large
        self._torch = torch
        self._centre: Floats = queries.mean(axis=0)
        self._on_centre = queries @ self._centre
        rest = queries - self._centre
        self._rough_queries = torch.empty((len(queries), self._length), dtype=torch.bfloat16)
        errors = self._round(rest, self._rough_queries)[0]
        self._fill(self._rough_queries, [_above(_lengths(rest)), _above(errors), 1, 1])
        self._rough = torch.empty((0, self._length), dtype=torch.bfloat16)
        self._products = torch.empty(0, dtype=torch.bfloat16)
        # Pieces tried in a row of which too much was left open. At first, while limits are far, that is to be expected.
        self._in_vain = 0
        # Pieces that are not tried next: ever more, so that where it is always so little time is lost.
        self._not_tried = 0

    def nearer(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        if np.isinf(limit).all() or self._not_tried > 0:
            self._not_tried = max(0, self._not_tried - 1)
            return self._precise.nearer(vectors, limit, k)
        least = (1 - limit).astype(np.float32)
        is_open = self._bounds(vectors) >= _lowest_bits(least - self._on_centre - SUMMING)[:, None]
        if np.count_nonzero(is_open) * PAIR_COST > is_open.size:
            self._in_vain += 1
            self._not_tried = self._in_vain
            return self._precise.nearer(vectors, limit, k)
        self._in_vain = 0
        rows, columns = np.divmod(np.flatnonzero(is_open), len(vectors))
        products = _multiply_pairs(self._queries, rows, vectors, columns)
        near = products > least[rows]
        return rows[near], columns[near], 1 - products[near]

    def _bounds(self, vectors: Floats) -> NDArray[np.int16]:
        """What ``q.x - c.q`` is at most, in bfloat16, of shape (queries, n): its bits, which for positive numbers are in the
        order of the numbers, and above those of negative ones.
        """
        torch, shape = self._torch, (len(self._queries), len(vectors))
        if len(self._rough) < len(vectors):
            self._rough = torch.empty((len(vectors), self._length), dtype=torch.bfloat16)
            self._products = torch.empty(shape[0] * shape[1], dtype=torch.bfloat16)
        rough = self._rough[: len(vectors)]
        errors, lengths = self._round(vectors - self._centre, rough)
        shift = torch.from_numpy(vectors @ self._centre - self._centre @ self._centre)
        coarse = shift.bfloat16()
        self._fill(rough, [_above(errors), _above(lengths), coarse, shift - coarse])
        products = self._products[: shape[0] * shape[1]].view(shape)
        torch.mm(self._rough_queries, rough.T, out=products)
        bits: NDArray[np.int16] = products.view(torch.int16).numpy()
        return bits

    @property
    def _length(self) -> int:
        """Of a row: the rounded components, what rounding may have lost, and the shift, each in two parts; filled up with zeros
        to what processors multiply at a time.
        """
        return -(-(len(self._centre) + 4) // 32) * 32

    def _round(self, rest: Floats, rough: Any) -> tuple[Floats, Floats]:
        """Write what is rounded to the beginning of each row; returns how long the errors are, and what is left."""
        kept = rough[:, : rest.shape[1]].copy_(self._torch.from_numpy(rest)).float().numpy()
        return _lengths(rest - kept), _lengths(kept)

    def _fill(self, rough: Any, columns: Sequence[Any]) -> None:
        """The rest of each row."""
        dim = len(self._centre)
        for number, column in enumerate(columns, start=dim):
            rough[:, number] = self._torch.from_numpy(column) if isinstance(column, np.ndarray) else column
        rough[:, dim + len(columns) :] = 0


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def _above(values: Floats) -> Floats:
    """What is not below the values once it is rounded."""
    return values * np.float32(1 + 2 * BFLOAT16_ROUNDING)


def _multiply_pairs(queries: Floats, rows: NDArray[np.int64], vectors: Floats, columns: NDArray[np.int64]) -> Floats:
    """The product of each row of the one with the row of the other that belongs to it."""
    products = np.empty(len(rows), np.float32)
    first, second = (np.empty((PAIRS_AT_A_TIME, queries.shape[1]), np.float32) for _ in range(2))
    for start in range(0, len(rows), PAIRS_AT_A_TIME):
        some = slice(start, start + PAIRS_AT_A_TIME)
        count = len(rows[some])
        # "clip", as NumPy buffers what it gives back otherwise; all of them are within.
        np.take(queries, rows[some], axis=0, out=first[:count], mode="clip")
        np.take(vectors, columns[some], axis=0, out=second[:count], mode="clip")
        np.einsum("ij,ij->i", first[:count], second[:count], out=products[some])
    return products


def _lowest_bits(least: NDArray[np.floating]) -> NDArray[np.int16]:
    """What a product that is above ``least`` has at least, as the bits of the bfloat16 that it is rounded to."""
    bits = (least.astype(np.float32).view(np.uint32) >> 16).astype(np.int16)
    # Where negative products, whose bits are in reverse order, may be enough, all are.
    return np.where(least > 0, bits, np.iinfo(np.int16).min).astype(np.int16)


def is_bfloat16_fast(torch: Any, dim: int) -> bool:
    """Measured, as many a processor only imitates it."""
    factors = {
        dtype: (torch.ones(256, dim, dtype=dtype), torch.ones(1024, dim, dtype=dtype).T)
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(factors, float("inf"))
    for _ in range(1 + TIMED):  # the first prepares what later ones use again
        for dtype, (queries, vectors) in factors.items():
            began = time.perf_counter()
            torch.mm(queries, vectors)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    return seconds[torch.bfloat16] * ROUGH_IS_FASTER < seconds[torch.float32]
