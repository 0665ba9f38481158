"""Makes torchvision importable beside a torch that its compiled operators do not fit.

timm, open_clip and transformers import torchvision for its transforms, which are plain Python over Pillow and torch.
Its compiled operators (box suppression and the like, which no encoder here uses) load only with the exact build of
torch that they were made for. Beside a CPU build, the index's package does not import at all ("operator
torchvision::nms does not exist"). Declaring those two operators without a body is enough. Import this module before the
three libraries.
"""

from __future__ import annotations

import torch

DECLARED_AT_IMPORT = ("nms", "qnms")
"""Operators to which torchvision attaches functions even if they could not be loaded."""


def _import() -> None:
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in DECLARED_AT_IMPORT:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


_import()
