"""SOP classes that hold no image are named; all others may hold one."""

from __future__ import annotations

import pytest

from cbirdb.pixels.sop_classes import EXCLUDED, EXCLUDED_ELSEWHERE, STORAGE, excluded_sop_class

NO_IMAGE = {
    "Segmentation Storage": "66.4",
    "RT Dose Storage": "481.2",
    "RT Structure Set Storage": "481.3",
    "RT Plan Storage": "481.5",
    "Grayscale Softcopy Presentation State Storage": "11.1",
    "Key Object Selection Document Storage": "88.59",
    "Comprehensive SR Storage": "88.33",
    "Encapsulated PDF Storage": "104.1",
    "12-lead ECG Waveform Storage": "9.1.1",
    "MR Spectroscopy Storage": "4.2",
}


@pytest.mark.parametrize(("name", "rest"), NO_IMAGE.items())
def test_class_without_image_has_a_name(name: str, rest: str) -> None:
    assert excluded_sop_class(STORAGE + rest) == name


@pytest.mark.parametrize("rest", ["1", "1.1.1", "2", "2.1", "4", "4.1", "7", "12.1", "30", "128", "481.1", "77.1.6"])
def test_class_of_images_is_not_excluded(rest: str) -> None:
    assert excluded_sop_class(STORAGE + rest) is None


@pytest.mark.parametrize("uid", ["", "1.2.3", "1.2.840.10008.5.1.4.1.1.", "../../x", "1.2.840.10008.5.1.4.1.1.110"])
def test_unknown_class_is_not_excluded(uid: str) -> None:
    assert excluded_sop_class(uid) is None


def test_newer_report_is_excluded_by_its_family() -> None:
    assert excluded_sop_class(STORAGE + "88.999") == "SR Storage"


def test_padding_of_a_uid_is_ignored() -> None:
    assert excluded_sop_class(STORAGE + "66.4\0") == "Segmentation Storage"


def test_names_are_those_of_the_standard() -> None:
    """pydicom's dictionary, made from PS3.6; a retired trial is named without that word."""
    names = pytest.importorskip("pydicom.uid", reason="the extra dicom is not installed").UID_dictionary
    ours = {STORAGE + rest: name for rest, name in EXCLUDED.items()} | EXCLUDED_ELSEWHERE
    known = {uid: names[uid][0].removesuffix(" - Trial") for uid in ours if uid in names}
    assert len(known) > 100
    assert {uid: ours[uid] for uid in known} == known


def test_every_other_storage_class_of_the_standard_is_an_image() -> None:
    names = pytest.importorskip("pydicom.uid", reason="the extra dicom is not installed").UID_dictionary
    kept = [row[0] for uid, row in names.items() if uid.startswith(STORAGE) and excluded_sop_class(uid) is None]
    assert [name for name in kept if name.endswith("Storage") and "Image" not in name] == [
        "Enhanced US Volume Storage",
        "Parametric Map Storage",
        "Ophthalmic Thickness Map Storage",
        "Corneal Topography Map Storage",
        "DICOS 2D AIT Storage",
        "DICOS 3D AIT Storage",
        "DICOS Quadrupole Resonance (QR) Storage",
    ]
