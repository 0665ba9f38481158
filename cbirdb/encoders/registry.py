"""From a record to an encoder that runs. A family's libraries are imported only then."""

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
    """The record of an encoder.

    :param added: further records by name, of a database.
    :raises UnknownNameError: with the nearest known name.
    """
    known = {**(added or {}), **SHIPPED}
    try:
        return known[name]
    except KeyError:
        raise UnknownNameError("encoder", name, list(known)) from None


def get_family(spec: EncoderSpec) -> Any:
    """The module that runs the encoder.

    :raises EncoderError: when its libraries are not installed.
    """
    if spec.family not in FAMILIES:
        # A record may come from a database, which says what is computed but not which code runs.
        raise EncoderError(
            f"The encoder '{spec.name}' names a family that there is not.",
            hint=f"Known: {', '.join(sorted(FAMILIES))}.",
        )
    try:
        return import_module(f"cbirdb.encoders.{spec.family}")
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"The encoder '{spec.name}' needs the Python package '{error.name}', which is not installed.",
            hint="Install cbirdb with its extra 'encoders'; in a clone of it: pip install -e '.[encoders]'",
        ) from error


def is_here(spec: EncoderSpec, options: LoadOptions) -> bool:
    """Whether the encoder's own files are on this machine."""
    files = get_family(spec).FILES
    try:
        find_weights(spec, find_folder(spec, files, options), files)
    except EncoderError:
        return False
    return True


def load_encoder(spec: EncoderSpec, options: LoadOptions) -> Encoder:
    """Make an encoder ready to run.

    :raises EncoderError: when its libraries or weights cannot be had.
    """
    family = get_family(spec)
    # What needs no weights needs no folder.
    folder = find_folder(spec, family.FILES, options) if spec.weights else None
    encoder: Encoder = family.load(spec, folder, options)
    return encoder
