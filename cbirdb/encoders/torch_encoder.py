"""Runs models on PyTorch for all families: device, number format, asynchronous batches, lack of memory."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)
from cbirdb.encoders.base import LoadOptions, Preprocessing, Provenance, hash_files, hash_settings
from cbirdb.encoders.batched import BatchedEncoder, cpu_batch_size
from cbirdb.encoders.golden import golden_picture
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.weights import translated_read_errors, weights_error
from cbirdb.errors import EncoderError

Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Function from inputs, shape (n, *input_shape), to raw embeddings, shape (n, dim)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a family builds from its files."""

    model: torch.nn.Module
    forward: Forward
    preprocess: Preprocessing
    preprocessing: Mapping[str, Any]
    """The settings of ``preprocess``; their hash identifies it."""
    weights: Path
    libraries: tuple[str, ...]
    """Packages besides torch, Pillow and NumPy that touch pixels or numbers."""


class Network(torch.nn.Module):
    """A model and the function that takes the embedding from its output, as one module."""

    def __init__(self, model: torch.nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._take = forward

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute raw embeddings, float32, shape (n, dim)."""
        return self._take(pixels).float()


class TorchEncoder(BatchedEncoder):
    """A PyTorch model in inference mode."""

    def __init__(self, spec: EncoderSpec, parts: Parts, device: torch.device, provenance: Provenance) -> None:
        self.spec = spec
        self._model = parts.model
        self.provenance = provenance
        self.preprocess = parts.preprocess
        self._forward = parts.forward
        self._device = device
        self._dtype = getattr(torch, provenance.dtype)

    @property
    def device(self) -> torch.device:
        """Return the device that holds the model."""
        return self._device

    def network(self) -> Network:
        """Return the model from inputs to raw embeddings as a module, to be exported."""
        return Network(self._model, self._forward).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute raw embeddings, float32, shape (n, dim), from inputs on the device, shape (n, *input_shape)."""
        autocast = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        with torch.inference_mode(), autocast:
            return self._forward(pixels).float()

    def _launch(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        pixels = torch.from_numpy(batch)
        if self._device.type == "cpu":
            values: NDArray[np.float32] = self.forward(pixels).numpy()
            return lambda: values
        # Only pinned memory is copied while the GPU computes. PyTorch reuses its pinned memory only after the copy.
        embeddings = self.forward(pixels.pin_memory().to(self._device, non_blocking=True))
        arriving = torch.empty(embeddings.shape, dtype=torch.float32, pin_memory=True)
        arriving.copy_(embeddings, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            found: NDArray[np.float32] = arriving.numpy()
            return found

        return wait

    def _is_out_of_memory(self, error: BaseException) -> bool:
        return _is_out_of_memory(error)

    def _free_memory(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""Texts of PyTorch's errors that have no class of their own: a CPU's memory, pinned memory, cuBLAS and cuDNN."""


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def load_parts(spec: EncoderSpec, options: LoadOptions, build: Callable[[], Parts]) -> TorchEncoder:
    """Build a family's parts, put them on the device, and encode one picture as a test.

    A misfit shows now and not after an hour of reading images.

    :raises EncoderError: when the weights are not this encoder's, or the device does not exist.
    """
    device = choose_device(options.device)
    with silenced_libraries():
        try:
            options.on_stage("reading the weights")
            parts = build()
            if device.type != "cpu":
                options.on_stage(f"moving to {device}")
            parts.model.to(device).eval()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise EncoderError(
                f"There is not enough memory to load '{spec.name}'.",
                hint="Use --device cpu, or a machine with more memory, or fewer encoders at once.",
            ) from error
        provenance = Provenance(
            weights_sha256=hash_files([parts.weights]),
            preprocessing_sha256=hash_settings(parts.preprocessing),
            libraries={name: version(name) for name in ("torch", *parts.libraries, "pillow", "numpy")},
            dtype=options.dtype,
            device=device.type,
        )
        encoder = TorchEncoder(spec, parts, device, provenance)
        options.on_stage("encoding a test picture")
        with translated_read_errors(spec, parts.weights):
            pixels = encoder.preprocess(golden_picture())
            encoder.input_shape = pixels.shape
            if device.type == "cpu":
                encoder.batch_size = cpu_batch_size(encoder.batch_size, pixels.shape)
            found = encoder.golden.shape[-1]
    if spec.dim is None:
        encoder.spec = replace(spec, dim=found)
    elif found != spec.dim:
        message = (
            f"The model in {parts.weights.parent} gives {found} values per picture, but '{spec.name}' has {spec.dim}."
        )
        raise weights_error(spec, message)
    return encoder


def choose_device(wanted: str) -> torch.device:
    """Return the device of that name.

    :raises EncoderError: when this machine has no such device.
    """
    kind, _, number = wanted.partition(":")
    if kind not in {"auto", "cuda", "cpu"} or (number and (kind != "cuda" or not number.isdecimal())):
        raise EncoderError(f"There is no device named '{wanted}'.", hint="Known: auto, cuda, cuda:N, cpu.")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EncoderError(
            f"PyTorch finds no usable GPU for the device '{wanted}'.",
            hint="Use the device 'cpu' or 'auto', or install the PyTorch build that fits this machine's GPU driver.",
        )
    if number and int(number) >= torch.cuda.device_count():
        raise EncoderError(
            f"There is no GPU number {number} here; PyTorch finds {torch.cuda.device_count()}, counted from 0."
        )
    # Compute float32 in float32: by default PyTorch rounds convolutions to 10 bits on newer GPUs.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    device = torch.device("cuda", int(number) if number else torch.cuda.current_device())
    torch.cuda.set_device(device)  # streams and events belong to the current device
    return device


@contextmanager
def silenced_libraries() -> Iterator[None]:
    """Hide the libraries' progress bars and reports; important ones become errors."""
    root = logging.getLogger()  # open_clip logs to the root logger
    level = root.level
    with warnings.catch_warnings(), _silenced_transformers():
        warnings.simplefilter("ignore")
        if level > logging.INFO:
            root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)


@contextmanager
def _silenced_transformers() -> Iterator[None]:
    """Hide the reports of transformers if a family has imported it. The extra `small` comes without it."""
    if sys.modules.get("transformers") is None:
        yield
        return
    from transformers import logging as reports

    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()
