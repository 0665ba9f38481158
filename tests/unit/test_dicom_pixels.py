"""A picture has the same pixels in every lossless transfer syntax, layout and byte order."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate, encapsulate_extended

from cbirdb.errors import PixelError
from cbirdb.pixels.dicom import DecodedDicom, decode_dicom, is_dicom
from cbirdb.pixels.rendering import Rendering
from tests.support.dicom_pixels import (
    ENCODERS,
    LOSSLESS,
    UNCOMPRESSED,
    colours,
    compressed,
    encoded,
    image,
    native,
    psnr,
    smooth,
    with_value,
)

GREY = smooth()
RGB = colours()
FULL = {"WindowCenter": 2048, "WindowWidth": 4096}


def shown(data: bytes, frame: int = 0) -> NDArray[np.uint8]:
    return np.asarray(decode_dicom(data, frame).picture)


def name(syntax: str) -> str:
    return str(uid.UID(syntax).name)


# 5. One picture in several transfer syntaxes


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=name)
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.uint32, np.int32])
def test_uncompressed_pixels_are_the_same_in_each_byte_order(syntax: str, kind: Any) -> None:
    pixels = (GREY >> 5).astype(kind) - (60 if np.dtype(kind).kind == "i" else 0)
    assert decode_dicom(native(pixels, syntax)).pixel_sha256 == decode_dicom(native(pixels)).pixel_sha256


@pytest.mark.parametrize("syntax", LOSSLESS, ids=name)
@pytest.mark.parametrize(
    ("pixels", "attributes"),
    [
        (GREY, {"BitsStored": 12}),
        (GREY * 16, {"BitsStored": 16}),
        ((GREY >> 4).astype(np.uint8), {}),
        (RGB, {}),
    ],
    ids=["12 bits", "16 bits", "8 bits", "RGB"],
)
def test_lossless_syntaxes_have_one_pixel_hash(syntax: str, pixels: NDArray[Any], attributes: dict[str, int]) -> None:
    one, other = decode_dicom(native(pixels, **attributes)), decode_dicom(compressed(pixels, syntax, **attributes))
    assert other.pixel_sha256 == one.pixel_sha256
    assert other.picture.tobytes() == one.picture.tobytes()


@pytest.mark.parametrize("syntax", LOSSLESS, ids=name)
def test_lossless_signed_values_have_one_pixel_hash(syntax: str) -> None:
    pixels = GREY.astype(np.int16) - 2048
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless):
        pixels = pixels & 0x0FFF  # codestreams without a sign hold the bits
    one = decode_dicom(native(GREY.astype(np.int16) - 2048, BitsStored=12))
    assert decode_dicom(compressed(pixels, syntax, BitsStored=12)).pixel_sha256 == one.pixel_sha256


@pytest.mark.parametrize("syntax", [uid.JPEGExtended12Bit, uid.JPEG2000, uid.JPEGLSNearLossless], ids=name)
def test_lossy_grey_values_are_close(syntax: str) -> None:
    rendered = shown(compressed(GREY, syntax, BitsStored=12, **FULL))
    assert psnr(rendered, shown(native(GREY, BitsStored=12, **FULL)), 255) >= 30


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000, uid.JPEGLSNearLossless], ids=name)
def test_lossy_colours_are_close(syntax: str) -> None:
    assert psnr(shown(compressed(RGB, syntax)), RGB, 255) >= 30


def test_near_lossless_pixels_stay_within_their_bound() -> None:
    rendered = shown(
        compressed((GREY >> 4).astype(np.uint8), uid.JPEGLSNearLossless, WindowCenter=128, WindowWidth=256)
    )
    difference = rendered[..., 0].astype(int) - (GREY >> 4)
    assert 0 < np.abs(difference).max() <= 2


def test_decoding_needs_none_of_pydicoms_plugins(tmp_path: Path) -> None:
    """The extra brings neither pylibjpeg nor pylibjpeg-rle: only benchmarks need them."""
    for number, syntax in enumerate(LOSSLESS):
        (tmp_path / f"{number}.dcm").write_bytes(compressed(GREY, syntax, BitsStored=12))
    program = (
        "import sys, pathlib\n"
        "sys.modules.update(dict.fromkeys(['pylibjpeg', 'rle']))\n"
        "from cbirdb.pixels.dicom import decode_dicom\n"
        "files = pathlib.Path(sys.argv[1]).iterdir()\n"
        "print(len({decode_dicom(path.read_bytes()).pixel_sha256 for path in files}))"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("1\n", "")


def test_other_pixels_have_another_hash() -> None:
    other = GREY.copy()
    other[3, 4] ^= 1
    hashes = {
        decode_dicom(native(GREY)).pixel_sha256,
        decode_dicom(native(other)).pixel_sha256,
        decode_dicom(native(GREY.T)).pixel_sha256,
        decode_dicom(native(GREY, PhotometricInterpretation="MONOCHROME1")).pixel_sha256,
        decode_dicom(native(GREY.astype(np.int16))).pixel_sha256,
    }
    assert len(hashes) == 5


def test_rendering_does_not_change_the_pixel_hash() -> None:
    one, other = (decode_dicom(native(GREY), 0, Rendering.parse(text)) for text in ("as-displayed", "equalise"))
    assert one.pixel_sha256 == other.pixel_sha256
    assert one.picture.tobytes() != other.picture.tobytes()


# Frames

FRAMES = np.stack([GREY >> 4, GREY.max() - GREY >> 4, np.flipud(GREY) >> 4]).astype(np.uint8)


@pytest.mark.parametrize("frame", range(3))
@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS], ids=name)
def test_wanted_frame_is_decoded(syntax: str, frame: int) -> None:
    data = native(FRAMES, syntax, frames=True) if syntax in UNCOMPRESSED else compressed(FRAMES, syntax, frames=True)
    assert decode_dicom(data, frame).pixel_sha256 == decode_dicom(native(FRAMES[frame])).pixel_sha256


@pytest.mark.parametrize("frame", range(3))
@pytest.mark.parametrize(("fragments", "table"), [(1, False), (2, True), (2, False)])
def test_frames_are_found_with_and_without_offset_table(frame: int, fragments: int, table: bool) -> None:
    data = compressed(FRAMES, uid.JPEGLSLossless, frames=True, fragments=fragments, table=table)
    assert decode_dicom(data, frame).pixel_sha256 == decode_dicom(native(FRAMES[frame])).pixel_sha256


@pytest.mark.parametrize("frame", range(3))
def test_frames_are_found_by_the_extended_offset_table(frame: int) -> None:
    made = image(FRAMES, frames=True)
    streams = [ENCODERS[uid.RLELossless](one, made) for one in FRAMES]
    value, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(streams)
    made.add_new("PixelData", "OB", value)
    made["PixelData"].is_undefined_length = True
    data = encoded(made, uid.RLELossless)
    assert decode_dicom(data, frame).pixel_sha256 == decode_dicom(native(FRAMES[frame])).pixel_sha256


def test_wrong_offset_table_is_not_followed() -> None:
    data = compressed(FRAMES, uid.JPEGLSLossless, frames=True)
    at = data.index(b"\xfe\xff\x00\xe0") + 8
    wrong = data[:at] + struct.pack("<III", 0, 7, 99) + data[at + 12 :]
    assert decode_dicom(wrong, 1).pixel_sha256 == decode_dicom(native(FRAMES[1])).pixel_sha256


@pytest.mark.parametrize("frame", [-1, 3, 4_000_000_000])
def test_frame_beyond_the_last_is_no_such_frame(frame: int) -> None:
    with pytest.raises(PixelError) as caught:
        decode_dicom(native(FRAMES, frames=True), frame)
    assert caught.value.reason == "no such frame"


# 6. Colours and bits


def ybr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range YCbCr of RGB (PS3.3 C.7.6.3.1.2)."""
    red, green, blue = pixels.astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    parts = [
        luma,
        128 - 0.168736 * red - 0.331264 * green + 0.5 * blue,
        128 + 0.5 * red - 0.418688 * green - 0.081312 * blue,
    ]
    return np.rint(np.clip(np.stack(parts, -1), 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, uid.RLELossless, uid.JPEGLSLossless, uid.JPEGLosslessSV1], ids=name)
