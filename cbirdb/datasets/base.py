"""Defines a dataset reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.pseudonyms import Pseudonyms
from cbirdb.records import DatasetItem


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The facts about a dataset that a user may state beside its path."""

    name: str | None = None
    """The dataset's name. None: the reader knows or makes one."""
    images: Path | None = None
    """The folder that holds the images, if it is not the dataset's own."""
    modality: str | None = None
    anatomic_region: str | None = None
    labels_only: bool = False
    """Read the lists and not the images: for ``import-embeddings``."""
    label_pattern: str | None = None
    """Regular expression with a group ``label``, matched against the path below the folder."""
    allowed: AllowedRoots = field(default=AllowedRoots(), metadata={"for_every_reader": True})
    """Folders into which symbolic links may lead."""
    frames: str = "every"
    """Frames of a multi-frame file: every, first, middle or every:N."""
    uids: str = "keep"
    """keep, or hash: the same UID gives the same other UID."""
    dates: str = "keep"
    """keep, shift by a number of days that is the patient's own, or drop."""
    paths: str = "opaque"
    """opaque: a keyed hash stands for the path of a file, which may name a patient; or keep."""
    labels: Path | None = None
    """CSV file with labels by a UID or by accession number."""
    pseudonyms: Callable[[], Pseudonyms] | None = field(default=None, metadata={"for_every_reader": True})
    """Reads the key of pseudonyms, for readers whose records hold them already."""
    body_parts: Mapping[str, str] = field(default_factory=dict, metadata={"for_every_reader": True})
    """The user's words for anatomic regions, by the code of a body part."""


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset found at a path: its names, its size, and an iterator over its items."""

    datasets: tuple[str, ...]
    """Names of the datasets whose images it holds, as far as known before reading."""
    root: Path | None
    """Folder that ``ImageRecord.source`` is relative to; None without images."""
    total: int
    """Number of items that ``items`` will yield; of DICOM the number of files, which hold any number of images."""
    items: Iterator[DatasetItem]
    lists: tuple[str, ...] = ()
    """Files that list the images (CSV files), named as a ``Failure`` of such a file names it."""
    tells_patients: bool = False
    """True if records name patients, whose pseudonyms need a key."""
    list_folder: Path | None = None
    """Folder whose lists are all read. None: a list that was read earlier may still exist."""
    names_tell_images: bool = False
    """True if a file's name alone identifies the image, so that the same name in another folder is the same image."""
    stored_root: str | None = None
    """Name under which ``root`` is stored. None: its path. Another name needs a path map, as sources are no paths."""


class DatasetReader(Protocol):
    """Reads one layout of files on disk. Yields records; touches neither pixels nor the database."""

    name: str
    """Name on the command line."""
    summary: str
    """One line for ``cbirdb datasets list``."""
    title: str
    """Name of the dataset or layout inside a sentence."""
    takes: frozenset[str]
    """Fields of ``ReadOptions`` that this reader uses. Others are refused if given."""

    def recognises(self, path: Path) -> bool:
        """Return True if a folder clearly has this layout."""

    def open(self, path: Path, options: ReadOptions) -> Source:
        """Open the dataset at ``path``.

        :raises InputError: when the path is missing or empty, or has another layout.
        """
