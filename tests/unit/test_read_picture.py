"""Pictures are read from files and from members of zips, and DICOM among them is noticed."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from cbirdb.errors import PixelError
from cbirdb.pixels import inspect_file, read_picture, read_rgb, source
from cbirdb.pixels.rendering import Rendering
from tests.support.dicom_pixels import native, raster, smooth

GREY = smooth()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/one.dcm", native(GREY))
        file.writestr("picture.png", raster("PNG"))
        file.writestr("zeros", bytes(8 << 20))
        file.writestr("nothing", b"")
    return path


def test_dicom_is_read_as_files_and_as_members_of_a_zip(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(native(GREY))
    one, other = read_picture(path), read_picture(archive, member="a/one.dcm")
    assert one.frame is not None
    assert one.frame == other.frame
    assert (one.frame.width, one.frame.height) == (48, 40)
    assert one.picture.tobytes() == read_rgb(path).tobytes()
    assert (inspect_file(path).width, inspect_file(path).sha256) == (48, one.frame.sha256)


def test_rendering_and_frame_reach_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_bytes(native(np.stack([GREY, GREY.max() - GREY]), frames=True))
    pictures = [read_picture(path, frame=frame, rendering=Rendering.parse("min-max")).picture for frame in (0, 1)]
    np.testing.assert_allclose(np.asarray(pictures[0]).astype(int) + np.asarray(pictures[1]), 255, atol=1)


def test_image_files_are_read_as_before(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(raster("PNG"))
    one, other = read_picture(path), read_picture(archive, member="picture.png", rendering=Rendering.parse("equalise"))
    assert one.picture.tobytes() == other.picture.tobytes() == read_rgb(path).tobytes()
    assert one.frame is None
    with pytest.raises(PixelError) as caught:
        read_picture(path, frame=1)
    assert caught.value.reason == "no such frame"


@pytest.mark.parametrize(
    ("member", "expected"),
    [("absent", "file not found"), ("../../etc/passwd", "file not found"), ("nothing", "empty file")],
)
def test_member_that_cannot_be_read_has_a_reason_without_its_name(archive: Path, member: str, expected: str) -> None:
    with pytest.raises(PixelError) as caught:
        read_picture(archive, member=member)
    assert caught.value.reason == expected
    assert member not in str(caught.value) or member == "nothing"


def test_zip_member_is_bounded_by_what_it_inflates_to(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LARGEST_HELD", 4 << 20)
    data = archive.read_bytes().replace(struct.pack("<I", 8 << 20), struct.pack("<I", 100))
    archive.write_bytes(data)  # the archive states 100 bytes
    with pytest.raises(PixelError) as caught:
        read_picture(archive, member="zeros")
    assert caught.value.reason in ("too large", "corrupt")
    archive.write_bytes(data.replace(struct.pack("<I", 100), struct.pack("<I", 8 << 20)))
    with pytest.raises(PixelError) as caught:
        read_picture(archive, member="zeros")
    assert caught.value.reason == "too large"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_whose_decoder_is_not_bounded_are_refused(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("one.dcm", native(GREY))
    with pytest.raises(PixelError) as caught:
        read_picture(path, member="one.dcm")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-30], "damaged zip"),
        (lambda _: b"x" * 100, "damaged zip"),
        (lambda data: data[:60] + b"!!!!" + data[64:], "corrupt"),
    ],
    ids=["its list is cut off", "no zip", "its member is damaged"],
)
def test_damaged_archive_has_a_reason(archive: Path, spoil: Callable[[bytes], bytes], reason: str) -> None:
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(PixelError) as caught:
        read_picture(archive, member="a/one.dcm")
    assert caught.value.reason == reason


def test_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PixelError) as caught:
        read_picture(tmp_path / "pipe", member="x")
    assert caught.value.reason == "unreadable"


def pixels(path: Path, frame: int) -> bytes:
    facts = read_picture(path, frame=frame).frame
    assert facts is not None
    return facts.pixel_sha256


def test_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "cine"
    frames = np.stack([smooth(), smooth()[::-1]])
    path.write_bytes(native(frames, frames=True))
    before = [pixels(path, frame) for frame in (0, 1)]
    changed = path.stat().st_mtime_ns + 1_000_000_000
    path.write_bytes(native(frames[::-1].copy(), frames=True))
    os.utime(path, ns=(changed, changed))
    assert [pixels(path, frame) for frame in (0, 1)] == before[::-1]


def test_damage_is_reported_with_each_frame_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cine"
    frames = np.stack([smooth(), smooth()])
    path.write_bytes(native(frames, uid.DeflatedExplicitVRLittleEndian, frames=True)[:-8])
    for frame in (0, 0, 1):
        with pytest.raises(PixelError, match="deflated data set ends too early"):
            read_picture(path, frame=frame)
