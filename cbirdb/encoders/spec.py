"""One record that says everything about an encoder. Needs neither NumPy nor Pillow, so that commands that only want its
name start at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

TrainingScheme: TypeAlias = Literal["none", "self-supervised", "weakly-supervised", "fully-supervised", "unknown"]

LOADERS: Mapping[str, str] = {"hf": "huggingface", "open_clip": "openclip", "timm": "timm_models"}
"""Families that load any model of their library: the library's name on the command line, the module's name."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything that determines an encoder's output, and what a person wants to know before using it."""

    name: str
    family: str
    """Names the module ``cbirdb.encoders.<family>`` that knows how to run it."""
    dim: int | None
    """Components of the embedding; None: found out when it first runs."""
    embedding: str
    """Which output of the model is the embedding, in words."""
    preprocessing: str
    """How a picture becomes the model's input, in words."""
    licence: str
    training_scheme: TrainingScheme
    citation: str
    weights: str | None = None
    """Repository at the model hub, address of a file, or a local folder; None where there are no weights."""
    revision: str | None = None
    """Commit (or branch) of the repository; SHA-256 of the file where ``weights`` is its address."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the family needs to know besides: values that JSON can hold."""
    in_paper: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it is stored in the database."""
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> EncoderSpec:
        """Of a stored record; what an older or newer version stored besides is left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in known})
