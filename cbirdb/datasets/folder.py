"""Reads a folder with one sub-folder per class. Nested folders become a label path.

``root/XR/chest/Pneumonia/a.png`` has the label ``XR/chest/Pneumonia``. A level named train, val or test (or a usual
variant) is the split and not part of the label. Without such a level, each file's content decides its split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.official_layout import existing_folder
from cbirdb.errors import InputError, OptionError, PixelError
from cbirdb.records import POSITIVE, DatasetItem, Excluded, Failure, ImageRecord, Split

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MODALITIES = {"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "RF", "US", "XA", "XR"}
"""DICOM codes that state the modality if they are the first folder of a label path."""
HIDDEN_FILES = {"thumbs.db", "desktop.ini", "__macosx"}


class FolderReader:
    """Reads a class-per-folder tree."""

    name = "folder"
    title = "one sub-folder per class"
    summary = "class per sub-folder; nested folders become a label path; split from a folder level or by content"
    takes = frozenset({"name", "modality", "anatomic_region", "label_pattern"})

    def recognises(self, path: Path) -> bool:
        """Return False: nothing distinguishes such a folder from any other."""
        return False

    def open(self, path: Path, options: ReadOptions) -> Source:
        root = existing_folder(path, hint="Give the folder that holds the class folders.")
        pattern = _compile(options.label_pattern)
        name = options.name or root.name
        files, unreadable = _walk(root, name, options.allowed)
        if all(_is_hidden(file) for file in files) and not unreadable:
            raise InputError(f"There are no files in {path}.", hint="Give a folder with one sub-folder per class.")
        with_split = any(
            _split_level(PurePosixPath(file).parts[:-1]) is not None for file in files if not _is_hidden(file)
        )

        def items() -> Iterator[DatasetItem]:
            yield from unreadable
            for file in files:
                yield _item(root, file, name, with_split, pattern, options)

        return Source(datasets=(name,), root=root, total=len(files) + len(unreadable), items=items())


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionError(f"The label pattern is not a regular expression: {error}.") from error
    if "label" not in compiled.groupindex:
        raise OptionError(
            "The label pattern has no group named 'label'.", hint=r"For example: '(?P<label>\w+) \(\d+\)'."
        )
    return compiled


def _walk(root: Path, dataset: str, allowed: AllowedRoots) -> tuple[list[str], list[Failure]]:
    """Return all files below ``root`` in a stable order, and the folders that could not be listed."""
    files: list[str] = []
    unreadable: list[Failure] = []

    def refused(error: OSError) -> None:
        folder = Path(error.filename or root)
        name = _printable(folder.relative_to(root).as_posix())
        unreadable.append(Failure(name, "unreadable", error.strerror or "the folder cannot be listed", dataset))

    for folder, folders, names in os.walk(root, onerror=refused, followlinks=True):
        if _is_cycle(Path(folder), root):
            folders.clear()
            continue
        if Path(folder).is_symlink():
            name = Path(folder).relative_to(root).as_posix()
            try:
                allowed.file(str(root), name)
            except PixelError as error:
                unreadable.append(Failure(_printable(name), error.reason, error.message, dataset))
                folders.clear()
                continue
        folders.sort()
        base = Path(folder).relative_to(root)
        files.extend((base / name).as_posix() for name in sorted(names))
    return files, unreadable


def _is_cycle(folder: Path, root: Path) -> bool:
    """Return True if a folder is a link to one of its own parents; following it would never end."""
    return folder.is_symlink() and any(
        folder.samefile(parent) for parent in folder.parents if parent.is_relative_to(root)
    )


def _item(
    root: Path, file: str, dataset: str, with_split: bool, pattern: re.Pattern[str] | None, options: ReadOptions
) -> DatasetItem:
    parts = PurePosixPath(file).parts
    if _is_hidden(file):
        return Excluded(file, "hidden file")
    if _printable(file) != file:
        return Failure(_printable(file), "unreadable", "the file's name is not UTF-8", dataset)
    level = _split_level(parts[:-1])
    if with_split and level is None:
        return Failure(
            file, "unknown split", "other files lie below train, val or test, but this one does not", dataset
        )
    classes = [part for index, part in enumerate(parts[:-1]) if index != level]
    label = _label(file, classes, pattern)
    if pattern is not None and label is None:
        return Failure(file, "no label", "the label pattern does not match this path", dataset)
    modality, region = _modality_and_region(label)
    return ImageRecord(
        dataset=dataset,
        source=file,
        path=root / file,
        split=SPLIT_FOLDERS[parts[level].lower()] if level is not None else None,
        split_by_content=level is None,
        modality=options.modality or modality,
        anatomic_region=options.anatomic_region or region,
        labels={label: POSITIVE} if label else {},
    )


def _printable(file: str) -> str:
    """Return the name with escapes for bytes that are not UTF-8; database text cannot hold them."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _is_hidden(file: str) -> bool:
    return any(part.startswith(".") or part.lower() in HIDDEN_FILES for part in PurePosixPath(file).parts)


def _split_level(folders: Sequence[str]) -> int | None:
    return next((index for index, part in enumerate(folders) if part.lower() in SPLIT_FOLDERS), None)


def _label(file: str, classes: Sequence[str], pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        return "/".join(classes) or None
    match = pattern.search(file)
    return match["label"] if match and match["label"] else None


def _modality_and_region(label: str | None) -> tuple[str | None, str | None]:
    """Return modality and region of a label: ``XR/chest/Pneumonia`` gives (XR, chest).

    A label that does not begin with a modality gives (None, None).
    """
    parts = (label or "").split("/")
    if len(parts) >= 2 and parts[0] in MODALITIES:
        return parts[0], parts[1]
    return None, None
