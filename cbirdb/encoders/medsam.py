"""Runs MedSAM: SAM's image encoder, from its authors' checkpoint in the layout of the original SAM code.

Ma et al., "Segment anything in medical images", Nature Communications 15, 2024. That layout names the tensors
differently from transformers. The package segment-anything, which reads it, is old and not needed.
"""

from __future__ import annotations

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before what imports torchvision)

# isort: split
import re
from pathlib import Path
from typing import Any

import torch
from transformers import SamImageProcessorPil, SamVisionConfig, SamVisionModel

from cbirdb.encoders.base import LoadOptions, WeightFiles
from cbirdb.encoders.huggingface import ImageProcessor, build_model
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.torch_encoder import Parts, TorchEncoder, load_parts
from cbirdb.encoders.weights import find_weights

FILES = WeightFiles(needed=(), weights=("medsam_vit_b.pth",))
RENAMED = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
)
"""Names in the original layout, as patterns, and in transformers."""


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Load the encoder.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        # The default of transformers is SAM's ViT-B: 12 layers of 768, pictures of 1024 x 1024.
        model = build_model(spec, SamVisionModel, SamVisionConfig(), weights, _rename)
        processor = SamImageProcessorPil()

        def forward(pixels: torch.Tensor) -> torch.Tensor:
            grid: torch.Tensor = model(pixel_values=pixels).last_hidden_state
            return grid.mean(dim=(2, 3))

        return Parts(model, forward, ImageProcessor(processor), processor.to_dict(), weights, ("transformers",))

    return load_parts(spec, options, build)


def _rename(state: dict[str, Any]) -> dict[str, Any]:
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("image_encoder."):
            for pattern, replacement in RENAMED:
                name = re.sub(pattern, replacement, name)  # noqa: PLW2901
            renamed[name] = tensor
    return renamed
