"""Find DICOM files: folders, DICOMDIRs, zips, links; order, memory, and what leads outside."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from concurrent.futures import Future
from pathlib import Path

import pytest

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.dicom.files import count_members
from cbirdb.datasets.dicom.find import find_files
from cbirdb.datasets.dicom.read_file import Outcome, Task
from cbirdb.datasets.dicom.reader import DicomReader, _outcome
from cbirdb.datasets.registry import open_dataset
from cbirdb.errors import InputError, OptionError, PixelError
from cbirdb.parallel.worker_pool import WorkerTimeoutError
from cbirdb.records import Excluded, Failure, ImageRecord, Missing
from tests.support.dicom_headers import KEY, encoded, header, read, sequence, settings, write

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


def dicomdir(path: Path, *names: list[str]) -> Path:
    """Write a DICOMDIR that names these files."""
    records = [{"DirectoryRecordType": "IMAGE", "ReferencedFileID": name} for name in names]
    made = header(
        SOPClassUID=DIRECTORY_CLASS, DirectoryRecordSequence=sequence({"DirectoryRecordType": "PATIENT"}, *records),
        PixelData=None,
    )  # fmt: skip
    path.write_bytes(encoded(made))
    return path


def test_folder_of_any_depth_is_read_in_order_of_names(tmp_path: Path) -> None:
    names = ["b/2", "b/10.dcm", "a/z/y/x/1", "c.dcm", "b/a/1"]
    for name in names:
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    items = read(tmp_path, paths="keep")
    assert [item.source for item in items] == ["c.dcm", "notes.txt", "a/z/y/x/1", "b/10.dcm", "b/2", "b/a/1"]
    assert items[1] == Excluded("notes.txt", "not DICOM")


def test_same_folder_gives_the_same_items_again(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / f"{number % 7}/{number}.dcm", SOPInstanceUID=f"1.2.{number + 1}", PatientID=f"P{number % 3}")
    (tmp_path / "x").write_bytes(b"not DICOM")
    assert read(tmp_path) == read(tmp_path)
    assert len(read(tmp_path)) == 41


def test_file_is_read_alone(tmp_path: Path) -> None:
    write(tmp_path / "b.dcm")
    path = write(tmp_path / "a.dcm")
    source = DicomReader().open(path, ReadOptions(pseudonyms=lambda: KEY))
    (found,) = source.items
    assert (found.path, source.root, source.total) == (path, tmp_path, 1)


def test_moved_folder_gives_the_same_sources(tmp_path: Path) -> None:
    write(tmp_path / "one/a/b.dcm")
    before = read(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    after = read(tmp_path / "two")
    assert [item.source for item in before] == [item.source for item in after]


def test_copies_of_an_instance_and_other_pixels_under_its_uid_are_all_recorded(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    write(tmp_path / "copy.dcm")
    write(tmp_path / "other.dcm", PixelData=bytes(range(16)))
    items = read(tmp_path)
    assert len({item.source for item in items}) == 3
    assert len({item.sop_uid for item in items}) == 1


def test_dicomdir_gives_the_files_that_it_names(tmp_path: Path) -> None:
    write(tmp_path / "DICOM/S1/IM1")
    write(tmp_path / "dicom2/im2")
    write(tmp_path / "unnamed.dcm")
    path = dicomdir(tmp_path / "DICOMDIR", ["DICOM", "S1", "IM1"], ["DICOM2", "IM2"], ["DICOM", "S1", "GONE"])
    items = read(path, paths="keep")
    assert [(type(item), item.source) for item in items] == [
        (Missing, "DICOM/S1/GONE"), (ImageRecord, "DICOM/S1/IM1"), (ImageRecord, "dicom2/im2"),
    ]  # fmt: skip


def test_folder_with_a_dicomdir_gives_all_files(tmp_path: Path) -> None:
    write(tmp_path / "named.dcm")
    write(tmp_path / "unnamed.dcm")
    dicomdir(tmp_path / "DICOMDIR", ["named.dcm"])
    items = read(tmp_path, paths="keep")
    assert [item.source for item in items] == ["DICOMDIR", "named.dcm", "unnamed.dcm"]
    assert items[0] == Excluded("DICOMDIR", "Media Storage Directory Storage")


@pytest.mark.parametrize(
    "name", [["..", "OUT"], ["A", "..", "..", "OUT"], ["../OUT"], [".", "OUT"], ["", "OUT"], ["/etc/passwd"]]
)
def test_dicomdir_names_no_file_outside_its_folder(tmp_path: Path, name: list[str]) -> None:
    write(tmp_path / "OUT")
    (tmp_path / "disc/A").mkdir(parents=True)
    (found,) = read(dicomdir(tmp_path / "disc/DICOMDIR", name))
    assert isinstance(found, Failure)
    assert found.reason == "outside of its folder"
    assert "OUT" not in repr(found)


def test_damaged_dicomdir_is_named(tmp_path: Path) -> None:
    path = dicomdir(tmp_path / "DICOMDIR", ["A"])
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IMAGE")])
    with pytest.raises(InputError, match="The DICOMDIR cannot be read"):
        read(path)


def test_zips_are_read_wherever_they_lie(tmp_path: Path) -> None:
    for path in (tmp_path / "study.zip", tmp_path / "deep/er/no_suffix"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("folder")
            archive.writestr("folder/a.dcm", encoded(header()))
            archive.writestr("readme.txt", "text")
    items = read(tmp_path, paths="keep")
    assert [(type(item), item.source) for item in items] == [
        (ImageRecord, "study.zip!/folder/a.dcm"), (Excluded, "study.zip!/readme.txt"),
        (ImageRecord, "deep/er/no_suffix!/folder/a.dcm"), (Excluded, "deep/er/no_suffix!/readme.txt"),
    ]  # fmt: skip
    assert (items[0].path, items[0].member) == (tmp_path / "study.zip", "folder/a.dcm")


def test_zip_has_the_records_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as archive:
        for number in range(300):
            path = write(folder / f"{number}.dcm", SOPInstanceUID=f"1.2.{number + 1}")
            archive.write(path, path.name)
    plain = {item.sop_uid: item.dicom for item in read(folder)}
    zipped = {item.sop_uid: item.dicom for item in read(tmp_path / "folder.zip")}
    assert plain == zipped
    assert len(zipped) == 300


@pytest.mark.parametrize("name", ["../out.dcm", "/tmp/out.dcm", "a/../../out.dcm", "..\\out.dcm", "C:\\out.dcm"])
def test_zip_member_that_leads_outside_is_a_failure(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, encoded(header()))
    (found,) = read(tmp_path)
    assert isinstance(found, Failure)
    assert found.reason == "outside of its folder"
    assert "out" not in found.source
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_damaged_zips_are_failures(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", encoded(header(PixelData=os.urandom(50_000), Rows=250, Columns=200)))
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[60:90] = b"\xff" * 30
    (tmp_path / "flipped.zip").write_bytes(flipped)
    items = read(tmp_path, paths="keep")
    assert [(type(item), item.source) for item in items] == [
        (ImageRecord, "a.zip!/a.dcm"), (Failure, "cut.zip"), (Failure, "flipped.zip!/a.dcm"),
    ]  # fmt: skip
    assert {item.reason for item in items[1:]} == {"damaged zip"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_member_whose_decoder_is_not_bounded_is_a_failure(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("a.dcm", encoded(header()))
    (found,) = read(tmp_path)
    assert isinstance(found, Failure)
    assert found.reason == "unsupported"


def test_size_of_the_list_of_members_is_checked_where_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record at the end says 10 bytes, the one of large zips before it tells the truth."""
    entries = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, *[0] * 7, 1, *[0] * 6) + b"a"
    entries *= 1000
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 1000, 1000, len(entries), 4)
    locator = struct.pack("<IIQI", 0x07064B50, 0, 4 + len(entries), 1)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 10, 4, 0)
    (tmp_path / "a.zip").write_bytes(b"PK\3\4" + entries + record + locator + end)
    assert count_members(tmp_path / "a.zip") == 1000
    (tmp_path / "a.zip").rename(tmp_path / "b.zip")
    monkeypatch.setattr("cbirdb.pixels.archive.LARGEST_LIST", 40_000)
    with pytest.raises(PixelError, match="list of the zip's members"):
        count_members(tmp_path / "b.zip")


