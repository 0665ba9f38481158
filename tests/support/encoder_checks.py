"""Provide pictures for tests of encoders, and compare embeddings."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encoders.base import Encoder, LoadOptions
from cbirdb.encoders.registry import load_encoder
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw coarse and fine noise, so that faults of resizing show at every scale."""
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    fine = random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(noise, dtype=np.int64) + fine, 0, 255).astype(np.uint8))


PICTURES = {
    "rgb": picture(640, 480),
    "grey": picture(512, 512, 1).convert("L"),
    "palette": picture(300, 400, 2).convert("P", palette=Image.Palette.ADAPTIVE),
    "alpha": Image.merge("RGBA", [*picture(320, 320, 6).split(), Image.linear_gradient("L").resize((320, 320))]),
    "odd": picture(333, 217, 3),
    "tiny": picture(5, 3, 4),
    "tall": picture(61, 1000, 5),
}
"""Pictures of several modes and odd sizes."""


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def largest_cosine(embeddings: NDArray[np.float32]) -> float:
    """Return the largest cosine of any two of these embeddings."""
    return max(cosine(a, b) for a, b in combinations(embeddings, 2))


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32], atol: float = 1e-5) -> None:
    """Compare but for the last digits: the order of sums depends on batch size and memory alignment."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > 0.99999
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol * float(np.abs(expected).max()))


def embed(encoder: Encoder, *images: Image.Image) -> NDArray[np.float32]:
    """Return raw embeddings, shape (n, dim)."""
    return encoder.encode(np.stack([encoder.preprocess(image) for image in images]))


def on_cpu(folder: Path | None, **settings: object) -> LoadOptions:
    """Load seeded weights, too, which no shipped record holds."""
    return LoadOptions(weights=folder, device="cpu", **{"allow_other_weights": True, **settings})


def unheld(name: str, **changes: object) -> EncoderSpec:
    """Return a shipped record without the SHA-256 of its weights: of a model whose hash nobody has read."""
    return replace(SHIPPED[name], files={}, **changes)


def refused(spec: EncoderSpec, options: LoadOptions) -> EncoderError:
    """Return the error of loading, which must be one for a person to read."""
    with pytest.raises(EncoderError) as caught:
        load_encoder(spec, options)
    error = caught.value
    assert error.message.endswith(".")
    assert "\n" not in str(error)
    assert error.hint
    return error


def assert_names_the_command(error: EncoderError, name: str) -> None:
    """Check that the hint says how to get the weights, with and without internet."""
    assert f"cbirdb encoders fetch {name}" in (error.hint or "")
    assert f"cbirdb encoders fetch {name} --to DIR" in (error.hint or "")
    assert "--weights DIR" in (error.hint or "")
