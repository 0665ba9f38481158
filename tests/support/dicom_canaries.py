"""DICOM files with a canary in every place that may hold a name, and the search for canaries in what comes out.

A canary is a text that nothing else contains. Each says in which place it was planted.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.datadict import DicomDictionary, RepeatersDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from tests.support.dicom_archive import CR, CT, MR, ROOT, pixels
from tests.support.dicom_pixels import encoded, image

WORD = "FINCHX"
"""Is in every canary of text; file and folder names have it, too."""
NUMBER = "7377737773"
"""Stands in decimal texts, times, UIDs and telephone numbers."""
BIRTH_DATE = "19170307"
OLD_AGE = "107Y"
PATTERN = re.compile(rb"finchx|46494e434858|66696e636878|7377737773|1917-?03-?07|107Y|131751[.]7377", re.IGNORECASE)
"""Finds a canary, also in hexadecimal digits as PostgreSQL writes bytes."""

SYNTAX = uid.ExplicitVRLittleEndian
SR, PDF, MPEG = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.1.2.4.100"
NEEDED = {
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "Modality", "PatientSex",
    "PhotometricInterpretation", "SpecificCharacterSet", "PixelPresentation", "VOILUTFunction", "PresentationLUTShape",
    "BodyPartExamined", "ViewPosition", "ImageType", "NumberOfFrames", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "ImagePositionPatient", "ImageOrientationPatient",
}  # fmt: skip
"""Elements that are stored or that pixels depend on. Codes are planted apart, as they are kept if they look like one."""
PIXEL_GROUPS = {0x0000, 0x0002, 0x0004, 0x0006, 0x0028, 0x5200, 0x7FE0, 0xFFFA, 0xFFFC, 0xFFFE}


def _short(keyword: str, length: int) -> str:
    return f"{WORD}{keyword}"[:length]


def value(vr: str, keyword: str) -> Any:
    """A value of this kind that is a canary; None for kinds too short to hold an unmistakable one."""
    text = f"{WORD}^{keyword}"
    return {
        "AE": _short(keyword, 16), "AS": OLD_AGE, "CS": _short(keyword, 16).upper(), "DA": BIRTH_DATE,
        "DS": NUMBER, "DT": f"{BIRTH_DATE}131751.7377", "IS": "737773777", "LO": text[:64], "LT": text, "PN": text[:64],
        "SH": _short(keyword, 16), "ST": text, "TM": "131751.737773", "UC": text, "UI": f"1.2.826.{NUMBER}.1", "UR": text,
        "UT": text, "OB": text.encode().ljust(80), "OW": text.encode().ljust(80), "UN": text.encode().ljust(80),
        "OF": text.encode().ljust(80), "OD": text.encode().ljust(80), "OL": text.encode().ljust(80),
        "OV": text.encode().ljust(80),
    }.get(vr)  # fmt: skip


def _planted() -> Iterator[tuple[int, str, Any]]:
    """Every element of the standard's dictionary that can hold a canary, with one."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        canary = value(vr.split(" ")[0], keyword)
        if canary is not None and keyword not in NEEDED and tag >> 16 not in PIXEL_GROUPS:
            yield tag, vr.split(" ")[0], canary
    for pattern, (vr, _, _, _, keyword) in RepeatersDictionary.items():
        canary = value(vr.split(" ")[0], keyword)
        if canary is not None and vr in {"LO", "LT", "SH", "ST", "CS"} and pattern.startswith(("50", "60")):
            yield int(pattern.replace("x", "0"), 16), vr, canary
    yield 0x6000_3000, "OW", value("OW", "OverlayData")
    yield 0x6000_4000, "LT", value("LT", "OverlayComments")
    yield 0x0028_1055, "LO", value("LO", "WindowCenterWidthExplanation")
    yield 0xFFFC_FFFC, "OB", value("OB", "DataSetTrailingPadding")


