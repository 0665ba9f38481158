"""Read files as pictures: every mode becomes RGB, every kind of damage has its own reason."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbirdb.errors import PixelError
from cbirdb.pixels import inspect_file, read_rgb
from tests.conftest import picture, picture_bytes


def saved(path: Path, image: Image.Image, **how: object) -> Path:
    image.save(path, **how)
    return path


def reason(path: Path) -> str:
    """Return why a file is refused; both functions must agree."""
    reasons = set()
    for read in (inspect_file, read_rgb):
        with pytest.raises(PixelError) as refused:
            read(path)
        assert refused.value.message, "a failure needs a detail"
        reasons.add(refused.value.reason)
    assert len(reasons) == 1
    return reasons.pop()


def grey(path: Path) -> np.ndarray:
    """Return the grey values of a picture, whose three channels must be equal."""
    pixels = np.asarray(read_rgb(path))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def test_inspection_returns_hash_size_bytes_and_modification_time(tmp_path: Path) -> None:
    data = picture_bytes(1)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    facts = inspect_file(path)
    assert facts.sha256 == hashlib.sha256(data).digest()
    assert (facts.width, facts.height) == (48, 40)
    assert facts.file_bytes == len(data)
    assert facts.modified_ns == path.stat().st_mtime_ns


@pytest.mark.parametrize(
    ("mode", "value", "rgb"),
    [
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (77, 77, 77)),  # transparent pixels are shown as stored
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("1", 1, (255, 255, 255)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_picture_of_each_mode_becomes_rgb(
    tmp_path: Path, mode: str, value: object, rgb: tuple[int, ...], suffix: str
) -> None:
    read = read_rgb(saved(tmp_path / f"a.{suffix}", Image.new(mode, (5, 4), value)))
    assert read.mode == "RGB"
    assert read.size == (5, 4)
    assert read.getpixel((2, 2)) == rgb


def test_palette_is_resolved_to_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 3)
    image.putpalette([0] * 9 + [200, 100, 50])
    assert read_rgb(saved(tmp_path / "a.png", image)).getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_without_ink_becomes_white(tmp_path: Path, suffix: str) -> None:
    # Paper without ink is white.
    pixel = read_rgb(saved(tmp_path / f"a.{suffix}", Image.new("CMYK", (8, 8), (0, 0, 0, 0)))).getpixel((4, 4))
    assert min(pixel) > 250


def test_lab_tiff_can_be_read(tmp_path: Path) -> None:
    assert read_rgb(saved(tmp_path / "a.tif", Image.new("LAB", (4, 4)))).mode == "RGB"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_values_are_scaled_to_their_range(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[1000, 2000], [3000, 5000]], dtype=np.uint16)
    np.testing.assert_array_equal(
        grey(saved(tmp_path / f"a.{suffix}", Image.fromarray(deep))),
        [[0, 64], [128, 255]],  # (v - 1000) * 255 / 4000, rounded; 127.5 to the even 128
    )


@pytest.mark.parametrize(("dtype", "low"), [(np.int32, -1000), (np.float32, -0.5)])
def test_deep_and_negative_values_are_scaled_to_their_range(tmp_path: Path, dtype: type, low: float) -> None:
    deep = np.array([[low, 0], [0, -low]], dtype=dtype)
    np.testing.assert_array_equal(grey(saved(tmp_path / "a.tif", Image.fromarray(deep))), [[0, 128], [128, 255]])


def test_deep_picture_of_one_value_is_black(tmp_path: Path) -> None:
    assert not grey(saved(tmp_path / "a.png", Image.fromarray(np.full((3, 3), 4095, dtype=np.uint16)))).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_float_picture_with_one_non_finite_pixel_keeps_grey_values(tmp_path: Path, odd: float) -> None:
    deep = np.array([[0, 1], [2, odd]], dtype=np.float32)
    assert grey(saved(tmp_path / "a.tif", Image.fromarray(deep))).any()


def test_compressed_tiff_is_read_without_loss(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", picture(1), compression="tiff_lzw")
    np.testing.assert_array_equal(grey(path), np.asarray(picture(1)))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_format_is_recognised_by_content_and_not_by_name(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(picture_bytes(1, file_format=file_format))
    assert read_rgb(path).size == (48, 40)
    assert inspect_file(path).width == 48


def test_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert reason(tmp_path / "a.png") == "empty file"


@pytest.mark.parametrize(
    "data", [b"filepath,split\n", b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"\x00" * 5000], ids=["csv", "pdf", "png", "0"]
)
def test_file_that_is_no_picture_is_called_not_an_image(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png") == "not an image"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.8, 0.95])
def test_file_that_ends_too_early_is_called_truncated(tmp_path: Path, file_format: str, kept: float) -> None:
    data = picture_bytes(1, file_format=file_format)
    path = tmp_path / "a"
    path.write_bytes(data[: int(len(data) * kept)])
    assert reason(path) == "truncated"


@pytest.mark.parametrize(("file_format", "length"), [("PNG", 20), ("JPEG", 100), ("BMP", 30)])
def test_file_that_ends_in_its_header_is_called_truncated(tmp_path: Path, file_format: str, length: int) -> None:
    (tmp_path / "a").write_bytes(picture_bytes(1, file_format=file_format)[:length])
    assert reason(tmp_path / "a") == "truncated"


def test_file_with_wrong_bytes_inside_is_called_corrupt(tmp_path: Path) -> None:
    data = bytearray(picture_bytes(1))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png") == "corrupt"


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG"])
def test_file_of_several_frames_is_refused_with_their_number(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "a"
    picture(1).save(path, format=file_format, save_all=True, append_images=[picture(2), picture(3)])
    assert reason(path) == "multi-frame"
    with pytest.raises(PixelError, match="3 frames"):
        inspect_file(path)


def test_missing_file_and_broken_link_are_called_not_found(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.png") == "file not found"
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert reason(tmp_path / "link.png") == "file not found"


def test_folder_and_link_to_itself_are_called_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").symlink_to("b.png")
    assert reason(tmp_path / "a.png") == "unreadable"
    assert reason(tmp_path / "b.png") == "unreadable"


def test_file_without_read_permission_is_called_unreadable(bound_by_permissions: Path) -> None:
    path = saved(bound_by_permissions / "a.png", picture(1))
    path.chmod(0)
    assert reason(path) == "unreadable"


def test_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    reasons: list[str] = []

    def read() -> None:
        try:
            inspect_file(pipe)
        except PixelError as error:
            reasons.append(error.reason)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=3)
    waited = reader.is_alive()
    if waited:  # let it go, so that the test run can end
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        reader.join(timeout=10)
    assert not waited
    assert reasons == ["unreadable"]


def test_small_file_that_declares_a_huge_picture_is_called_too_large(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    buffer = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    buffer.seek(0, io.SEEK_END)
    buffer.write(chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)))
    buffer.write(chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert reason(tmp_path / "a.png") == "too large"
