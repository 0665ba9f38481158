"""Fits a logistic regression for each C of a grid and chooses by the validation images: numbers only, scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbirdb.classify.options import Criterion
from cbirdb.errors import InputError
from cbirdb.progress import SILENT, Progress

Labels = NDArray[np.int64]
Vectors = NDArray[np.float64]

TOLERANCE = 1e-6
"""Largest component of the mean loss's gradient at which L-BFGS stops. With scikit-learn's own 1e-4 and a large C it
stops long before the minimum, and every C above some value gives the same model."""
MAX_ITERATIONS = 5_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value of C, with its figures on the validation images."""

    c: float
    balanced_accuracy: float
    accuracy: float
    iterations: int
    converged: bool

    def row(self) -> dict[str, Any]:
        """Return the element of ``probe_run.candidates``."""
        return {
            "c": self.c,
            "val_balanced_accuracy": self.balanced_accuracy,
            "val_accuracy": self.accuracy,
            "iterations": self.iterations,
            "converged": self.converged,
        }


@dataclass(frozen=True, slots=True)
class Fitted:
    """The chosen model, and all that were tried."""

    chosen: Candidate
    candidates: Sequence[Candidate]
    model: Any
    """A ``sklearn.linear_model.LogisticRegression``."""


def require_library() -> None:
    """Check that scikit-learn is installed, without importing it.

    :raises InputError: when it is not.
    """
    if find_spec("sklearn") is None:
        raise InputError(
            "scikit-learn is not installed.",
            hint="Install cbirdb with its extra 'linear'. In a clone of it, run: pip install -e '.[linear]'",
        )


def fit(vectors: Vectors, labels: Labels, c: float) -> tuple[Any, bool]:
    """Fit a logistic regression: multinomial, with an intercept and an L2 penalty, by L-BFGS from zero.

    Nothing in it is random. With two classes it is the binary logistic regression.

    :param vectors: shape (n, dim); may lie in a file (``numpy.memmap``).
    :param labels: shape (n,), of two classes or more.
    :returns: the model, and True if it converged.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(vectors, labels)
    others = [warning for warning in caught if not issubclass(warning.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model, len(others) == len(caught)


def choose(
    train: Vectors,
    train_labels: Labels,
    val: Vectors,
    val_labels: Labels,
    *,
    grid: Sequence[float],
    criterion: Criterion,
    progress: Progress = SILENT,
) -> Fitted:
    """Fit a model per C to the training images, and return the one that is best on the validation images.

    :param grid: in ascending order; of equal values the smaller C, which regularises more, is chosen.
    """
    best: Fitted | None = None
    candidates: list[Candidate] = []
    with progress.task("fitting", total=len(grid), unit="values of C") as task:
        for c in grid:
            model, converged = fit(train, train_labels, c)
            candidate = Candidate(c, *figures(val_labels, model.predict(val)), int(model.n_iter_.max()), converged)
            candidates.append(candidate)
            if best is None or getattr(candidate, criterion) > getattr(best.chosen, criterion):
                best = Fitted(candidate, candidates, model)
            task.advance()
    if best is None:
        raise ValueError("the grid is empty")
    return best


def figures(labels: Labels, predicted: Labels) -> tuple[float, float]:
    """Return balanced accuracy, the mean over the images' classes of the share of right predictions, and accuracy."""
    right = labels == predicted
    classes, place = np.unique(labels, return_inverse=True)
    of_class = np.bincount(place, right, len(classes)) / np.bincount(place, minlength=len(classes))
    return float(np.mean(of_class)), float(np.mean(right))
