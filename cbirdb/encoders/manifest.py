"""Reads and writes the list that a download leaves in its folder: the files, their SHA-256, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cbirdb.encoders.base import hash_files
from cbirdb.errors import EncoderError

MANIFEST = "cbirdb-weights.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The list of one encoder's folder."""

    encoder: str
    commits: Mapping[str, str]
    """Repository -> commit, or address -> SHA-256."""
    files: Mapping[str, str]
    """File, relative to the folder -> SHA-256."""


def read_manifest(folder: Path) -> Manifest | None:
    """Return a folder's list, or None if it has none, because something else filled the folder.

    :raises EncoderError: when the list cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
        return Manifest(str(stored["encoder"]), dict(stored["commits"].items()), dict(stored["files"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"The list {path} is damaged.", hint="Fetch the encoder again.") from error


def write_manifest(folder: Path, encoder: str, commits: Mapping[str, str]) -> Manifest:
    """Write the list of the files that a folder holds."""
    manifest = Manifest(encoder, dict(commits), {name: hash_files([folder / name]) for name in listed_files(folder)})
    stored = {"encoder": manifest.encoder, "commits": manifest.commits, "files": manifest.files}
    (folder / MANIFEST).write_text(json.dumps(stored, indent=1) + "\n")
    return manifest


def listed_files(folder: Path) -> list[str]:
    """Return the files that belong into the list of a folder, relative to it."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if not _is_beside(name))


def _is_beside(path: Path) -> bool:
    """Return True for the list itself, the hub library's notes, and the rest of a killed download."""
    return ".cache" in path.parts or path.name == MANIFEST or path.suffix == ".partial"


def changed_files(folder: Path) -> tuple[int, list[str]] | None:
    """Return the number of files in the list, and those that are missing or differ from their checksum.

    Return None if the folder has no list.

    :raises EncoderError: when the list cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    files = manifest.files
    bad = [name for name in files if not (folder / name).is_file() or hash_files([folder / name]) != files[name]]
    return len(files), bad
