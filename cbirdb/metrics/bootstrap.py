"""Estimates the uncertainty of a mean over queries, and tests if two means differ: resampling by patient, NumPy only.

Images of one patient resemble each other, so their queries are not independent. Whole patients (clusters) are drawn,
never single queries. The input is a table of *cells*: one per cluster and class, with the sum and number of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cells:
    """Values of queries, summed per cluster and class or one by one. Cells of the same cluster and class add up.

    Each has shape (cells,). ``cluster`` and ``group`` count from 0 without gaps; ``total`` is a sum of values,
    ``number`` their number. For ``bootstrap``, ``total`` may have shape (cells, figures): several values of the same
    queries.
    """

    cluster: NDArray[np.int64]
    group: NDArray[np.int64]
    total: Floats
    number: Floats

    @property
    def clusters(self) -> int:
        """Return the number of clusters."""
        return int(self.cluster.max(initial=-1)) + 1

    @property
    def groups(self) -> int:
        """Return the number of classes."""
        return int(self.group.max(initial=-1)) + 1

    def micro(self, weights: Floats | None = None) -> float:
        """Return the mean over queries.

        :param weights: weight of each cluster, shape (clusters,).
        """
        of_cell = 1.0 if weights is None else weights[self.cluster]
        number = float(np.sum(of_cell * self.number))
        return float(np.sum(of_cell * self.total)) / number if number else np.nan

    def macro(self, weights: Floats | None = None) -> float:
        """Return the mean over classes of the class's mean, without classes of which no query was drawn.

        :param weights: weight of each cluster, shape (clusters,).
        """
        of_cell = np.ones(len(self.cluster)) if weights is None else weights[self.cluster]
        number = np.bincount(self.group, of_cell * self.number, self.groups)
        total = np.bincount(self.group, of_cell * self.total, self.groups)
        drawn = number > 0
        return float(np.mean(total[drawn] / number[drawn])) if drawn.any() else np.nan


def bootstrap(cells: Cells, *, macro: bool, resamples: int, seed: int) -> Floats:
    """Return means of resamples that draw as many clusters as there are, with replacement; all figures of the same
    draws.

    Cluster bootstrap: Field and Welsh, Bootstrapping clustered data, J. R. Statist. Soc. B 69(3), 2007.

    :returns: shape (resamples,), or (resamples, figures) like ``cells.total``.
    """
    clusters = cells.clusters
    # With a single class, the mean over classes is the mean over queries.
    group = cells.group if macro else np.zeros_like(cells.group)
    cell, place = np.unique(group * clusters + cells.cluster, return_inverse=True)
    group, cluster = np.divmod(cell, clusters)
    values = [np.bincount(place, column) for column in (*np.atleast_2d(cells.total.T), cells.number)]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    means = np.empty((resamples, len(values) - 1))
    for resample, drawn in enumerate(draws(clusters, resamples, seed)):
        weights = drawn[cluster]
        *totals, numbers = (np.add.reduceat(column * weights, starts) for column in values)
        has_queries = numbers > 0
        means[resample] = [np.mean(total[has_queries] / numbers[has_queries]) for total in totals]
    return means.reshape(resamples, *cells.total.shape[1:])


def draws(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield for each resample how often each cluster was drawn, shape (clusters,)."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, clusters, clusters), minlength=clusters).astype(np.float64)


def interval(means: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrapped means.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    tail = (1 - confidence) / 2 * 100
    low, high = np.nanpercentile(means, [tail, 100 - tail]) if np.isfinite(means).any() else (np.nan, np.nan)
    return float(low), float(high)


def sign_flip_p(differences: Cells, *, macro: bool, resamples: int, seed: int) -> float:
    """Return the two-sided p of a paired randomisation test.

    Under the null hypothesis, the sign of each cluster's differences is arbitrary (Smucker, Allan and Carterette, A
    comparison of statistical significance tests for information retrieval evaluation, CIKM 2007). The observed
    arrangement counts as one of the resamples, so that p is never 0 (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol.
    9(1), 2010). With few clusters all arrangements are computed, and p is exact.

    :param differences: values of one system minus those of the other, for the same queries.
    """
    clusters = differences.clusters
    if macro:
        number = np.bincount(differences.group, differences.number, differences.groups)
        shares = differences.total / number[differences.group] / differences.groups
    else:
        shares = differences.total / differences.number.sum()
    of_cluster = np.bincount(differences.cluster, shares, clusters)
    observed = abs(of_cluster.sum())
    # An arrangement that differs only by rounding counts as extreme as the observed one.
    reached = observed - 1e-12 * max(1.0, observed)
    if 2**clusters <= resamples:
        signs = 1.0 - 2.0 * ((np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1)
        return float(np.mean(np.abs(signs @ of_cluster) >= reached))
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(resamples):
        kept = np.unpackbits(rng.integers(0, 256, (clusters + 7) // 8, dtype=np.uint8), count=clusters)
        extreme += abs(2 * float(kept @ of_cluster) - float(of_cluster.sum())) >= reached
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, so that the chance of any false alarm stays below the level.

    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6(2), 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[position]))
        adjusted[position] = largest
    return adjusted
