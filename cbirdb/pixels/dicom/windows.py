"""Maps grey values to 8 bits: the windows of DICOM PS3.3 C.11.2, the full range, histogram equalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]

WHITE = 255.0


@dataclass(frozen=True, slots=True)
class Window:
    """A window on grey values."""

    centre: float
    width: float
    function: str = "LINEAR"
    """LINEAR, LINEAR_EXACT or SIGMOID."""

    @property
    def is_valid(self) -> bool:
        """Return True for a window that the standard allows."""
        least = self.width >= 1 if self.function == "LINEAR" else self.width > 0
        return bool(np.isfinite(self.centre) and np.isfinite(self.width) and least)

    def apply(self, values: Values) -> Values:
        """Return the grey values between 0 and 255, not rounded (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # exp() of a value far below the window is infinite: black
                shown: Values = WHITE / (1.0 + np.exp(-4.0 * (values - self.centre) / self.width))
            return shown
        if self.function == "LINEAR_EXACT":
            return between(values, self.centre - self.width / 2, self.centre + self.width / 2)
        centre, width = self.centre - 0.5, self.width - 1
        return between(values, centre - width / 2, centre + width / 2)


def between(values: Values, low: float, high: float) -> Values:
    """Map ``low`` and all below to 0, ``high`` and all above to 255. If they are equal, only what lies above is white."""
    if high > low:
        return np.clip((values - low) * (WHITE / (high - low)), 0.0, WHITE)
    return np.where(values > high, WHITE, 0.0)


def to_bytes(values: Values) -> NDArray[np.uint8]:
    """Round to 8 bits; NaN becomes black."""
    return np.rint(np.nan_to_num(values, nan=0.0, posinf=WHITE, neginf=0.0)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values, ascending, and how often each occurs."""

    values: Values
    counts: NDArray[np.int64] | None
    """None: once; equal values are listed more than once."""

    @classmethod
    def of(cls, values: Values, counts: NDArray[Any]) -> Distribution:
        """Sort the finite values that occur."""
        kept = (counts > 0) & np.isfinite(values)
        order = np.argsort(values[kept], kind="stable")
        return cls(values[kept][order], counts[kept][order].astype(np.int64))

    def ends(self) -> tuple[float, float]:
        """Return the lowest and highest value; 0 and 0 if there is none."""
        return (float(self.values[0]), float(self.values[-1])) if self.values.size else (0.0, 0.0)

    def percentiles(self, low: float, high: float) -> tuple[float, float]:
        """Return the least values that ``low`` and ``high`` percent of all do not exceed; the ends if they are equal."""
        if not self.values.size:
            return 0.0, 0.0
        if self.counts is None:
            places = [max(0, math.ceil(percent * self.values.size / 100) - 1) for percent in (low, high)]
        else:
            reached = np.cumsum(self.counts) / self.counts.sum() * 100.0
            places = list(np.searchsorted(reached, (low, high), side="left"))
        first, last = (float(self.values[min(place, self.values.size - 1)]) for place in places)
        return (first, last) if first < last else self.ends()


def equalising_table(counts: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the new grey values of 0 to 255, computed as by OpenCV's ``equalizeHist``.

    :param counts: how often each grey value occurs, shape (256,).
    """
    table = np.arange(256, dtype=np.uint8)
    present = np.flatnonzero(counts)
    if present.size < 2:
        return table
    reached = np.cumsum(counts)
    least = reached[present[0]]
    scaled = (reached - least) * (WHITE / (reached[-1] - least))
    return to_bytes(np.clip(scaled, 0.0, WHITE))
