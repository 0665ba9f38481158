"""Bad DICOM ends in one short reason, in bounded memory, and says nothing that stands in the header."""

from __future__ import annotations

import logging
import struct
import sys
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from cbirdb.errors import PixelError
from cbirdb.pixels.dicom import decode_dicom, elements, is_dicom
from cbirdb.pixels.sop_classes import STORAGE
from tests.fuzz.dicom_attempt import attempt
from tests.fuzz.fuzz_dicom import samples
from tests.support.dicom_pixels import (
    CT_IMAGE,
    ENCODERS,
    Sequence,
    compressed,
    encoded,
    image,
    lut,
    native,
    raster,
    smooth,
    with_value,
)

GREY = smooth()
NAME = "Canary^Patient"


def reason(data: bytes, **options: Any) -> str:
    """Why a file is refused."""
    with pytest.raises(PixelError) as caught:
        decode_dicom(data, **options)
    assert "\n" not in caught.value.message
    return caught.value.reason


# 7. Files without an image


@pytest.mark.parametrize(
    ("rest", "name"),
    [
        ("66.4", "Segmentation Storage"),
        ("481.2", "RT Dose Storage"),
        ("481.3", "RT Structure Set Storage"),
        ("481.5", "RT Plan Storage"),
        ("11.1", "Grayscale Softcopy Presentation State Storage"),
        ("88.59", "Key Object Selection Document Storage"),
        ("88.33", "Comprehensive SR Storage"),
        ("104.1", "Encapsulated PDF Storage"),
        ("9.1.1", "12-lead ECG Waveform Storage"),
        ("4.2", "MR Spectroscopy Storage"),
    ],
)
def test_file_of_a_class_without_image_is_named_though_it_has_pixels(rest: str, name: str) -> None:
    assert reason(native(GREY, SOPClassUID=STORAGE + rest)) == f"no pixels: {name}"


def test_image_class_without_pixel_data_is_named() -> None:
    assert (
        reason(encoded(image(GREY, SOPClassUID=CT_IMAGE), uid.ExplicitVRLittleEndian)) == "no pixels: CT Image Storage"
    )


def test_name_of_an_unknown_class_is_not_repeated() -> None:
    made = image(GREY, SOPClassUID="1.2.3.4.5.6")
    assert reason(encoded(made, uid.ExplicitVRLittleEndian)) == "no pixels: unknown SOP class"


# 8. Bounds


def test_deflate_bomb_is_too_large() -> None:
    data = native(GREY, uid.DeflatedExplicitVRLittleEndian)
    bomb = zlib.compressobj(9, wbits=-15)
    start = 144 + struct.unpack_from("<I", data, 140)[0]  # behind the meta header, whose length its first element says
    inflated = zlib.decompress(data[start:], -15)
    body = bomb.compress(inflated) + b"".join(bomb.compress(bytes(1 << 20)) for _ in range(512)) + bomb.flush()
    assert len(body) < 1 << 20
    tracemalloc.start()
    assert reason(data[:start] + body, max_pixels=1_000_000) == "too large"
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "syntax", [uid.JPEG2000Lossless, uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEGLosslessSV1]
)
def test_codestream_of_another_size_than_the_header_is_not_decoded(syntax: str) -> None:
    data = compressed((GREY >> 4).astype(np.uint8), syntax)
    at = data.index(b"\x28\x00\x10\x00US") + 8
    assert reason(data[:at] + struct.pack("<H", 39) + data[at + 2 :]) == "corrupt"


def test_more_pixels_than_allowed_are_too_large() -> None:
    assert reason(native(GREY), max_pixels=GREY.size - 1) == "too large"
    decode_dicom(native(GREY), max_pixels=GREY.size)


def test_deeper_pixels_than_32_bits_count_more() -> None:
    deep = GREY.astype(np.uint64)
    assert reason(native(deep), max_pixels=2 * GREY.size - 1) == "too large"
    decode_dicom(native(deep), max_pixels=2 * GREY.size)


@pytest.mark.parametrize(("rows", "columns"), [(65_535, 65_535), (0, 40), (40, 0)])
def test_impossible_size_is_refused_before_memory_is_spent(rows: int, columns: int) -> None:
    made = image(GREY, Rows=rows, Columns=columns)
    made.add_new("PixelData", "OW", bytes(64))
    tracemalloc.start()
    assert reason(encoded(made, uid.ExplicitVRLittleEndian)) in ("too large", "corrupt")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_number_of_frames_does_not_cost_memory() -> None:
    data = native(GREY, NumberOfFrames=2_000_000_000)
    decode_dicom(data, 0)
    assert reason(data, frame=1_999_999_999) == "truncated"


