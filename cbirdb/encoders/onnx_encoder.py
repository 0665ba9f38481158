"""Runs an exported network with onnxruntime, on CPUs. Neither torch nor the model's own library is needed.

onnxruntime refuses operators that it does not have and weights outside of the folder, so no file can run code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cbirdb.encoders.base import LoadOptions, Provenance
from cbirdb.encoders.batched import BatchedEncoder, cpu_batch_size
from cbirdb.encoders.golden import SMALLEST_COSINE
from cbirdb.encoders.onnx_folder import EXPORT_AGAIN, MODEL, Export, changed_export_files, read_export
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError

INPUT, OUTPUT = "pixels", "embeddings"
FATAL = 4
"""Severity of the messages that onnxruntime itself writes; the others become errors here."""


class OnnxEncoder(BatchedEncoder):
    """An exported network."""

    def __init__(self, spec: EncoderSpec, export: Export, session: Any) -> None:
        self.spec = replace(spec, dim=export.dim)
        self.preprocess = export.preprocessing
        self.input_shape = export.input_shape
        self.batch_size = cpu_batch_size(self.batch_size, self.input_shape)
        self.provenance = Provenance(
            weights_sha256=export.weights_sha256,
            preprocessing_sha256=export.preprocessing_sha256,
            libraries={name: version(name) for name in ("onnxruntime", "pillow", "numpy")},
            runtime="onnxruntime",
        )
        self._session = session

    def _launch(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        values: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: batch})[0]
        return lambda: values

    def _is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory")
"""Texts of onnxruntime's errors of memory, which have no class of their own."""


def load_export(spec: EncoderSpec, folder: Path, options: LoadOptions) -> OnnxEncoder:
    """Load an exported encoder, and compare its embedding of the fixed picture with that of its export.

    :raises EncoderError: when the folder is not this encoder's, a file has changed, or it cannot run so.
    """
    if options.device not in {"auto", "cpu"}:
        raise EncoderError(
            f"The export in {folder} runs on the CPU, not on the device '{options.device}'.",
            hint="Use --device cpu, or name a folder of weights, which runs with torch.",
        )
    if options.dtype != "float32":
        raise EncoderError(
            f"The export in {folder} computes in float32, not in {options.dtype}.",
            hint="Use --dtype float32, or name a folder of weights, which runs with torch.",
        )
    export = read_export(spec, folder)
    if changed := changed_export_files(export, folder):
        raise EncoderError(
            f"The file {folder / changed[0]} is missing or has another SHA-256 than at its export.", hint=EXPORT_AGAIN
        )
    try:
        encoder = OnnxEncoder(spec, export, open_session(folder / MODEL, options.threads))
        golden = encoder.golden.astype(np.float64)
    except EncoderError:
        raise
    # Its errors have no common base but Exception.
    except Exception as error:
        raise EncoderError(
            f"The file {folder / MODEL} is damaged or of another kind ({type(error).__name__}).", hint=EXPORT_AGAIN
        ) from error
    then = np.array(export.golden_embedding)
    cosine = float(golden @ then / (np.linalg.norm(golden) * np.linalg.norm(then))) if golden.shape == then.shape else 0
    # Written so that a NaN is refused, too.
    if not cosine >= SMALLEST_COSINE["float32"]:
        raise EncoderError(
            f"The export in {folder} no longer computes what it did when it was made: a fixed test picture is now at"
            f" cosine {cosine:.5f} to its embedding from then.",
            hint=EXPORT_AGAIN,
        )
    return encoder


def open_session(model: Path, threads: int | None = None) -> Any:
    """Return a session that runs the network on this process's processors.

    :param threads: number of threads, unless OMP_NUM_THREADS says it; None: one per processor.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL
    settings.intra_op_num_threads = choose_threads(threads)
    settings.inter_op_num_threads = 1
    # Between two operators, idle threads would keep busy the processors that decode pictures.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def choose_threads(threads: int | None) -> int:
    """Return the number of threads: that of OMP_NUM_THREADS, as with torch, else the given one.

    onnxruntime itself would start one per core of the machine, whatever this process may use.
    """
    # With nested regions, the variable lists a number for each level.
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
