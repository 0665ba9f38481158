"""The encoders that ship with cbirdb. A new one of a known family is one record here."""

from __future__ import annotations

from importlib import import_module

from cbirdb.encoders.base import Encoder, EncoderSpec, LoadOptions
from cbirdb.encoders.tiny_image import SPEC as TINY_IMAGE
from cbirdb.errors import EncoderError, UnknownNameError

RESNET50 = EncoderSpec(
    name="resnet50",
    family="huggingface",
    weights="microsoft/resnet-50",
    revision="main",
    dim=1000,
    embedding="the 1000 logits of the ImageNet classifier (the paper's choice)",
    preprocessing="the model's own AutoImageProcessor (shortest side 256 then centre crop 224, ImageNet mean and deviation)",
    licence="Apache-2.0",
    training_scheme="fully-supervised",
    citation="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    in_paper=True,
)

ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for spec in (TINY_IMAGE, RESNET50)}


def get_spec(name: str) -> EncoderSpec:
    """The record of an encoder.

    :raises UnknownNameError: with the nearest known name.
    """
    try:
        return ENCODERS[name]
    except KeyError:
        raise UnknownNameError("encoder", name, list(ENCODERS)) from None


def load_encoder(name: str, options: LoadOptions) -> Encoder:
    """Make an encoder ready to run; imports its family's libraries only now.

    :raises UnknownNameError: when there is no such encoder.
    :raises EncoderError: when its libraries or weights cannot be had.
    """
    spec = get_spec(name)
    try:
        family = import_module(f"cbirdb.encoders.{spec.family}")
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"The encoder '{name}' needs the Python package '{error.name}', which is not installed.",
            hint="Install cbirdb with its extra 'encoders'; in a clone of it: pip install -e '.[encoders]'",
        ) from error
    encoder: Encoder = family.load(spec, options)
    return encoder
