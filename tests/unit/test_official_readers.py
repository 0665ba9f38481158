"""Read small folders in the layouts of the official downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

import pytest

from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.registry import READERS, open_dataset
from cbirdb.errors import InputError
from cbirdb.records import Failure, ImageRecord, Missing
from tests.support.official_layouts import write_chexpert, write_mimic, write_nih14, write_radimagenet

WRITERS: dict[str, Callable[[Path], Path]] = {
    "nih14": write_nih14,
    "chexpert": write_chexpert,
    "mimic-cxr": write_mimic,
    "radimagenet": write_radimagenet,
}


def read(name: str, path: Path, **options: object) -> list:
    return list(open_dataset(name, path, ReadOptions(**options)).items)


def records(name: str, path: Path, **options: object) -> dict[str, ImageRecord]:
    items = read(name, path, **options)
    assert all(isinstance(item, ImageRecord) for item in items), items
    return {item.source: item for item in items}


@pytest.mark.parametrize("old", [False, True], ids=["v2020", "2017, images_001 to images_012"])
def test_nih14_reads_both_releases_alike(tmp_path: Path, old: bool) -> None:
    found = records("nih14", write_nih14(tmp_path / "nih", old=old))
    assert len(found) == 6
    by_name = {source.rsplit("/", 1)[1]: record for source, record in found.items()}
    record = by_name["00000001_001.png"]
    assert record.path is not None
    assert record.path.is_file()
    assert record.labels == {"XR/chest/Cardiomegaly": 1, "XR/chest/Emphysema": 1}
    assert (record.split, record.modality, record.anatomic_region, record.view) == ("train", "XR", "chest", "PA")
    assert record.patient is not None
    assert record.study is not None
    assert (record.patient.key, record.patient.sex) == ("1", "M")
    assert (record.study.key, record.study.age_years) == ("1", 58)


def test_nih14_labels_have_the_papers_names_and_impossible_ages_become_unknown(tmp_path: Path) -> None:
    found = {source.rsplit("/", 1)[1]: r for source, r in records("nih14", write_nih14(tmp_path / "nih")).items()}
    assert found["00000003_000.png"].labels == {"XR/chest/Pleural Effusion": 1}
    assert found["00000003_001.png"].labels == {"XR/chest/Pleural Thickening": 1}
    assert found["00000003_001.png"].study.age_years is None
    assert {name: r.split for name, r in found.items() if r.split == "test"}.keys() == {
        "00000003_000.png",
        "00000003_001.png",
    }


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_chexpert_reads_both_sizes_zipped_or_not(tmp_path: Path, small: bool, zipped: bool) -> None:
    found = records("chexpert", write_chexpert(tmp_path, small=small, zipped=zipped))
    assert len(found) == 7
    uncertain = found["train/patient00002/study1/view1_frontal.jpg"]
    assert uncertain.labels == {"XR/chest/Edema": 1, "XR/chest/Pneumonia": -1}
    negative = found["train/patient00002/study2/view2_lateral.jpg"]
    assert negative.labels == {"XR/chest/Edema": 1, "XR/chest/Fracture": 0}
    assert (negative.view, negative.patient.sex, negative.study.age_years) == ("Lateral", "M", 88)
    assert found["train/patient00003/study1/view1_frontal.jpg"].patient.sex is None
    valid = found["valid/patient64541/study1/view1_frontal.jpg"]
    assert (valid.split, valid.labels) == ("val", {"XR/chest/Edema": 1, "XR/chest/Support Devices": 0})


def test_chexpert_is_found_in_a_folder_of_another_name(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path).rename(tmp_path / "cx")
    assert len(records("chexpert", folder)) == 7


@pytest.mark.parametrize("zipped", [True, False])
def test_mimic_joins_its_three_tables(tmp_path: Path, zipped: bool) -> None:
    found = records("mimic-cxr", write_mimic(tmp_path / "m", zipped=zipped))
    assert len(found) == 5
    record = found["files/p10/p10000032/s53189527/2a2277a9.jpg"]
    assert record.labels == {"XR/chest/Edema": 1, "XR/chest/Pneumonia": -1}
    assert (record.split, record.view, record.patient.key) == ("train", "LATERAL", "10000032")
    assert record.study.day == date(2180, 6, 26)
    assert {r.split for r in found.values()} == {"train", "val", "test"}
    assert found["files/p11/p11000935/s51178378/8d79ea20.jpg"].labels == {}


def test_radimagenet_takes_labels_modality_and_region_from_folders(tmp_path: Path) -> None:
    found = records("radimagenet", write_radimagenet(tmp_path / "r"))
    assert {(r.split, *r.labels, r.modality, r.anatomic_region) for r in found.values()} == {
        ("train", "CT/lung/normal", "CT", "lung"),
        ("train", "MR/knee/acl_pathology", "MR", "knee"),
        ("train", "US/liver/normal", "US", "liver"),
        ("val", "US/thyroid/nodule", "US", "thyroid"),
        ("test", "CT/lung/nodule", "CT", "lung"),
    }


def test_radimagenet_reads_images_from_a_folder_apart_from_its_lists(tmp_path: Path) -> None:
    root = write_radimagenet(tmp_path / "r")
    assert len(records("radimagenet", root, images=root / "radiology_ai")) == 5


@pytest.mark.parametrize("name", WRITERS)
def test_images_that_are_not_on_disk_are_reported_as_missing(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / "d", images=False)
    items = read(name, path)
    assert items
    assert all(isinstance(item, Missing) for item in items)


@pytest.mark.parametrize("name", WRITERS)
def test_labels_only_gives_records_without_paths(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / "d", images=False)
    source = open_dataset(name, path, ReadOptions(labels_only=True))
    items = list(source.items)
    assert source.root is None
    assert source.total == len(items)
    assert all(isinstance(item, ImageRecord) and item.path is None for item in items)


GIVEN = ReadOptions(
    "a", Path("b"), "XR", "chest", labels_only=True, label_pattern="(?P<label>c)", frames="first", uids="hash",
    dates="drop", paths="keep", labels=Path("d"),
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_option_that_a_reader_does_not_use_is_refused(tmp_path: Path, name: str) -> None:
    ignored = {field.name for field in fields(ReadOptions) if "for_every_reader" not in field.metadata} - READERS[
        name
    ].takes
    assert ignored
    for option in ignored:
        with pytest.raises(InputError, match=f"'{name}' does not use --{option.replace('_', '-')}") as caught:
            open_dataset(name, tmp_path, replace(ReadOptions(), **{option: getattr(GIVEN, option)}))
        assert (
            caught.value.hint
            == "Omit it; it is for "
            + ", ".join(other.name for other in READERS.values() if option in other.takes)
            + "."
        )


@pytest.mark.parametrize("actual", WRITERS)
@pytest.mark.parametrize("asked", READERS)
def test_folder_of_another_dataset_is_refused_with_the_right_command(tmp_path: Path, actual: str, asked: str) -> None:
    path = WRITERS[actual](tmp_path / "d")
    if asked == actual:
        assert open_dataset(asked, path, ReadOptions()).total
        return
    with pytest.raises(InputError, match=READERS[actual].title) as refused:
        open_dataset(asked, path, ReadOptions())
    # A folder that is read as DICOM may have a patient's name.
    assert refused.value.hint == f"Run: cbirdb ingest {actual} {'PATH' if asked == 'dicom' else path}"


@pytest.mark.parametrize("name", WRITERS)
def test_empty_folder_is_refused_with_the_name_of_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"there is no .*\.(csv|txt)"):
        open_dataset(name, tmp_path, ReadOptions())


def test_missing_column_is_named(tmp_path: Path) -> None:
    root = write_nih14(tmp_path / "nih")
    table = root / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Finding Labels", "Findings").replace("Patient Sex", "Sex"))
    with pytest.raises(InputError, match="no column Finding Labels, Patient Sex or Patient Gender") as refused:
        read("nih14", root)
    assert "Findings" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        (",57,M,", ",abc,M,", "Patient Age is 'abc'"),
        (",57,M,", ",57,X,", "Patient Sex is 'X'"),
        (",Cardiomegaly,0,", ",,0,", "Finding Labels is empty"),
        (",Cardiomegaly,0,", ",Cardiomegaly,-1,", "Follow-up # is '-1'"),
    ],
)
def test_impossible_value_is_a_failure_with_its_line(tmp_path: Path, old: str, new: str, detail: str) -> None:
    root = write_nih14(tmp_path / "nih")
    table = root / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    failures = [item for item in read("nih14", root) if isinstance(item, Failure)]
    assert [(f.source, f.reason, f.line) for f in failures] == [("00000001_000.png", "impossible value", 2)]
    assert detail in failures[0].detail


def test_impossible_label_is_a_failure_with_its_line(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path)
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("-1.0", "-3.0", 1))
    failures = [item for item in read("chexpert", folder) if isinstance(item, Failure)]
    assert [(f.reason, f.line, f.detail) for f in failures] == [("impossible value", 3, "Pneumonia is '-3.0'")]


def test_truncated_table_is_refused(tmp_path: Path) -> None:
    root = write_mimic(tmp_path / "m")
    table = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    table.write_bytes(table.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read to its end"):
        read("mimic-cxr", root)


def test_failure_names_at_most_500_characters_of_its_path(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path)
    table = folder / "train.csv"
    table.write_text(table.read_text() + "x" * 600 + table.read_text().splitlines()[1].partition(".jpg")[2] + "\n")
    failures = [item for item in read("chexpert", folder) if isinstance(item, Failure)]
    assert [f.source for f in failures] == ["x" * 500]
