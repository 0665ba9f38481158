"""Writes small DICOM files, and reads them with the dataset reader or in this process."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.dicom.frames import FrameChoice
from cbirdb.datasets.dicom.privacy import Privacy
from cbirdb.datasets.dicom.read_file import Task, read_file
from cbirdb.datasets.dicom.reader import DicomReader
from cbirdb.datasets.dicom.records import Settings
from cbirdb.datasets.name_checks import replace_unstorable
from cbirdb.pseudonyms import Pseudonyms
from cbirdb.records import DatasetItem, ImageRecord

KEY = Pseudonyms(b"k" * 32)
CT, ENHANCED_CT, SECONDARY_CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.7",
)  # fmt: skip
SR, DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.1.1.1"
STUDY, SERIES, SOP = "1.2.3.4.5", "1.2.3.4.5.6", "1.2.3.4.5.6.7"


def sequence(*items: Mapping[str, Any]) -> Sequence:
    """Make a sequence of items with these elements."""
    return Sequence([dataset(item) for item in items])


def dataset(elements: Mapping[str, Any]) -> Dataset:
    """Make a data set; an element that is None is left out."""
    made = Dataset()
    for name, value in elements.items():
        if value is not None:
            setattr(made, name, value)
    return made


def header(**elements: Any) -> Dataset:
    """Make a data set of a CT slice of 4 x 4 pixels, with these elements instead of or beside its own."""
    return dataset(
        {
            "SOPClassUID": CT, "SOPInstanceUID": SOP, "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES,
            "Modality": "CT", "PatientID": "P1", "PatientName": "Doe^Jane", "Rows": 4, "Columns": 4, "BitsAllocated": 8,
            "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2", "PixelData": bytes(16),
        }
        | elements
    )  # fmt: skip


def encoded(made: Dataset, syntax: str = ExplicitVRLittleEndian, *, marked: bool = True) -> bytes:
    """Return the bytes of a file.

    :param marked: with preamble and file meta information.
    """
    buffer = io.BytesIO()
    if not marked:
        made.save_as(buffer, implicit_vr=UID(syntax).is_implicit_VR, little_endian=UID(syntax).is_little_endian)
        return buffer.getvalue()
    made.preamble = bytes(128)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def write(path: Path, **elements: Any) -> Path:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(header(**elements)))
    return path


def read(path: Path, **options: Any) -> list[DatasetItem]:
    """Return all items of a path as an ingest gets them, from worker processes."""
    source = DicomReader().open(path, ReadOptions(**{"pseudonyms": lambda: KEY, **options}))
    return list(replace_unstorable(source).items)


def settings(
    root: Path, *, frames: str = "every", body_parts: Mapping[str, str] | None = None, **privacy: str
) -> Settings:
    """Return the settings of a dataset."""
    return Settings(root, "dicom", Privacy(KEY, **privacy), FrameChoice.of(frames), body_parts or {})


def read_bytes(folder: Path, content: bytes, **choices: Any) -> list[DatasetItem]:
    """Return the items of a file with this content, read in this process."""
    (folder / "a.dcm").write_bytes(content)
    outcome = read_file(Task(b"a.dcm"), settings(folder, **choices))
    assert isinstance(outcome, list)
    return outcome


def record(folder: Path, made: Dataset | None = None, **elements: Any) -> ImageRecord:
    """Return the record of a file with one frame and these elements."""
    (item,) = read_bytes(folder, encoded(made if made is not None else header(**elements)))
    assert isinstance(item, ImageRecord), item
    return item
