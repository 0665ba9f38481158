"""Rows of a CSV file by column name, plain or gzipped, with the line that each stands on."""

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
    """The first file of the folder that fits a pattern, plain or with ``.gz``."""
    for pattern in patterns:
        for name in (pattern, f"{pattern}.gz"):
            if found := sorted(path for path in folder.glob(name) if path.is_file()):
                return found[0]
    return None


def count_rows(path: Path) -> int:
    """Lines below the header.

    :raises InputError: when the file cannot be read to its end.
    """
    with to_its_end(path), _open(path) as lines:
        return max(0, sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b"")) - 1)


def read_rows(path: Path, columns: Sequence[str | tuple[str, ...]]) -> Iterator[tuple[int, Row]]:
    """Line number and row, as a dictionary of the columns that were asked for and of all others there are.

    :param columns: names that must be there; of a tuple any one, and the row has it by the first name.
    :raises InputError: naming columns that are missing or that stand twice, or when the file cannot be read to its end.
    """
    with to_its_end(path), _open(path) as raw:
        reader = csv.DictReader(io.TextIOWrapper(raw, "utf-8-sig", newline=""))
        other = _other_names(path, list(reader.fieldnames or []), columns)
        for row in reader:
            values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
            for name, found in other.items():
                values[name] = values[found]
            yield reader.line_num, values


@contextmanager
def to_its_end(path: Path) -> Iterator[None]:
    """Says which file could not be read.

    :raises InputError: then.
    """
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise InputError(f"{path} cannot be read to its end: {error}.", hint="Fetch it again.") from error


def _open(path: Path) -> IO[bytes]:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _other_names(path: Path, header: list[str], columns: Sequence[str | tuple[str, ...]]) -> dict[str, str]:
    """Of columns with several names: the first name and the one that is there."""
    choices = [(column,) if isinstance(column, str) else column for column in columns]
    missing = [" or ".join(names) for names in choices if not set(names) & set(header)]
    if missing:
        found = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
        raise InputError(
            f"{path} has no column {', '.join(missing)}.",
            hint=f"Its columns are: {found or 'none, it is empty'}.",
        )
    twice = [name for names in choices for name in names if header.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]} twice.", hint="Remove or rename one of the two.")
    present = {names[0]: next(name for name in names if name in header) for names in choices}
    return {name: found for name, found in present.items() if name != found}
