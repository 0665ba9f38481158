"""Encodes a picture as itself, very small (tiny-image).

Torralba, Fergus and Freeman, "80 Million Tiny Images", TPAMI 30(11), 2008: grey, averaged over areas to 32 x 32,
mean-centred. It needs neither weights nor torch. Every foundation model should beat it.
"""

from __future__ import annotations

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encoders.base import Encoder, LoadOptions, Provenance, hash_settings
from cbirdb.encoders.spec import EncoderSpec

SIDE = 32


def shrink(image: Image.Image) -> NDArray[np.float32]:
    """Return a picture's grey values at 32 x 32, float32."""
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


class TinyImage(Encoder):
    """Encodes a picture by its grey values. A picture of one grey value has no direction and becomes the zero
    vector.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        self.preprocess = shrink
        self.input_shape = (SIDE, SIDE)
        self.provenance = Provenance(
            weights_sha256=None,
            preprocessing_sha256=hash_settings({"mode": "L", "side": SIDE, "resample": "BOX", "centre": "mean"}),
            libraries={"pillow": PIL.__version__, "numpy": np.__version__},
            runtime="numpy",
        )

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = batch.reshape(len(batch), -1)
        centred: NDArray[np.float32] = flat - flat.mean(axis=1, keepdims=True)
        return centred


def load(spec: EncoderSpec, _folder: object, _options: LoadOptions) -> TinyImage:
    """Load the encoder. There are no files to read."""
    return TinyImage(spec)
