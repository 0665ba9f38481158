"""Runs encoders through the transformers library, from weights in the Hugging Face hub's on-disk format.

A new encoder is one record in ``shipped``. Its options name the model's class (by default the one in ``config.json``),
the pooling (a key of ``POOLINGS``), and required values of ``config.json``, so that a smaller or larger sister model is
refused. For DINOv2, ``interpolate_offset`` chooses between two ways to resize the position embeddings.
"""

from __future__ import annotations

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before what imports torchvision)

# isort: split
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encoders.base import LoadOptions, WeightFiles
from cbirdb.encoders.golden import golden_picture
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.torch_encoder import Forward, Parts, TorchEncoder, load_parts
from cbirdb.encoders.weights import check_config, find_weights, read_state, translated_read_errors, weights_error
from cbirdb.errors import EncoderError

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
FILES = WeightFiles(needed=(CONFIG, PREPROCESSOR), weights=("model.safetensors", "pytorch_model.bin"))


def _image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    found = model.get_image_features(pixel_values=pixels)
    features: torch.Tensor = getattr(found, "pooler_output", found)
    return features


def _sam_grid(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    grid: torch.Tensor = model.get_image_embeddings(pixels)
    return grid.mean(dim=(2, 3))


def _unmasked_cls(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    # The noise orders the patches to keep. By default it is random, and so are the last digits of the result.
    patches = model.embeddings.num_patches if hasattr(model.embeddings, "num_patches") else _patches(model)
    order = torch.arange(patches, device=pixels.device, dtype=torch.float32).expand(pixels.shape[0], -1)
    return _first(model(pixel_values=pixels, noise=order).last_hidden_state)


def _patches(model: Any) -> int:
    return int((model.config.image_size // model.config.patch_size) ** 2)


def _first(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 0]


POOLINGS: Mapping[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "cls": lambda model, pixels: _first(model(pixel_values=pixels).last_hidden_state),
    "cls-unmasked": _unmasked_cls,
    "mean": lambda model, pixels: model(pixel_values=pixels).last_hidden_state.mean(dim=1),
    "pooler": lambda model, pixels: model(pixel_values=pixels).pooler_output.flatten(1),
    "logits": lambda model, pixels: model(pixel_values=pixels).logits,
    "image-features": _image_features,
    "sam-grid-mean": _sam_grid,
}
"""Ways to take an embedding, shape (n, dim), from a model: the class token (with MAE's masking off), the mean of all
tokens, the model's own pooled output, a classifier's logits, the image side of a model of images and texts, the mean
over SAM's grid.
"""


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Runs a model's own image processor: one picture of any size -> float32 (3, height, width)."""

    processor: Any

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        pixels = self.processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(pixels, dtype=np.float32)


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Load the encoder.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        config = _read_config(spec, folder)
        processor = _read_processor(spec, folder)
        preprocess = ImageProcessor(processor)
        settings = {**processor.to_dict(), "class": type(processor).__name__}
        model = build_model(spec, _model_class(spec, config), config, weights, lambda state: state)
        if offset := spec.options.get("interpolate_offset"):
            _resize_positions(spec, model, preprocess(golden_picture()).shape[1:], offset)
            # Without an offset, the settings and their hash stay as they were before there was this choice.
            settings["interpolate_offset"] = offset
        return Parts(
            model=model,
            forward=_forward(spec, model),
            preprocess=preprocess,
            preprocessing=settings,
            weights=weights,
            # Some models' processors, such as DINOv3's, exist only for torchvision.
            libraries=("transformers", *(("torchvision",) if processor.backend == "torchvision" else ())),
        )

    return load_parts(spec, options, build)


def _resize_positions(spec: EncoderSpec, model: Any, pixels: tuple[int, ...], offset: Any) -> None:
    """Resize DINOv2's position embeddings to the grid of its inputs, once, as its original code does.

    The model was trained last on larger pictures (518 pixels, 37 x 37 patches), so its position embeddings are
    interpolated for smaller ones. The original code and transformers 4.39 scale them by (grid + 0.1) / 37. Newer
    versions of transformers scale them to the grid exactly, which samples them at slightly other points. They take
    position embeddings that already fit as they are.

    :param pixels: height and width of an input.
    :raises EncoderError: when the offset is none, the model is no DINOv2, or its inputs are not square.
    """
    if not isinstance(offset, float) or not 0 < offset < 1:
        raise EncoderError(
            f"interpolate_offset of '{spec.name}' is {offset!r}.", hint="It is a number below 1: 0.1, or 0 for none."
        )
    if model.config.model_type != "dinov2":
        raise EncoderError(
            f"'{spec.name}' is a model of type '{model.config.model_type}', but interpolate_offset is for 'dinov2' alone.",
            hint="Add it without --interpolate-offset, under another name.",
        )
    height, width = (side // model.config.patch_size for side in pixels)
    if height != width:
        raise EncoderError(
            f"The inputs of '{spec.name}' have {height} x {width} patches, but interpolate_offset needs square ones.",
            hint="Add it without --interpolate-offset, under another name.",
        )
    positions = model.embeddings.position_embeddings.detach()
    trained = isqrt(positions.shape[1] - 1)
    if trained == height:
        return
    grid = positions[:, 1:].unflatten(1, (trained, trained)).movedim(-1, 1)
    factor = (height + offset) / trained
    resized = torch.nn.functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    positions = torch.cat([positions[:, :1], resized.flatten(2).movedim(1, -1)], dim=1)
    model.embeddings.position_embeddings = torch.nn.Parameter(positions, requires_grad=False)


def _forward(spec: EncoderSpec, model: Any) -> Forward:
    name = spec.options.get("pooling", "cls")
    if name not in POOLINGS:
        raise EncoderError(f"There is no pooling named '{name}'.", hint=f"Known: {', '.join(POOLINGS)}.")
    return partial(POOLINGS[name], model)


def _read_config(spec: EncoderSpec, folder: Path) -> Any:
    path = folder / CONFIG
    with translated_read_errors(spec, path):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_config(spec, path, config)
    if spec.options.get("pooling") == "cls-unmasked":
        config.mask_ratio = 0.0
    return config


def _model_class(spec: EncoderSpec, config: Any) -> Any:
    """Return the class that the record names, else the one that transformers has for such a configuration."""
    if name := spec.options.get("model"):
        return getattr(transformers, name)
    mapping = transformers.MODEL_MAPPING
    if type(config) not in mapping:
        raise weights_error(
            spec, f"The model type '{config.model_type}' of '{spec.name}' has no plain model in transformers."
        )
    return mapping[type(config)]


def _read_processor(spec: EncoderSpec, folder: Path) -> Any:
    # The torchvision backend resizes differently from the models' training and from the paper. And embeddings must not
    # depend on the other packages that are installed.
    with translated_read_errors(spec, folder / PREPROCESSOR):
        return transformers.AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )


def build_model(
    spec: EncoderSpec,
    model_class: Any,
    config: Any,
    weights: Path,
    rename: Callable[[dict[str, Any]], dict[str, Any]],
) -> Any:
    """Build a transformers model with every parameter from the file; the library would invent missing ones.

    :param rename: gives the file's tensors the names of the library's own checkpoints.
    :raises EncoderError: when the file lacks parameters of the model.
    """
    with translated_read_errors(spec, weights):
        # Surplus parameters in the file belong to other heads, which the embedding does not use.
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=rename(read_state(weights)),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        shapes = f"its tensor {name} has the shape {list(found)}, not {list(wanted)}"
        raise weights_error(spec, f"The file {weights} does not fit '{spec.name}': {shapes}.")
    # Batch normalisation counts its batches for training alone; old files lack the counters.
    if missing := sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked")):
        lacks = f"lacks {len(missing)} parameters of the model, {missing[0]} among them"
        raise weights_error(spec, f"The file {weights} does not fit '{spec.name}': it {lacks}.")
    return model
