"""Handles a decoder's reports of damage: refuse the picture, or accept it and record the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cbirdb.errors import PixelError

OnDamage: TypeAlias = Callable[[PixelError], None]
"""Called with each report; raises it to refuse the picture."""


def refuse(report: PixelError) -> None:
    """Refuse every damaged picture.

    :raises PixelError: always.
    """
    raise report


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture that is too large by its header, before memory is spent on it.

    :raises PixelError: when it has more than ``max_pixels`` pixels.
    """
    if (pixels := width * height) > max_pixels:
        raise PixelError("too large", f"{pixels:,} pixels, more than the {max_pixels:,} that are safe to decode")
