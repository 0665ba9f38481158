"""Read the header of one DICOM file: facts, frames, encodings."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cbirdb.datasets.dicom.header import read_header
from cbirdb.datasets.dicom.read_file import Task, read_file
from cbirdb.errors import OptionError
from cbirdb.records import DatasetItem, Excluded, Failure, ImageRecord
from tests.support.dicom_headers import (
    CT,
    DX_FOR_PROCESSING,
    ENHANCED_CT,
    KEY,
    SECONDARY_CAPTURE,
    SERIES,
    SOP,
    SR,
    STUDY,
    dataset,
    encoded,
    header,
    read_bytes,
    record,
    sequence,
    settings,
)


def read_traced(folder: Path, content: bytes) -> tuple[list[DatasetItem], int]:
    """Return the items of a file with this content, and the most bytes that Python held meanwhile."""
    (folder / "a.dcm").write_bytes(content)
    tracemalloc.start()
    try:
        return read_file(Task(b"a.dcm"), settings(folder)), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def test_record_has_hierarchy_size_and_modality(tmp_path: Path) -> None:
    found = record(tmp_path)
    assert (found.study.key, found.series_uid, found.sop_uid) == (STUDY, SERIES, SOP)
    assert (found.height, found.width, found.frame, found.modality) == (4, 4, 0, "CT")
    assert found.path == tmp_path / "a.dcm"
    assert found.dicom.sop_class_uid == CT
    assert found.dicom.transfer_syntax_uid == ExplicitVRLittleEndian


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_encoding_of_a_header_gives_the_same_record(tmp_path: Path, syntax: str) -> None:
    elements: dict[str, Any] = {
        "PixelSpacing": [0.5, 0.25], "StudyDate": "20240131", "Rows": 300, "Columns": 7, "BodyPartExamined": "KNEE",
        "ReferencedImageSequence": sequence({"ReferencedSOPInstanceUID": "1.9"}, {"ReferencedSOPInstanceUID": "1.8"}),
    }  # fmt: skip
    (found,) = read_bytes(tmp_path, encoded(header(**elements), syntax))
    assert isinstance(found, ImageRecord)
    assert (found.height, found.width, found.anatomic_region, found.study.day) == (300, 7, "knee", date(2024, 1, 31))
    assert found.dicom.pixel_spacing == (0.5, 0.25)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_file_without_preamble_is_dicom(tmp_path: Path, syntax: str) -> None:
    (found,) = read_bytes(tmp_path, encoded(header(), syntax, marked=False))
    assert isinstance(found, ImageRecord)
    assert (found.sop_uid, found.dicom.transfer_syntax_uid) == (SOP, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"P\x89NG" * 100, b"\x08\0\x05\0" + b"\xff" * 200, bytes(5000), b"DICM" * 10, b"1.2.840.10008." * 20],
)
def test_other_files_are_excluded(tmp_path: Path, content: bytes) -> None:
    (found,) = read_bytes(tmp_path, content)
    assert isinstance(found, Excluded)
    assert found.reason == ("not DICOM" if content else "empty file")


def test_wrong_transfer_syntax_does_not_matter_to_the_header(tmp_path: Path) -> None:
    stated = encoded(header(), ExplicitVRLittleEndian)
    implicit = encoded(header(), ImplicitVRLittleEndian, marked=False)
    began = stated.index(b"\x08\0\x16\0")
    (found,) = read_bytes(tmp_path, stated[:began] + implicit[implicit.index(b"\x08\0\x16\0") :])
    assert isinstance(found, ImageRecord)
    assert found.sop_uid == SOP


@pytest.mark.parametrize(("code", "modality"), [("CR", "XR"), ("DX", "XR"), ("MG", "MG"), ("CT", "CT"), ("NM", "NM")])
def test_radiographs_have_one_modality_and_keep_their_code(tmp_path: Path, code: str, modality: str) -> None:
    found = record(tmp_path, Modality=code)
    assert (found.modality, found.dicom.modality_code) == (modality, code)


@pytest.mark.parametrize(
    ("elements", "code", "region"),
    [
        ({"BodyPartExamined": "CHEST"}, "CHEST", "chest"),
        ({"BodyPartExamined": "Chest"}, "CHEST", "chest"),
        ({"BodyPartExamined": "WHOLE BODY"}, "WHOLE BODY", "whole body"),
        ({"BodyPartExamined": "ABDOMEN"}, "ABDOMEN", "abd"),
        ({"BodyPartExamined": "ANKLE"}, "ANKLE", "af"),
        ({"BodyPartExamined": "XYZ_7"}, "XYZ_7", None),
        ({"BodyPartExamined": "Jane Doe"}, None, None),
        ({"AnatomicRegionSequence": sequence({"CodeValue": "51185008"})}, "CHEST", "chest"),
        ({"AnatomicRegionSequence": sequence({"CodeValue": "T-D9200"})}, "KNEE", "knee"),
        ({"AnatomicRegionSequence": sequence({"CodeValue": "unknown"})}, None, None),
        ({}, None, None),
    ],
)
def test_body_part_becomes_the_word_of_the_other_datasets(
    tmp_path: Path, elements: dict[str, Any], code: str | None, region: str | None
) -> None:
    found = record(tmp_path, **elements)
    assert (found.dicom.body_part, found.anatomic_region) == (code, region)


def test_words_of_the_user_come_first(tmp_path: Path) -> None:
    words = {"CHEST": "thorax", "XYZ_7": "clinic's own"}
    for code, word in words.items():
        (found,) = read_bytes(tmp_path, encoded(header(BodyPartExamined=code)), body_parts=words)
        assert found.anatomic_region == word


def test_facts_of_a_radiograph_are_taken(tmp_path: Path) -> None:
    found = record(
        tmp_path, Modality="DX", ViewPosition="PA", ImageLaterality="L", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        Manufacturer="SIEMENS Healthineers", ManufacturerModelName="Ysio Max", ImagerPixelSpacing=[0.1, 0.2],
        BurnedInAnnotation="NO", PresentationIntentType="FOR PROCESSING", PatientSex="F", PatientAge="045Y",
    )  # fmt: skip
    facts = found.dicom
    assert (found.view, facts.laterality, facts.image_type) == ("PA", "L", ("ORIGINAL", "PRIMARY", "AXIAL"))
    assert (facts.manufacturer, facts.manufacturer_model) == ("Siemens", "YSIO MAX")
    assert (facts.pixel_spacing, facts.burned_in_annotation) == ((0.1, 0.2), "NO")
    assert (facts.presentation_intent, facts.photometric_interpretation) == ("FOR PROCESSING", "MONOCHROME2")
    assert (found.patient.sex, found.study.age_years) == ("F", 45)


def test_view_of_a_mammogram_comes_from_its_code(tmp_path: Path) -> None:
    assert record(tmp_path, Modality="MG", ViewCodeSequence=sequence({"CodeValue": "R-10226"})).view == "MLO"
    assert record(tmp_path, Modality="MG", ViewCodeSequence=sequence({"CodeValue": "399162004"})).view == "CC"
    assert record(tmp_path, Modality="MG", ViewCodeSequence=sequence({"CodeValue": "Doe"})).view is None


@pytest.mark.parametrize(
    ("age", "born", "years"),
    [
        ("045Y", None, 45), ("018M", None, 1), ("030D", None, 0), ("089Y", None, 89), ("090Y", None, 90),
        ("104Y", None, 90), ("999Y", None, None), ("45", None, None), (None, "19800615", 43), (None, "20240701", None),
        (None, "19000101", 90), (None, None, None),
    ],
)  # fmt: skip
def test_ages_above_89_are_stored_as_90(tmp_path: Path, age: str | None, born: str | None, years: int | None) -> None:
    found = record(tmp_path, PatientAge=age, PatientBirthDate=born, StudyDate="20240614")
    assert found.study.age_years == years


def test_missing_facts_are_none(tmp_path: Path) -> None:
    found = record(tmp_path, Modality=None, PatientID=None, PhotometricInterpretation=None)
    assert (found.modality, found.patient, found.view, found.study.day, found.study.age_years) == (None,) * 5
    facts = found.dicom
    assert facts.burned_in_annotation is None
    assert (facts.manufacturer, facts.manufacturer_model, facts.accession, facts.image_type) == (None, None, None, ())


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"SOPClassUID": DX_FOR_PROCESSING, "PresentationIntentType": "FOR PROCESSING"},
        {"SOPClassUID": SECONDARY_CAPTURE},
        {"BurnedInAnnotation": "YES"},
    ],
)
def test_images_of_doubtful_use_are_recorded(tmp_path: Path, elements: dict[str, Any]) -> None:
    facts = record(tmp_path, **elements).dicom
    assert facts.image_type == tuple(elements.get("ImageType", ()))
    assert facts.presentation_intent == elements.get("PresentationIntentType")
    assert facts.sop_class_uid == elements.get("SOPClassUID", CT)
    assert facts.burned_in_annotation == elements.get("BurnedInAnnotation")


def test_file_without_an_image_is_excluded_by_its_class(tmp_path: Path) -> None:
    content = encoded(header(SOPClassUID=SR, Rows=None, Columns=None, PixelData=None))
    (found,) = read_bytes(tmp_path, content, paths="keep")
    assert found == Excluded("a.dcm", "Enhanced SR Storage")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("every", [0, 1, 2, 3, 4, 5]), ("first", [0]), ("middle", [2]), ("every:2", [0, 2, 4]), ("every:4", [0, 4]),
        ("every:100", [0]),
    ],
)  # fmt: skip
def test_frames_are_chosen(tmp_path: Path, frames: str, expected: list[int]) -> None:
    content = encoded(header(NumberOfFrames=6, PixelData=bytes(96)))
    found = read_bytes(tmp_path, content, frames=frames)
    assert [item.frame for item in found] == expected
    assert {item.dicom.frames for item in found} == {6}
    assert len({item.source for item in found}) == 1


@pytest.mark.parametrize("choice", ["", "last", "every:0", "every:-1", "every:x", "every:9999999"])
def test_other_choice_of_frames_is_refused(tmp_path: Path, choice: str) -> None:
    with pytest.raises(OptionError, match="frames"):
        read_bytes(tmp_path, encoded(header()), frames=choice)


def test_each_frame_of_an_enhanced_file_has_its_own_place(tmp_path: Path) -> None:
    def group(number: int) -> dict[str, Any]:
        return {
            "PlanePositionSequence": sequence({"ImagePositionPatient": [0, 0, number]}),
            "CTImageFrameTypeSequence": sequence({"FrameType": ["ORIGINAL", "PRIMARY", "AXIAL", f"N{number}"]}),
        }

    shared = {
        "PlaneOrientationSequence": sequence({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}),
        "PixelMeasuresSequence": sequence({"PixelSpacing": [0.5, 0.5]}),
        "FrameAnatomySequence": sequence(
            {"FrameLaterality": "R", "AnatomicRegionSequence": sequence({"CodeValue": "T-A0100"})}
        ),
    }
    for defined in (True, False):
        made = header(
            SOPClassUID=ENHANCED_CT, NumberOfFrames=3, PixelData=bytes(48),
            SharedFunctionalGroupsSequence=sequence(shared),
            PerFrameFunctionalGroupsSequence=sequence(*map(group, range(3))),
        )  # fmt: skip
        for element in made.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = not defined
        found = read_bytes(tmp_path, encoded(made))
        assert [item.dicom.slice_position for item in found] == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
        assert [item.dicom.image_type[3] for item in found] == ["N0", "N1", "N2"]
        assert {item.dicom.slice_orientation for item in found} == {(1, 0, 0, 0, 1, 0)}
        assert {(item.dicom.pixel_spacing, item.dicom.laterality) for item in found} == {((0.5, 0.5), "R")}
        assert {(item.dicom.body_part, item.anatomic_region) for item in found} == {("BRAIN", "brain")}


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPInstanceUID": None}, "no UID"),
        ({"StudyInstanceUID": None}, "no UID"),
        ({"SeriesInstanceUID": None}, "no UID"),
        ({"SOPClassUID": None}, "no UID"),
        ({"Rows": None}, "no size"),
        ({"Columns": None}, "no size"),
        ({"Rows": 0}, "no size"),
        ({"Rows": 65535, "Columns": 65535}, "too large"),
        ({"Rows": 10000, "Columns": 10000, "NumberOfFrames": 99999, "PixelData": bytes(1 << 20)}, "impossible value"),
        ({"NumberOfFrames": 2_000_000_000}, "too many frames"),
        ({"NumberOfFrames": 100_000}, "impossible value"),
        ({"NumberOfFrames": 0}, "impossible value"),
        ({"NumberOfFrames": -3}, "impossible value"),
    ],
)
def test_impossible_header_is_a_failure(tmp_path: Path, elements: dict[str, Any], reason: str) -> None:
    (found,) = read_bytes(tmp_path, encoded(header(**elements)))
    assert isinstance(found, Failure)
    assert found.reason == reason
    assert found.dataset == "dicom"


@pytest.mark.parametrize("tag", [b"\x08\0\x18\0", b"\x20\0\x0d\0", b"\x20\0\x0e\0"])
@pytest.mark.parametrize(
    "uid",
    [b"../../x ", b"1.2.3\n4 ", b"1.2\0.3 ", b"1." * 32 + b"1\0", b"1..2", b".1.2", b"/1.2", b"1\\2 ", b"\x1b[2J"],
)
def test_uid_that_is_none_is_refused_and_not_shown(tmp_path: Path, tag: bytes, uid: bytes) -> None:
    content = encoded(header(SOPInstanceUID="1.1.1.1", StudyInstanceUID="1.1.1.1", SeriesInstanceUID="1.1.1.1"))
    old = tag + b"UI\x08\0" + b"1.1.1.1\0"
    assert content.count(old) == 1
    content = content.replace(old, tag + b"UI" + len(uid).to_bytes(2, "little") + uid)
    before = sorted(tmp_path.parent.rglob("*"))
    (found,) = read_bytes(tmp_path, content)
    assert isinstance(found, Failure)
    assert found.reason == "wrong UID"
    assert uid.strip(b" \0").decode("latin-1") not in repr(found)
    assert {path.name for path in set(tmp_path.parent.rglob("*")) - set(before)} <= {"a.dcm"}, "something was written"


def test_longest_uid_is_taken(tmp_path: Path) -> None:
    uid = "1." + "2" * 62
    assert record(tmp_path, SOPInstanceUID=uid).sop_uid == uid


def test_header_cut_short_is_a_failure(tmp_path: Path) -> None:
    content = encoded(header())
    began = content.index(b"\x28\0\x10\0")
    for end in range(140, began):
        (found,) = read_bytes(tmp_path, content[:end])
        assert isinstance(found, Failure), end
        assert found.reason in {"damaged header", "no UID", "no size"}


def test_deflate_bomb_ends_in_bounded_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS, level=1)
    packed = packer.compress(b"\x09\0\x01\x10OB\0\0" + (1 << 28).to_bytes(4, "little"))
    for _ in range(256):
        packed += packer.compress(bytes(1 << 20))
    content = encoded(dataset({"SOPClassUID": CT, "SOPInstanceUID": SOP}), DeflatedExplicitVRLittleEndian)
    began = content.index(b"1.2.840.10008.1.2.1.99") + 22
    (found,), peak = read_traced(tmp_path, content[:began] + packed + packer.flush())
    assert isinstance(found, Failure)
    assert found.reason == "too large"
    assert peak < 4 << 20


def test_empty_items_cost_no_memory(tmp_path: Path) -> None:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * (1 << 17)
    content = encoded(header())
    began = content.index(b"\x08\0\x60\0")
    bomb = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (found,), peak = read_traced(tmp_path, content[:began] + bomb + content[began:])
    assert isinstance(found, ImageRecord)
    assert peak < 1 << 20


def test_items_of_a_wanted_sequence_are_bounded(tmp_path: Path) -> None:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * (1 << 18)
    content = encoded(header())
    began = content.index(b"\x08\0\x60\0")
    bomb = b"\x08\0\x18\x22SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (found,), peak = read_traced(tmp_path, content[:began] + bomb + content[began:])
    assert isinstance(found, Failure)
    assert found.reason == "damaged header"
    assert peak < 64 << 20


def test_sequences_in_one_another_without_end_are_refused(tmp_path: Path) -> None:
    nested = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 5000
    content = encoded(header())
    began = content.index(b"\x08\0\x60\0")
    (found,) = read_bytes(tmp_path, content[:began] + nested)
    assert isinstance(found, Failure)
    assert found.reason == "damaged header"


def test_unknown_element_of_undefined_length_is_an_implicit_sequence(tmp_path: Path) -> None:
    long = b"\x09\0\x02\x10" + (0x4141).to_bytes(4, "little") + bytes(0x4141)  # its length looks like a representation
    unknown = b"\x09\0\x01\x10UN\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + long
    unknown += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    content = encoded(header(BodyPartExamined="KNEE"))
    began = content.index(b"\x10\0\x10\0PN")
    (found,) = read_bytes(tmp_path, content[:began] + unknown + content[began:])
    assert isinstance(found, ImageRecord)
    assert found.anatomic_region == "knee"


def test_header_that_takes_all_memory_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_header_without_memory(read_at: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cbirdb.datasets.dicom.read_file.read_header", read_header_without_memory)
    (found,) = read_bytes(tmp_path, encoded(header()))
    assert isinstance(found, Failure)
    assert found.reason == "too large"


def test_long_private_element_is_passed_unread(tmp_path: Path) -> None:
    made = header(BodyPartExamined="KNEE")
    private = made.private_block(0x0011, "TEST", create=True)
    private.add_new(1, "OB", bytes(1 << 20))
    assert record(tmp_path, made).anatomic_region == "knee"


def test_elements_out_of_order_are_found(tmp_path: Path) -> None:
    content = encoded(header(PixelData=None))
    began = content.index(b"\x08\0\x16\0")
    late = b"\x29\0\x10\0LO\x02\0AA"
    (found,) = read_bytes(tmp_path, content[:began] + late + content[began:])
    assert isinstance(found, ImageRecord)
    assert (found.sop_uid, found.patient.pseudonym) == (SOP, KEY.of_dicom("P1"))


def test_pixels_are_not_read(tmp_path: Path) -> None:
    read: list[int] = []
    content = encoded(header(NumberOfFrames=64, Rows=512, Columns=512, PixelData=bytes(1 << 24)))

    def read_at(position: int, size: int) -> bytes:
        found = content[position : position + size]
        read.append(len(found))
        return found

    assert read_header(read_at) is not None
    assert sum(read) < 64 << 10


def test_reading_writes_nothing(tmp_path: Path) -> None:
    def state() -> list[tuple[str, int]]:
        return [(str(path), path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]

    (tmp_path / "a.dcm").write_bytes(encoded(header(SOPInstanceUID=None)))
    before = state()
    read_file(Task(b"a.dcm"), settings(tmp_path))
    assert state() == before


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (found,) = read_file(Task(b"pipe"), settings(tmp_path))
    assert isinstance(found, Failure)
    assert found.reason == "not a file"