def plant(made: Dataset) -> Dataset:
    """Put canaries into a data set: all kinds of elements, private ones, and items of sequences."""
    inner, private = Dataset(), Dataset()
    for tag, vr, canary in _planted():
        made.add_new(tag, vr, canary)
        if Tag(tag).group in {0x0008, 0x0010}:
            inner.add_new(tag, vr, canary)
    block = private.private_block(0x0009, f"{WORD} CREATOR", create=True)
    for number, vr in enumerate(("LO", "PN", "UT", "UN", "DA", "UI", "OB", "SH", "LT")):
        block.add_new(number, vr, value(vr, f"private{vr}"))
    made.update(private)
    for keyword in ("ReferencedStudySequence", "RequestAttributesSequence", "OtherPatientIDsSequence",
                    "ProcedureCodeSequence", "AnatomicRegionSequence", "ViewCodeSequence"):  # fmt: skip
        setattr(made, keyword, Sequence([inner]))
    made.add_new(0x0009_1020, "SQ", Sequence([inner]))
    made.PatientID, made.AccessionNumber, made.IssuerOfPatientID = f"{WORD}-ID", f"{WORD}-ACC", f"{WORD}-ISS"
    made.Manufacturer, made.ManufacturerModelName = f"Dr. {WORD}", f"SOMATOM {WORD}"
    made.BodyPartExamined, made.ViewPosition, made.ImageType = "Finchx, Jane", "finchx", ["ORIGINAL", "Finchx^J"]
    made.PatientBirthDate, made.PatientAge, made.StudyDate = BIRTH_DATE, OLD_AGE, "20200102"
    return made


def with_meta(content: bytes) -> bytes:
    """The same file with canaries in its preamble and its meta information."""
    from io import BytesIO

    from pydicom import dcmread

    made = dcmread(BytesIO(content))
    made.preamble = f"{WORD} preamble".encode().ljust(128, b"\0")
    meta: FileMetaDataset = made.file_meta
    meta.SourceApplicationEntityTitle = f"{WORD}_SOURCE"
    meta.SendingApplicationEntityTitle = f"{WORD}_SEND"
    meta.ImplementationVersionName = f"{WORD}_VERS"
    meta.PrivateInformationCreatorUID = f"1.2.826.{NUMBER}.2"
    meta.PrivateInformation = value("OB", "PrivateInformation")
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def content(seed: int, *, frames: int = 0, **attributes: Any) -> bytes:
    """A file of canaries with pixels of its own."""
    shown = pixels(seed, frames=frames)
    made = image(shown, **({"frames": True} if frames else {}), BitsStored=12)
    made.SOPClassUID, made.Modality, made.PatientSex = CT, "CT", "F"
    plant(made)
    made.SOPInstanceUID, made.SeriesInstanceUID = f"{ROOT}{seed}.1", f"{ROOT}{seed}.2"
    made.StudyInstanceUID = f"{ROOT}{seed}.3"
    made.WindowCenter, made.WindowWidth = 2048, 4096
    for keyword, given in attributes.items():
        setattr(made, keyword, given)
    if "PixelData" not in made:
        made.add_new("PixelData", "OW", np.ascontiguousarray(shown).tobytes())
    return with_meta(encoded(made, SYNTAX))


