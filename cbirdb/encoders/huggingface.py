"""Encoders that the transformers library runs, from weights in the Hugging Face hub's on-disk format.

One more of them is its record in ``registry`` and its entry in ``ARCHITECTURES``. The weights come from the folder
that the user gives, else from the hub's cache, else from the hub; what is hashed is the file that is read, and
nothing in it is executed (safetensors, or pickles of tensors alone).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub as hub
import huggingface_hub.errors
import numpy as np
import PIL
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, ResNetForImageClassification

from cbirdb.encoders.base import EncoderSpec, LoadOptions, Provenance, hash_files, hash_settings
from cbirdb.errors import EncoderError

_log = logging.getLogger(__name__)

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first that is there is read."""
HUB_TIMEOUT = 5.0
"""Seconds that each of the hub's addresses has for its first answer."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How transformers builds a model, and where in its output the embedding is."""

    model: Any
    shape: Mapping[str, Any]
    """What ``config.json`` must say, so that a smaller or larger sister of the model is not taken for it."""
    embedding: Callable[[Any], torch.Tensor]
    """The model's output -> raw embeddings, shape (pictures, dim)."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet50": Architecture(
        model=ResNetForImageClassification,
        shape={"depths": [3, 4, 6, 3], "layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048]},
        embedding=lambda output: output.logits,
    ),
}


class HuggingFaceEncoder:
    """A transformers model with its own image processor."""

    def __init__(self, spec: EncoderSpec, model: Any, processor: Any, provenance: Provenance) -> None:
        self.spec = spec
        self.provenance = provenance
        self._embedding = ARCHITECTURES[spec.name].embedding
        self._model = model
        self._processor = processor

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One picture of any size -> float32 (3, height, width), as the model's own image processor makes it."""
        pixels = self._processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def encode(self, batch: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Inputs from ``preprocess`` -> raw embeddings, float32 (len(batch), spec.dim)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(batch)).to(self.provenance.device)
            values: NDArray[np.float32] = self._embedding(self._model(pixel_values=pixels)).float().cpu().numpy()
        return values


