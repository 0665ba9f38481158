"""Provides the drawing kit: outlines, and a picture to fill them in.

Coordinates are in units of half the picture's side, x to the right and y downwards, (0, 0) in the middle. Grey values
run from 0 (black) to 1 (white).
"""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128
"""Pixels along each side of a picture."""

Picture: TypeAlias = NDArray[np.float32]
"""Shape (SIDE, SIDE): grey values, or the share of each pixel that a structure covers."""
Outline: TypeAlias = NDArray[np.float64]
"""Shape (n, 2): points of a line, or the corners of a closed polygon."""

_STEPS = np.linspace(0, 1, 8, endpoint=False)
_CATMULL_ROM = np.stack([_STEPS**0, _STEPS, _STEPS**2, _STEPS**3], axis=1) @ np.array(
    [[0, 1, 0, 0], [-0.5, 0, 0.5, 0], [1, -2.5, 2, -0.5], [-0.5, 1.5, -1.5, 0.5]]
)
"""Shape (8, 4): four neighbouring points -> 8 steps from the second to the third."""
_CIRCLE = np.array([(math.cos(angle), math.sin(angle)) for angle in np.linspace(0, 2 * math.pi, 36, endpoint=False)])


def smooth(corners: Outline, *, closed: bool) -> Outline:
    """Return a Catmull-Rom curve through ``corners``, 8 steps from each to the next."""
    ends = (corners[-1:], corners[:2]) if closed else (corners[:1], corners[-1:])
    padded = np.concatenate([ends[0], corners, ends[1]])
    windows = padded[np.arange(len(padded) - 3)[:, None] + np.arange(4)]
    curve: Outline = (_CATMULL_ROM @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, corners[-1:]])


@functools.cache
def points(text: str) -> Outline:
    """Parse points in SVG's form: ``x,y x,y x,y``."""
    parsed: Outline = np.array([point.split(",") for point in text.split()], dtype=np.float64)
    parsed.flags.writeable = False  # all calls with the same text share it
    return parsed


@functools.cache
def blob(text: str) -> Outline:
    """Return a smooth closed outline."""
    outline = smooth(points(text), closed=True)
    outline.flags.writeable = False
    return outline


def pair(text: str) -> tuple[Outline, Outline]:
    """Return a blob and its mirror image in the other half of the body."""
    return blob(text), blob(text) * [-1, 1]


def band(path: str | Outline, *widths: float) -> Outline:
    """Return a smooth strip along ``path``; its ``widths`` are spread evenly along it."""
    line = smooth(points(path) if isinstance(path, str) else path, closed=False)
    along = np.concatenate([line[1:2] - line[:1], line[2:] - line[:-2], line[-1:] - line[-2:-1]])
    width = np.interp(np.linspace(0, len(widths) - 1, len(line)), np.arange(len(widths)), widths)
    offset = along[:, ::-1] * [-1, 1] * (width / 2 / np.hypot(along[:, 0], along[:, 1]))[:, None]
    return np.concatenate([line + offset, (line - offset)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Outline:
    """Return an ellipse.

    :param turn: rotation in radians, clockwise.
    """
    outline: Outline = _CIRCLE * (rx, ry)
    if turn:
        outline = outline @ _rotation(turn)
    outline += (x, y)
    return outline


def _rotation(angle: float) -> NDArray[np.float64]:
    """Return a rotation matrix, shape (2, 2), to multiply from the right."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def scaled(outline: Outline, factor: float) -> Outline:
    """Scale an outline about its own middle."""
    middle = outline.mean(axis=0)
    larger: Outline = middle + (outline - middle) * factor
    return larger


class Sketch:
    """A picture being drawn, with its own pose and proportions."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pixels: Picture = np.zeros((SIDE, SIDE), dtype=np.float32)
        scale = rng.uniform(0.93, 1.04) * rng.uniform(0.97, 1.03, size=2)
        self._affine = _rotation(rng.normal(0, 0.03)) * scale * SIDE
        self._shift = (1 + rng.normal(0, 0.02, size=2)) * SIDE
        # Two slow waves bend every outline a little, so that no two pictures share their proportions.
        self._waves = rng.normal(0, 1.6, size=(2, 2))
        self._phases = rng.uniform(0, 2 * math.pi, size=2)

    def vary(self, low: float, high: float) -> float:
        """Return a random number between two bounds."""
        return float(self.rng.uniform(low, high))

    def side(self) -> int:
        """Return -1 or 1 at random."""
        return int(self.rng.choice([-1, 1]))

    def mask(self, *outlines: Outline, soft: float = 0.0) -> Picture:
        """Return the union of ``outlines``: 1 inside, 0 outside, with an edge ``soft`` pixels (sigma) wide."""
        canvas = Image.new("L", (2 * SIDE, 2 * SIDE))  # drawn twice as large and averaged, for smooth edges
        draw = ImageDraw.Draw(canvas)
        corners = np.concatenate(outlines)
        corners = corners + 0.018 * np.sin(corners @ self._waves + self._phases)
        placed = (corners @ self._affine + self._shift).ravel().tolist()
        start = 0
        for outline in outlines:
            draw.polygon(placed[start : start + outline.size], fill=255)
            start += outline.size
        small = canvas.reduce(2)
        if soft:
            small = small.filter(ImageFilter.GaussianBlur(soft))
        return np.asarray(small, dtype=np.float32) / np.float32(255)

    def paint(self, grey: float | Picture, mask: Picture, opacity: float = 1.0) -> None:
        """Blend a grey value or picture into the pixels under a mask."""
        self.pixels += (grey - self.pixels) * mask * np.float32(opacity)

    def fill(self, grey: float, *outlines: Outline, soft: float = 0.0, opacity: float = 1.0) -> None:
        """Fill outlines with a grey value."""
        self.paint(grey, self.mask(*outlines, soft=soft), opacity)

    def clouds(self, rows: int, columns: int | None = None) -> Picture:
        """Return smooth noise of standard deviation about 1, with a grain of SIDE / rows by SIDE / columns pixels."""
        coarse = self.rng.standard_normal((rows, columns or rows), dtype=np.float32)
        return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    def expose(self, noise: float) -> None:
        """Add the detector's effects: blur, an uneven field, and noise of this standard deviation."""
        padded = np.pad(self.pixels, 1, mode="edge")
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        self.pixels = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / np.float32(16)
        grain = self.rng.standard_normal((SIDE, SIDE), dtype=np.float32)
        self.pixels = self.pixels * (1 + np.float32(0.04) * self.clouds(4)) + np.float32(noise) * grain

    def speckle(self, strength: float) -> None:
        """Multiply by sound's interference pattern, coarser sideways than in depth; deep echoes are weaker."""
        pattern = np.hypot(self.clouds(100, 56), self.clouds(100, 56)) / np.float32(1.25)
        depth = np.linspace(1.08, self.vary(0.4, 0.65), SIDE, dtype=np.float32)[:, None]
        self.pixels *= (np.float32(1 - strength) + np.float32(strength) * pattern) * depth
