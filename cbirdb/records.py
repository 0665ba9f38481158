"""Defines the plain values that flow from dataset files to the database: frozen, without behaviour."""

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


OnConflict: TypeAlias = Literal["keep", "replace", "skip"]
"""Choice for two DICOM frames with one SOP instance UID and other pixels: keep both, replace the older one, or skip
the newer one.
"""


UidOption: TypeAlias = Literal["keep", "hash"]
DateOption: TypeAlias = Literal["keep", "shift", "drop"]
PathOption: TypeAlias = Literal["opaque", "keep"]
"""How DICOM's UIDs, dates and paths are stored; ``docs/privacy.md`` describes them."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One process's share of the work: every ``count``-th image, starting with the ``index``-th (from 0)."""

    index: int = 0
    count: int = 1


WHOLE = Shard()

POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1
"""Values of a label on an image, coded as CheXpert and MIMIC-CXR-JPG code them."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A person as the dataset knows them.

    ``key`` is the dataset's own id. It is never stored; its pseudonym is. Readers of DICOM give the pseudonym alone.
    """

    key: str
    sex: str | None = None
    """F, M or O."""
    pseudonym: str | None = None
    """None: it is made from the dataset's name and ``key``."""


@dataclass(frozen=True, slots=True)
class Study:
    """One examination.

    ``key`` is the dataset's own id, unique within the patient (or within the dataset, without a patient).
    """

    key: str
    day: date | None = None
    age_years: int | None = None
    """The patient's age at that time."""


@dataclass(frozen=True, slots=True)
class DicomFacts:
    """The facts that a DICOM header states of one frame. None: not stated, or not credible."""

    sop_class_uid: str
    transfer_syntax_uid: str | None = None
    modality_code: str | None = None
    """As the file has it (CR, DX); ``ImageRecord.modality`` may be another (XR)."""
    body_part: str | None = None
    """Code of the body part, as the file has it; ``ImageRecord.anatomic_region`` is the word for it."""
    laterality: str | None = None
    """L, R, B or U."""
    image_type: tuple[str, ...] = ()
    """Values of Image Type, in order: ORIGINAL or DERIVED, PRIMARY or SECONDARY, then others such as LOCALIZER."""
    presentation_intent: str | None = None
    """FOR PRESENTATION or FOR PROCESSING."""
    manufacturer: str | None = None
    manufacturer_model: str | None = None
    photometric_interpretation: str | None = None
    burned_in_annotation: str | None = None
    """YES or NO. None says nothing about the picture."""
    pixel_spacing: tuple[float, float] | None = None
    """Millimetres between rows and between columns."""
    slice_position: tuple[float, float, float] | None = None
    """Image Position (Patient), in millimetres."""
    slice_orientation: tuple[float, float, float, float, float, float] | None = None
    """Image Orientation (Patient), direction cosines of a row and a column."""
    accession: str | None = None
    """Pseudonym of the accession number."""
    frames: int = field(default=1, compare=False)
    """Number of frames of the file; not stored."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One 2D frame as its dataset describes it, before its pixels are read.

    ``source`` identifies the image inside its dataset and is stored unchanged: a path relative to the dataset's folder,
    or the CSV's ``filepath``. ``path`` is the file's place now, or ``None`` if the dataset was given without images.
    ``labels`` maps label paths (``XR/chest/Pneumonia``) to 1 positive, 0 negative, -1 uncertain; it does not contain
    absent labels.
    """

    dataset: str
    source: str
    path: Path | None
    split: Split | None = None
    split_by_content: bool = False
    """True: the file's hash decides ``split``, so that identical files are always in one split."""
    modality: str | None = None
    anatomic_region: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    patient: Patient | None = None
    study: Study | None = None
    view: str | None = None
    """View position: PA, AP, lateral, ..."""
    frame: int = 0
    """Frame of a multi-frame file, from 0."""
    sop_uid: str | None = None
    series_uid: str | None = None
    width: int | None = None
    """Pixels, where the header states them."""
    height: int | None = None
    dicom: DicomFacts | None = None
    member: str | None = None
    """Name inside the zip that ``path`` is."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An image that a list names and the disk lacks, as in a partial download. It is counted and nothing else."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An image or file that could not be ingested or encoded, with the reason; a row of ``cbir.failure``."""

    source: str
    reason: str
    detail: str
    dataset: str | None = None
    line: int | None = None
    path: Path | None = None
    """The file, where ``source`` is an opaque name. Only the path map of this machine keeps it."""
    member: str | None = None


@dataclass(frozen=True, slots=True)
class Excluded:
    """An item left out on purpose (a hidden file, a row outside the selection). It is counted and is no failure."""

    source: str
    reason: str


DatasetItem: TypeAlias = ImageRecord | Missing | Failure | Excluded
"""The items that a dataset reader yields, in the order of its files."""


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The facts that reading the pixels of a DICOM frame gives. Hashes are SHA-256."""

    sha256: bytes
    """Of the file's bytes; of the member's in an archive."""
    pixel_sha256: bytes
    """Of the decoded pixels before any rendering."""
    width: int
    height: int
    """Size as stored. A picture whose pixels are not square is stretched, and has another."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The facts that one reading of an image file gives.

    ``modified_ns`` is the file's mtime in nanoseconds. Of a DICOM file, ``ingest`` reads the header only, and leaves
    hashes to ``encode``.
    """

    sha256: bytes | None
    width: int | None
    height: int | None
    file_bytes: int
    modified_ns: int
    damage: str | None = None
    """The decoder's report on a damaged picture that was accepted."""
    pixel_sha256: bytes | None = None
    """Hash of the decoded pixels of a DICOM frame."""
