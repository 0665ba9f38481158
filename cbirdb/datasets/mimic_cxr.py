"""Reads MIMIC-CXR-JPG as downloaded.

Johnson et al., "MIMIC-CXR-JPG", PhysioNet 2019. Three tables hold the split of each image, the metadata of each image,
and the labels of each study. The images are ``files/p10/p10000032/s50414267/<dicom_id>.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.chexpert import OBSERVATIONS
from cbirdb.datasets.csv_rows import Row, count_rows, find_file, read_rows
from cbirdb.datasets.official_layout import existing_folder, first_problem, label_values, require_file
from cbirdb.records import DatasetItem, Failure, ImageRecord, Missing, Patient, Split, Study

SPLIT_TABLE, LABEL_TABLE, METADATA_TABLE = (
    "mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-chexpert.csv", "mimic-cxr-2.0.0-metadata.csv",
)  # fmt: skip
SPLITS: dict[str, Split] = {"train": "train", "validate": "val", "test": "test"}
Labels = dict[str, int] | str
"""Labels of a study, or a string that describes the first wrong one."""


class MimicCxrReader:
    """Reads the whole dataset or a part of its images."""

    name = "mimic-cxr"
    summary = "MIMIC-CXR-JPG: mimic-cxr-2.0.0-{split,chexpert,metadata}.csv.gz, files/p*/"
    takes = frozenset({"name", "images", "labels_only"})
    title = "MIMIC-CXR-JPG"

    def recognises(self, path: Path) -> bool:
        return find_file(path, SPLIT_TABLE) is not None

    def open(self, path: Path, options: ReadOptions) -> Source:
        folder = existing_folder(path)
        split_table, label_table, metadata_table = (
            require_file(self, folder, find_file(folder, name), f"{name}.gz")
            for name in (SPLIT_TABLE, LABEL_TABLE, METADATA_TABLE)
        )
        images = options.images.resolve() if options.images is not None else folder
        name = options.name or self.name

        def items() -> Iterator[DatasetItem]:
            labels = _labels_of_studies(label_table)
            metadata = {
                row["dicom_id"]: (row["ViewPosition"], row["StudyDate"])
                for _, row in read_rows(metadata_table, ("dicom_id", "ViewPosition", "StudyDate"))
            }
            for line, row in read_rows(split_table, ("dicom_id", "study_id", "subject_id", "split")):
                view, day = metadata.get(row["dicom_id"], ("", ""))
                found = labels.get((row["subject_id"], row["study_id"]), {})
                yield _item(row, line, name, found, view, day, None if options.labels_only else images)

        root = None if options.labels_only else images
        return Source((name,), root, count_rows(split_table), items(), (str(split_table),), tells_patients=True)


def _labels_of_studies(table: Path) -> dict[tuple[str, str], Labels]:
    labels: dict[tuple[str, str], Labels] = {}
    for line, row in read_rows(table, ("subject_id", "study_id", *OBSERVATIONS)):
        values, wrong = label_values(row, OBSERVATIONS)
        labels[row["subject_id"], row["study_id"]] = f"{wrong} in line {line} of {table.name}" if wrong else values
    return labels


def _item(row: Row, line: int, dataset: str, labels: Labels, view: str, day: str, images: Path | None) -> DatasetItem:
    subject, study, dicom = row["subject_id"], row["study_id"], row["dicom_id"]
    source = f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"
    problem = first_problem(
        (not subject.isdecimal() or not study.isdecimal(), "subject_id or study_id is not a number"),
        (not dicom or "/" in dicom or ".." in dicom, f"dicom_id is '{dicom[:80]}'"),
        (row["split"] not in SPLITS, f"split is '{row['split'][:20]}'"),
        (isinstance(labels, str), str(labels)),
        (bool(day) and _day(day) is None, f"StudyDate is '{day[:20]}'"),
    )
    if problem is not None or isinstance(labels, str):
        return Failure(source[:500], "impossible value", str(problem), dataset, line)
    if images is not None and not (images / source).is_file():
        return Missing(source, "not on disk")
    return ImageRecord(
        dataset=dataset,
        source=source,
        path=images / source if images is not None else None,
        split=SPLITS[row["split"]],
        modality="XR",
        anatomic_region="chest",
        labels={f"XR/chest/{name}": value for name, value in labels.items()},
        patient=Patient(subject),
        study=Study(study, _day(day)),
        view=view or None,
    )


def _day(text: str) -> date | None:
    """Parse a date: ``21800506`` is 6 May 2180.

    MIMIC shifts each patient's dates by another span into the future.
    """
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        return None
