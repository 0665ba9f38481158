"""Makes encoders from records. Imports a family's libraries only then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cbirdb.encoders.base import Encoder, LoadOptions
from cbirdb.encoders.identity import Identity, identify, identify_hash, other_weights
from cbirdb.encoders.onnx_folder import MANIFEST, find_export, read_export
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import LOADERS, EncoderSpec
from cbirdb.encoders.weights import find_folder, find_weights
from cbirdb.errors import EncoderError, UnknownNameError

FAMILIES = frozenset({*LOADERS.values(), *(spec.family for spec in SHIPPED.values())})
"""Modules of this package that run encoders."""
EXTRAS = {"efficientnet_lite": "small"}
"""Families that need less than the extra ``encoders``."""


def get_spec(name: str, added: Mapping[str, EncoderSpec] | None = None) -> EncoderSpec:
    """Return the record of an encoder; of other weights, if its name ends with digits of their SHA-256.

    :param added: further records by name, from a database.
    :raises UnknownNameError: with the nearest known name.
    """
    known = {**(added or {}), **SHIPPED}
    base, _, prefix = name.partition("@")
    if name not in known and base in known and re.fullmatch("[0-9a-f]{8}", prefix):
        return other_weights(known[base], prefix)
    try:
        return known[name]
    except KeyError:
        raise UnknownNameError("encoder", name, list(known)) from None


def get_family(spec: EncoderSpec) -> Any:
    """Return the module that runs the encoder.

    :raises EncoderError: when its libraries are not installed, or there is no such module.
    """
    if spec.family not in FAMILIES:
        # A record may come from a database, which may describe an encoder but not choose the code that runs.
        raise EncoderError(
            f"The encoder '{spec.name}' names a family that does not exist.",
            hint=f"Known: {', '.join(sorted(FAMILIES))}.",
        )
    try:
        return import_module(f"cbirdb.encoders.{spec.family}")
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(spec.family, "encoders")
        raise EncoderError(
            f"The encoder '{spec.name}' needs the Python package '{error.name}', which is not installed.",
            hint=f"Install cbirdb with its extra '{extra}'. In a clone of it, run: pip install -e '.[{extra}]'."
            " With --weights and a folder of `encoders export`, the extra 'onnx' is enough.",
        ) from error


def get_onnx_encoder() -> Any:
    """Return the module that runs exports.

    :raises EncoderError: when onnxruntime is not installed.
    """
    try:
        return import_module("cbirdb.encoders.onnx_encoder")
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"Exported encoders need the Python package '{error.name}', which is not installed.",
            hint="Install cbirdb with its extra 'onnx'. In a clone of it, run: pip install -e '.[onnx]'",
        ) from error


def has_files(spec: EncoderSpec, options: LoadOptions) -> bool:
    """Return True if the encoder's own files, or an export, are on this machine."""
    if find_export(spec, options) is not None:
        return True
    files = get_family(spec).FILES
    try:
        find_weights(spec, find_folder(spec, files, options), files)
    except EncoderError:
        return False
    return True


def load_encoder(spec: EncoderSpec, options: LoadOptions) -> Encoder:
    """Load an encoder: with onnxruntime if its folder of weights is an export, else with its family's library.

    :raises EncoderError: when its libraries or weights are missing, or the weights are others.
    """
    encoder: Encoder
    if spec.weights is not None and (exported := find_export(spec, options)) is not None:
        found = _identify_export(spec, exported, options)
        if found.refusal is not None:
            raise found.refusal
        options.on_stage("reading its export")
        encoder = get_onnx_encoder().load_export(found.spec, exported, options)
        return encoder
    if spec.weights is not None:
        options.on_stage("importing its libraries")
    family = get_family(spec)
    # An encoder without weights needs no folder.
    folder = find_folder(spec, family.FILES, options) if spec.weights else None
    if folder is not None:
        options.on_stage("hashing the weights")
    found = identify(spec, folder, family.FILES, options) if folder is not None else Identity(spec)
    if found.refusal is not None and found.is_named:
        raise found.refusal
    # Unknown weights that do not fit: the family's error names the first value or tensor that differs.
    encoder = family.load(found.spec, folder, options)
    if found.refusal is not None:
        raise found.refusal
    return encoder


def identified_spec(spec: EncoderSpec, options: LoadOptions) -> EncoderSpec:
    """Return the record that an encoder will run under: with ``allow_other_weights`` the name may be another.

    :raises EncoderError: when weights are missing or cannot be read.
    """
    if not options.allow_other_weights or spec.weights is None:
        return spec
    if (exported := find_export(spec, options)) is not None:
        return _identify_export(spec, exported, options).spec
    files = get_family(spec).FILES
    return identify(spec, find_folder(spec, files, options), files, options).spec


def _identify_export(spec: EncoderSpec, folder: Path, options: LoadOptions) -> Identity:
    """Compare the weights that an export says it was made from with those that the record's name stands for.

    Who can write the folder can write that statement, too: docs/encoders.md tells what it does not show.
    """
    return identify_hash(spec, folder / MANIFEST, read_export(spec, folder).weights_sha256, options)
