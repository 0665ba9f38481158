"""Draws one fixed picture, whose embedding shows if an encoder still computes the same."""

from __future__ import annotations

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 352, 288
SMALLEST_COSINE: dict[str, float] = {"float32": 0.9999, "bfloat16": 0.998, "float16": 0.9995}
"""Smallest cosine of two golden embeddings that count as the same.

Other libraries, processors and GPUs round differently: about 1e-6 in float32, 1e-3 in bfloat16. Another checkpoint,
pooling or resampling moves the cosine by a hundred times that.
"""


def golden_picture() -> Image.Image:
    """Draw a disc, bars, a gradient and fine texture in RGB: structure at every scale, from integers alone."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    gradient = (x * 160) // WIDTH + (y * 60) // HEIGHT
    disc = np.where((x - 140) ** 2 + (y - 130) ** 2 < 90**2, 70, 0)
    bars = np.where((x // 11) % 4 == 0, 25, 0)
    texture = (x * 7919 + y * 104729 + x * y * 31) % 23
    grey = gradient + disc - bars + texture
    channels = [np.clip(grey + shift, 0, 255) for shift in (0, 12, -9)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
