"""Generates seeded vectors that resemble embeddings: a long tail of classes, each of several sub-clusters.

Uniform random vectors are all equally far from each other and say nothing about retrieval. Within a sub-cluster, vectors vary
in all directions equally, or in a few directions:

    all equally  the hardest case for an index. Of 50,000 such vectors with 768 components, a query's first and twentieth
                 neighbours are almost equally far away (0.97), as in a space of 91 dimensions.
    few (latent) the case of embeddings: those of ImageNet pictures lie on about 26 to 43 dimensions (Pope et al., ICLR
                 2021). With 64 directions of decreasing weight, the same estimate gives 17. For tiny-image's vectors it
                 gives 13 (621 chest X-rays) and 14 (780 breast ultrasounds), and grows with the number of images.

The estimate is that of Levina and Bickel (NIPS 2004) with 20 neighbours, the median over 400 queries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CLASSES = 200
SUBCLUSTERS = 5
SPREAD = 0.7
"""Standard deviation of a component within a sub-cluster; that of a centre is 1."""
ALIKE = 0.05
"""Share of the variance without a direction, if the rest has a few directions."""
Floats = NDArray[np.float32]


def clustered_vectors(
    rows: int, dim: int, *, seed: int = 0, batch: int = 10_000, latent: int = 0
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield batches of (class per row, unit vectors of shape (n, dim)), the same for the same arguments.

    :param latent: number of each class's own directions in which its vectors vary; 0: all directions equally.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CLASSES, dim)).astype(np.float32)
    offsets = rng.standard_normal((CLASSES, SUBCLUSTERS, dim)).astype(np.float32) * 0.6
    weights = 1 / np.arange(1, CLASSES + 1) ** 1.1
    weights /= weights.sum()
    directions = _directions(rng, dim, latent)
    for start in range(0, rows, batch):
        n = min(batch, rows - start)
        classes = rng.choice(CLASSES, size=n, p=weights)
        subs = rng.integers(0, SUBCLUSTERS, size=n)
        noise = rng.standard_normal((n, dim), dtype=np.float32) * SPREAD
        if latent:
            noise *= ALIKE**0.5
            along = rng.standard_normal((n, latent), dtype=np.float32) * SPREAD * (1 - ALIKE) ** 0.5
            for label in np.unique(classes):
                noise[classes == label] += along[classes == label] @ directions[label]
        vectors = centres[classes] + offsets[classes, subs] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield classes.astype(np.int64), vectors


def _directions(rng: np.random.Generator, dim: int, latent: int) -> Floats:
    """Return directions for each class; the n-th has length 1 / sqrt(n) before scaling to a variance of 1 per
    component.
    """
    if not latent:
        return np.empty((CLASSES, 0, dim), np.float32)
    lengths = np.arange(1, latent + 1) ** -0.5
    lengths /= np.sqrt((lengths**2).sum())
    drawn: Floats = rng.standard_normal((CLASSES, latent, dim), dtype=np.float32) * lengths[:, None].astype(np.float32)
    return drawn
