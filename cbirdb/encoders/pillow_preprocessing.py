"""Prepares pictures with Pillow and NumPy alone: for exported networks, and families without a library of their own.

The libraries that models come with prepare pictures by the same few steps, but round in two ways. Both are settings
here, so the pixels are equal to the library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Resize: TypeAlias = Literal["shortest", "longest", "exact"]
Filter: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Rounding: TypeAlias = Literal["down", "half-to-even"]
Scaling: TypeAlias = Literal["multiply-float64", "divide-float32"]
Colour: TypeAlias = tuple[float, float, float]
LARGEST_SIDE = 8192
"""Most pixels of a side of the input. More is no model's, and would only fill the memory."""


@dataclass(frozen=True)
class PillowPreprocessing:
    """Resizes, crops, scales, normalises and pads: one picture of any size -> float32 (3, height, width).

    :raises ValueError: when settings are contradictory or none of those below.
    """

    resize: Resize
    """``shortest`` and ``longest`` fit that side to ``height`` and keep the proportions; ``exact`` does not."""
    height: int
    width: int
    """Size after resizing. For ``shortest`` and ``longest`` both are the length of that side."""
    filter: Filter
    mean: Colour
    deviation: Colour
    factor: float = 1 / 255
    """Factor of the grey values 0..255, or divisor if ``scaling`` divides."""
    scaling: Scaling = "multiply-float64"
    share: float | None = None
    """Share of the shorter side: the centre square of that size is all that is resized. None: the whole picture."""
    crop: tuple[int, int] | None = None
    """Height and width of the centre that is kept."""
    crop_rounding: Rounding = "down"
    """Rounding of half a pixel at the crop's top and left."""
    pad: tuple[int, int] | None = None
    """Height and width to fill up at the bottom and at the right with zeros, after normalising."""

    def __post_init__(self) -> None:
        _check_words(self)
        sides = (self.height, self.width, *(self.crop or ()), *(self.pad or ()))
        if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
            raise ValueError("a size is no whole number, or too large")
        if len({len(self.mean), len(self.deviation), 3}) > 1:
            raise ValueError("mean and deviation have three values each")
        if not (np.isfinite([*self.mean, *self.deviation, self.factor]).all() and all(self.deviation) and self.factor):
            raise ValueError("a mean, deviation or factor is no usable number")
        if self.resize == "shortest" and self.crop is None:
            raise ValueError("pictures keep their proportions, so their inputs have no common shape")
        if self.resize == "longest" and self.pad is None:
            raise ValueError("pictures keep their proportions, so their inputs have no common shape")
        if self.crop is not None and (self.resize == "longest" or max(self.crop) > min(self.height, self.width)):
            raise ValueError("the crop is larger than the picture")
        if self.share is not None and not (0 < self.share <= 1 and self.resize == "exact"):
            raise ValueError("the share is none, or the square keeps its proportions anyhow")
        if self.pad is not None and (self.pad[0] < self.height or self.pad[1] < self.width):
            raise ValueError("the padding is smaller than the picture")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of each input."""
        return (3, *(self.pad or self.crop or (self.height, self.width)))

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """Normalised value of each grey value in each channel, shape (3, 256)."""
        grey = np.arange(256)
        if self.scaling == "multiply-float64":
            scaled = (grey.astype(np.float64) * self.factor).astype(np.float32)
        else:
            scaled = grey.astype(np.float32) / np.float32(self.factor)
        table: NDArray[np.float32] = (scaled - np.array(self.mean, np.float32)[:, None]) / np.array(
            self.deviation, np.float32
        )[:, None]
        return table

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        picture = image.convert("RGB")
        if self.share is not None:
            picture = picture.crop(_centre(*picture.size, self.share))
        pixels = np.asarray(picture.resize(self._size(*picture.size), Image.Resampling[self.filter.upper()]))
        if self.crop is not None:
            top, left = (self._margin(side, kept) for side, kept in zip(pixels.shape, self.crop, strict=False))
            pixels = pixels[top : top + self.crop[0], left : left + self.crop[1]]
        found = np.zeros(self.shape, np.float32)
        height, width, _ = pixels.shape
        for channel in range(3):
            found[channel, :height, :width] = self._table[channel][pixels[..., channel]]
        return found

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after resizing."""
        if self.resize == "exact":
            return self.width, self.height
        if self.resize == "shortest":
            longer = int(self.height * max(width, height) / min(width, height))
            return (self.height, longer) if width <= height else (longer, self.height)
        scale = self.height / max(width, height)
        return int(width * scale + 0.5), int(height * scale + 0.5)

    def _margin(self, side: int, kept: int) -> int:
        return (side - kept) // 2 if self.crop_rounding == "down" else round((side - kept) / 2)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PillowPreprocessing:
        """Read settings.

        :raises ValueError: when they are not settings of this class.
        :raises TypeError: when they are not settings of this class.
        """
        known = {item.name for item in fields(cls)}
        if unknown := set(stored) - known:
            raise ValueError(f"unknown settings: {sorted(unknown)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**values)


def _centre(width: int, height: int, share: float) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the centre square, with half pixels rounded as TensorFlow does."""
    side = max(1, int(share * min(width, height)))
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    return left, top, left + side, top + side


def _check_words(settings: PillowPreprocessing) -> None:
    for word, words in (
        (settings.resize, Resize),
        (settings.filter, Filter),
        (settings.crop_rounding, Rounding),
        (settings.scaling, Scaling),
    ):
        if word not in get_args(words):
            raise ValueError(f"'{word}' is none of {', '.join(get_args(words))}")
