"""Reads rows of a plain or gzipped CSV file by column name, with their line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cbirdb.errors import InputError

Row = dict[str, str]


def find_file(folder: Path, *patterns: str) -> Path | None:
    """Return the first file of the folder that matches a pattern, plain or with ``.gz``."""
    for pattern in patterns:
        for name in (pattern, f"{pattern}.gz"):
            if found := sorted(path for path in folder.glob(name) if path.is_file()):
                return found[0]
    return None


def count_rows(path: Path) -> int:
    """Count the lines below the header.

    :raises InputError: when the file cannot be read to its end.
    """
    with reading_to_end(path), _open(path) as lines:
        return max(0, sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b"")) - 1)


def read_rows(
    path: Path, columns: Sequence[str | tuple[str, ...]], *, shown: str | None = None
) -> Iterator[tuple[int, Row]]:
    """Yield line number and row, a dictionary of all columns.

    :param columns: required names. Of a tuple, any one is enough, and the row has it under the first name.
    :param shown: stands for the path in messages, which then show nothing of the file: both may name a patient.
    :raises InputError: when columns are missing or repeated (named in the message), or the file cannot be read to its
        end.
    """
    with reading_to_end(shown or path), _open(path, shown) as raw:
        reader = csv.DictReader(io.TextIOWrapper(raw, "utf-8-sig", newline=""))
        other = _other_names(shown or str(path), list(reader.fieldnames or []), columns, hidden=shown is not None)
        for row in reader:
            values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            for name, found in other.items():
                values[name] = values[found]
            yield reader.line_num, values


@contextmanager
def reading_to_end(shown: Path | str) -> Iterator[None]:
    """Translate read errors into one that names the file.

    :raises InputError: when the file cannot be read to its end.
    """
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise InputError(f"{shown} cannot be read to its end: {error}.", hint="Download it again.") from error


def _open(path: Path, shown: str | None = None) -> IO[bytes]:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise InputError(f"{shown or path} cannot be read: {error.strerror}.") from (None if shown else error)


def _other_names(
    shown: str, header: list[str], columns: Sequence[str | tuple[str, ...]], *, hidden: bool
) -> dict[str, str]:
    """Map the first name of a column with several names to the name that the file uses."""
    choices = [(column,) if isinstance(column, str) else column for column in columns]
    missing = [" or ".join(names) for names in choices if not set(names) & set(header)]
    if missing:
        found = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
        raise InputError(
            f"{shown} has no column {', '.join(missing)}.",
            hint="Name its columns in its first line."
            if hidden
            else f"Its columns are: {found or 'none, it is empty'}.",
        )
    twice = [name for names in choices for name in names if header.count(name) > 1]
    if twice:
        raise InputError(f"{shown} has the column {twice[0]} twice.", hint="Remove or rename one of the two.")
    present = {names[0]: next(name for name in names if name in header) for names in choices}
    return {name: found for name, found in present.items() if name != found}
