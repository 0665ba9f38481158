"""No name of a person leaves the reader of DICOM: canaries, UIDs, dates, pseudonyms."""

from __future__ import annotations

import os
import zipfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.dicom import hash_uid
from cbirdb.datasets.dicom.devices import model, vendor
from cbirdb.datasets.dicom.privacy import LONGEST_SHIFT, Privacy
from cbirdb.datasets.dicom.reader import DicomReader
from cbirdb.pseudonyms import Pseudonyms
from cbirdb.records import DatasetItem, Failure, ImageRecord
from tests.support.dicom_headers import (
    KEY,
    SERIES,
    SOP,
    STUDY,
    encoded,
    header,
    read,
    read_bytes,
    record,
    sequence,
    write,
)  # fmt: skip

OTHER_KEY = Pseudonyms(b"o" * 32)
KEYS = st.binary(min_size=32, max_size=32).map(Pseudonyms)
UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))
DAYS = st.dates(date(1990, 1, 1), date(2040, 1, 1))

TEXT_CANARIES = {
    "PatientName": "CANARYPN^JANEDOE", "PatientID": "CANARYLO-ID-4711", "IssuerOfPatientID": "CANARYLO-ISSUER",
    "OtherPatientIDs": "CANARYLO-OTHER", "AccessionNumber": "CANARYSH-ACCESS", "StationName": "CANARYSH-STATION",
    "InstitutionName": "CANARYLO-CLINIC", "Manufacturer": "CANARYLO-MAKER", "ManufacturerModelName": "CANARYLO-MODEL",
    "StudyDescription": "CANARYLO-STUDY", "SeriesDescription": "CANARYLO-SERIES", "ProtocolName": "CANARYLO-PROTOCOL",
    "InstitutionAddress": "CANARYST-ADDRESS", "PatientComments": "CANARYLT-COMMENT", "ImageComments": "CANARYLT-IMAGE",
    "TextValue": "CANARYUT-TEXT", "ReferringPhysicianName": "CANARYPN^PHYSICIAN", "OperatorsName": "CANARYPN^OPERATOR",
    "LongCodeValue": "CANARYUC-CODE", "PatientBirthDate": "19370914", "StudyTime": "231501.987654",
    "FrameOfReferenceUID": "2.25.1111122222333334444455555", "DeviceSerialNumber": "CANARYLO-SERIAL",
    "BodyPartExamined": "Canarycs jane doe", "ViewPosition": "canarycs jane doe", "ImageType": ["canarycs jane", "x"],
    "Laterality": "CANARYCS", "BurnedInAnnotation": "CANARYCS", "PresentationIntentType": "CANARYCS", "PatientSex": "C",
    "PhotometricInterpretation": "canarycs_jane", "PatientAge": "XCAN",
}  # fmt: skip
"""Elements that name a person, or hold what might; one of each representation."""
DIGIT_CANARIES = ("19370914", "1937-09-14", "1937, 9, 14", "987654", "1111122222333334444455555")


def stating(content: bytes, syntax: str) -> bytes:
    """Return an explicit file with another transfer syntax in its header."""
    stated = ExplicitVRLittleEndian.encode() + b"\0"
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    before, after = content.split(len(stated).to_bytes(2, "little") + stated)
    return before + len(value).to_bytes(2, "little") + value + after


def planted(**elements: Any) -> Dataset:
    """Make a data set with canaries in every representation, in private elements and in sequences."""
    made = header(**TEXT_CANARIES | elements)
    made.RequestAttributesSequence = sequence(
        {"ScheduledProcedureStepDescription": "CANARYLO-NESTED", "RequestedProcedureID": "CANARYSH-NESTED"}
    )
    made.AnatomicRegionSequence = sequence({"CodeValue": "CANARYSH-CODE", "CodeMeaning": "CANARYLO-MEANING"})
    made.ViewCodeSequence = sequence({"CodeValue": "CANARYSH-VIEW", "CodeMeaning": "CANARYLO-VIEW"})
    for group in (0x0009, 0x0019, 0x0029):
        block = made.private_block(group, "CANARYLO-CREATOR", create=True)
        for number, kind in enumerate(("PN", "LO", "SH", "ST", "LT", "UT", "UC"), start=1):
            block.add_new(number, kind, f"CANARY{kind}-PRIVATE")
        block.add_new(20, "UN", b"CANARYUN-PRIVATE")
        block.add_new(21, "SQ", sequence({"PatientName": "CANARYPN^PRIVATE"}))
    return made


