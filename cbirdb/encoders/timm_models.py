"""Runs encoders through timm, from weights in its own format at the hub: ``config.json`` and the weights."""

from __future__ import annotations

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before what imports torchvision)

# isort: split
import json
from pathlib import Path

import timm
import timm.data

from cbirdb.encoders.base import LoadOptions, WeightFiles
from cbirdb.encoders.openclip import Transform
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.torch_encoder import Parts, TorchEncoder, load_parts
from cbirdb.encoders.weights import check_config, find_weights, translated_read_errors

CONFIG = "config.json"
FILES = WeightFiles(needed=(CONFIG,), weights=("model.safetensors", "pytorch_model.bin"))


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Load the encoder: the model without its classifier, with its own pooling.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        with translated_read_errors(spec, folder / CONFIG):
            config = json.loads((folder / CONFIG).read_text())
        check_config(spec, folder / CONFIG, config)
        with translated_read_errors(spec, weights):
            # Load it with its classifier first: for a model without one, timm fills the file's gaps at random.
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
            model.reset_classifier(0)
            settings = timm.data.resolve_model_data_config(model)
            transform = timm.data.create_transform(**settings, is_training=False)
        settings = {"library": "timm", **settings}
        return Parts(model, model, Transform(transform), settings, weights, ("timm", "torchvision"))

    return load_parts(spec, options, build)