def load(spec: EncoderSpec, options: LoadOptions) -> HuggingFaceEncoder:
    """Make the encoder ready to run.

    :raises EncoderError: when its weights cannot be had or are not this encoder's, or there is no such device.
    """
    device = _choose_device(options.device)
    with _quiet():
        folder = options.weights or _cached_folder(spec) or _download(spec)
        weights = _find_weights(spec, folder)
        config = _read_config(spec, folder)
        processor = _read_processor(spec, folder)
        model = _read_model(spec, config, weights).to(device).eval()
    versions = {
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    provenance = Provenance(
        weights_sha256=hash_files([weights]),
        preprocessing_sha256=hash_settings(processor.to_dict()),
        libraries=versions,
        device=device,
    )
    encoder = HuggingFaceEncoder(spec, model, processor, provenance)
    _try_out(encoder, folder)
    return encoder


def _choose_device(wanted: str) -> str:
    available = torch.cuda.is_available()
    if wanted not in {"auto", "cuda", "cpu"}:
        raise EncoderError(f"There is no device named '{wanted}'.", hint="Known: auto, cuda, cpu.")
    if wanted == "cuda" and not available:
        raise EncoderError(
            "The device 'cuda' was asked for, but PyTorch finds no GPU that it can use.",
            hint="Use the device 'cpu' or 'auto', or install the PyTorch build that fits this machine's GPU driver.",
        )
    return "cuda" if available and wanted != "cpu" else "cpu"


def _unfit(spec: EncoderSpec, message: str) -> EncoderError:
    """An error about weights, with the way to get the right ones."""
    command = f"hf download {spec.weights} {CONFIG} {PREPROCESSOR} {WEIGHTS[0]} --revision {spec.revision}"
    hint = f"On a connected machine run `{command} --local-dir DIR`, then pass that folder here with --weights DIR."
    return EncoderError(message, hint=hint)


def _cached_folder(spec: EncoderSpec) -> Path | None:
    """The folder in the hub's cache that holds all that is needed; the hub is not asked for anything newer."""
    names = (CONFIG, PREPROCESSOR, *WEIGHTS)
    found = [hub.try_to_load_from_cache(str(spec.weights), name, revision=spec.revision) for name in names]
    config, preprocessor, *weights = [Path(path) if isinstance(path, str) else None for path in found]
    return config.parent if config and preprocessor and any(weights) else None


def _download(spec: EncoderSpec) -> Path:
    """Bring the files from the hub into its cache, all of one commit."""
    repository = str(spec.weights)
    try:
        # This one question first: where there is no way out, a download retries for 20 seconds to some minutes.
        info = hub.HfApi().model_info(repository, revision=spec.revision, timeout=HUB_TIMEOUT)
        offered = {file.rfilename for file in info.siblings or ()}
        wanted = [CONFIG, PREPROCESSOR, *[name for name in WEIGHTS if name in offered][:1]]
        _log.info("downloading %s at commit %s from %s", repository, info.sha, hub.constants.ENDPOINT)
        return Path(hub.snapshot_download(repository, revision=info.sha, allow_patterns=wanted))
    # Proxies, certificates, name servers and full disks fail in their own ways; none of them is a defect of ours.
    except Exception as error:
        reason = f"the model hub cannot be reached or the download breaks off ({type(error).__name__})"
        if isinstance(error, hub.errors.OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE forbids asking the model hub"
        elif isinstance(error, hub.errors.HfHubHTTPError):
            reason = f"the model hub answers with status {error.response.status_code}"
        cache = hub.constants.HF_HUB_CACHE
        message = f"The model '{repository}' of '{spec.name}' is not complete in the cache {cache}, and {reason}."
        raise _unfit(spec, message) from error


def _find_weights(spec: EncoderSpec, folder: Path) -> Path:
    """The file with the weights, once its companions are there too."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise _unfit(spec, f"The folder of weights {folder} {what}.")
    for name in (CONFIG, PREPROCESSOR):
        if not (folder / name).is_file():
            raise _unfit(spec, f"The folder {folder} has no file {name}.")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise _unfit(spec, f"The folder {folder} has no weights: neither {' nor '.join(WEIGHTS)}.")


@contextmanager
def _reading(spec: EncoderSpec, path: Path) -> Iterator[None]:
    """Damaged JSON, safetensors and pickles each raise their own library's errors, which have no common base."""
    try:
        yield
    except Exception as error:
        raise _unfit(spec, f"The file {path} is damaged or not what it should be ({type(error).__name__}).") from error


def _read_config(spec: EncoderSpec, folder: Path) -> Any:
    architecture = ARCHITECTURES[spec.name]
    path = folder / CONFIG
    with _reading(spec, path):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for key, wanted in {"model_type": architecture.model.config_class.model_type, **architecture.shape}.items():
        if (found := getattr(config, key, None)) != wanted:
            raise _unfit(spec, f"The file {path} does not describe '{spec.name}': {key} is {found}, not {wanted}.")
    return config


def _read_processor(spec: EncoderSpec, folder: Path) -> Any:
    # Torchvision, where it is installed, resizes differently: embeddings must not depend on what else there is.
    with _reading(spec, folder / PREPROCESSOR):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)


def _read_model(spec: EncoderSpec, config: Any, weights: Path) -> Any:
    """The model with every parameter from the file; transformers by itself makes up those that are missing."""
    with _reading(spec, weights):
        if weights.suffix == ".safetensors":
            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        # What the file has beyond the model's parameters are other heads: the embedding does not pass through them.
        model, report = ARCHITECTURES[spec.name].model.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    # Batch normalisation counts its batches for training alone; old files lack the counters.
    if missing := sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked")):
        lacks = f"lacks {len(missing)} parameters of the model, {missing[0]} among them"
        raise _unfit(spec, f"The file {weights} does not fit '{spec.name}': it {lacks}.")
    return model


def _try_out(encoder: HuggingFaceEncoder, folder: Path) -> None:
    """Encode one black picture, so that what does not fit is said now and not after an hour of reading images."""
    spec = encoder.spec
    with _reading(spec, folder / PREPROCESSOR):
        found = encoder.encode([encoder.preprocess(Image.new("RGB", (64, 64)))]).shape[-1]
    if found != spec.dim:
        raise _unfit(spec, f"The model in {folder} gives {found} values a picture, but '{spec.name}' has {spec.dim}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep loading bars and reports (the hub's too) off the terminal: what matters of them is raised as an error."""
    reports = transformers.logging
    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reports.set_verbosity_error()
        reports.disable_progress_bar()
        try:
            yield
        finally:
            reports.set_verbosity(verbosity)
            if bars:
                reports.enable_progress_bar()
