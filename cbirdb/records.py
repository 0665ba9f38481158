"""The plain values that flow from dataset files to the database: frozen, with no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Precision: TypeAlias = Literal["half", "single"]
"""``half``: 16-bit floats, pgvector's ``halfvec``. ``single``: 32-bit floats, pgvector's ``vector``."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Every ``count``-th image, from the ``index``-th on (from 0): one process's share of the work."""

    index: int = 0
    count: int = 1


WHOLE = Shard()

POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1
"""Values of a label on an image, coded as CheXpert and MIMIC-CXR-JPG code them."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A person as the dataset knows them. ``key`` is the dataset's own id: it is never stored, its pseudonym is."""

    key: str
    sex: str | None = None
    """F, M or O."""


@dataclass(frozen=True, slots=True)
class Study:
    """One examination. ``key`` is the dataset's own, unique within the patient (or by itself, without one)."""

    key: str
    day: date | None = None
    age_years: int | None = None
    """The patient's age at that time."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One 2D frame as its dataset describes it, before its pixels have been looked at.

    ``source`` identifies the image inside its dataset and is stored as given (a path relative to the
    dataset's folder, or the CSV's ``filepath``); ``path`` is where the file lies now, ``None`` when the
    dataset was given without its images. ``labels`` maps label paths (``XR/chest/Pneumonia``) to
    1 positive, 0 negative, -1 uncertain; a label that is absent is not in it.
    """

    dataset: str
    source: str
    path: Path | None
    split: Split | None = None
    split_by_content: bool = False
    """True: ``split`` is derived from the file's hash, so that identical files never straddle a split."""
    modality: str | None = None
    anatomic_region: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    patient: Patient | None = None
    study: Study | None = None
    view: str | None = None
    """How the picture was taken: PA, AP, lateral, ..."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An image that a list names and that is not there, as in a partial download: counted, nothing else."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be ingested or encoded, with the reason; a row of ``cbir.failure``."""

    source: str
    reason: str
    detail: str
    dataset: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Excluded:
    """Something left out on purpose (a hidden file, a row outside the chosen selection): counted, not a failure."""

    source: str
    reason: str


DatasetItem: TypeAlias = ImageRecord | Missing | Failure | Excluded
"""What a dataset reader yields, in the order of its files."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one look at an image file tells. ``modified_ns`` is the file's mtime in nanoseconds."""

    sha256: bytes
    width: int
    height: int
    file_bytes: int
    modified_ns: int
    damage: str | None = None
    """What a decoder reported of a picture that was taken although it is damaged."""
