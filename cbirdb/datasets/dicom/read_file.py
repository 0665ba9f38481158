"""Reads one file in a worker process. What it returns holds no name of a person."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from cbirdb.datasets.dicom.files import ZIP_END, ZIP_START, count_members, is_folder, member_name, opened, opened_member
from cbirdb.datasets.dicom.header import read_header
from cbirdb.datasets.dicom.records import Settings, items_of_header
from cbirdb.errors import PixelError
from cbirdb.pixels.dicom.elements import ReadAt
from cbirdb.records import DatasetItem, Excluded, Failure

NOT_DICOM = "not DICOM"


@dataclass(frozen=True, slots=True)
class Task:
    """A file to read."""

    name: bytes
    """Its path below the dataset's folder."""
    member: int | None = None
    """Number of a member, if the file is a zip."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip, with the number of its members."""

    members: int


Outcome: TypeAlias = "list[DatasetItem] | Archive"


def read_file(task: Task, settings: Settings) -> Outcome:
    """Read the header of a file, or of a zip's member; count the members of a zip."""
    path = settings.root / os.fsdecode(task.name)
    source = settings.privacy.source(task.name)
    try:
        if task.member is not None:
            return _read_member(path, task.name, task.member, settings)
        with opened(path) as (read_at, size):
            if read_at(0, 4) in {ZIP_START, ZIP_END}:
                return Archive(count_members(path))
            return _items(read_at, settings, source, path, None, size)
    except PixelError as error:
        reason, detail = error.reason, error.message
    except OSError as error:
        reason, detail = "unreadable", error.strerror or "it cannot be read"
    except MemoryError:
        reason, detail = "too large", "there is not enough memory to read its header"
    return [Failure(source, reason, detail, settings.dataset, path=path)]


def _read_member(path: Path, name: bytes, index: int, settings: Settings) -> list[DatasetItem]:
    member = member_name(path, index)
    source = settings.privacy.source(name, member)
    if is_folder(path, index):
        return []
    try:
        with opened_member(path, index) as (read_at, size):
            if read_at(0, 4) in {ZIP_START, ZIP_END}:
                return [Excluded(source, "a zip inside a zip")]
            return _items(read_at, settings, source, path, member, size)
    except PixelError as error:
        return [Failure(source, error.reason, error.message, settings.dataset, path=path, member=member)]


def _items(
    read_at: ReadAt, settings: Settings, source: str, path: Path, member: str | None, size: int
) -> list[DatasetItem]:
    header = read_header(read_at)
    if header is None:
        return [Excluded(source, NOT_DICOM if size else "empty file")]
    return [
        replace(item, path=path, member=member) if isinstance(item, Failure) else item
        for item in items_of_header(header, settings, source, path, member, size)
    ]