def test_zip_with_an_immense_list_of_members_is_a_failure(tmp_path: Path) -> None:
    size = 65 << 20
    with (tmp_path / "a.zip").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(size)  # a sparse file
        file.write(b"PK\5\6" + bytes(8) + size.to_bytes(4, "little") + bytes(6))
    (found,) = read(tmp_path)
    assert isinstance(found, Failure)
    assert found.reason == "too large"


def test_members_that_hang_are_failures_under_names_of_their_own(tmp_path: Path) -> None:
    def hung(task: Task) -> Failure:
        future: Future[Outcome] = Future()
        future.set_exception(WorkerTimeoutError(60))
        (failure,) = _outcome(task, future, settings(tmp_path))
        assert isinstance(failure, Failure)
        return failure

    failures = [hung(Task(b"a.zip")), hung(Task(b"a.zip", 0)), hung(Task(b"a.zip", 1))]
    assert {failure.reason for failure in failures} == {"timed out"}
    assert len({failure.source for failure in failures}) == 3


def test_frames_of_a_member_must_fit_into_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", encoded(header(NumberOfFrames=90_000)))
    (found,) = read(tmp_path)
    assert isinstance(found, Failure)
    assert found.reason == "impossible value"


def test_member_of_a_zip_is_not_taken_for_a_file_of_a_folder_with_such_a_name(tmp_path: Path) -> None:
    content = encoded(header())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one", content)
    (tmp_path / "a.zip!").mkdir()
    (tmp_path / "a.zip!" / "one").write_bytes(content)
    assert len({item.source for item in read(tmp_path)}) == 2


