"""Exports an encoder from torch to ONNX, and compares the two before anybody uses the result.

Nothing is left behind when they differ: the folder gets its name when all comparisons are done.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from cbirdb.encoders.base import Encoder, hash_files
from cbirdb.encoders.golden import golden_picture
from cbirdb.encoders.onnx_describe import KEEP_TORCH, describe, odd_pictures
from cbirdb.encoders.onnx_folder import DATA, MANIFEST, MODEL, Export, output_options
from cbirdb.encoders.pillow_preprocessing import PillowPreprocessing
from cbirdb.errors import EncoderError
from cbirdb.version import __version__

if TYPE_CHECKING:
    from cbirdb.encoders.torch_encoder import TorchEncoder

OPSET = 20
"""Version of ONNX's set of operators."""
LARGEST_DIFFERENCE = 1e-4
"""Most that a component of a unit vector may differ between the two runtimes."""
ONE_FILE = 1_900_000_000
"""Bytes of weights above which they lie beside the network; one file of that format holds less than 2 GiB."""
COMPARED = 4
"""Random pictures that are compared beside the fixed one."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export."""

    folder: Path
    export: Export
    difference: float
    """Largest difference of a component of a unit vector between the two runtimes."""
    manifest_sha256: str

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files together."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def export_encoder(encoder: Encoder, to: Path) -> Exported:
    """Export an encoder into the new folder ``to/<name>``.

    :param encoder: loaded with torch, on the CPU, in float32.
    :raises EncoderError: when it cannot be exported, the export computes something else, or the folder exists.
    """
    name, folder = encoder.spec.name, to / encoder.spec.name
    torch_encoder = _with_torch(encoder)
    if folder.exists():
        raise EncoderError(f"The folder {folder} exists already.", hint="Choose another --onnx, or remove it first.")
    existed = to.exists()
    try:
        to.mkdir(parents=True, exist_ok=True)
        # A name of its own beside the final one, so that it can be renamed in one step.
        partial = to / f".{name}-{uuid4().hex}"
        partial.mkdir()
    except OSError as error:
        raise EncoderError(
            f"The folder {to} cannot be written: {error.strerror}.", hint="Choose another --onnx."
        ) from error
    try:
        export, difference = _write(torch_encoder, partial)
        partial.rename(folder)
    except OSError as error:
        raise EncoderError(
            f"The export of '{name}' cannot be written below {to}: {error.strerror or type(error).__name__}.",
            hint="Choose another --onnx.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # it is gone after the renaming
        if not existed and not any(to.iterdir()):
            to.rmdir()
    return Exported(folder, export, difference, hash_files([folder / MANIFEST]))


def _with_torch(encoder: Encoder) -> TorchEncoder:
    """Return the encoder if it runs on torch, on the CPU.

    :raises EncoderError: when there is nothing to export, or a library is missing.
    """
    if encoder.provenance.runtime == "numpy":
        raise EncoderError(f"'{encoder.spec.name}' needs no torch: there is nothing to export.")
    if encoder.provenance.runtime == "onnxruntime":
        raise EncoderError(
            f"The weights found for '{encoder.spec.name}' are an export already.",
            hint="Name the folder of the original weights with --weights DIR.",
        )
    from cbirdb.encoders.torch_encoder import TorchEncoder

    if not isinstance(encoder, TorchEncoder) or encoder.provenance.dtype != "float32" or encoder.device.type != "cpu":
        raise EncoderError(
            f"'{encoder.spec.name}' is not exported from this family, number format or device.",
            hint="Use --device cpu and float32.",
        )
    return encoder


def _write(encoder: TorchEncoder, folder: Path) -> tuple[Export, float]:
    """Write network and description into a folder; return the description and the largest difference."""
    preprocessing = describe(encoder)
    _write_network(encoder, folder)
    files = {name: hash_files([folder / name]) for name in (MODEL, DATA) if (folder / name).exists()}
    made_by = {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    export = Export(
        encoder=encoder.spec.name,
        family=encoder.spec.family,
        options=output_options(encoder.spec),
        weights_sha256=str(encoder.provenance.weights_sha256),
        preprocessing_sha256=encoder.provenance.preprocessing_sha256,
        dim=encoder.dim,
        input_shape=encoder.input_shape,
        preprocessing=preprocessing,
        golden_embedding=tuple(float(value) for value in encoder.golden),
        opset=OPSET,
        libraries={**encoder.provenance.libraries, **made_by, "cbirdb": __version__},
        files=files,
    )
    difference = _compare(encoder, preprocessing, folder / MODEL)
    (folder / MANIFEST).write_text(json.dumps(export.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return export, difference


def _write_network(encoder: TorchEncoder, folder: Path) -> None:
    """Write the network with a batch axis of any length."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from cbirdb.encoders.torch_encoder import silenced_libraries

    network = encoder.network()
    # An axis of length one would be taken for a constant.
    example = torch.zeros((2, *encoder.input_shape))
    count = torch.export.Dim("n", min=1)
    # The other kernels lay out attention in memory in ways that some models' shapes cannot be exported from.
    with silenced_libraries(), sdpa_kernel(SDPBackend.MATH):
        try:
            program: Any = torch.onnx.export(
                network, (example,), dynamo=True, verbose=False, opset_version=OPSET,
                dynamic_shapes=({0: count},), input_names=["pixels"], output_names=["embeddings"],
            )  # fmt: skip
        except ModuleNotFoundError as error:
            raise EncoderError(
                f"Exporting needs the Python package '{error.name}', which is not installed.",
                hint="Install cbirdb with its extra 'onnx-export'. In a clone of it, run: pip install -e '.[onnx-export]'",
            ) from error
        except MemoryError:
            raise
        # The exporter's errors have no common base, and are pages long; -v shows them.
        except Exception as error:
            raise EncoderError(
                f"'{encoder.spec.name}' cannot be exported to ONNX ({type(error).__name__}).",
                hint=KEEP_TORCH,
            ) from error
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    program.save(folder / MODEL, external_data=weights > ONE_FILE)


def _compare(encoder: TorchEncoder, preprocessing: PillowPreprocessing, model: Path) -> float:
    """Return the largest difference of the two runtimes' unit vectors, alone and in a batch.

    :raises EncoderError: when it is too large.
    """
    from cbirdb.encoders.onnx_encoder import INPUT, OUTPUT, open_session

    pictures = [golden_picture(), *odd_pictures()[1 : 1 + COMPARED]]
    inputs = np.stack([preprocessing(picture) for picture in pictures])
    wanted = _unit(encoder.encode(inputs))
    parts = [inputs[:1], inputs[1:]]
    try:
        session = open_session(model)
        found = _unit(np.concatenate([session.run([OUTPUT], {INPUT: part})[0] for part in parts]))
    # Its errors have no common base but Exception.
    except Exception as error:
        raise EncoderError(
            f"onnxruntime cannot run the export of '{encoder.spec.name}' ({type(error).__name__}).", hint=KEEP_TORCH
        ) from error
    difference = float(np.abs(found - wanted).max())
    # Written so that a NaN is refused, too.
    if not difference <= LARGEST_DIFFERENCE:
        raise EncoderError(
            f"The export of '{encoder.spec.name}' differs from torch by {difference:.1e} in a component of a unit vector,"
            f" more than {LARGEST_DIFFERENCE:.0e}.",
            hint=KEEP_TORCH,
        )
    return difference


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
