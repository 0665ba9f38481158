"""What the readers of official layouts share: finding their files, and checking rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cbirdb.datasets.base import DatasetReader
from cbirdb.errors import InputError

UNPACKED = "Give the folder that the dataset was unpacked into."


def existing_folder(path: Path, *, hint: str = UNPACKED) -> Path:
    """The folder, absolute.

    :param hint: what to do when a file was given.
    :raises InputError: when there is none.
    """
    if not path.exists():
        raise InputError(f"There is no folder {path}.", hint="Check the path.")
    if not path.is_dir():
        raise InputError(f"{path} is a file, not a folder.", hint=hint)
    return path.resolve()


def require(reader: DatasetReader, folder: Path, found: Path | None, wanted: str) -> Path:
    """The file, once it is known to be there.

    :raises InputError: naming what is missing.
    """
    if found is None:
        raise InputError(
            f"{folder} is not {reader.title}, or not all of it: there is no {wanted}.",
            hint="Give the folder that holds that file.",
        )
    return found


def first_problem(*checks: tuple[bool, str]) -> str | None:
    """The description of the first check that is true: for which a row cannot be an image."""
    return next((problem for wrong, problem in checks if wrong), None)


LABEL_VALUES = {
    "": None, "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1,
}  # fmt: skip


def label_values(row: Mapping[str, str], names: Sequence[str]) -> tuple[dict[str, int], str | None]:
    """The labels that a row mentions, 1, 0 or -1; and what is wrong with the first that is none of these."""
    values = {}
    for name in names:
        cell = row[name]
        if cell not in LABEL_VALUES:
            return {}, f"{name} is '{cell[:20]}'"
        if (value := LABEL_VALUES[cell]) is not None:
            values[name] = value
    return values, None
