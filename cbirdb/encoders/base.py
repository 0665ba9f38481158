"""Defines an encoder, the class that runs the model of a record (``spec.py``), and its provenance."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
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
"""Number formats of the forward pass. Below float32, PyTorch's autocast chooses the operations to compute in it."""

Runtime: TypeAlias = Literal["torch", "onnxruntime", "numpy"]
"""Libraries that run encoders: ``numpy`` those without a network."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The inputs that an encoder was made from when it ran. They are stored with it and compared at each later run.

    Hashes are SHA-256 in hex; ``weights_sha256`` is None if there are no weights.
    """

    weights_sha256: str | None
    preprocessing_sha256: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Version of each library that touches pixels or numbers."""
    dtype: DType = "float32"
    device: str = "cpu"
    """Kind of device: ``cpu`` or ``cuda``."""
    runtime: Runtime = "torch"
    """The library that runs the model. Records without it are of torch."""


class Preprocessing(Protocol):
    """Turns one RGB or grey picture into the model's input without the batch axis, in one shape for all pictures.

    It runs in worker processes, so it can be pickled and holds no model.
    """

    def __call__(self, image: Image.Image) -> NDArray[np.float32]: ...


class Encoder(ABC):
    """Turns pictures into raw embeddings and leaves normalisation to others."""

    spec: EncoderSpec
    provenance: Provenance
    preprocess: Preprocessing
    input_shape: tuple[int, ...]
    """Shape of an output of ``preprocess``."""
    batch_size: int = 64
    """Pictures per step; by default enough to keep the encoder busy. ``encode`` hands over no more at once."""

    @property
    def dim(self) -> int:
        """Return the number of components of an embedding.

        :raises EncoderError: when the encoder has not run yet, so that the number is unknown.
        """
        if self.spec.dim is None:
            raise EncoderError(f"The encoder '{self.spec.name}' has not run yet, so its dimension is unknown.")
        return self.spec.dim

    @cached_property
    def golden(self) -> NDArray[np.float32]:
        """Return the raw embedding of one fixed picture, shape (dim,), which shows if the encoder still computes the
        same.
        """
        embedding: NDArray[np.float32] = self.encode(self.preprocess(golden_picture())[None])[0]
        return embedding

    @abstractmethod
    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode inputs, shape (n, *input_shape), into raw embeddings, shape (n, dim)."""

    def submit(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Start to encode a batch. The caller may reuse the batch's memory after the call.

        :returns: a function that waits for the embeddings and returns them.
        """
        embeddings = self.encode(batch)
        if np.may_share_memory(embeddings, batch):
            embeddings = embeddings.copy()
        return lambda: embeddings


def _say_nothing(_stage: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Source and place of an encoder that is to run."""

    weights: Path | None = None
    """A folder with the weights, or with a folder of weights for each encoder. None: ``store``, then the hub's
    cache.
    """
    store: Path | None = None
    """Default folder of ``encoders fetch``, with a folder of weights for each encoder."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cuda``, ``cuda:N`` or ``cpu``."""
    dtype: DType = "float32"
    allow_other_weights: bool = False
    """Accept weights whose SHA-256 is not the record's, under the name ``NAME@<its first 8 digits>``."""
    on_stage: Callable[[str], None] = field(default=_say_nothing, compare=False, repr=False)
    """Receives the name of each stage of loading when it begins."""
    threads: int | None = None
    """Threads of onnxruntime, unless OMP_NUM_THREADS says how many. None: one per core that this process may use."""


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files that a family reads from a folder of weights."""

    needed: tuple[str, ...]
    """Files that must all exist."""
    weights: tuple[str, ...]
    """Files of which the first existing one is read."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A second repository whose files a model needs beside its own."""

    folder: str
    """Its folder, below the model's own."""
    repository: str
    revision: str | None
    patterns: tuple[str, ...]
    """Patterns of the files to fetch."""


def hash_settings(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of preprocessing settings, independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def hash_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256 (hex) over the contents of files, in the order of their names.

    Read an unchanged file once: weights are hashed when they are found and again when they are recorded.
    """
    files = []
    for path in sorted(paths, key=lambda p: p.name):
        status = path.stat()
        # The time of the last change of any kind, which nobody can set back, unlike that of the content.
        files.append((path, status.st_size, status.st_ctime_ns, status.st_ino))
    # The clock of file systems is coarse: a file that has just been written may change again unnoticed.
    is_new = any(time.time_ns() - changed < 1_000_000_000 for _, _, changed, _ in files)
    return _hash.__wrapped__(tuple(files)) if is_new else _hash(tuple(files))


@lru_cache(maxsize=64)
def _hash(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
