"""Checks and normalises embeddings, with NumPy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cbirdb.errors import InputError

UNIT_NORM_TOLERANCE = 1e-3
"""Largest difference from 1 of the norm of a vector that counts as already normalised.

Rounding 2,000 components to 16 bits moves the norm by at most about 5e-4.
"""
ROWS_PER_BLOCK = 64
SMALLEST_NORM = 1e-140
"""Smallest usable norm: below it the squares of the components vanish, and the direction with them."""


def l2_normalize(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scale each row to unit Euclidean length.

    :param embeddings: shape (n, dim).
    :returns: the normalised rows, float32, shape (n, dim), and a mask of shape (n,). The mask is False for rows without
        a direction: with a non-finite component, of length zero, or so short that float64 loses it. Such a row is zero
        in the output.
    :raises InputError: when the array is not two-dimensional.
    """
    if embeddings.ndim != 2:
        raise InputError(f"Embeddings must have the shape (n, dim), not {embeddings.shape}.")
    norms = row_norms(embeddings)
    usable = np.isfinite(norms) & (norms > SMALLEST_NORM)
    scaled = np.zeros(embeddings.shape, dtype=np.float32)
    for block in _blocks(embeddings):
        kept = usable[block]
        scaled[block][kept] = embeddings[block][kept].astype(np.float64) / norms[block][kept, None]
    return scaled, usable


def row_norms(embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Euclidean length of each row, shape (n,); NaN or infinite where a component is."""
    norms = np.empty(len(embeddings))
    with np.errstate(invalid="ignore", over="ignore"):
        for block in _blocks(embeddings):
            wide = embeddings[block].astype(np.float64)
            norms[block] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return norms


def _blocks(embeddings: NDArray[np.floating]) -> Iterator[slice]:
    """Yield slices of rows whose float64 copies fit into the processor's cache: several times as fast as all at
    once.
    """
    for start in range(0, len(embeddings), ROWS_PER_BLOCK):
        yield slice(start, start + ROWS_PER_BLOCK)


def unusable_reason(row: NDArray[np.floating]) -> str:
    """Return the reason, in a few words, why ``l2_normalize`` refused a row of shape (dim,)."""
    if np.isnan(row).any():
        return "not a number"
    if np.isinf(row).any():
        return "infinite"
    if not row.any():
        return "zero vector"
    return "norm out of range"


def cosine(first: ArrayLike, second: ArrayLike) -> float:
    """Return the cosine of the angle between two vectors of shape (dim,); 0 if one of them is zero."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0
