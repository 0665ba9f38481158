"""Defines the choices of a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cbirdb.errors import OptionError

Criterion = Literal["balanced_accuracy", "accuracy"]
CRITERIA: tuple[Criterion, ...] = ("balanced_accuracy", "accuracy")
GRID = (0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""Values of C that are tried. Vectors have length 1, so their components are small, and good values of C are large."""
LARGEST_C = 1e12


@dataclass(frozen=True, slots=True)
class LinearOptions:
    """Choose what a linear probe does.

    :raises OptionError: when a value is none that there is.
    """

    datasets: str | Sequence[str] = ()
    """A name or several; empty: all."""
    criterion: Criterion = "balanced_accuracy"
    """Figure of the val images by which C is chosen; of equal values the smaller C."""
    grid: Sequence[float] = GRID
    """Values of C to try; C is the inverse strength of the L2 penalty, as in scikit-learn."""
    split_seed: int = 0
    """Draws the splits that a dataset does not give."""
    same_patient: bool = True
    """Let a patient have images in several splits; False: only those in the last of train, val and test take part."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "datasets", (self.datasets,) if isinstance(self.datasets, str) else tuple(self.datasets)
        )
        object.__setattr__(self, "grid", tuple(sorted({float(c) for c in self.grid})))
        if self.criterion not in CRITERIA:
            raise OptionError(f"'{self.criterion}' is none of the criteria: {', '.join(CRITERIA)}.")
        if not self.grid or not all(0 < c <= LARGEST_C for c in self.grid):
            raise OptionError(
                f"Each C must be a number above 0 and at most {LARGEST_C:g}.", hint="Give --grid 0.1,1,10 for example."
            )
