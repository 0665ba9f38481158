"""Reads RadImageNet as downloaded.

Mei et al., "RadImageNet", Radiology: Artificial Intelligence 4(5), 2022. Three lists,
``RadiologyAI_{train,val,test}.csv``, have a column ``filename`` such as
``radiology_ai/CT/lung/normal/lung-normal000032.png``. The label is the folders below the first. Ultrasound has no level
for the finding: ``US/liver/usn053022.png`` is ``US/liver/normal``, ``US/thyroid_nodule/...`` is ``US/thyroid/nodule``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.csv_rows import count_rows, find_file, read_rows
from cbirdb.datasets.official_layout import existing_folder, first_problem, require_file
from cbirdb.records import POSITIVE, DatasetItem, Failure, ImageRecord, Missing, Split

LISTS: tuple[tuple[str, Split], ...] = (
    ("RadiologyAI_train.csv", "train"),
    ("RadiologyAI_val.csv", "val"),
    ("RadiologyAI_test.csv", "test"),
)
TOP = "radiology_ai"
MODALITIES = {"CT", "MR", "US"}


class RadImageNetReader:
    """Reads the whole dataset or a part of its images."""

    name = "radimagenet"
    summary = "RadImageNet: RadiologyAI_{train,val,test}.csv, radiology_ai/CT|MR|US/"
    takes = frozenset({"name", "images", "labels_only"})
    title = "RadImageNet"

    def recognises(self, path: Path) -> bool:
        return find_file(path, "RadiologyAI_*.csv") is not None

    def open(self, path: Path, options: ReadOptions) -> Source:
        folder = existing_folder(path)
        lists = [(require_file(self, folder, find_file(folder, name), name), split) for name, split in LISTS]
        images = options.images.resolve() if options.images is not None else folder
        # The given folder may itself be the folder of the images.
        images = images.parent if images.name == TOP and not (images / TOP).is_dir() else images
        name = options.name or self.name

        def items() -> Iterator[DatasetItem]:
            for table, split in lists:
                for line, row in read_rows(table, ("filename",)):
                    yield _item(row["filename"], line, name, split, None if options.labels_only else images)

        total = sum(count_rows(table) for table, _ in lists)
        root = None if options.labels_only else images
        return Source((name,), root, total, items(), tuple(str(table) for table, _ in lists))


def _item(filename: str, line: int, dataset: str, split: Split, images: Path | None) -> DatasetItem:
    parts = PurePosixPath(filename).parts
    folders = parts[1:-1]
    problem = first_problem(
        (not filename, "filename is empty"),
        (".." in parts or filename.startswith("/"), f"filename is '{filename[:80]}'"),
        (
            len(folders) < 2 or folders[0] not in MODALITIES,
            f"filename is '{filename[:80]}', without modality and region",
        ),
    )
    if problem is not None:
        return Failure(filename[:500] or f"line {line}", "impossible value", problem, dataset, line)
    if images is not None and not (images / filename).is_file():
        return Missing(filename, "not on disk")
    label = label_of(folders)
    return ImageRecord(
        dataset=dataset,
        source=filename,
        path=images / filename if images is not None else None,
        split=split,
        modality=label[0],
        anatomic_region=label[1],
        labels={"/".join(label): POSITIVE},
    )


def label_of(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return modality, region and finding of an image in these folders."""
    if len(folders) > 2:
        return folders
    modality, region = folders
    if region == "thyroid_nodule":
        return modality, "thyroid", "nodule"
    return modality, region, "normal"
