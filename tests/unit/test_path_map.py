"""Keep which file an opaque source stands for: on disk when said, private, shared, and safe from crashes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cbirdb.errors import InputError
from cbirdb.path_map import MappedFile, PathMap

ROOT = "dicom-00"
WRITER = """
import sys
from pathlib import Path
from cbirdb.path_map import MappedFile, PathMap
who, batches = sys.argv[2], int(sys.argv[3])
with PathMap.open(Path(sys.argv[1]), create=True) as paths:
    for batch in range(batches):
        paths.add([MappedFile("r", f"{who}-{batch}-{n}", Path(f"{batch}/{n}")) for n in range(50)], [("r", Path("/data"))])
        print(batch, flush=True)
"""


def filled(path: Path) -> PathMap:
    paths = PathMap.open(path, create=True)
    paths.add(
        [MappedFile(ROOT, "a", Path("Doe/1.dcm")), MappedFile(ROOT, "b", Path("s.zip"), "Doe/2.dcm")],
        [(ROOT, Path("/data/one"))],
    )
    return paths


def writer(path: Path, who: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), who, str(batches)], stdout=subprocess.PIPE, text=True
    )


def test_file_is_found_by_its_stored_names(tmp_path: Path) -> None:
    with filled(tmp_path / "m/map") as paths:
        assert paths.find(ROOT, "a") == (Path("/data/one/Doe/1.dcm"), None)
        assert paths.find(ROOT, "b") == (Path("/data/one/s.zip"), "Doe/2.dcm")
        assert paths.find(ROOT, "c") is None
        assert paths.find("dicom-01", "a") is None
        assert paths.folder(ROOT) == Path("/data/one")
        assert paths.folder("dicom-01") is None


def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    path = Path(os.fsdecode(b"M\xfcller/1.dcm"))
    with PathMap.open(tmp_path / "map", create=True) as paths:
        paths.add([MappedFile(ROOT, "a", path)], [(ROOT, Path("/data"))])
        assert paths.find(ROOT, "a") == (Path("/data") / path, None)


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    filled(tmp_path / "map").close()
    assert (tmp_path / "map").stat().st_mode & 0o777 == 0o600
    (tmp_path / "map").chmod(0o604)
    with pytest.raises(InputError, match="Everybody") as raised:
        PathMap.open(tmp_path / "map")
    assert "chmod 600" in str(raised.value)


def test_map_that_its_group_may_change_is_refused_and_one_that_it_may_read_is_not(tmp_path: Path) -> None:
    PathMap.open(tmp_path / "map", create=True).close()
    (tmp_path / "map").chmod(0o640)
    PathMap.open(tmp_path / "map", read_only=True).close()
    (tmp_path / "map").chmod(0o660)
    with pytest.raises(InputError, match="may change the path map"):
        PathMap.open(tmp_path / "map", read_only=True)


def test_second_ingest_changes_nothing_and_a_move_changes_paths(tmp_path: Path) -> None:
    filled(tmp_path / "map").close()
    before = (tmp_path / "map").read_bytes()
    with PathMap.open(tmp_path / "map") as paths:
        paths.add([MappedFile(ROOT, "a", Path("Doe/1.dcm"))])
        assert (tmp_path / "map").read_bytes()[100:] == before[100:]
        paths.add([MappedFile(ROOT, "a", Path("new.dcm"))], [(ROOT, Path("/data/two"))])
        assert paths.find(ROOT, "a") == (Path("/data/two/new.dcm"), None)


def test_removed_files_leave_no_bytes(tmp_path: Path) -> None:
    with PathMap.open(tmp_path / "map", create=True) as paths:
        paths.add([MappedFile(ROOT, f"s{n}", Path(f"CANARYPATIENT{n}")) for n in range(300)], [(ROOT, Path("/d"))])
        assert b"CANARYPATIENT7" in (tmp_path / "map").read_bytes()
        assert paths.remove(ROOT, [*(f"s{n}" for n in range(300)), "unknown"]) == 300
        assert paths.find(ROOT, "s7") is None
    assert b"CANARY" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_overlapping_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with PathMap.open(tmp_path / "map", create=True) as paths:
        for name in ("a", "a/b", "a/b/c", "ab", "other"):
            (tmp_path / name).mkdir(exist_ok=True)
            paths.add([], [(name, tmp_path / name)])
        assert paths.overlapping_roots(tmp_path / "a/b") == ["a", "a/b", "a/b/c"]
        assert paths.overlapping_roots(tmp_path / "link") == ["a", "a/b", "a/b/c"]
        assert paths.overlapping_roots(tmp_path / "abc") == []
        assert len(paths.overlapping_roots(Path("/"))) == 5


def test_map_in_a_folder_that_nobody_may_write_is_read(tmp_path: Path) -> None:
    filled(tmp_path / "m/map").close()
    (tmp_path / "m").chmod(0o500)
    try:
        for _ in range(2):
            with PathMap.open(tmp_path / "m/map", read_only=True) as paths:
                assert paths.find(ROOT, "a") == (Path("/data/one/Doe/1.dcm"), None)
                with pytest.raises(InputError, match="cannot be read or written"):
                    paths.add([MappedFile(ROOT, "z", Path("z"))])
        assert [path.name for path in (tmp_path / "m").iterdir()] == ["map"]
    finally:
        (tmp_path / "m").chmod(0o700)


def test_reader_sees_what_another_process_adds(tmp_path: Path) -> None:
    with filled(tmp_path / "map") as writes, PathMap.open(tmp_path / "map", read_only=True) as reads:
        writes.add([MappedFile(ROOT, "new", Path("new"))])
        assert reads.find(ROOT, "new") == (Path("/data/one/new"), None)


def test_wrong_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no path map"):
        PathMap.open(tmp_path / "missing")
    (tmp_path / "text").write_text("a text of some length, not a database at all" * 10)
    (tmp_path / "empty").touch()
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE x (y)")
    other.close()
    for name in ("text", "empty", "other"):
        (tmp_path / name).chmod(0o600)
        with pytest.raises(InputError, match="is not a path map"):
            PathMap.open(tmp_path / name)
    with pytest.raises(InputError, match="is not a path map"):
        PathMap.open(tmp_path / "other", create=True)
    with pytest.raises(InputError, match="is not a file"):
        PathMap.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be opened"):
        PathMap.open(tmp_path / "file/map", create=True)


def test_full_disk_is_said_and_keeps_what_was_there(tmp_path: Path) -> None:
    with filled(tmp_path / "map") as paths:
        pages = paths._connection.execute("PRAGMA page_count").fetchone()[0]
        paths._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match="full") as raised:
            paths.add([MappedFile(ROOT, f"s{n}", Path("x" * 500)) for n in range(1000)])
        assert "Make room" in str(raised.value)
        assert paths.find(ROOT, "s0") is None
        assert paths.find(ROOT, "a") is not None


@pytest.mark.parametrize("after", [0, 3, 10])
def test_what_was_added_survives_a_kill(tmp_path: Path, after: int) -> None:
    process = writer(tmp_path / "map", "w", 100_000)
    assert process.stdout is not None
    said = -1
    while said < after:
        said = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    said = max([said, *map(int, process.stdout.read().split())])
    process.wait()
    with PathMap.open(tmp_path / "map") as paths:
        for batch in range(said + 1):
            assert all(paths.find("r", f"w-{batch}-{n}") for n in range(50)), batch
        assert paths._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        # A batch that was under way is there as a whole or not at all.
        assert {bool(paths.find("r", f"w-{said + 1}-{n}")) for n in range(50)} in ({True}, {False})


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    processes = [writer(tmp_path / "map", who, 30) for who in "xy"]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    with PathMap.open(tmp_path / "map") as paths:
        assert all(paths.find("r", f"{who}-{batch}-{n}") for who in "xy" for batch in range(30) for n in range(50))