def test_full_range_ybr_has_the_colours_of_rgb(syntax: str) -> None:
    write = native if syntax in UNCOMPRESSED else compressed
    data = write(ybr(RGB), syntax, PhotometricInterpretation="YBR_FULL")
    assert np.abs(shown(data).astype(int) - RGB).max() <= 2
    assert (
        decode_dicom(data).pixel_sha256
        == decode_dicom(native(ybr(RGB), PhotometricInterpretation="YBR_FULL")).pixel_sha256
    )


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=name)
def test_planar_and_interleaved_colours_are_the_same(syntax: str) -> None:
    one, other = (native(RGB, syntax, PlanarConfiguration=planar) for planar in (0, 1))
    np.testing.assert_array_equal(shown(one), RGB)
    assert decode_dicom(other).pixel_sha256 == decode_dicom(one).pixel_sha256


def test_uncompressed_subsampled_colours_are_shared_by_two_pixels() -> None:
    pairs = RGB.copy()
    pairs[:, 1::2] = pairs[:, ::2]
    values = ybr(pairs)
    packed = np.stack([values[:, ::2, 0], values[:, 1::2, 0], values[:, ::2, 1], values[:, ::2, 2]], -1)
    data = with_value(pairs, packed.tobytes(), PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(shown(data).astype(int) - pairs).max() <= 2


def test_subsampled_label_on_whole_data_is_read_as_whole() -> None:
    data = with_value(RGB, ybr(RGB).tobytes(), PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(shown(data).astype(int) - RGB).max() <= 2


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_jpeg_with_a_marker_has_the_same_colours_whatever_the_header_says(photometric: str) -> None:
    data = compressed(RGB, uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric)
    assert psnr(shown(data), RGB, 255) > 30


def without_marker(stream: bytes) -> bytes:
    """A JPEG without JFIF and Adobe segments: nothing but the header says what its components are."""
    position = 2
    while stream[position + 1] in (0xE0, 0xEE):
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    return stream[:2] + stream[position:]


@pytest.mark.parametrize(("photometric", "space"), [("YBR_FULL_422", "YCBCR"), ("RGB", "RGB")])
def test_jpeg_without_a_marker_has_the_colours_that_the_header_says(photometric: str, space: str) -> None:
    import imagecodecs

    stream = imagecodecs.jpeg8_encode(RGB, level=95, outcolorspace=space)
    made = image(RGB, PhotometricInterpretation=photometric)
    made.add_new("PixelData", "OB", encapsulate([without_marker(bytes(stream))]))
    made["PixelData"].is_undefined_length = True
    assert psnr(shown(encoded(made, uid.JPEGBaseline8Bit)), RGB, 255) > 30


@pytest.mark.parametrize(("photometric", "syntax"), [("YBR_RCT", uid.JPEG2000Lossless), ("YBR_ICT", uid.JPEG2000)])
def test_colour_transforms_of_jpeg_2000_are_undone(photometric: str, syntax: str) -> None:
    rendered = shown(compressed(RGB, syntax, PhotometricInterpretation=photometric))
    assert psnr(rendered, RGB, 255) > (30 if photometric == "YBR_ICT" else 300)


def palette(entries: NDArray[Any], bits: int, *, segmented: bool = False) -> dict[str, Any]:
    """Attributes of a palette, shape (entries, 3)."""
    made: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        made[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries) % 65_536, 0, bits]
        column = entries[:, channel]
        if segmented:
            data = segments(column)
        else:
            data = column.astype("<u2" if bits == 16 or len(column) % 2 else "u1").tobytes()
        made[f"{'Segmented' if segmented else ''}{colour}PaletteColorLookupTableData"] = data
    return made


def segments(column: NDArray[Any]) -> bytes:
    """A discrete segment of two entries, linear ones, and an indirect one that repeats a linear one at the end."""
    assert len(column) == 256
    numbers = [0, 2, int(column[0]), int(column[1]), 1, 127, int(column[128]), 1, 63, int(column[191])]
    at = 2 * 7  # bytes before the second linear segment
    numbers += [2, 1, at & 0xFFFF, at >> 16, 1, 1, int(column[255])]
    return np.array(numbers, "<u2").tobytes()


INDICES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_gives_its_colours(bits: int) -> None:
    table = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], -1)
    data = native(INDICES, **palette(table * (257 if bits == 16 else 1), bits))
    np.testing.assert_array_equal(shown(data), table[INDICES])