def write(path: Path, seed: int, **attributes: Any) -> Path:
    """Write a file of canaries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(seed, **attributes))
    return path


def archive(root: Path, outside: Path) -> Path:
    """Write a folder with canaries in all names and contents: good files, files without an image, and files that fail.

    :param outside: a file elsewhere, to which a symbolic link leads.
    """
    for number in range(4):
        write(root / f"{WORD}-doe" / f"{WORD} slice{number}", 10 + number, StudyInstanceUID=f"{ROOT}1.3")
    write(root / f"{WORD}-roe" / f"{WORD}.dcm", 20, SOPClassUID=CR, Modality="CR", PatientID=f"{WORD}-ID2")
    write(root / f"{WORD}-roe" / f"{WORD} cine", 30, frames=3, SOPClassUID=MR, Modality="MR", PatientID=f"{WORD}-ID3")
    _without_image(root / f"{WORD}-other")
    _failing(root / f"{WORD}-bad", outside)
    with zipfile.ZipFile(root / f"{WORD}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.comment = f"{WORD} comment of the zip".encode()
        packed.writestr(f"{WORD}-folder/", b"")
        packed.writestr(f"{WORD}-folder/{WORD}-member.dcm", content(40, PatientID=f"{WORD}-ID4"))
        packed.writestr(f"{WORD}-folder/{WORD}-bad-member.dcm", content(41)[:2000])
        packed.writestr(f"{WORD}-folder/{WORD}-bad-uid.dcm", content(42, SOPInstanceUID="1." * 40 + "1"))
        packed.writestr(f"../{WORD}-escapes.dcm", content(43))
        packed.writestr(f"{WORD}.txt", f"text of {WORD}")
    return root


def _without_image(folder: Path) -> None:
    """A report, a document and a text: their contents are canaries."""
    said = Dataset()
    said.TextValue = f"{WORD} has a nodule"
    for name, sop_class in (("report", SR), ("document", PDF)):
        made = plant(Dataset())
        made.SOPClassUID, made.SOPInstanceUID, made.Modality = sop_class, f"{ROOT}{name == 'report':d}.77", "SR"
        made.ContentSequence = Sequence([said])
        made.EncapsulatedDocument = f"%PDF {WORD}".encode()
        (folder / f"{WORD} {name}").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{WORD} {name}").write_bytes(with_meta(encoded(made, SYNTAX)))
    (folder / f"{WORD} letter.txt").write_text(f"Dear {WORD}")


def _failing(folder: Path, outside: Path) -> None:
    """A file of every way to fail."""
    write(folder / f"{WORD} long uid", 50, SOPInstanceUID="1." * 40 + "1")
    write(folder / f"{WORD} uid", 51, SeriesInstanceUID=f"1.2.{WORD}")
    (folder / f"{WORD} short header").write_bytes(content(52)[:3000])
    (folder / f"{WORD} header").write_bytes(content(58).replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\x77\xe0"))
    (folder / f"{WORD} pixels").write_bytes(content(53, PatientID=f"{WORD}-ID5")[:-700])
    write(folder / f"{WORD} huge", 54, Rows=65535, Columns=65535)
    write(folder / f"{WORD} frames", 55, NumberOfFrames="2000000000")
    write(folder / f"{WORD} frame text", 56, SOPClassUID=CT, BitsAllocated=7)
    video = encapsulate([b"\0\0\1\xb3" + WORD.encode() * 100])
    made = image(pixels(57), BitsStored=12)
    plant(made)
    made.SOPClassUID, made.Modality, made.SOPInstanceUID = CT, "CT", f"{ROOT}57.1"
    made.SeriesInstanceUID, made.StudyInstanceUID = f"{ROOT}57.2", f"{ROOT}57.3"
    made.add_new("PixelData", "OB", video)
    made["PixelData"].is_undefined_length = True
    (folder / f"{WORD} video").write_bytes(with_meta(encoded(made, MPEG)))
    (folder / f"{WORD} damaged.zip").write_bytes(b"PK\3\4" + WORD.encode() * 100)
    (folder / f"{WORD} link").symlink_to(outside)
    (folder / f"{WORD} dangling").symlink_to(folder / f"{WORD} nowhere")


def media(folder: Path) -> Path:
    """Write a disc: a DICOMDIR with canaries in its records, and the files it names, of which one is missing, one bad and
    one elsewhere; return the DICOMDIR.
    """
    records = []
    for number, name in enumerate((f"{WORD}1", f"{WORD}2", f"{WORD}3", "..")):
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", [f"{WORD}DIR", name]
        record.PatientName, record.PatientComments = f"{WORD}^record", f"{WORD} comments"
        record.ReferencedSOPInstanceUIDInFile = f"1.2.826.{NUMBER}.{number}"
        records.append(record)
    write(folder / f"{WORD}DIR" / f"{WORD}1", 60, PatientID=f"{WORD}-ID6")
    (folder / f"{WORD}DIR" / f"{WORD}2").write_bytes(content(61)[:2500])
    made = Dataset()
    made.FileSetID, made.DirectoryRecordSequence = f"{WORD}SET", Sequence(records)
    made.SOPClassUID = "1.2.840.10008.1.3.10"
    (folder / "DICOMDIR").write_bytes(encoded(made, SYNTAX))
    return folder / "DICOMDIR"


def found(where: str, text: bytes) -> list[str]:
    """The canaries in a text, each with what stands around it."""
    return [f"{where}: ...{text[max(0, match.start() - 60) : match.end() + 60]!r}" for match in PATTERN.finditer(text)]