def test_segmented_palette_that_would_expand_to_gigabytes_is_cut_at_its_size() -> None:
    numbers = [0, 1, 9] + [1, 65_535, 9] * 5000
    table = np.array(numbers, "<u2").tobytes()
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = table
    tracemalloc.start()
    decode_dicom(native((GREY >> 4).astype(np.uint8), **attributes))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_segment_that_repeats_itself_is_refused() -> None:
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = np.array([2, 1, 0, 0], "<u2").tobytes()
    assert reason(native((GREY >> 4).astype(np.uint8), **attributes)) == "corrupt"


# Damage


def test_short_pixel_data_are_truncated() -> None:
    data = with_value(GREY, GREY.tobytes()[:-62])
    assert reason(data) == "truncated"
    found = decode_dicom(data, on_damage=lambda _: None)
    assert found.damage == "DICOM: 3,778 bytes of pixels where 3,840 are needed"
    assert found.picture.size == (48, 40)


@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless,
     uid.HTJ2KLossless, uid.RLELossless],
)  # fmt: skip
def test_file_that_ends_within_its_codestream_is_refused(syntax: str) -> None:
    eight = syntax == uid.JPEGBaseline8Bit
    data = compressed((GREY >> 4).astype(np.uint8) if eight else GREY, syntax, BitsStored=8 if eight else 12)
    assert reason(data[: len(data) - 60]) in ("truncated", "corrupt")