def test_segmented_palette_gives_its_colours() -> None:
    y0, y1, y128, y191, last = 0, 300, 40_000, 65_000, 100
    column = np.zeros(256)
    column[[0, 1, 128, 191, 255]] = y0, y1, y128, y191, last
    data = native(INDICES, **palette(np.stack([column] * 3, -1), 16, segmented=True))
    expanded = [y0, y1]
    expanded += [y1 + (y128 - y1) * step / 127 for step in range(1, 128)]
    expanded += [y128 + (y191 - y128) * step / 63 for step in range(1, 64)]
    expanded += [y191] * 63  # the repeated segment ends where it begins
    expanded += [last]
    np.testing.assert_array_equal(shown(data)[..., 0].ravel(), np.rint(expanded).astype(int)[:256] >> 8)


def test_palette_of_16_bits_that_holds_bytes_is_read_as_bytes() -> None:
    table = np.stack([np.arange(256)] * 3, -1)
    np.testing.assert_array_equal(shown(native(INDICES, **palette(table, 16)))[..., 0], INDICES)


@pytest.mark.parametrize("size", [(16, 16), (5, 7)], ids=["whole bytes", "frames that begin within a byte"])
def test_single_bits_are_black_and_white(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (3, *size), dtype=np.uint8)
    packed = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    data = with_value(
        pixels, packed + b"\0" * (len(packed) % 2), vr="OB", frames=True, BitsAllocated=1, WindowCenter=1, WindowWidth=1
    )
    for frame in range(3):
        np.testing.assert_array_equal(shown(data, frame)[..., 0], pixels[frame] * 255)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless], ids=name)
