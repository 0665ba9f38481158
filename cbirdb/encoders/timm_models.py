"""Encoders that timm runs, from weights in its own format at the hub: ``config.json`` and the weights."""

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
from cbirdb.encoders.weights import check_config, find_weights, reading

CONFIG = "config.json"
FILES = WeightFiles(needed=(CONFIG,), weights=("model.safetensors", "pytorch_model.bin"))


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Make the encoder ready to run: the model without its classifier, pooled as it pools.

    :raises EncoderError: when its weights are not this encoder's, or there is no such device.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        with reading(spec, folder / CONFIG):
            config = json.loads((folder / CONFIG).read_text())
        check_config(spec, folder / CONFIG, config)
        with reading(spec, weights):
            # With its classifier at first: asked for a model without one, timm makes up at random what a file lacks.
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
            model.reset_classifier(0)
            settings = timm.data.resolve_model_data_config(model)
            transform = timm.data.create_transform(**settings, is_training=False)
        settings = {"library": "timm", **settings}
        return Parts(model, model, Transform(transform), settings, weights, ("timm", "torchvision"))

    return load_parts(spec, options, build)
