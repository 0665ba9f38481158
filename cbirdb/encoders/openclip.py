"""Runs encoders through open_clip: the image side of models of images and texts.

The folder has the hub's layout: ``open_clip_config.json`` and the weights. If the text side is a transformers model,
open_clip builds it before it reads the weights, and takes its configuration from a second repository. ``encoders
fetch`` puts that into the folder ``text``.
"""

from __future__ import annotations

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before what imports torchvision)

# isort: split
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encoders.base import Companion, LoadOptions, WeightFiles
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.torch_encoder import Parts, TorchEncoder, load_parts
from cbirdb.encoders.weights import cached_folder, check_config, find_weights, translated_read_errors, weights_error

CONFIG = "open_clip_config.json"
FILES = WeightFiles(
    needed=(CONFIG,),
    # This is open_clip's own order of preference.
    weights=("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"),
)
TEXT = "text"
TEXT_FILES = WeightFiles(needed=("config.json",), weights=())
TEXT_PATTERNS = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")
"""Files to fetch of the text side's repository: configuration and tokenizer. Its weights are in the model's file."""


@dataclass(frozen=True, slots=True)
class Transform:
    """Runs a torchvision transform: one picture of any size -> float32 (3, height, width)."""

    transform: Any

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        pixels: NDArray[np.float32] = self.transform(image.convert("RGB")).numpy()
        return pixels


def companions(spec: EncoderSpec, folder: Path) -> list[Companion]:
    """Return the second repository to fetch once the folder exists: the text side's configuration and tokenizer."""
    with translated_read_errors(spec, folder / CONFIG):
        repository = _text_repository(json.loads((folder / CONFIG).read_text()))
    return [Companion(TEXT, repository, spec.options.get("text_revision"), TEXT_PATTERNS)] if repository else []


def _text_repository(config: dict[str, Any]) -> str | None:
    text: dict[str, Any] = config["model_cfg"].get("text_cfg", {})
    return text.get("hf_model_name")


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Load the encoder.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        with translated_read_errors(spec, folder / CONFIG):
            config = json.loads((folder / CONFIG).read_text())
            repository = _text_repository(config)
        check_config(spec, folder / CONFIG, config)
        changes: dict[str, Any] = {}
        if repository:
            text = str(_text_folder(spec, folder, repository))
            changes["text_cfg"] = {
                **config["model_cfg"]["text_cfg"], "hf_model_name": text, "hf_tokenizer_name": text,
                "hf_model_pretrained": False,
            }  # fmt: skip
        with translated_read_errors(spec, weights):
            model, transform = open_clip.create_model_from_pretrained(
                f"local-dir:{folder}",
                # The record states if the weights were trained with QuickGELU; a file of weights cannot.
                force_quick_gelu=bool(spec.options.get("quick_gelu")),
                **changes,
            )
        settings = {"library": "open_clip", **model.visual.preprocess_cfg}
        # The text side is no longer needed; without it, the model is half as large.
        return Parts(
            model.visual,
            model.visual,
            Transform(transform),
            settings,
            weights,
            ("open_clip_torch", "timm", "torchvision"),
        )

    return load_parts(spec, options, build)


def _text_folder(spec: EncoderSpec, folder: Path, repository: str) -> Path:
    """Return the folder with the configuration of the text side."""
    if (folder / TEXT / "config.json").is_file():
        return folder / TEXT
    if (cached := cached_folder(repository, spec.options.get("text_revision"), TEXT_FILES)) is not None:
        return cached
    raise weights_error(
        spec, f"The folder {folder} has no file {TEXT}/config.json (of {repository}, the text side of '{spec.name}')."
    )
