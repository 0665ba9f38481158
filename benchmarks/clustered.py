"""Seeded vectors that look like embeddings: a long tail of classes, each of several sub-clusters.

Uniform random vectors are all equally far from each other and say nothing about retrieval.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CLASSES = 200
SUBCLUSTERS = 5


def clustered_vectors(
    rows: int, dim: int, *, seed: int = 0, batch: int = 10_000
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Batches of (class per row, unit vectors of shape (n, dim)), the same for the same seed and batch size."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CLASSES, dim)).astype(np.float32)
    offsets = rng.standard_normal((CLASSES, SUBCLUSTERS, dim)).astype(np.float32) * 0.6
    weights = 1 / np.arange(1, CLASSES + 1) ** 1.1
    weights /= weights.sum()
    for start in range(0, rows, batch):
        n = min(batch, rows - start)
        classes = rng.choice(CLASSES, size=n, p=weights)
        subs = rng.integers(0, SUBCLUSTERS, size=n)
        vectors = centres[classes] + offsets[classes, subs] + rng.standard_normal((n, dim), dtype=np.float32) * 0.7
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield classes.astype(np.int64), vectors
