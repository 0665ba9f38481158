"""Runs MedCLIP's image side: a Swin-T and a projection, from the checkpoint of its authors.

Wang et al., "MedCLIP: Contrastive learning from unpaired medical images and text", EMNLP 2022. The package medclip,
which reads that file, is old and not needed.
"""

from __future__ import annotations

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before what imports torchvision)

# isort: split
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessorPil, SwinConfig, SwinModel

from cbirdb.encoders.base import LoadOptions, WeightFiles
from cbirdb.encoders.huggingface import ImageProcessor, build_model
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.torch_encoder import Parts, TorchEncoder, load_parts
from cbirdb.encoders.weights import find_weights, read_state, translated_read_errors

FILES = WeightFiles(needed=(), weights=("pytorch_model.bin",))
SWIN = "vision_model.model."
PROJECTION = "vision_model.projection_head.weight"
MEAN, DEVIATION = 0.5862785803043838, 0.27950088968644304
"""Mean and deviation of its training radiographs, the same for all three channels."""


class MedClipVision(torch.nn.Module):
    """Projects Swin's pooled output."""

    def __init__(self, swin: Any, projection: torch.nn.Linear) -> None:
        super().__init__()
        self.swin = swin
        self.projection = projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of pictures, shape (n, 512)."""
        embedding: torch.Tensor = self.projection(self.swin(pixel_values=pixels).pooler_output)
        return embedding


def load(spec: EncoderSpec, folder: Path, options: LoadOptions) -> TorchEncoder:
    """Load the encoder.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """

    def build() -> Parts:
        weights = find_weights(spec, folder, FILES)
        # The default of transformers is Swin-T with windows of 7 for pictures of 224 x 224. The file's text side is
        # ignored, and with it a stray key that would make strict loading fail.
        swin = build_model(spec, SwinModel, SwinConfig(), weights, _swin_of)
        with translated_read_errors(spec, weights):
            matrix = read_state(weights)[PROJECTION]
            projection = torch.nn.Linear(swin.num_features, matrix.shape[0], bias=False)
            projection.load_state_dict({"weight": matrix})
        model = MedClipVision(swin, projection.float())
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 224}, crop_size=224, image_mean=[MEAN] * 3, image_std=[DEVIATION] * 3
        )
        return Parts(model, model, ImageProcessor(processor), processor.to_dict(), weights, ("transformers",))

    return load_parts(spec, options, build)


def _swin_of(state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(SWIN): tensor for name, tensor in state.items() if name.startswith(SWIN)}
