"""Hear libtiff's errors and warnings about image data, of this thread only, and refuse what they report."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cbirdb.errors import PixelError
from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels import libtiff
from cbirdb.pixels.raster import decode
from tests.fuzz.pictures import HEIGHT, WIDTH, coloured, deep, encoded, smooth

JFIF_VERSION = 11
"""Offset of the major version in a file that begins with a JFIF header."""
FILL_ORDER, LOW_BIT_FIRST = 266, 2
PACKBITS, JPEG = 32773, 7


def tiff_of(strip: bytes, compression: int, size: tuple[int, int]) -> bytes:
    """A grey TIFF of one strip."""
    numbers = {256: size[0], 257: size[1], 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: size[1]}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in {**numbers, 279: len(strip)}.items()]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + directory


def reason(data: bytes) -> str | None:
    """Why a file is refused; None if it is not."""
    try:
        decode(data, MAX_PIXELS)
    except PixelError as error:
        return error.reason
    return None


def lzw(*, damaged: bool) -> bytes:
    data = bytearray(encoded(deep(), "TIFF", compression="tiff_lzw"))
    if damaged:
        data[700:760] = bytes(range(200, 255)) + bytes(5)
    return bytes(data)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Pillow's libtiff have no such functions, as if it were part of a program without symbols."""
    monkeypatch.setattr(libtiff, "SETTERS", ("NoSuchFunction",))
    libtiff._listener.cache_clear()
    libtiff.can_be_heard.cache_clear()
    yield
    libtiff._listener.cache_clear()
    libtiff.can_be_heard.cache_clear()


def test_warnings_of_the_installed_pillow_can_be_heard() -> None:
    assert libtiff.can_be_heard()


@pytest.mark.parametrize("strip", [bytes([3, 1, 2, 3, 4]), bytes([257 - 4, 9])], ids=["four bytes", "a run of four"])
def test_packbits_of_another_size_than_their_strip_are_corrupt(strip: bytes) -> None:
    found = {width: reason(tiff_of(strip, PACKBITS, (width, 1))) for width in range(1, 7)}
    assert found == {width: None if width == 4 else "corrupt" for width in range(1, 7)}


def test_packbits_with_the_low_bit_first_are_accepted() -> None:
    data = encoded(smooth(), "TIFF", compression="packbits", tiffinfo={FILL_ORDER: LOW_BIT_FIRST})
    assert Image.open(io.BytesIO(data)).tag_v2[FILL_ORDER] == LOW_BIT_FIRST
    np.testing.assert_array_equal(np.asarray(decode(data, MAX_PIXELS)), np.asarray(smooth()))


def test_jpeg_of_another_height_than_its_strip_is_corrupt() -> None:
    strip = encoded(smooth(), "JPEG")
    found = [reason(tiff_of(strip, JPEG, (WIDTH, height))) for height in (HEIGHT - 8, HEIGHT, HEIGHT + 8)]
    assert found == ["corrupt", None, "corrupt"]


def test_jpeg_strip_without_its_end_is_truncated() -> None:
    assert reason(tiff_of(encoded(smooth(), "JPEG")[:-100], JPEG, smooth().size)) == "truncated"


def test_progressive_jpeg_in_a_tiff_is_accepted() -> None:
    data = tiff_of(encoded(smooth(), "JPEG", progressive=True), JPEG, smooth().size)
    heard = libtiff.load(Image.open(io.BytesIO(data)))
    assert [message.function for message in heard] == ["JPEGPreDecode"]
    assert reason(data) is None


def test_warning_that_hides_later_ones_makes_a_tiff_not_checkable() -> None:
    strip = bytearray(encoded(smooth(), "JPEG"))
    strip[JFIF_VERSION] = 5
    assert reason(tiff_of(bytes(strip), JPEG, smooth().size)) == "not checkable"


def test_warning_about_a_tag_is_no_damage() -> None:
    data = encoded(coloured(), "TIFF", compression="packbits", description="a scanner's note")
    data = data.replace(b"a scanner's note\0", b"a scanner's notes")
    heard = libtiff.load(Image.open(io.BytesIO(data)))
    assert any("does not end in null byte" in message.text for message in heard)
    assert reason(data) is None


def test_threads_hear_their_own_messages() -> None:
    kinds = [lzw(damaged=number % 2 == 1) for number in range(200)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(reason, kinds)) == [None, "corrupt"] * 100


def test_message_of_another_thread_is_not_taken_for_ours(capfd: pytest.CaptureFixture[str]) -> None:
    class Meanwhile:
        """Stands for a picture; while it is decoded, another thread decodes a damaged one through Pillow alone."""

        def load(self) -> None:
            with ThreadPoolExecutor(1) as threads:
                assert isinstance(threads.submit(Image.open(io.BytesIO(lzw(damaged=True))).load).exception(), OSError)

    assert libtiff.load(Meanwhile()) == []  # type: ignore[arg-type]
    assert "Using code not yet in table" in capfd.readouterr().err


def test_libtiff_reports_to_stderr_again_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    assert reason(lzw(damaged=True)) == "corrupt"
    assert capfd.readouterr().err == ""
    with pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(lzw(damaged=True))).load()
    assert "Using code not yet in table" in capfd.readouterr().err


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(
    ("compression", "expected"), [("packbits", "not checkable"), ("tiff_lzw", "not checkable"), (None, None)]
)
def test_compressed_tiff_is_not_checkable_where_warnings_cannot_be_heard(
    compression: str | None, expected: str | None
) -> None:
    assert reason(encoded(smooth(), "TIFF", compression=compression)) == expected