def test_overlay_in_unused_bits_is_masked(syntax: str, signed: bool) -> None:
    plain = GREY.astype(np.int16) - 2048 if signed else GREY
    dirty = (plain.view(np.uint16) & 0x0FFF | (np.indices(GREY.shape).sum(0) % 16 << 12).astype(np.uint16)).view(
        plain.dtype
    )
    write = compressed if syntax == uid.RLELossless else native
    assert (
        decode_dicom(write(dirty, syntax, BitsStored=12)).pixel_sha256
        == decode_dicom(native(plain, BitsStored=12)).pixel_sha256
    )


def test_high_bit_says_where_the_sample_lies() -> None:
    data = native(GREY << 4, BitsStored=12, HighBit=15)
    assert decode_dicom(data).pixel_sha256 == decode_dicom(native(GREY, BitsStored=12)).pixel_sha256


def test_colours_of_16_bits_are_scaled_to_8() -> None:
    np.testing.assert_array_equal(shown(native(RGB.astype(np.uint16) * 257)), RGB)


def test_odd_number_of_bytes_in_big_endian_words_is_read() -> None:
    pixels = np.arange(2 * 15, dtype=np.uint8).reshape(2, 3, 5)
    words = np.frombuffer(pixels.tobytes(), ">u2").astype("<u2").tobytes()
    data = with_value(pixels, words, syntax=uid.ExplicitVRBigEndian, frames=True)
    for frame in range(2):
        assert decode_dicom(data, frame).pixel_sha256 == decode_dicom(native(pixels[frame])).pixel_sha256


# Headers that are wrong or missing


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=name
)
def test_file_without_meta_header_is_read(syntax: str) -> None:
    data = native(GREY, syntax, meta=False)
    assert is_dicom(data)
    assert decode_dicom(data).pixel_sha256 == decode_dicom(native(GREY)).pixel_sha256


@pytest.mark.parametrize("stated", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGBaseline8Bit], ids=name)
@pytest.mark.parametrize("syntax", LOSSLESS, ids=name)
def test_codec_is_chosen_by_content_where_the_header_names_another(syntax: str, stated: str) -> None:
    data = compressed(
        GREY, syntax, stated=stated if len(stated) <= len(syntax) + len(syntax) % 2 else None, BitsStored=12
    )
    assert decode_dicom(data).pixel_sha256 == decode_dicom(native(GREY, BitsStored=12)).pixel_sha256


@pytest.mark.parametrize("syntax", UNCOMPRESSED[:3], ids=name)
def test_uncompressed_pixels_are_found_where_the_header_names_another_syntax(syntax: str) -> None:
    made = native(GREY, syntax)
    at = made.index(syntax.encode()) - 2
    stated = {17: b"1.2.840.10008.1.2", 19: b"1.2.840.10008.1.2.5"}[len(syntax)]
    length = len(syntax) + len(syntax) % 2
    data = made[:at] + struct.pack("<H", length) + stated.ljust(length, b"\0") + made[at + 2 + length :]
    assert decode_dicom(data).pixel_sha256 == decode_dicom(native(GREY)).pixel_sha256


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"PixelAspectRatio": [2, 1]}, (48, 80)),
        ({"PixelAspectRatio": [1, 2]}, (96, 40)),
        ({"PixelSpacing": [3.0, 1.5]}, (48, 80)),
        ({"PixelSpacing": [1.0, 1.0]}, (48, 40)),
        ({"PixelSpacing": [1.0, 1.001]}, (48, 40)),
        ({"PixelSpacing": [1.0, 0.0]}, (48, 40)),
        ({"PixelAspectRatio": [1, 1000]}, (48, 40)),
    ],
)
def test_pixels_become_square(attributes: dict[str, list[float]], size: tuple[int, int]) -> None:
    found = decode_dicom(native(GREY, **attributes))
    assert found.picture.size == size
    assert (found.width, found.height) == (48, 40)


def test_picture_that_would_become_too_large_is_made_square_by_shrinking() -> None:
    data = native(GREY, PixelAspectRatio=[2, 1])
    assert decode_dicom(data, max_pixels=GREY.size).picture.size == (24, 40)


def test_picture_is_eight_bit_rgb() -> None:
    found = decode_dicom(native(GREY))
    assert isinstance(found, DecodedDicom)
    assert found.picture.mode == "RGB"
    assert found.damage is None
