"""Write random weights of full architectures, the same each time, in the hubs' on-disk formats.

No model hub can be reached from where the tests run, so tests of encoders use these: files of the real names,
layouts and sizes, as the published ones have them, with other numbers. ``python -m tests.support.random_weights DIR [NAME...]``
writes a folder per encoder, to be passed to ``cbirdb encode --weights DIR``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)

# isort: split
import timm
import transformers

from tests.support.checkpoints import DO, HALVES, IMAGENET, NINE, PREPROCESSORS, draw, write_checkpoint

__all__ = ["DO", "HALVES", "IMAGENET", "NINE", "PREPROCESSORS", "SIGLIP", "WRITERS", "randomise", "write_weights"]
SIGLIP = {
    **DO,
    "do_rescale": True,
    **HALVES,
    "image_processor_type": "SiglipImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Draw a model's numbers as ``checkpoints.draw`` does."""
    statistics = {name for name, _ in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    drawn = statistics | {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if name in drawn:
            tensor.copy_(torch.from_numpy(draw(name, tensor.shape)))
    return model.eval()


def save_transformers(folder: Path, model: Any, preprocessor: dict[str, Any]) -> None:
    randomise(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def rad_dino(folder: Path) -> None:
    preprocessor = PREPROCESSORS["dinov2-vit-b14"] | {
        "crop_size": {"height": 518, "width": 518}, "size": {"shortest_edge": 518},
        "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3,
    }  # fmt: skip
    config = transformers.Dinov2Config(image_size=518, patch_size=14)
    save_transformers(folder, transformers.Dinov2Model(config), preprocessor)


def dinov3_vit_b16(folder: Path) -> None:
    config = transformers.DINOv3ViTConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, num_register_tokens=4
    )
    preprocessor = {
        **DO, "do_rescale": True, **IMAGENET, "image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
    }  # fmt: skip
    save_transformers(folder, transformers.DINOv3ViTModel(config), preprocessor)


def siglip2_base(folder: Path) -> None:
    """Write the smaller model of the same family as siglip2-so400m and medsiglip, whose files have 4.5 and 3.5 GB."""
    config = transformers.SiglipConfig(text_config={"num_hidden_layers": 1}, vision_config={"image_size": 224})
    preprocessor = {**SIGLIP, "size": {"height": 224, "width": 224}}
    save_transformers(folder, transformers.SiglipModel(config), preprocessor)


def eva02_vit_b14(folder: Path) -> None:
    model = randomise(timm.create_model("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k"))
    timm.models.save_for_hf(model, folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    **{name: partial(write_checkpoint, name) for name in NINE},
    "rad-dino": rad_dino,
    "dinov3-vit-b16": dinov3_vit_b16,
    "siglip2-base": siglip2_base,
    "eva02-vit-b14": eva02_vit_b14,
}


def write_weights(name: str, folder: Path) -> Path:
    """Write the files of one encoder into a folder, as a download leaves them there."""
    folder.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    WRITERS[name](folder)
    return folder


if __name__ == "__main__":
    for wanted in sys.argv[2:] or NINE:
        print(write_weights(wanted, Path(sys.argv[1]) / wanted))
