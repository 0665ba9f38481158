"""Refuse pictures whose decoder reports damage; accept pictures with unknown tags."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, STRIPBYTECOUNTS

from cbirdb.errors import PixelError
from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels import inspect_file, read_rgb
from cbirdb.pixels.raster import decode
from tests.conftest import SHARED_DATA
from tests.fuzz.damage import (
    chunks_of,
    cut_and_closed,
    frame_header,
    other_height_png,
    other_tag_tiff,
    png_of,
    short_data_png,
    wrong_crc,
)
from tests.fuzz.pictures import chunk, coloured, deep, encoded, generated, smooth

JFIF_VERSION = 11
"""Offset of the major version in a file that begins with a JFIF header."""
RESEMBLING = 0.02
"""Largest mean difference, on a scale of 0 to 1, between pictures that count as alike."""


def reports(data: bytes) -> list[PixelError]:
    """Decode a picture with damage accepted and return the reports."""
    found: list[PixelError] = []
    decode(data, MAX_PIXELS, found.append)
    return found


def refused(data: bytes) -> PixelError:
    with pytest.raises(PixelError) as error:
        decode(data, MAX_PIXELS)
    return error.value


def by_pillow(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize("data", [pytest.param(data, id=f"{kind} {name}") for kind, name, data in generated()])
def test_intact_picture_has_the_pixels_that_pillow_decodes(data: bytes) -> None:
    ours, theirs = decode(data, MAX_PIXELS), by_pillow(data)
    assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert ours.getpalette() == theirs.getpalette()


@pytest.mark.reference
def test_every_real_picture_has_the_pixels_that_pillow_decodes() -> None:
    if not SHARED_DATA.is_dir():
        pytest.skip("there are no real pictures beside this checkout")
    seen: Counter[str] = Counter()
    for path in sorted(path for path in SHARED_DATA.rglob("*") if path.suffix in (".png", ".jpg", ".jpeg")):
        data = path.read_bytes()
        ours, theirs = decode(data, MAX_PIXELS), by_pillow(data)
        assert (ours.mode, ours.size, ours.tobytes()) == (theirs.mode, theirs.size, theirs.tobytes()), path.name
        seen[str(theirs.format)] += 1
    assert seen == {"JPEG": 2280, "PNG": 621}


def test_orientation_in_exif_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(smooth(), "JPEG", exif=exif), MAX_PIXELS).size == smooth().size


# --- JPEG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_jpeg_cut_short_but_with_an_end_marker_is_corrupt(seed: int) -> None:
    assert refused(cut_and_closed(encoded(smooth(), "JPEG"), random.Random(seed))).reason == "corrupt"


def test_jpeg_whose_header_states_another_height_is_corrupt() -> None:
    data = encoded(smooth(), "JPEG")
    place = frame_header(data)
    for height in (49_376, 16):
        harmed = data[:place] + struct.pack(">H", height) + data[place + 2 :]
        assert refused(harmed).reason == "corrupt"


def test_jpeg_with_a_wrong_restart_marker_is_corrupt() -> None:
    data = encoded(smooth(), "JPEG", restart_marker_blocks=4)
    place = data.index(b"\xff\xd1")
    error = refused(data[:place] + b"\xff\xd5" + data[place + 2 :])
    assert (error.reason, "marker" in error.message) == ("corrupt", True)


@pytest.mark.parametrize(("kept", "reason"), [(-2, "truncated"), (-200, "truncated")])
def test_jpeg_without_its_end_is_truncated(kept: int, reason: str) -> None:
    assert refused(encoded(smooth(), "JPEG")[:kept]).reason == reason


def test_jpeg_of_zero_height_or_twelve_bits_is_refused() -> None:
    data = encoded(smooth(), "JPEG")
    place = frame_header(data)
    for harmed in (data[:place] + bytes(2) + data[place + 2 :], data[: place - 1] + b"\x0c" + data[place:]):
        assert refused(harmed).reason in ("corrupt", "not an image")


def unknown_tags() -> dict[str, bytes]:
    """Make JPEG files that libjpeg warns about although their pixels are intact."""
    grey, printing = encoded(smooth(), "JPEG"), encoded(coloured().convert("CMYK"), "JPEG")
    adobe = printing.index(b"Adobe") + 11
    profile = b"\xff\xe2" + struct.pack(">H", 2 + 17) + b"ICC_PROFILE\0\x02\x05abc"
    return {
        "JWRN_JFIF_MAJOR": grey[:JFIF_VERSION] + b"\x05" + grey[JFIF_VERSION + 1 :],
        "JWRN_ADOBE_XFORM": printing[:adobe] + b"\x07" + printing[adobe + 1 :],
        "JWRN_BOGUS_ICC": grey[:20] + profile + grey[20:],
        "unknown marker": grey[:20] + b"\xff\xeb\0\x06what" + grey[20:],
        "bytes behind the end": grey + b"what a camera leaves there",
    }


@pytest.mark.parametrize("name", list(unknown_tags()))
def test_jpeg_with_unknown_tags_is_accepted(name: str) -> None:
    data = unknown_tags()[name]
    np.testing.assert_array_equal(np.asarray(decode(data, MAX_PIXELS)), np.asarray(by_pillow(data)))


@pytest.mark.parametrize("name", ["JWRN_JFIF_MAJOR", "JWRN_ADOBE_XFORM", "JWRN_BOGUS_ICC"])
def test_damage_is_found_beside_an_unknown_tag(name: str) -> None:
    harmed = cut_and_closed(unknown_tags()[name], random.Random(1))
    assert refused(harmed).reason == "corrupt"
    assert reports(harmed)


# --- PNG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"IHDR", b"tEXt", b"IDAT", b"IEND"])
def test_png_with_one_wrong_crc_is_corrupt(kind: bytes) -> None:
    head, *rest = chunks_of(encoded(smooth(), "PNG"))
    data = png_of([head, (b"tEXt", b"Comment\0none"), *rest])
    place = data.index(kind) + 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")
    error = refused(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert (error.reason, kind.decode() in error.message) == ("corrupt", True)


@pytest.mark.parametrize("name", ["grey", "interlaced"])
@pytest.mark.parametrize("seed", range(8))
def test_png_with_more_or_fewer_rows_than_its_header_states_is_refused(name: str, seed: int) -> None:
    (data,) = [data for kind, found, data in generated() if (kind, found) == ("PNG", f"generated {name}")]
    for harm in (other_height_png, short_data_png):
        assert refused(harm(data, random.Random(seed))).reason in ("corrupt", "truncated")


def test_png_without_its_end_chunk_or_its_palette_is_refused() -> None:
    data = encoded(coloured().convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    assert refused(data[:-12]).reason == "truncated"
    assert refused(png_of([one for one in chunks_of(data) if one[0] != b"PLTE"])).reason == "corrupt"


def test_png_with_a_wrong_zlib_checksum_is_corrupt() -> None:
    head, (_, image), end = chunks_of(encoded(smooth(), "PNG"))
    assert refused(png_of([head, (b"IDAT", image[:-1] + bytes([image[-1] ^ 1])), end])).reason == "corrupt"


def test_png_with_bytes_after_its_end_or_an_unknown_chunk_is_accepted() -> None:
    head, *rest = chunks_of(encoded(smooth(), "PNG"))
    data = png_of([head, (b"shOT", b"whatever"), *rest]) + b"more"
    np.testing.assert_array_equal(np.asarray(decode(data, MAX_PIXELS)), np.asarray(smooth()))


def test_png_with_far_more_data_than_its_header_states_is_corrupt() -> None:
    header = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(200_000_000), 9))
    assert refused(data + chunk(b"IEND", b"")).reason == "corrupt"


# --- TIFF ------------------------------------------------------------------------------------------------------------


class Largest(random.Random):
    """Choose the largest number."""

    def choice(self, seq: list[int]) -> int:  # type: ignore[override]
        return max(seq)


class Smallest(random.Random):
    """Choose the smallest number."""

    def choice(self, seq: list[int]) -> int:  # type: ignore[override]
        return min(seq)


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_tiff_that_states_more_rows_than_it_holds_is_refused(compression: str | None) -> None:
    data = encoded(smooth(), "TIFF", compression=compression)
    assert refused(other_tag_tiff(IMAGELENGTH)(data, Largest())).reason in ("corrupt", "truncated")


def test_tiff_whose_strip_ends_after_the_file_or_is_too_short_is_truncated() -> None:
    data = encoded(smooth(), "TIFF")
    assert refused(other_tag_tiff(STRIPBYTECOUNTS)(data, Largest())).reason == "truncated"
    assert refused(other_tag_tiff(STRIPBYTECOUNTS)(data, Smallest())).reason == "truncated"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_damage_reported_by_libtiff_is_corrupt_and_stderr_stays_empty(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(encoded(deep() if compression != "jpeg" else smooth(), "TIFF", compression=compression))
    data[700:760] = bytes(range(200, 255)) + bytes(5)
    assert refused(bytes(data)).reason == "corrupt"
    assert capfd.readouterr().err == ""


def test_tiff_with_fax_compression_is_not_checkable_and_can_be_accepted() -> None:
    data = encoded(smooth().convert("1"), "TIFF", compression="group4")
    assert refused(data).reason == "not checkable"
    assert [report.reason for report in reports(data)] == ["not checkable"]


# --- Files that are not pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG", "PNG"])
def test_file_with_a_dicom_preamble_is_treated_as_dicom_and_as_no_other_format(
    tmp_path: Path, file_format: str
) -> None:
    data = encoded(smooth(), file_format)
    path = tmp_path / "a"
    if file_format == "TIFF":
        # The directory and strips lie after the preamble, so the file begins as DICOM does and is a valid TIFF.
        start = int.from_bytes(data[4:8], "little")
        entries = [bytearray(data[start + 2 + 12 * n : start + 14 + 12 * n]) for n in range(data[start])]
        for entry in entries:
            if entry[:2] == struct.pack("<H", 273):
                entry[8:12] = struct.pack("<I", 200)
        strip = data[8 : 8 + 96 * 80]
        directory = struct.pack("<H", len(entries)) + b"".join(bytes(entry) for entry in entries) + bytes(4)
        double = data[:4] + struct.pack("<I", 200 + len(strip)) + bytes(120) + b"DICM" + bytes(68) + strip + directory
        assert by_pillow(double).format == "TIFF"
        path.write_bytes(double)
    else:
        path.write_bytes(data[:128] + b"DICM" + data[132:])
    with pytest.raises(PixelError, match="DICOM"):
        inspect_file(path)


def test_postscript_is_refused_as_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.eps").write_bytes(encoded(smooth(), "EPS"))
    with pytest.raises(PixelError) as error:
        inspect_file(tmp_path / "a.eps")
    assert error.value.reason == "not an image"


# --- Damaged pictures that are accepted ------------------------------------------------------------------------------


def test_accepted_damaged_picture_carries_its_damage_report(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(cut_and_closed(encoded(smooth(), "JPEG"), random.Random(1)))
    facts = inspect_file(path, accept_damaged=True)
    assert (facts.width, facts.height) == smooth().size
    assert facts.damage == "libjpeg: Corrupt JPEG data: premature end of data segment"
    path.write_bytes(encoded(smooth(), "JPEG"))
    assert inspect_file(path, accept_damaged=True).damage is None


def test_accepted_damaged_picture_keeps_its_intact_rows(tmp_path: Path) -> None:
    whole, path = np.asarray(smooth(), dtype=float), tmp_path / "a"
    head, (_, image), end = chunks_of(encoded(smooth(), "PNG"))
    rows = zlib.decompress(image)
    for data in (
        wrong_crc(encoded(smooth(), "PNG"), random.Random(2)),
        png_of([head, (b"IDAT", zlib.compress(rows[: len(rows) // 2])), end]),
        encoded(smooth(), "JPEG")[:-300],
    ):
        path.write_bytes(data)
        found: list[PixelError] = []
        shown = np.asarray(read_rgb(path, on_damage=found.append))[..., 0]
        assert found
        assert abs(shown - whole)[:30].mean() / 255 < RESEMBLING
