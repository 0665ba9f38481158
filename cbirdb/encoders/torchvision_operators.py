"""Lets torchvision be imported beside a torch that its compiled operators do not fit.

timm, open_clip and transformers import torchvision for its transforms, which are plain Python over Pillow and torch.
Its compiled operators (box suppression and the like, which no encoder here uses) load only into the very build of
torch that they were made for: beside a CPU build, the package that the index offers does not import at all ("operator
torchvision::nms does not exist"). Declaring those two operators without giving them a body is enough. Import this
module before any of the three libraries.
"""

from __future__ import annotations

import torch

DECLARED_AT_IMPORT = ("nms", "qnms")
"""The operators that torchvision attaches something to whether or not they could be loaded."""


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
