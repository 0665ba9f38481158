"""Reads and writes the description of an exported encoder: ``cbirdb-onnx.json``, beside the network in ``model.onnx``.

A folder of weights with that file runs with onnxruntime. The file is data that anyone who may write the folder can
change: it is read with care, and what it claims is compared where there is something to compare it with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbirdb.encoders.base import LoadOptions, hash_files
from cbirdb.encoders.pillow_preprocessing import PillowPreprocessing
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.weights import is_local
from cbirdb.errors import EncoderError

MANIFEST = "cbirdb-onnx.json"
MODEL = "model.onnx"
DATA = "model.onnx.data"
"""Weights beside the network, if both together have more than 2 GB, which one file of that format cannot hold."""
FORMAT = 1
LARGEST_MANIFEST = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Export:
    """The description of an exported encoder."""

    encoder: str
    family: str
    options: Mapping[str, Any]
    """The record's settings that choose the embedding."""
    weights_sha256: str
    """SHA-256 of the weights that the network was made from."""
    preprocessing_sha256: str
    """Hash of the settings that ``preprocessing`` was made from."""
    dim: int
    input_shape: tuple[int, ...]
    preprocessing: PillowPreprocessing
    golden_embedding: tuple[float, ...]
    """The raw embedding of the fixed picture."""
    opset: int
    libraries: Mapping[str, str]
    """Versions of the libraries that made the export."""
    files: Mapping[str, str]
    """File -> SHA-256."""

    def as_json(self) -> dict[str, Any]:
        """Return the description as the file holds it."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in self.__slots__},
            "preprocessing": self.preprocessing.as_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Export:
        """Read a description.

        :raises ValueError: when a value cannot be right.
        :raises TypeError: when a value is of another kind.
        :raises KeyError: when a value is missing.
        """
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is {stored['format']}, not {FORMAT}")
        found = cls(
            **{
                **{name: stored[name] for name in cls.__slots__},
                "preprocessing": PillowPreprocessing.from_json(stored["preprocessing"]),
                "input_shape": tuple(stored["input_shape"]),
                "golden_embedding": tuple(float(value) for value in stored["golden_embedding"]),
            }
        )
        # JSON has numbers such as 8.0, which equal whole ones.
        if not all(type(number) is int for number in (found.dim, *found.input_shape)):
            raise TypeError("its shapes are no whole numbers")
        if found.input_shape != found.preprocessing.shape or len(found.golden_embedding) != found.dim:
            raise ValueError("its shapes do not fit each other")
        if not np.isfinite(found.golden_embedding).all():
            raise ValueError("its golden embedding is no vector of numbers")
        # Only these names: a file elsewhere is no part of an export.
        if set(found.files) not in ({MODEL}, {MODEL, DATA}):
            raise ValueError(f"its files are {', '.join(sorted(found.files))}")
        for digest in (found.weights_sha256, found.preprocessing_sha256, *found.files.values()):
            if not SHA256.fullmatch(digest):
                raise ValueError("a SHA-256 has 64 hexadecimal digits")
        if not (isinstance(found.encoder, str) and isinstance(found.family, str) and isinstance(found.options, dict)):
            raise TypeError("its encoder is not described")
        return found


def find_export(spec: EncoderSpec, options: LoadOptions) -> Path | None:
    """Return the folder that holds an export of this encoder; None if its folder of weights has no description."""
    if options.weights is not None:
        parents = options.weights
        named = [parents / name for name in (spec.name, spec.base_name)]
        folder = next((place for place in named if place.is_dir()), parents)
    elif is_local(spec):
        folder = Path(str(spec.weights))
    elif options.store is not None:
        folder = options.store / spec.name
    else:
        return None
    return folder if (folder / MANIFEST).is_file() else None


def read_export(spec: EncoderSpec, folder: Path) -> Export:
    """Read the description in a folder and compare it with the encoder's record.

    :raises EncoderError: when it is damaged, or describes another encoder.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ValueError("it is too large")
        export = Export.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise EncoderError(
            f"The file {path} is damaged or of another version ({type(error).__name__}: {_one_line(error)}).",
            hint=EXPORT_AGAIN,
        ) from error
    if export.encoder.partition("@")[0] != spec.base_name:
        raise EncoderError(
            f"The folder {folder} holds an export of '{_one_line(export.encoder)}', not of '{spec.name}'.",
            hint="Name the folder of this encoder with --weights.",
        )
    if (export.family, export.options) != (spec.family, output_options(spec)):
        raise EncoderError(
            f"The folder {folder} holds an export of '{spec.name}' by another record: its family or options differ.",
            hint=EXPORT_AGAIN,
        )
    if spec.dim not in (None, export.dim):
        raise EncoderError(
            f"The export in {folder} gives {export.dim} values per picture, but '{spec.name}' has {spec.dim}.",
            hint=EXPORT_AGAIN,
        )
    return export


EXPORT_AGAIN = "Copy the folder again, or make it again on a machine with torch: cbirdb encoders export NAME --onnx DIR"


def output_options(spec: EncoderSpec) -> dict[str, Any]:
    """Return the record's settings that choose the embedding, as JSON gives them back.

    Required values of the model's configuration are none of them: they were compared when the weights were read.
    """
    chosen: dict[str, Any] = json.loads(json.dumps({k: v for k, v in spec.options.items() if k != "config"}))
    return chosen


def changed_export_files(export: Export, folder: Path) -> list[str]:
    """Return the files that are missing or do not have the SHA-256 that the description says."""
    return [
        name
        for name, digest in export.files.items()
        if not (folder / name).is_file() or hash_files([folder / name]) != digest
    ]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:120]
