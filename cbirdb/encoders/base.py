"""What an encoder is: the class that runs what a record (``spec.py``) describes, and what it is made from."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encoders.golden import golden_picture
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError

DType: TypeAlias = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = get_args(DType)
"""Number formats of the forward pass; below float32, PyTorch's autocast chooses what to compute in it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an encoder was made from when it ran; stored with it and compared at each later run.

    Hashes are SHA-256 in hex; ``weights_sha256`` is None where there are no weights.
    """

    weights_sha256: str | None
    preprocessing_sha256: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Version of each library that touches pixels or numbers."""
    dtype: DType = "float32"
    device: str = "cpu"
    """Kind of device: ``cpu`` or ``cuda``."""


class Preprocessing(Protocol):
    """One RGB or grey picture -> the model's input without the batch axis, of one shape for all pictures.

    It runs in worker processes: it can be pickled, and holds no model.
    """

    def __call__(self, image: Image.Image) -> NDArray[np.float32]: ...


class Encoder(ABC):
    """Turns pictures into raw embeddings. Normalisation is not its business."""

    spec: EncoderSpec
    provenance: Provenance
    preprocess: Preprocessing
    input_shape: tuple[int, ...]
    """Of what ``preprocess`` returns."""
    batch_size: int = 64
    """Pictures per step: at first what keeps it busy."""

    @property
    def dim(self) -> int:
        """Components of an embedding."""
        if self.spec.dim is None:
            raise EncoderError(f"The encoder '{self.spec.name}' was not tried out, so its dimension is not known.")
        return self.spec.dim

    @cached_property
    def golden(self) -> NDArray[np.float32]:
        """The raw embedding of one fixed picture, shape (dim,): tells whether it still computes what it did."""
        embedding: NDArray[np.float32] = self.encode(self.preprocess(golden_picture())[None])[0]
        return embedding

    @abstractmethod
    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inputs, shape (n, *input_shape) -> raw embeddings, shape (n, dim)."""

    def submit(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode a batch, whose memory may be used again when this returns.

        :returns: what waits for the embeddings and gives them.
        """
        embeddings = self.encode(batch)
        if np.may_share_memory(embeddings, batch):
            embeddings = embeddings.copy()
        return lambda: embeddings


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where and how to run an encoder."""

    weights: Path | None = None
    """A folder with the weights, or with a folder of weights for each encoder; None: ``store``, then the hub's cache."""
    store: Path | None = None
    """Where ``encoders fetch`` puts a folder of weights for each encoder unless told otherwise."""
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cuda``, ``cuda:N`` or ``cpu``."""
    dtype: DType = "float32"


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Which files a family reads from a folder of weights."""

    needed: tuple[str, ...]
    """All of these."""
    weights: tuple[str, ...]
    """The first of these that is there."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A second repository that a model's files need beside them."""

    folder: str
    """Where it goes, below the model's own folder."""
    repository: str
    revision: str | None
    patterns: tuple[str, ...]
    """Which of its files."""


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
