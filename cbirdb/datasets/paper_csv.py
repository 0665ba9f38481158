"""The CSV files that the paper's authors publish, one per dataset.

Columns ``filepath,dataset,split,modality,anatomic_region``, then one 0/1 column per label path; different files
have different label columns. The images need not be there: with ``--images DIR`` each ``filepath`` is looked for
below DIR, without it the rows alone are ingested, ready for ``import-embeddings``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.errors import InputError
from cbirdb.records import POSITIVE, SPLITS, DatasetItem, Failure, ImageRecord, Split

COLUMNS = ("filepath", "dataset", "split", "modality", "anatomic_region")
SPLIT_NAMES: dict[str, Split] = {split: split for split in SPLITS} | {
    "validate": "val",
    "valid": "val",
    "validation": "val",
}


class PaperCsvReader:
    """Reads one CSV file or a folder of them."""

    name = "paper-csv"
    summary = "the paper's published CSV files: filepath, dataset, split, modality, anatomic_region, 0/1 per label"

    def open(self, path: Path, options: ReadOptions) -> Source:
        files = _csv_files(path)
        images = options.images
        if images is not None and not images.is_dir():
            raise InputError(f"There is no folder {images}.", hint="Check --images.")
        root = images.resolve() if images is not None else None
        total = sum(_count_rows(file) for file in files)
        if total == 0:
            raise InputError(f"There are no rows in {path}.")

        def items() -> Iterator[DatasetItem]:
            for file in files:
                yield from _read_file(file, root, options)

        return Source(datasets=(), root=root, total=total, items=items())


def _csv_files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.", hint="Check the path.")
    if path.is_file():
        return [path]
    # The authors' download keeps the CSV files in a folder of this name beside the embeddings.
    folder = path / "datasets" if (path / "datasets").is_dir() else path
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(f"There are no CSV files in {folder}.", hint="Give a CSV file or the folder that holds them.")
    return files


def _count_rows(file: Path) -> int:
    """Lines below the header; at least 1, so that a file without any is still reported."""
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
            if missing:
                yield Failure(file.name, "wrong columns", _missing_columns(missing, list(header)))
                return
            labels = [column for column in header if column not in COLUMNS and column]
            for row in reader:
                yield _item(row, reader.line_num, labels, root, options)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        yield Failure(file.name, "unreadable", f"the rest of the file was not read: {error}")


def _missing_columns(missing: list[str], header: list[str]) -> str:
    found = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    return f"no column {', '.join(missing)}; found: {found or 'an empty file'}"


def _item(
    row: dict[str | None, str | None], line: int, labels: list[str], root: Path | None, options: ReadOptions
) -> DatasetItem:
    source = (row["filepath"] or "").strip()
    dataset = options.name or (row["dataset"] or "").strip()
    if not source or not dataset:
        return Failure(
            source or "(no filepath)", "incomplete row", "filepath or dataset is empty", dataset or None, line
        )
    if None in row:
        return Failure(source, "wrong columns", "the row has more fields than the header", dataset, line)
    split = SPLIT_NAMES.get((row["split"] or "").strip().lower())
    if split is None:
        return Failure(source, "unknown split", f"'{row['split']}' is not train, val or test", dataset, line)
    values: dict[str, int] = {}
    for label in labels:
        cell = (row[label] or "").strip()
        if cell in {"1.0", "1"}:
            values[label] = POSITIVE
        elif cell not in {"0.0", "0", ""}:
            number = _label_value(cell)
            if number is None:
                return Failure(source, "wrong label value", f"'{cell}' in column {label}", dataset, line)
            if number:
                values[label] = number
    return ImageRecord(
        dataset=dataset,
        source=source,
        path=root / source if root is not None else None,
        split=split,
        modality=(row["modality"] or "").strip() or None,
        anatomic_region=(row["anatomic_region"] or "").strip() or None,
        labels=values,
    )


def _label_value(cell: str) -> int | None:
    """-1, 0 or 1, however it is written; None for anything else."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number in {-1.0, 0.0, 1.0} else None
