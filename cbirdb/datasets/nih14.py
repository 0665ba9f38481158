"""Reads NIH ChestX-ray14 as downloaded.

Wang et al., "ChestX-ray8", CVPR 2017. One table lists all images (``Data_Entry_2017*.csv``). Its releases differ in the
name of the sex column and in the form of ages, and one ends its lines with a comma. Two lists split the images into
training and testing. The images lie in ``images/`` or in ``images_001/images/`` to ``images_012/images/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.csv_rows import Row, count_rows, find_file, read_rows, reading_to_end
from cbirdb.datasets.official_layout import existing_folder, first_problem, require_file
from cbirdb.records import POSITIVE, DatasetItem, Failure, ImageRecord, Missing, Patient, Split, Study

TABLE = "Data_Entry_2017*.csv"
TRAIN_VAL, TEST = "train_val_list.txt", "test_list.txt"
COLUMNS = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", ("Patient Sex", "Patient Gender"),
    "View Position",
)  # fmt: skip
RENAMED = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
"""Names of findings in the paper and in the other chest datasets."""
OLDEST = 120
"""Highest plausible age in years. Higher ages in the table (411 to 414) are known typing errors: those ages are
unknown.
"""


class Nih14Reader:
    """Reads the whole dataset or a part of its images."""

    name = "nih14"
    summary = "NIH ChestX-ray14: Data_Entry_2017*.csv, train_val_list.txt, test_list.txt, images*/"
    takes = frozenset({"name", "images", "labels_only"})
    title = "NIH ChestX-ray14"

    def recognises(self, path: Path) -> bool:
        return find_file(path, TABLE) is not None

    def open(self, path: Path, options: ReadOptions) -> Source:
        root = existing_folder(path)
        table = require_file(self, root, find_file(root, TABLE), TABLE)
        splits = {
            **_listed(require_file(self, root, find_file(root, TRAIN_VAL), TRAIN_VAL), "train"),
            **_listed(require_file(self, root, find_file(root, TEST), TEST), "test"),
        }
        images = options.images.resolve() if options.images is not None else root
        files = {} if options.labels_only else _image_files(images)
        name = options.name or self.name

        def items() -> Iterator[DatasetItem]:
            for line, row in read_rows(table, COLUMNS):
                yield _item(row, line, name, splits, None if options.labels_only else files, images)

        return Source(
            (name,),
            None if options.labels_only else images,
            count_rows(table),
            items(),
            (str(table),),
            tells_patients=True,
            names_tell_images=True,
        )


def _listed(path: Path, split: Split) -> dict[str, Split]:
    with reading_to_end(path):
        return {name.strip(): split for name in path.read_text("utf-8-sig").splitlines() if name.strip()}


def _image_files(root: Path) -> dict[str, str]:
    """Map each image's file name to its path below the root."""
    files: dict[str, str] = {}
    for folder in (root, *sorted(path for path in root.glob("images*") if path.is_dir())):
        for place in (folder, folder / "images"):
            if place != root and place.is_dir():
                base = place.relative_to(root).as_posix()
                files |= {entry.name: f"{base}/{entry.name}" for entry in os.scandir(place) if entry.is_file()}
    return files


def _item(
    row: Row, line: int, dataset: str, splits: dict[str, Split], files: dict[str, str] | None, root: Path
) -> DatasetItem:
    image = row["Image Index"]
    findings = [finding.strip() for finding in row["Finding Labels"].split("|")]
    age = re.fullmatch(r"0*(\d+)Y?", row["Patient Age"])
    problem = first_problem(
        (not image, "Image Index is empty"),
        (not all(findings), "Finding Labels is empty or has an empty part"),
        (not row["Patient ID"], "Patient ID is empty"),
        (age is None, f"Patient Age is '{row['Patient Age'][:20]}'"),
        (row["Patient Sex"] not in {"F", "M"}, f"Patient Sex is '{row['Patient Sex'][:20]}'"),
        (not row["Follow-up #"].isdecimal(), f"Follow-up # is '{row['Follow-up #'][:20]}'"),
    )
    if problem is not None:
        return Failure(image[:500] or f"line {line}", "impossible value", problem, dataset, line)
    if files is not None and image not in files:
        return Missing(image, "not on disk")
    years = int(age[1]) if age is not None else 0
    source = files[image] if files is not None else image
    return ImageRecord(
        dataset=dataset,
        source=source,
        path=root / source if files is not None else None,
        split=splits.get(image),
        modality="XR",
        anatomic_region="chest",
        labels={f"XR/chest/{RENAMED.get(finding, finding)}": POSITIVE for finding in findings},
        patient=Patient(row["Patient ID"], row["Patient Sex"]),
        study=Study(row["Follow-up #"], age_years=years if years <= OLDEST else None),
        view=row["View Position"] or None,
    )
