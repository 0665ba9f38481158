"""Ignore EXIF orientation: pixels stay as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbirdb.pixels import inspect_file, read_rgb

ORIENTATION = 0x0112
"""The tag Orientation of EXIF 2.32."""


def noted(path: Path, orientation: int | None) -> Path:
    """Save a picture that is wider than high and bright at its left, with or without the tag."""
    picture = Image.fromarray(np.tile(np.linspace(255, 0, 48).astype(np.uint8), (20, 1)))
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_changes_neither_pixels_nor_size(tmp_path: Path, suffix: str, orientation: int) -> None:
    plain, turned = noted(tmp_path / f"plain.{suffix}", None), noted(tmp_path / f"turned.{suffix}", orientation)
    with Image.open(turned) as opened:
        assert opened.getexif()[ORIENTATION] == orientation, "the note is there"
    np.testing.assert_array_equal(np.asarray(read_rgb(turned)), np.asarray(read_rgb(plain)))
    facts = inspect_file(turned)
    assert (facts.width, facts.height) == (48, 20)
