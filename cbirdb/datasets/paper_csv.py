"""Reads the CSV files that the paper's authors publish, one per dataset.

Columns are ``filepath,dataset,split,modality,anatomic_region``, then one 0/1 column per label path. Files differ in
their label columns. The images are optional. With ``--images DIR`` each ``filepath`` is a path below DIR. Without it
the rows alone are ingested, ready for ``import-embeddings``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.errors import InputError
from cbirdb.names import LONGEST_NAME
from cbirdb.records import NEGATIVE, SPLITS, DatasetItem, Failure, ImageRecord, Split

COLUMNS = ("filepath", "dataset", "split", "modality", "anatomic_region")
ZEROS = frozenset(("0", "0.0", ""))
"""The usual spellings of nearly all of the up to 185 label cells of a row. Parsing other spellings is slower."""
Row: TypeAlias = dict[str | None, str | None]
SPLIT_NAMES: dict[str, Split] = {split: split for split in SPLITS} | {
    "validate": "val",
    "valid": "val",
    "validation": "val",
}


class PaperCsvReader:
    """Reads one CSV file or a folder of them."""

    name = "paper-csv"
    title = "the paper's CSV files"
    summary = "the paper's published CSV files: filepath, dataset, split, modality, anatomic_region, 0/1 per label"
    takes = frozenset({"name", "images", "labels_only", "modality", "anatomic_region"})

    def recognises(self, path: Path) -> bool:
        """Return True if the first CSV file begins with the paper's columns."""
        files = sorted(path.glob("*.csv")) or sorted(path.glob("datasets/*.csv"))
        if not files:
            return False
        try:
            with files[0].open(encoding="utf-8-sig") as lines:
                return lines.readline(1000).startswith(",".join(COLUMNS))
        except (OSError, UnicodeDecodeError):
            return False

    def open(self, path: Path, options: ReadOptions) -> Source:
        files = _csv_files(path)
        images = None if options.labels_only else options.images
        if images is not None and not images.is_dir():
            raise InputError(f"There is no folder {images}.", hint="Check --images.")
        root = images.resolve() if images is not None else None
        total = sum(_count_rows(file) for file in files)
        if total == 0:
            raise InputError(f"There are no rows in {path}.")

        def items() -> Iterator[DatasetItem]:
            for file in files:
                yield from _read_file(file, root, options)

        return Source(
            datasets=(),
            root=root,
            total=total,
            items=items(),
            lists=tuple(map(str, files)),
            list_folder=files[0].parent if path.is_dir() else None,
        )


def _csv_files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.", hint="Check the path.")
    path = path.resolve()
    if path.is_file():
        return [path]
    # The authors' download keeps the CSV files in a folder of this name beside the embeddings.
    folder = path / "datasets" if (path / "datasets").is_dir() else path
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(f"There are no CSV files in {folder}.", hint="Give a CSV file or the folder that holds them.")
    return files


def _count_rows(file: Path) -> int:
    """Count the lines below the header; at least 1, so that an empty file is still reported."""
    try:
        with file.open("rb") as lines:
            return max(1, sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b"")) - 1)
    except OSError:
        return 1


def _read_file(file: Path, root: Path | None, options: ReadOptions) -> Iterator[DatasetItem]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            header = reader.fieldnames or []
            missing = [column for column in COLUMNS if column not in header]
            if any("\0" in column for column in header):
                yield Failure(str(file), "wrong characters", "the header holds a NUL character")
                return
            repeated = sorted({column for column in header if header.count(column) > 1})
            if repeated or any(map(_is_long, header)):
                detail = f"the column {repeated[0]} stands twice" if repeated else "a column's name is too long"
                yield Failure(str(file), "wrong columns", detail)
                return
            if missing:
                yield Failure(str(file), "wrong columns", _missing_columns(missing, list(header)))
                return
            labels = [column for column in header if column not in COLUMNS and column]
            row = None
            for row in reader:
                yield _item(row, reader.line_num, labels, root, options)
            if row is None:
                yield Failure(str(file), "no rows", "the file has a header and no rows")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield Failure(str(file), "unreadable", f"the rest of the file was not read: {error}")


def _missing_columns(missing: list[str], header: list[str]) -> str:
    found = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    return f"no column {', '.join(missing)}; found: {found or 'an empty file'}"


def _item(row: Row, line: int, labels: list[str], root: Path | None, options: ReadOptions) -> DatasetItem:
    source = (row["filepath"] or "").strip()
    dataset = options.name or (row["dataset"] or "").strip()
    if problem := _row_problem(row, source, dataset):
        # Show the text with an escape if it cannot be stored.
        printable = source[:500].replace("\0", "\\0") or "(no filepath)"
        known = dataset if dataset and "\0" not in dataset and not _is_long(dataset) else None
        return Failure(printable, *problem, known, line)
    values: dict[str, int] = {}
    for label in labels:
        cell = row[label]
        if cell in ZEROS:  # a zero says only that the column may belong to another dataset
            continue
        value = _label_value((cell or "").strip())
        if value is None:
            return Failure(source, "wrong label value", f"'{cell}' in column {label}", dataset, line)
        if value != NEGATIVE:
            values[label] = value
    return ImageRecord(
        dataset=dataset,
        source=source,
        path=root / source if root is not None else None,
        split=SPLIT_NAMES[(row["split"] or "").strip().lower()],
        modality=options.modality or (row["modality"] or "").strip() or None,
        anatomic_region=options.anatomic_region or (row["anatomic_region"] or "").strip() or None,
        labels=values,
    )


def _row_problem(row: Row, source: str, dataset: str) -> tuple[str, str] | None:
    """Return the reason and the detail why a row cannot be an image, apart from its labels."""
    split = (row["split"] or "").strip()
    path = Path(source)
    problems = (
        (any("\0" in (row[column] or "") for column in COLUMNS), "wrong characters", "a NUL character"),
        (None in row, "wrong columns", "the row has more fields than the header"),
        (None in row.values(), "wrong columns", "the row has fewer fields than the header"),
        (not source or not dataset, "incomplete row", "filepath or dataset is empty"),
        (_is_long(source) or _is_long(dataset), "too long", f"filepath or dataset beyond {LONGEST_NAME:,} bytes"),
        (path.is_absolute() or ".." in path.parts, "wrong path", "the filepath leads out of the folder of images"),
        (split.lower() not in SPLIT_NAMES, "unknown split", f"'{split[:50]}' is not train, val or test"),
    )
    return next(((reason, detail) for found, reason, detail in problems if found), None)


def _is_long(text: str) -> bool:
    return len(text.encode()) > LONGEST_NAME


def _label_value(cell: str) -> int | None:
    """Return -1, 0 or 1, in any spelling; None for anything else."""
    try:
        number = float(cell or 0)
    except ValueError:
        return None
    return int(number) if number in {-1.0, 0.0, 1.0} else None
