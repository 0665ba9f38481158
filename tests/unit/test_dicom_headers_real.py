"""Read headers of real DICOM files, and compare with their list, with pydicom and with DCMTK; then damage them."""

from __future__ import annotations

import csv
import random
import re
import shutil
import subprocess
import time
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.dicom.find import find_files
from cbirdb.datasets.dicom.read_file import Archive, Task, read_file
from cbirdb.errors import InputError
from cbirdb.pixels.sop_classes import excluded_sop_class
from cbirdb.records import DatasetItem, Excluded, Failure, ImageRecord
from tests.support.dicom_headers import encoded, header, read, read_bytes, sequence, settings

DATA = Path(__file__).parents[3] / "shared/data/dicom"
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real files of shared/data/dicom are not beside the checkout"),
]
FAILURES = {
    "single/dwv-test_no-number-rows.dcm": "no UID",  # it has no SOP class either
    "single/meta_missing_tsyntax.dcm": "no UID",  # it holds a patient's name and nothing else
    "single/bad_sequence.dcm": "wrong UID",  # somebody wrote hexadecimal hashes in the place of its UIDs
}
"""Files that are no image for a reason; each is a failure."""


@pytest.fixture(scope="module")
def found() -> dict[str, list[DatasetItem]]:
    items: dict[str, list[DatasetItem]] = defaultdict(list)
    for item in read(DATA, paths="keep"):
        items[item.source].append(item)
    return items


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, str]]:
    with (DATA / "manifest.csv").open() as lines:
        return {row["file"]: row for row in csv.DictReader(lines)}


def test_every_file_ends_as_an_image_an_exclusion_or_a_failure(
    found: dict[str, list[DatasetItem]], listed: dict[str, dict[str, str]]
) -> None:
    assert set(found) == {*listed, "manifest.csv"}
    for name, row in listed.items():
        first = found[name][0]
        if name in FAILURES:
            assert isinstance(first, Failure)
            assert first.reason == FAILURES[name]
        elif row["sop_class"] and excluded_sop_class(class_uid(row["sop_class"])):
            assert first == Excluded(name, row["sop_class"])
        else:
            assert isinstance(first, ImageRecord), name
            assert len(found[name]) == int(row["frames"] or 1)
            assert (first.height, first.width) == (int(row["rows"]), int(row["cols"]))
            assert first.dicom.photometric_interpretation == row["photometric"]
            assert first.dicom.modality_code == row["modality"]
            assert (first.dicom.body_part or "") == row["body"] or row["body"] == ""
            assert (first.study.key, first.series_uid, first.sop_uid) == (row["study"], row["series"], row["instance"])


def class_uid(name: str) -> str:
    return next((uid for uid, entry in pydicom.uid.UID_dictionary.items() if entry[0] == name), "")


def test_values_are_those_that_pydicom_reads(found: dict[str, list[DatasetItem]]) -> None:
    compared = 0
    for name, items in found.items():
        if not isinstance(items[0], ImageRecord):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = pydicom.dcmread(DATA / name, stop_before_pixels=True, force=True)
            for item in items:
                assert isinstance(item, ImageRecord)
                compared += 1
                assert ours(item) == theirs(other, item.frame), (name, item.frame)
    assert compared == 99


def ours(item: ImageRecord) -> dict[str, Any]:
    facts = item.dicom
    return {
        "sop": item.sop_uid, "study": item.study.key, "series": item.series_uid, "class": facts.sop_class_uid,
        "size": (item.height, item.width), "sex": item.patient.sex if item.patient else None,
        "day": item.study.day.strftime("%Y%m%d") if item.study.day else "", "view": item.view or "",
        "spacing": facts.pixel_spacing, "position": facts.slice_position, "orientation": facts.slice_orientation,
        "syntax": facts.transfer_syntax_uid, "burned": facts.burned_in_annotation,
    }  # fmt: skip