def test_zip_inside_a_zip_is_excluded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("a.dcm", encoded(header()))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.zip")
    (found,) = read(tmp_path / "outer.zip")
    assert isinstance(found, Excluded)
    assert found.reason == "a zip inside a zip"


def test_folder_whose_name_is_no_text_is_read_under_an_opaque_name(tmp_path: Path) -> None:
    root = Path(os.fsdecode(bytes(tmp_path) + b"/M\xfcller"))
    write(root / "a.dcm")
    assert [type(item) for item in read(root)] == [ImageRecord]
    with pytest.raises(InputError, match="cannot be stored"):
        read(root, paths="keep")


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "real/a.dcm")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/up").symlink_to("..")
    (tmp_path / "real/self").symlink_to("self")
    found = read(tmp_path, paths="keep")
    assert [item.reason for item in found if isinstance(item, Failure)] == ["unreadable"] * 2
    assert [item.source for item in found if isinstance(item, ImageRecord)] == ["link/a.dcm", "real/a.dcm"]


def test_folders_that_link_to_one_another_are_listed_twice_at_most(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(8)]
    for folder in folders:
        write(folder / "a.dcm")
        for other in folders:
            if other != folder:
                (folder / f"link{other.name}").symlink_to(other)
    assert len(list(find_files(tmp_path, AllowedRoots()))) == 16


def test_links_that_lead_outside_are_failures_unless_allowed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.dcm")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/file.dcm").symlink_to(tmp_path / "elsewhere/a.dcm")
    refused = read(tmp_path / "in")
    assert [item.reason for item in refused] == ["outside of its folder"] * 2
    allowed = AllowedRoots(named=(str(tmp_path / "elsewhere"),))
    assert {type(item) for item in read(tmp_path / "in", allowed=allowed)} == {ImageRecord}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_files_and_folders_are_failures(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm").chmod(0)
    (tmp_path / "b").mkdir(mode=0)
    assert [item.reason for item in read(tmp_path)] == ["unreadable", "unreadable"]


def test_name_that_is_no_text_is_read_under_an_opaque_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/M\xfcller.dcm"))
    path.write_bytes(encoded(header()))
    (found,) = read(tmp_path)
    assert isinstance(found, ImageRecord)
    assert found.path == path


def test_damage_of_one_file_does_not_end_the_run(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:180])
    write(tmp_path / "c.dcm")
    assert [type(item) for item in read(tmp_path)] == [ImageRecord, Failure, ImageRecord]


def test_names_of_files_take_at_most_300_bytes_each(tmp_path: Path) -> None:
    files = 5000
    for folder in range(10):
        (tmp_path / f"{folder}" / ("x" * 60)).mkdir(parents=True)
    for number in range(files):
        (tmp_path / f"{number % 10}" / ("x" * 60) / (f"{number:06}" + "1.2.840.113619." * 4)).touch()
    tracemalloc.start()
    found = find_files(tmp_path, AllowedRoots())
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert found.count == files == len(list(found))
    assert held / files < 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uids": "x"}, "--uids"), ({"dates": "x"}, "--dates"), ({"paths": "x"}, "--paths"), ({"frames": "x"}, "frames"),
    ],
)  # fmt: skip
def test_other_value_of_an_option_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    write(tmp_path / "a.dcm")
    with pytest.raises(OptionError, match=message):
        read(tmp_path, **options)


def test_missing_path_empty_folder_and_missing_key_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        read(tmp_path / "x")
    with pytest.raises(InputError, match="no files"):
        read(tmp_path)
    write(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="a key for their pseudonyms is needed"):
        read(tmp_path, pseudonyms=None)


def test_other_readers_name_this_one_for_a_folder_of_dicom(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="DICOM files") as raised:
        open_dataset("folder", tmp_path, ReadOptions())
    assert "cbirdb ingest dicom" in str(raised.value)
    with pytest.raises(OptionError, match="--frames"):
        open_dataset("nih14", tmp_path, ReadOptions(frames="first"))