def assert_clean(items: list[DatasetItem]) -> None:
    """Assert that nothing in the items is a canary, apart from the path that the map is made from."""
    assert items
    for item in items:
        path, member = getattr(item, "path", None), getattr(item, "member", None)
        shown = repr(item).replace(f"path={path!r}", "").replace(f"member={member!r}", "")
        for canary in ("canary", "jane", "doe", *DIGIT_CANARIES):
            assert canary not in shown.lower(), (canary, shown)


@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:The value")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("marked", [True, False])
def test_no_canary_of_a_header_leaves_the_reader(tmp_path: Path, syntax: str, marked: bool) -> None:
    content = encoded(planted(), syntax, marked=marked)
    assert content.upper().count(b"CANARY") > 60
    items = read_bytes(tmp_path, content)
    assert isinstance(items[0], ImageRecord)
    assert_clean(items)


@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:The value")
def test_no_canary_of_a_damaged_header_leaves_the_reader(tmp_path: Path) -> None:
    content = encoded(planted())
    for end in range(140, len(content), 37):
        items = read_bytes(tmp_path, content[:end])
        assert_clean(items)
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "NumberOfFrames"):
        made = planted()
        old = made.get(name, "") and str(made[name].value)
        made.add_new(name, "LO", f"CANARYUI-{old}")
        (found,) = read_bytes(tmp_path, encoded(made))
        assert isinstance(found, Failure)
        assert_clean([found])


@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:The value")
def test_no_canary_of_a_path_leaves_the_reader(tmp_path: Path) -> None:
    root = tmp_path / "CANARY^JANE"
    write(root / "CANARY DOE/CANARY.dcm")
    (root / "CANARY.txt").write_text("x")
    write(root / "CANARY_damaged.dcm", SOPInstanceUID=None)
    with zipfile.ZipFile(root / "CANARY.zip", "w") as archive:
        archive.writestr("CANARY/JANE.dcm", encoded(planted()))
        archive.writestr("../CANARY.dcm", encoded(header()))
        archive.writestr("CANARY.txt", "x")
    (root / "CANARY_cut.zip").write_bytes((root / "CANARY.zip").read_bytes()[:300])
    (root / "CANARY_link").symlink_to("/nowhere/CANARY")
    os.mkfifo(root / "CANARY_pipe")
    source = DicomReader().open(root, ReadOptions(pseudonyms=lambda: KEY))
    items = list(source.items)
    assert len(items) == 9
    assert_clean(items)
    assert "CANARY" not in f"{source.datasets}{source.stored_root}{source.lists}"


@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:The value")
def test_no_canary_of_a_dicomdir_leaves_the_reader(tmp_path: Path) -> None:
    write(tmp_path / "CANARY/IM1")
    records = [
        {"PatientName": "CANARYPN^DOE", "PatientID": "CANARYLO", "ReferencedFileID": name}
        for name in (["CANARY", "IM1"], ["CANARY", "GONE"], ["..", "CANARY"])
    ]
    made = header(SOPClassUID="1.2.840.10008.1.3.10", DirectoryRecordSequence=sequence(*records), PixelData=None)
    (tmp_path / "DICOMDIR").write_bytes(encoded(made))
    items = read(tmp_path / "DICOMDIR")
    assert len(items) == 3
    assert_clean(items)


def test_patient_has_one_pseudonym_in_all_datasets_and_another_with_another_issuer_or_key() -> None:
    assert KEY.of_dicom("P1") == Pseudonyms(b"k" * 32).of_dicom("P1")
    others = [
        KEY.of_dicom("P1"), KEY.of_dicom("P2"), KEY.of_dicom("P1", "A"), KEY.of_dicom("P1", "B"),
        OTHER_KEY.of_dicom("P1"), KEY.of("dicom", "P1"), KEY.of("", "P1"), KEY.of("DICOM patient", "P1"),
    ]  # fmt: skip
    assert len(set(others)) == len(others)
    assert {len(one) for one in others} == {32}