def theirs(other: pydicom.Dataset, frame: int) -> dict[str, Any]:
    def numbers(group: str, name: str) -> tuple[float, ...] | None:
        for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
            for item in list(other.get(groups, []))[index : index + 1]:
                for inner in item.get(group, []):
                    if inner.get(name):
                        return tuple(map(float, inner[name].value))
        value = other.get(name)
        return tuple(map(float, value)) if value else None

    sex = str(other.get("PatientSex") or "")
    return {
        "sop": other.SOPInstanceUID, "study": other.StudyInstanceUID, "series": other.SeriesInstanceUID,
        "class": other.SOPClassUID, "size": (other.Rows, other.Columns),
        "sex": sex if sex in {"F", "M", "O"} and other.get("PatientID") else None,
        "day": str(other.get("StudyDate") or "").replace(".", ""), "view": other.get("ViewPosition") or "",
        "spacing": numbers("PixelMeasuresSequence", "PixelSpacing") or numbers("", "ImagerPixelSpacing"),
        "position": numbers("PlanePositionSequence", "ImagePositionPatient"),
        "orientation": numbers("PlaneOrientationSequence", "ImageOrientationPatient"),
        "syntax": other.file_meta.get("TransferSyntaxUID"), "burned": other.get("BurnedInAnnotation"),
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="DCMTK is not installed")
@pytest.mark.parametrize(
    "name",
    ["siemens_study/epi_pe_ap-00001.dcm", "single/MR_small_bigendian.dcm", "single/MR_small_implicit.dcm",
     "single/693_J2KR.dcm", "single/gdcm-CR-MONO1-10-chest.dcm", "single/Fake_MONOHR1.dcm", "family/NM1_RLE"],
)  # fmt: skip
def test_values_are_those_that_dcmtk_reads(found: dict[str, list[DatasetItem]], name: str) -> None:
    tags = {
        keyword: f"{tag_for_keyword(keyword):08x}"
        for keyword in (
            "SOPInstanceUID",
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "Modality",
            "StudyDate",
            "Rows",
            "Columns",
        )
    }
    asked = [word for tag in tags.values() for word in ("+P", f"{tag[:4]},{tag[4:]}")]
    said = subprocess.run(["dcmdump", "-q", "-Un", *asked, DATA / name], capture_output=True, check=True).stdout
    values = {
        line[1:10].replace(",", ""): re.sub(r"^\[(.*)\]$", r"\1", line[15:].split("#")[0].strip())
        for line in said.decode("latin-1").splitlines()
        if line.startswith("(")
    }
    item = found[name][0]
    assert isinstance(item, ImageRecord)
    values = {tag: "" if value == "(no value available)" else value.strip() for tag, value in values.items()}
    assert {keyword: values.get(tag, "") for keyword, tag in tags.items()} == {
        "SOPInstanceUID": item.sop_uid, "StudyInstanceUID": item.study.key, "SeriesInstanceUID": item.series_uid,
        "Modality": item.dicom.modality_code, "Rows": str(item.height), "Columns": str(item.width),
        "StudyDate": item.study.day.strftime("%Y%m%d") if item.study.day else "",
    }  # fmt: skip


def test_files_with_one_uid_are_all_recorded(found: dict[str, list[DatasetItem]]) -> None:
    same = [items[0] for name, items in found.items() if name.startswith("single/MR_small") or "MR_truncated" in name]
    assert len(same) == 7
    assert len({item.sop_uid for item in same}) == 1


def test_flipped_and_cut_headers_end_as_items_in_bounded_time(tmp_path: Path) -> None:
    seeded = random.Random(19)
    files = sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix != ".csv")
    heads = {path: path.read_bytes()[:200_000] for path in files}
    slowest = 0.0
    kinds: dict[str, int] = defaultdict(int)
    for trial in range(2000):
        content = bytearray(heads[seeded.choice(files)])
        header_bytes = min(len(content), 20_000)
        for _ in range(seeded.choice((1, 1, 4, 30))):
            content[seeded.randrange(header_bytes)] = seeded.randrange(256)
        if trial % 4 == 0:
            del content[seeded.randrange(len(content)) :]
        began = time.monotonic()
        for item in read_bytes(tmp_path, bytes(content)):
            kinds[type(item).__name__] += 1
        slowest = max(slowest, time.monotonic() - began)
    assert set(kinds) == {"ImageRecord", "Failure", "Excluded"}
    assert min(kinds.values()) > 20, dict(kinds)
    assert slowest < 10


def test_lengths_of_all_sizes_end_as_items(tmp_path: Path) -> None:
    content = (DATA / "single/CT_small.dcm").read_bytes()
    for position in range(132, 1200, 3):
        for length in (b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff", b"\xff\xff", b"\0\0"):
            changed = content[:position] + length + content[position + len(length) :]
            (tmp_path / "a.dcm").write_bytes(changed)
            outcome = read_file(Task(b"a.dcm"), settings(tmp_path))
            assert isinstance(outcome, list)
            assert outcome


def test_damaged_dicomdirs_and_zips_end_as_items(tmp_path: Path) -> None:
    seeded = random.Random(7)
    records = [{"ReferencedFileID": ["A", str(number)]} for number in range(20)]
    made = header(SOPClassUID="1.2.840.10008.1.3.10", DirectoryRecordSequence=sequence(*records), PixelData=None)
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.dcm", encoded(header()))
    for whole, name in ((encoded(made), "DICOMDIR"), ((tmp_path / "whole.zip").read_bytes(), "a.zip")):
        for _ in range(500):
            content = bytearray(whole)
            for _ in range(seeded.choice((1, 3, 20))):
                content[seeded.randrange(len(content))] = seeded.randrange(256)
            (tmp_path / name).write_bytes(content[: seeded.choice((len(content), seeded.randrange(len(content))))])
            try:
                found = find_files(tmp_path / name, AllowedRoots())
            except InputError:
                continue
            assert found.count + len(found.problems) + len(found.not_there) <= 21
            outcome = read_file(Task(name.encode()), settings(tmp_path))
            if isinstance(outcome, Archive):
                for number in range(outcome.members):
                    assert isinstance(read_file(Task(name.encode(), number), settings(tmp_path)), list)
