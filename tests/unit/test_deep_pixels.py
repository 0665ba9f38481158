"""Scale grey values of more than 8 bits: as the formula says, in little memory, white where white is meant."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbirdb.pixels import read_rgb
from cbirdb.pixels.raster import BLOCK, to_rgb

BLACK_IS_ZERO = b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00"
"""The tag PhotometricInterpretation in little-endian TIFF: number 262, type SHORT, count 1, value 1."""


def by_formula(values: np.ndarray) -> np.ndarray:
    deep = values.astype(np.float64)
    finite = deep[np.isfinite(deep)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    deep = np.nan_to_num(deep, nan=low, posinf=high, neginf=low)
    scaled = (deep - low) * (255.0 / (high - low)) if high > low else np.zeros_like(deep)
    return np.round(scaled).astype(np.uint8)


def deep_values(dtype: str, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    if dtype == "uint16":
        return rng.integers(37, 61_000, (height, width), dtype=np.uint16)
    if dtype == "int32":
        return rng.integers(-(2**31), 2**31, (height, width), dtype=np.int32)
    values = rng.normal(0, 1e3, (height, width)).astype(np.float32)
    if dtype == "float32 with NaN and infinity":
        values[rng.random(values.shape) < 0.01] = np.nan
        values[5, :20], values[6, :20] = np.inf, -np.inf
        values[: height // 2] = np.nan
    return values


@pytest.mark.parametrize(("height", "width"), [(1700, 1300), (3, 2 * BLOCK), (BLOCK + 1, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float32 with NaN and infinity"])
@pytest.mark.filterwarnings("error")
def test_deep_values_equal_the_formula_in_every_pixel(dtype: str, height: int, width: int) -> None:
    values = deep_values(dtype, max(height, 7), width)[:height]
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 0], by_formula(values))


def test_picture_of_nan_alone_is_black() -> None:
    assert not np.asarray(to_rgb(Image.fromarray(np.full((5, 4), np.nan, np.float32)))).any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_scaling_a_deep_picture_takes_little_more_than_twice_its_size_in_memory(dtype: type) -> None:
    picture = Image.fromarray((np.arange(16_000_000) % 50_000).astype(dtype).reshape(4000, 4000))
    tracemalloc.start()
    try:
        to_rgb(picture)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Pillow holds the values twice, in pieces and joined; then one byte per pixel and one block are added.
    assert peak < 16_000_000 * (2 * np.dtype(dtype).itemsize + 1) + 50 * BLOCK


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float32 with NaN and infinity"])
def test_tiff_whose_zero_means_white_is_inverted(tmp_path: Path, dtype: str) -> None:
    values = deep_values(dtype, 40, 30) if dtype != "uint8" else deep_values("uint16", 40, 30).astype(np.uint8)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    data = path.read_bytes()
    assert data.count(BLACK_IS_ZERO) == 1
    path.write_bytes(data.replace(BLACK_IS_ZERO, BLACK_IS_ZERO[:8] + bytes(4)))
    meant = 255 - values if dtype == "uint8" else by_formula(-values.astype(np.float64))
    shown = np.asarray(read_rgb(path))
    np.testing.assert_array_equal(shown[..., 0], meant)
    assert (shown == shown[..., :1]).all()
