"""What an encoder is: one record that says everything about it, and one class that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TrainingScheme = Literal["none", "self-supervised", "weakly-supervised", "fully-supervised"]


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything that determines an encoder's output, and what a person wants to know before using it."""

    name: str
    family: str
    """Names the module ``cbirdb.encoders.<family>`` that knows how to run it."""
    dim: int
    embedding: str
    """Which output of the model is the embedding, in words."""
    preprocessing: str
    """How a picture becomes the model's input, in words."""
    licence: str
    training_scheme: TrainingScheme
    citation: str
    weights: str | None = None
    """Model id at its hub; None where there are no weights."""
    revision: str | None = None
    in_paper: bool = False


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an encoder was made from when it ran; stored with it and compared at each later run.

    Hashes are SHA-256 in hex; ``weights_sha256`` is None where there are no weights.
    """

    weights_sha256: str | None
    preprocessing_sha256: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Version of each library that touches pixels or numbers."""
    dtype: str = "float32"
    device: str = "cpu"


class Encoder(Protocol):
    """Turns pictures into raw embeddings. Normalisation is not its business."""

    spec: EncoderSpec
    provenance: Provenance

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB or grey picture -> the model's input without the batch axis. Called from several threads."""

    def encode(self, batch: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Inputs from ``preprocess`` -> raw embeddings, shape (len(batch), spec.dim)."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where and how to run an encoder."""

    weights: Path | None = None
    """A local folder or file with the weights; None: the hub's cache, then the hub."""
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cuda`` or ``cpu``."""


def hash_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of preprocessing settings, independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 (hex) over the contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
