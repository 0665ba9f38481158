"""Reads CheXpert as downloaded, at either size.

Irvin et al., "CheXpert", AAAI 2019. ``train.csv`` and ``valid.csv`` name the images by a path that begins with the
folder's own name (``CheXpert-v1.0/`` or ``CheXpert-v1.0-small/``). They value 14 observations 1, 0, -1 (uncertain) or
blank (not mentioned). Columns are read by name, since some files swap them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.csv_rows import Row, count_rows, find_file, read_rows
from cbirdb.datasets.official_layout import existing_folder, first_problem, label_values, require_file
from cbirdb.errors import InputError
from cbirdb.records import DatasetItem, Failure, ImageRecord, Missing, Patient, Split, Study

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
TABLES: tuple[tuple[str, Split], ...] = (("train.csv", "train"), ("valid.csv", "val"))
"""Each file and its official split."""
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)
SEXES = {"Male": "M", "Female": "F", "Unknown": None}
STUDY_PATH = re.compile(r"(?:^|/)(patient\d+)/(study\d+)/[^/]+$")


class ChexpertReader:
    """Reads the whole dataset or a part of its images."""

    name = "chexpert"
    summary = "CheXpert (full or small): train.csv, valid.csv, train/patient*/study*/"
    takes = frozenset({"name", "images", "labels_only"})
    title = "CheXpert"

    def recognises(self, path: Path) -> bool:
        table = find_file(path, TABLES[0][0])
        if table is None:
            return False
        try:
            _, row = next(read_rows(table, ("Path",)))
        except (StopIteration, InputError):  # another dataset's train.csv
            return False
        return STUDY_PATH.search(row["Path"]) is not None

    def open(self, path: Path, options: ReadOptions) -> Source:
        folder = existing_folder(path)
        tables = [(require_file(self, folder, find_file(folder, TABLES[0][0]), TABLES[0][0]), TABLES[0][1])]
        if (valid := find_file(folder, TABLES[1][0])) is not None:
            tables.append((valid, TABLES[1][1]))
        images = options.images.resolve() if options.images is not None else folder
        name = options.name or self.name

        def items() -> Iterator[DatasetItem]:
            for table, split in tables:
                for line, row in read_rows(table, COLUMNS):
                    yield _item(row, line, name, split, None if options.labels_only else images)

        total = sum(count_rows(table) for table, _ in tables)
        root = None if options.labels_only else images
        return Source((name,), root, total, items(), tuple(str(table) for table, _ in tables), tells_patients=True)


def _item(row: Row, line: int, dataset: str, split: Split, images: Path | None) -> DatasetItem:
    # The first folder of the path is the dataset's own, whatever its name on this disk.
    source = PurePosixPath(row["Path"]).as_posix()
    below = source.partition("/")[2] if source.startswith("CheXpert-v1.0") else source
    study = STUDY_PATH.search(below)
    labels, wrong = label_values(row, OBSERVATIONS)
    problem = first_problem(
        (study is None or ".." in PurePosixPath(below).parts, f"Path is '{source[:80]}'"),
        (row["Sex"] not in SEXES, f"Sex is '{row['Sex'][:20]}'"),
        (not re.fullmatch(r"\d{1,3}(\.0)?", row["Age"]), f"Age is '{row['Age'][:20]}'"),
        (wrong is not None, str(wrong)),
    )
    if problem is not None or study is None:
        return Failure(source[:500] or f"line {line}", "impossible value", str(problem), dataset, line)
    if images is not None and not (images / below).is_file():
        return Missing(below, "not on disk")
    view = " ".join(part for part in (row["Frontal/Lateral"], row["AP/PA"]) if part)
    return ImageRecord(
        dataset=dataset,
        source=below,
        path=images / below if images is not None else None,
        split=split,
        modality="XR",
        anatomic_region="chest",
        labels={f"XR/chest/{name}": value for name, value in labels.items()},
        patient=Patient(study[1], SEXES[row["Sex"]]),
        study=Study(study[2], age_years=int(float(row["Age"]))),
        view=view or None,
    )
