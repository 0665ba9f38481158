"""What a dataset reader is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.records import DatasetItem


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user may say about a dataset beside where it is."""

    name: str | None = None
    """The dataset's name; None: the reader knows or makes one."""
    images: Path | None = None
    """The folder that the images lie in, where that is not the dataset's own."""
    modality: str | None = None
    anatomic_region: str | None = None
    labels_only: bool = False
    """Take what the lists say, and leave the images alone: for ``import-embeddings``."""
    label_pattern: str | None = None
    """Regular expression with a group ``label``, matched against the path below the folder."""
    allowed: AllowedRoots = field(default=AllowedRoots(), metadata={"for_every_reader": True})
    """Where symbolic links may lead."""


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset that was found at a path: what it is called, how much there is, and the way to read it."""

    datasets: tuple[str, ...]
    """Names of the datasets whose images it holds, as far as they are known before reading."""
    root: Path | None
    """Folder that ``ImageRecord.source`` is relative to; None without images."""
    total: int
    """Number of items that ``items`` will yield."""
    items: Iterator[DatasetItem]
    lists: tuple[str, ...] = ()
    """Files that name the images (CSV files), as a ``Failure`` of such a file would name it."""
    tells_patients: bool = False
    """Whether records name patients, for whose pseudonyms a key is needed."""
    list_folder: Path | None = None
    """Folder all of whose lists are read; None: a list that was read earlier may be there still."""
    names_tell_images: bool = False
    """Whether a file's name alone tells which image it is, so that the same name in another folder is the same image."""


class DatasetReader(Protocol):
    """Understands one layout of files on disk. Yields records; touches neither pixels nor the database."""

    name: str
    """What the command line calls it."""
    summary: str
    """One line for ``cbirdb datasets list``."""
    title: str
    """What it reads, as a sentence names it."""
    takes: frozenset[str]
    """The fields of ``ReadOptions`` that it looks at; the others are refused, where they are given."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder is clearly of this layout; False where nothing tells."""

    def open(self, path: Path, options: ReadOptions) -> Source:
        """Look at ``path`` and return what it holds.

        :raises InputError: when it is not there, is empty, or is not of this layout.
        """
