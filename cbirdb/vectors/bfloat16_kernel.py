"""Multiplies in bfloat16 first, where processors do that several times as fast (Intel's AMX)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbirdb.vectors.kernels import Floats, NumpyKernel, Pairs

ROUGH_IS_FASTER = 2
"""Least speed-up at which rough products pay: the pairs that they leave open are multiplied again."""
TIMED = 5
"""Repetitions of the timing, since other work may interrupt one."""
BFLOAT16_ROUNDING = 2.0**-8
"""Largest relative error of rounding a component to bfloat16, which has a significand of 8 bits."""
SUMMING = 2e-5
"""More than the sum of two errors: of a single-precision sum over a pair of unit vectors (measured: up to 2.4e-6 for
16,000 components), and of a number up to 2 kept as two bfloat16 (up to 7.6e-6).
"""
PAIR_COST = 60
"""Cost of one pair on its own, in products of a block."""
PAIRS_AT_A_TIME = 128
"""Pairs gathered at once, so that their vectors still lie in the second-level cache when they are multiplied."""


class Bfloat16Kernel:
    """Multiplies in bfloat16, then in single precision the pairs that may be near; all others are certain to be far.

    Each query q and vector x is rounded after subtracting the queries' mean c, to q' and x'. Embeddings often lie in a
    narrow cone, and rounding their common part would lose more than their differences. With y = x - c

        ``q.x - c.q = (q - c).y + c.y``
        ``(q - c).y <= q'.x' + |q - c| |y - x'| + |q - c - q'| |x'|``

    The second line is the Cauchy-Schwarz inequality. Extra components for the added terms make the bound one product of
    longer vectors.

    The bound does not help if the k-th neighbour is less similar to the query than the queries' mean is, for instance
    if the queries are another kind of picture than the images. All pairs stay open then.
    """

    def __init__(self, queries: Floats, share_count: int, torch: Any) -> None:
        self.queries = len(queries)
        self._queries = queries
        self._precise = NumpyKernel(queries, share_count)
        self.product_bytes = 2 * self._precise.product_bytes  # bfloat16 products are half as large
        self._torch = torch
        self._centre: Floats = queries.mean(axis=0)
        self._on_centre = queries @ self._centre
        rest = queries - self._centre
        self._rough_queries = torch.empty((len(queries), self._length), dtype=torch.bfloat16)
        errors = self._round(rest, self._rough_queries)[0]
        self._fill(self._rough_queries, [_above(_lengths(rest)), _above(errors), 1, 1])
        self._rough = torch.empty((0, self._length), dtype=torch.bfloat16)
        self._products = torch.empty(0, dtype=torch.bfloat16)
        # Consecutive pieces that left too many pairs open. At first, while limits are far, that is normal.
        self._in_vain = 0
        # Pieces to skip next. The number grows, so that little time is lost where rough products never help.
        self._not_tried = 0

    def pairs_below(self, vectors: Floats, limit: Floats, k: int) -> Pairs:
        """Return the pairs below the limits, as ``Kernel`` describes."""
        if np.isinf(limit).all() or self._not_tried > 0:
            self._not_tried = max(0, self._not_tried - 1)
            return self._precise.pairs_below(vectors, limit, k)
        least = (1 - limit).astype(np.float32)
        is_open = self._bounds(vectors) >= _lowest_bits(least - self._on_centre - SUMMING)[:, None]
        if np.count_nonzero(is_open) * PAIR_COST > is_open.size:
            self._in_vain += 1
            self._not_tried = self._in_vain
            return self._precise.pairs_below(vectors, limit, k)
        self._in_vain = 0
        rows, columns = np.divmod(np.flatnonzero(is_open), len(vectors))
        products = _multiply_pairs(self._queries, rows, vectors, columns)
        is_near = products > least[rows]
        return rows[is_near], columns[is_near], 1 - products[is_near]

    def _bounds(self, vectors: Floats) -> NDArray[np.int16]:
        """Return upper bounds of ``q.x - c.q`` in bfloat16, shape (queries, n), as the bits of the numbers.

        The bits of positive numbers have the order of the numbers, and lie above those of negative numbers.
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
        """Return the length of a padded row.

        A row holds the rounded components, the two rounding errors, and the shift in two parts. Zeros fill it up to the
        block size that processors multiply at a time.
        """
        return -(-(len(self._centre) + 4) // 32) * 32

    def _round(self, rest: Floats, rough: Any) -> tuple[Floats, Floats]:
        """Write rounded vectors to the beginning of each row; return the lengths of the errors and of the rounded
        vectors.
        """
        kept = rough[:, : rest.shape[1]].copy_(self._torch.from_numpy(rest)).float().numpy()
        return _lengths(rest - kept), _lengths(kept)

    def _fill(self, rough: Any, columns: Sequence[Any]) -> None:
        """Fill the remaining columns of each row."""
        dim = len(self._centre)
        for number, column in enumerate(columns, start=dim):
            rough[:, number] = self._torch.from_numpy(column) if isinstance(column, np.ndarray) else column
        rough[:, dim + len(columns) :] = 0


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def _above(values: Floats) -> Floats:
    """Return values that stay at or above the given ones after rounding."""
    return values * np.float32(1 + 2 * BFLOAT16_ROUNDING)


def _multiply_pairs(queries: Floats, rows: NDArray[np.int64], vectors: Floats, columns: NDArray[np.int64]) -> Floats:
    """Multiply each listed query with its listed vector; return the products, shape (pairs,)."""
    products = np.empty(len(rows), np.float32)
    first, second = (np.empty((PAIRS_AT_A_TIME, queries.shape[1]), np.float32) for _ in range(2))
    for start in range(0, len(rows), PAIRS_AT_A_TIME):
        some = slice(start, start + PAIRS_AT_A_TIME)
        count = len(rows[some])
        # mode="clip" because NumPy buffers the output otherwise; all indices are in range.
        np.take(queries, rows[some], axis=0, out=first[:count], mode="clip")
        np.take(vectors, columns[some], axis=0, out=second[:count], mode="clip")
        np.einsum("ij,ij->i", first[:count], second[:count], out=products[some])
    return products


def _lowest_bits(least: NDArray[np.floating]) -> NDArray[np.int16]:
    """Return the lowest bits that a product above ``least`` has once it is rounded to bfloat16."""
    bits = (least.astype(np.float32).view(np.uint32) >> 16).astype(np.int16)
    # Negative products have their bits in reverse order. Where they may be enough, accept all.
    return np.where(least > 0, bits, np.iinfo(np.int16).min).astype(np.int16)


def is_bfloat16_fast(torch: Any, dim: int) -> bool:
    """Measure that bfloat16 multiplies faster: many CPUs only emulate it."""
    factors = {
        dtype: (torch.ones(256, dim, dtype=dtype), torch.ones(1024, dim, dtype=dtype).T)
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(factors, float("inf"))
    for _ in range(1 + TIMED):  # the first round prepares what later ones reuse
        for dtype, (queries, vectors) in factors.items():
            began = time.perf_counter()
            torch.mm(queries, vectors)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    return seconds[torch.bfloat16] * ROUGH_IS_FASTER < seconds[torch.float32]
