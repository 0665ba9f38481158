"""Computes figures of a classifier and their bootstrapped values from its answers: numbers only, NumPy.

SQL computes the figures that are shown (``cbir.probe_by_class``, ``cbir.probe_summary``). These equal them, and take a
weight per image, which resampling needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

OF_CLASS = ("precision", "recall", "f1", "auc")
OF_PROBE = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")


@dataclass(frozen=True, slots=True)
class Ranking:
    """The images in the order of their probability of one class, which a resample does not change."""

    order: Places
    """Shape (images,)."""
    starts: Places
    """First place of each value in this order; equal probabilities are one value."""

    @classmethod
    def of(cls, probability: Floats) -> Ranking:
        """Sort the images by a probability, shape (images,)."""
        order = np.argsort(probability, kind="stable")
        return cls(order, np.flatnonzero(np.diff(probability[order], prepend=-np.inf)))

    def auc(self, own: Floats, others: Floats) -> float:
        """Return the area under the ROC curve; NaN if one side is empty.

        :param own: weights of the class's images, 0 for all others; shape (images,).
        :param others: weights of the other images, 0 for the class's.
        """
        own, others = (np.add.reduceat(side[self.order], self.starts) for side in (own, others))
        below = np.cumsum(others) - others / 2
        pairs = own.sum() * others.sum()
        return float(own @ below / pairs) if pairs else np.nan


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers for some images. Classes count from 0; the first of them can be predicted."""

    label: Places
    """The image's class, shape (images,)."""
    predicted: Places
    """The predicted class, shape (images,)."""
    classes: int
    """Number of classes, those that no image has or that cannot be predicted included."""
    rankings: tuple[Ranking, ...]
    """Of each class that can be predicted."""

    def figures(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the figures of the weighted images.

        :param weights: how often each image counts, shape (images,).
        :returns: ``OF_CLASS`` for each class, shape (classes, 4), and ``OF_PROBE``, shape (4,); NaN: there is none.
        """
        hits = np.bincount(self.label, weights * (self.label == self.predicted), self.classes)
        queries = np.bincount(self.label, weights, self.classes)
        predictions = np.bincount(self.predicted, weights, self.classes)
        with np.errstate(invalid="ignore"):
            precision, recall, f1 = hits / predictions, hits / queries, 2 * hits / (predictions + queries)
        auc = np.full(self.classes, np.nan)
        for place, ranking in enumerate(self.rankings):
            own = np.where(self.label == place, weights, 0.0)
            auc[place] = ranking.auc(own, weights - own)
        has_queries = queries > 0
        areas = auc[np.isfinite(auc)]
        return np.column_stack([precision, recall, f1, auc]), np.array(
            [
                hits.sum() / queries.sum(), recall[has_queries].mean(), f1[has_queries].mean(),
                areas.mean() if len(areas) else np.nan,
            ]
        )  # fmt: skip