def test_patient_and_accession_are_stored_as_pseudonyms(tmp_path: Path) -> None:
    found = record(tmp_path, PatientID="P1", IssuerOfPatientID="A", AccessionNumber="ACC1")
    assert found.patient.pseudonym == found.patient.key == KEY.of_dicom("P1", "A")
    assert found.dicom.accession == Privacy(KEY).accession("ACC1")


def test_padding_and_character_set_do_not_change_a_patient(tmp_path: Path) -> None:
    plain = record(tmp_path, PatientID="MÜLLER1", SpecificCharacterSet="ISO_IR 100").patient
    assert plain.pseudonym == KEY.of_dicom("MÜLLER1")
    for elements in (
        {"SpecificCharacterSet": "ISO_IR 192"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientID": " MÜLLER1 "},
    ):
        assert record(tmp_path, **{"PatientID": "MÜLLER1"} | elements).patient == plain


def test_id_in_japanese_is_read_in_its_character_set(tmp_path: Path) -> None:
    content = encoded(header(PatientID="ID@@@@@@@@"))
    content = content.replace(b"ID@@@@@@@@", b"ID\x1b$B;3\x1b(B")
    (found,) = read_bytes(tmp_path, content)
    assert isinstance(found, ImageRecord)
    assert found.patient.pseudonym == KEY.of_dicom("ID山")


def test_hashed_uids_keep_the_hierarchy(tmp_path: Path) -> None:
    content = encoded(header(PatientID="P1"))
    (kept,) = read_bytes(tmp_path, content)
    (hashed,) = read_bytes(tmp_path, content, uids="hash")
    assert (kept.study.key, kept.series_uid, kept.sop_uid) == (STUDY, SERIES, SOP)
    assert (hashed.study.key, hashed.series_uid, hashed.sop_uid) == tuple(
        hash_uid(u, KEY) for u in (STUDY, SERIES, SOP)
    )
    assert hashed.dicom.sop_class_uid == kept.dicom.sop_class_uid, "classes name no person"


@pytest.mark.parametrize(
    "stated",
    ["DOE^JANE", "1.2.840.10008.DOE", "1.2.840.10008.1.2 DOE", "4711", "1." + "2" * 63, "1.2.\n3", "../../1.2"],
    ids=["name", "letters", "blank", "no dot", "65 characters", "control", "path"],
)
def test_transfer_syntax_that_is_no_uid_is_not_stored(tmp_path: Path, stated: str) -> None:
    (found,) = read_bytes(tmp_path, stating(encoded(header()), stated))
    assert isinstance(found, ImageRecord)
    assert found.dicom.transfer_syntax_uid is None


def test_kinds_that_the_standard_does_not_define_are_hashed_as_other_uids(tmp_path: Path) -> None:
    content = stating(encoded(header(SOPClassUID="1.2.3.4711")), "1.2.3.4712")
    (kept,) = read_bytes(tmp_path, content)
    (hashed,) = read_bytes(tmp_path, content, uids="hash")
    assert (kept.dicom.sop_class_uid, kept.dicom.transfer_syntax_uid) == ("1.2.3.4711", "1.2.3.4712")
    assert (hashed.dicom.sop_class_uid, hashed.dicom.transfer_syntax_uid) == (
        hash_uid("1.2.3.4711", KEY),
        hash_uid("1.2.3.4712", KEY),
    )


@given(KEYS, UIDS, UIDS)
def test_hash_of_a_uid_is_a_uid_that_the_key_decides(key: Pseudonyms, one: str, other: str) -> None:
    hashed = hash_uid(one, key)
    assert UID(hashed).is_valid
    assert hashed.startswith("2.25.")
    assert int(hashed[5:]) >> 76 & 0xF == 8, "RFC 9562: version 8"
    assert int(hashed[5:]) >> 62 & 0x3 == 2, "RFC 9562: variant"
    assert hashed == hash_uid(one, key)
    assert (hash_uid(other, key) == hashed) == (one == other)
    assert hash_uid(one, OTHER_KEY) != hashed


@given(KEYS, st.text(min_size=1, max_size=20), DAYS, DAYS)
def test_shifted_dates_of_a_patient_keep_their_intervals(key: Pseudonyms, owner: str, one: date, other: date) -> None:
    privacy = Privacy(key, dates="shift")
    first, second = privacy.day(one, owner), privacy.day(other, owner)
    assert first - second == one - other
    assert timedelta(days=1) <= one - first <= timedelta(days=LONGEST_SHIFT)


def test_patients_and_keys_have_shifts_of_their_own() -> None:
    day = date(2024, 1, 31)
    shifts = {Privacy(key, dates="shift").day(day, f"P{n}") for key in (KEY, OTHER_KEY) for n in range(50)}
    assert len(shifts) > 90


def test_dates_are_kept_shifted_or_dropped(tmp_path: Path) -> None:
    content = encoded(header(StudyDate="20240131", PatientAge="045Y"))
    days = {}
    for dates in ("keep", "shift", "drop"):
        (found,) = read_bytes(tmp_path, content, dates=dates)
        days[dates] = found.study.day
        assert found.study.age_years == 45
    assert days["keep"] == date(2024, 1, 31)
    assert days["shift"] == Privacy(KEY, dates="shift").day(date(2024, 1, 31), KEY.of_dicom("P1"))
    assert days["drop"] is None


def test_day_before_the_calendar_is_none() -> None:
    assert Privacy(KEY, dates="shift").day(date(1, 1, 1), "P1") is None


@given(KEYS, st.binary(min_size=1, max_size=40), st.none() | st.text(max_size=20))
def test_opaque_name_is_the_same_again_and_differs_by_file_member_and_key(
    key: Pseudonyms, name: bytes, member: str | None
) -> None:
    privacy = Privacy(key)
    source = privacy.source(name, member)
    assert source == Privacy(key).source(name, member)
    others = {
        privacy.source(name + b"x", member),
        privacy.source(name, f"{member}x"),
        Privacy(OTHER_KEY).source(name, member),
    }
    assert source not in others
    assert source.removeprefix("dicom-").isalnum()
    assert len(source) == len("dicom-") + 32


def test_paths_are_kept_if_asked(tmp_path: Path) -> None:
    write(tmp_path / "x/a.dcm")
    source = DicomReader().open(tmp_path, ReadOptions(pseudonyms=lambda: KEY, paths="keep"))
    assert source.stored_root == str(tmp_path)
    assert [item.source for item in source.items] == ["x/a.dcm"]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("SIEMENS", "Siemens"), ("Siemens Healthineers", "Siemens"), ("GE MEDICAL SYSTEMS", "GE"),
        ("G.E. Medical Systems", "GE"), ("Philips Medical Systems", "Philips"), ("TOSHIBA_MEC", "Canon"),
        ("Canon Medical Systems", "Canon"), ("FUJI PHOTO FILM Co., ltd.", "Fujifilm"), ("HOLOGIC, Inc.", "Hologic"),
        ("Jane Doe", "other"), ("Doe Siemens", "other"),
    ],
)  # fmt: skip
def test_manufacturer_is_a_known_name_or_other(text: str, stored: str) -> None:
    assert vendor(text) == stored


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("SOMATOM Definition AS+", "SOMATOM DEFINITION AS"), ("Discovery MR750w", "DISCOVERY MR750W"),
        ("LightSpeed VCT", "other"), ("Ingenia", "INGENIA"), ("Skyra", "SKYRA"), ("Achieva dStream", "other"),
        ("Optima CT660", "OPTIMA CT660"), ("Jane Doe", "other"), ("SOMATOM of Jane Doe", "other"), ("1234", "other"),
        ("Skyra 19370914", "other"),
    ],
)  # fmt: skip
def test_model_has_known_words_only_or_is_other(text: str, stored: str) -> None:
    assert model(text) == stored
