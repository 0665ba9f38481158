"""Labels of DICOM images from a CSV file, by UID or accession number."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbirdb.errors import InputError
from cbirdb.records import ImageRecord, Missing
from tests.support.dicom_headers import read, write


def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in (1, 2, 3):
        write(
            root / f"{number}.dcm", SOPInstanceUID=f"1.2.{number}", SeriesInstanceUID=f"1.3.{number % 2}",
            StudyInstanceUID="1.4.5", AccessionNumber=f"ACC{number}",
        )  # fmt: skip
    return root


def labels(tmp_path: Path, text: str, **options: str) -> list[object]:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    return [
        dict(item.labels) if isinstance(item, ImageRecord) else item
        for item in read(folder(tmp_path), labels=file, **options)
    ]


@pytest.mark.parametrize("uids", ["keep", "hash"])
@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("sop_uid", "1.2.1", "1.2.3"), ("series_uid", "1.3.1", None), ("study_uid", "1.4.5", None),
        ("accession_number", "ACC1", "ACC3"),
    ],
)  # fmt: skip
def test_labels_go_to_the_images_of_their_key(
    tmp_path: Path, uids: str, key: str, first: str, second: str | None
) -> None:
    rows = "".join(f"{value},CT/chest/mass\n" for value in (first, second) if value)
    found = labels(tmp_path, f"{key},label\n{rows}", uids=uids)
    mass = {"CT/chest/mass": 1}
    assert found == ([mass, mass, mass] if key == "study_uid" else [mass, {}, mass])


def test_image_has_several_labels_with_values(tmp_path: Path) -> None:
    text = "label,sop_uid,value\na,1.2.1,1\nb,1.2.1,0\nc,1.2.1,-1\nc,1.2.1,-1.0\n"
    assert labels(tmp_path, text) == [{"a": 1, "b": 0, "c": -1}, {}, {}]


def test_key_without_an_image_is_missing_and_not_shown(tmp_path: Path) -> None:
    found = labels(tmp_path, "accession_number,label\nACC1,a\nCANARY-9,a\nCANARY-9,b\n")
    assert found[3:] == [Missing("labels, line 3", "no image has this accession_number")]


def test_all_frames_of_an_instance_have_its_labels(tmp_path: Path) -> None:
    write(tmp_path / "data/a.dcm", NumberOfFrames=3, PixelData=bytes(48))
    (tmp_path / "labels.csv").write_text("sop_uid,label\n1.2.3.4.5.6.7,a\n")
    items = read(tmp_path / "data", labels=tmp_path / "labels.csv")
    assert [item.labels for item in items] == [{"a": 1}] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column label"),
        ("sop_uid,label\n", "no rows"),
        ("sop_uid,value\n1.2,1\n", "no column label"),
        ("uid,label\n1.2,a\n", "no column that names images"),
        ("sop_uid,study_uid,label\n1.2,1.3,a\n", "sop_uid and study_uid"),
        ("sop_uid,label,note\n1.2,a,x\n", "an unknown column"),
        ("sop_uid,label\n,a\n", "Line 2 of .* has no sop_uid"),
        ("sop_uid,label\n1.2,\n", "Line 2 of .* has no label"),
        ("sop_uid,label,value\n1.2,a,\n", "Line 2 of .* has a value"),
        ("sop_uid,label,value\n1.2,a,yes\n", "Line 2 of .* has a value"),
        ("sop_uid,label,value\n1.2,a,1\n1.2,a,0\n", "Line 3 .* another value"),
        ('sop_uid,label\n1.2,"a\tb"\n', "line 2 .* control character"),
    ],
)
def test_wrong_file_is_said_before_anything_is_read(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        labels(tmp_path, text)


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        read(folder(tmp_path), labels=tmp_path / "x.csv")
