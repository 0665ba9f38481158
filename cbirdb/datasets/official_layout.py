"""Finds the files of official layouts and checks their rows, for all their readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cbirdb.datasets.base import DatasetReader
from cbirdb.errors import InputError

UNPACKED = "Give the folder of the unpacked dataset."


def existing_folder(path: Path, *, hint: str = UNPACKED) -> Path:
    """Return the folder, absolute.

    :param hint: advice if the path is a file.
    :raises InputError: when there is no such folder.
    """
    if not path.exists():
        raise InputError(f"There is no folder {path}.", hint="Check the path.")
    if not path.is_dir():
        raise InputError(f"{path} is a file, not a folder.", hint=hint)
    return path.resolve()


def require_file(reader: DatasetReader, folder: Path, found: Path | None, wanted: str) -> Path:
    """Return the file if it was found.

    :raises InputError: when it is missing; the message names it.
    """
    if found is None:
        raise InputError(
            f"{folder} is not {reader.title}, or is incomplete: there is no {wanted}.",
            hint="Give the folder that holds that file.",
        )
    return found


def first_problem(*checks: tuple[bool, str]) -> str | None:
    """Return the description of the first check that is true, the reason why a row cannot be an image."""
    return next((problem for wrong, problem in checks if wrong), None)


LABEL_VALUES = {
    "": None, "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1,
}  # fmt: skip


def label_values(row: Mapping[str, str], names: Sequence[str]) -> tuple[dict[str, int], str | None]:
    """Return the labels that a row mentions (1, 0 or -1), and a description of the first value that is none of
    these.
    """
    values = {}
    for name in names:
        cell = row[name]
        if cell not in LABEL_VALUES:
            return {}, f"{name} is '{cell[:20]}'"
        if (value := LABEL_VALUES[cell]) is not None:
            values[name] = value
    return values, None
