"""Makes encoders from records. Imports a family's libraries only then."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cbirdb.encoders.base import Encoder, LoadOptions
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import LOADERS, EncoderSpec
from cbirdb.encoders.weights import find_folder, find_weights
from cbirdb.errors import EncoderError, UnknownNameError

FAMILIES = frozenset({*LOADERS.values(), *(spec.family for spec in SHIPPED.values())})
"""Modules of this package that run encoders."""


def get_spec(name: str, added: Mapping[str, EncoderSpec] | None = None) -> EncoderSpec:
    """Return the record of an encoder.

    :param added: further records by name, from a database.
    :raises UnknownNameError: with the nearest known name.
    """
    known = {**(added or {}), **SHIPPED}
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
        raise EncoderError(
            f"The encoder '{spec.name}' needs the Python package '{error.name}', which is not installed.",
            hint="Install cbirdb with its extra 'encoders'. In a clone of it, run: pip install -e '.[encoders]'",
        ) from error


def has_files(spec: EncoderSpec, options: LoadOptions) -> bool:
    """Return True if the encoder's own files are on this machine."""
    files = get_family(spec).FILES
    try:
        find_weights(spec, find_folder(spec, files, options), files)
    except EncoderError:
        return False
    return True


def load_encoder(spec: EncoderSpec, options: LoadOptions) -> Encoder:
    """Load an encoder.

    :raises EncoderError: when its libraries or weights are missing.
    """
    if spec.weights is not None:
        options.on_stage("importing its libraries")
    family = get_family(spec)
    # An encoder without weights needs no folder.
    folder = find_folder(spec, family.FILES, options) if spec.weights else None
    encoder: Encoder = family.load(spec, folder, options)
    return encoder