def test_damaged_baseline_jpeg_is_reported_by_libjpeg() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    made = image(noise)
    stream = ENCODERS[uid.JPEGBaseline8Bit](noise, made)
    half = stream[: len(stream) // 2] + b"\xff\xd9"
    made.add_new("PixelData", "OB", encapsulate([half]))
    made["PixelData"].is_undefined_length = True
    data = encoded(made, uid.JPEGBaseline8Bit)
    assert reason(data) in ("truncated", "corrupt")
    found = decode_dicom(data, on_damage=lambda _: None)
    assert found.damage is not None
    assert found.damage.startswith("libjpeg: ")


@pytest.mark.parametrize("left", range(100, 1500, 50))
def test_cut_jpeg_ls_is_refused_at_once(left: int) -> None:
    """CharLS needs ten seconds for some of them if no marker follows."""
    made = image(GREY, BitsStored=12)
    made.add_new("PixelData", "OB", encapsulate([ENCODERS[uid.JPEGLSLossless](GREY, made)[:left]]))
    made["PixelData"].is_undefined_length = True
    began = time.process_time()
    with pytest.raises(PixelError):
        decode_dicom(encoded(made, uid.JPEGLSLossless), on_damage=lambda _: None)
    assert time.process_time() - began < 1


def test_cut_deflated_data_set_is_truncated() -> None:
    assert reason(native(GREY, uid.DeflatedExplicitVRLittleEndian)[:-40]) == "truncated"


@pytest.mark.parametrize(
    "attributes",
    [
        {"BitsAllocated": 12, "BitsStored": 12}, {"BitsStored": 17}, {"BitsStored": 0, "HighBit": 0},
        {"PhotometricInterpretation": "HSV"}, {"PhotometricInterpretation": "RGB"}, {"SamplesPerPixel": 3},
        {"NumberOfFrames": -1}, {"Rows": None}, {"Columns": None},
    ],
)  # fmt: skip
def test_impossible_layout_is_refused(attributes: dict[str, Any]) -> None:
    made = image(GREY)
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.add_new("PixelData", "OW", GREY.tobytes())
    assert reason(encoded(made, uid.ExplicitVRLittleEndian)) in ("corrupt", "unsupported")


def test_number_of_frames_that_is_no_number_is_not_repeated() -> None:
    data = native(GREY, NumberOfFrames=1).replace(b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS\x02\x00JD")
    with pytest.raises(PixelError) as caught:
        decode_dicom(data)
    assert caught.value.reason == "corrupt"
    assert "JD" not in str(caught.value)


def test_video_is_unsupported() -> None:
    made = image(GREY)
    made.add_new("PixelData", "OB", encapsulate([b"\x00\x00\x01\xb3" + bytes(100)]))
    made["PixelData"].is_undefined_length = True
    assert reason(encoded(made, uid.MPEG2MPML)) == "unsupported"


@pytest.mark.parametrize("data", [b"", b"DICM", b"\x89PNG\r\n\x1a\n", bytes(200), bytes(128) + b"DICM"])
def test_bytes_without_a_data_set_are_refused(data: bytes) -> None:
    assert reason(data) in ("not an image", "no pixels: unknown SOP class", "empty file")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"])
def test_image_formats_are_not_dicom(kind: str) -> None:
    assert not is_dicom(raster(kind))


# Privacy


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-100],
        lambda data: data.replace(b"MONOCHROME2 ", b"CANARYPHOTO "),
        lambda data: data.replace(STORAGE.encode() + b"7\0", b"9.9.999.99999.9.9.9.9.9.9\0")[:-4000],
        lambda data: data[: data.index(b"\xe0\x7f\x10\x00")],
    ],
    ids=["truncated", "unknown colours", "unknown class", "no pixels"],
)
def test_nothing_of_the_header_reaches_message_log_or_warning(
    spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = spoil(
        native(
            GREY, PatientName=NAME, PatientID="CANARY-1", StudyDescription="CANARY text", PatientBirthDate="CANARY",
            InstitutionName="CANARY", BitsStored=12,
        )
    )  # fmt: skip
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(PixelError) as caught:
            decode_dicom(data)
    said = (
        f"{caught.value.reason} {caught.value} {caplog.text} {[str(one.message) for one in seen]} {capfd.readouterr()}"
    )
    assert "canary" not in said.lower()
    assert "9.9.999" not in said


# One reader


@pytest.mark.parametrize("library", ["imagecodecs", "jpeg_ls", "openjpeg.utils"])
def test_missing_extra_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    syntaxes = {"imagecodecs": uid.RLELossless, "jpeg_ls": uid.JPEGLSLossless, "openjpeg.utils": uid.JPEG2000Lossless}
    data = compressed(GREY, syntaxes[library], BitsStored=12)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(PixelError, match=r"pip install 'cbirdb\[dicom\]'"):
        decode_dicom(data)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_end_in_a_picture_or_a_reason(seed: int) -> None:
    """A little of what `make fuzz-dicom` tries; real files too, where there are any beside the checkout."""
    outcomes = [attempt((data, rendering)) for _, _, data, rendering in samples(150, seed)]
    assert [outcome.escaped for outcome in outcomes if outcome.escaped] == []
    assert {outcome.strict is None for outcome in outcomes} == {False, True}
    assert max(outcome.seconds for outcome in outcomes) < 20


def with_items(tag: int, count: int) -> bytes:
    """A file with a sequence of so many empty items."""
    whole = native(GREY)
    start = whole.index(b"\x28\x00\x02\x00US")
    header = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, 0xFFFFFFFF)
    items = (b"\xfe\xff\x00\xe0" + bytes(4)) * count
    return whole[:start] + header + items + b"\xfe\xff\xdd\xe0" + bytes(4) + whole[start:]


def traced(data: bytes) -> tuple[str | None, int]:
    """The reason why a file is refused, if it is, and the most bytes that Python held meanwhile."""
    tracemalloc.start()
    try:
        decode_dicom(data)
        return None, tracemalloc.get_traced_memory()[1]
    except PixelError as error:
        return error.reason, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_items_of_a_sequence_that_nobody_wants_are_passed_without_memory() -> None:
    refused, peak = traced(with_items(0x0008_0006, 150_000))
    assert refused is None
    assert peak < 2 << 20


def test_sequence_of_more_items_than_frames_can_be_is_refused() -> None:
    refused, peak = traced(with_items(0x5200_9230, 150_000))
    assert refused == "damaged header"
    assert peak < 20 << 20


def test_header_of_millions_of_items_is_refused() -> None:
    assert reason(with_items(0x0008_0006, 5_000_001)) == "damaged header"


def test_header_whose_tables_take_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = native(GREY, VOILUTSequence=Sequence([lut([*range(4096)], bits=12)[0]] * 300))
    assert traced(data)[0] is None
    monkeypatch.setattr(elements, "MOST_BYTES", 1 << 20)
    refused, peak = traced(bytes(bytearray(data)))
    assert refused == "damaged header"
    assert peak < 4 << 20
