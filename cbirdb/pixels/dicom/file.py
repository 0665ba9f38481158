"""Finds the data set and the pixel data in the bytes of a DICOM file, also without preamble or with a wrong syntax."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import OnDamage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PREAMBLE = 128
MAGIC = b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
SOP_CLASS, TRANSFER_SYNTAX = 0x0002_0002, 0x0002_0010
FLOAT, DOUBLE, INTEGER = 0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010
"""Tags of the three kinds of pixel data."""
UNDEFINED = 0xFFFF_FFFF
ITEM_MARKS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""Tag of an item in both byte orders. It also occurs in pixels, by chance once in four billion bytes."""
MOST_ITEMS = 600_000
"""An enhanced file of 60,000 frames has about as many."""
BYTES_PER_PIXEL = 4
"""A deflated file may inflate to so many bytes for each pixel that may be decoded."""
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT_VRS = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN"}
SHORT_VRS |= {b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
KEYWORDS = (
    "SOPClassUID",
    "Modality",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "PixelAspectRatio",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PresentationLUTShape",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
"""Attributes that pixels depend on. Others are skipped unread."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's data set and where its pixel data lie."""

    attributes: Dataset
    sop_class: str
    transfer_syntax: str
    little_endian: bool
    tag: int | None
    """Kind of pixel data; None: there are none."""
    vr: str | None
    value: memoryview
    """The pixel data's value, up to the end of the file where its length is undefined or wrong."""
    undefined_length: bool


def is_dicom(data: bytes) -> bool:
    """Return True if the bytes begin as a DICOM file: with its preamble, or with two plausible elements."""
    if data[PREAMBLE : PREAMBLE + 4] == MAGIC or data[:4] == MAGIC:
        return True
    return _begins_with_elements(data)


def _begins_with_elements(data: bytes) -> bool:
    """Return True if a data set of group 2 or 8 begins here. No image format begins so."""
    order = _byte_order(data)
    position, previous = 0, -1
    for _ in range(2):
        element = _element(data, position, order)
        if element is None or not previous < element[0] <= 0x0008_FFFF:
            return False
        previous, position = element[0], element[2] + element[3]
        if previous >> 16 not in (0x0002, 0x0008) or position > len(data):
            return False
        if position == len(data):
            return True
    return True


def _byte_order(data: bytes) -> str:
    """Return the struct code of the byte order: groups of a first element are small numbers."""
    return ">" if data[:1] == b"\0" and data[1:2] != b"\0" else "<"


def _element(data: bytes, position: int, order: str) -> tuple[int, bytes, int, int] | None:
    """Read an element's tag, VR, position and length of its value; None at the end of the data."""
    if position + 8 > len(data):
        return None
    group, number, vr, short = struct.unpack_from(f"{order}HH2sH", data, position)
    if vr in LONG_VRS:
        if position + 12 > len(data):
            return None
        return group << 16 | number, vr, position + 12, struct.unpack_from(f"{order}I", data, position + 8)[0]
    if vr in SHORT_VRS:
        return group << 16 | number, vr, position + 8, short
    return group << 16 | number, b"", position + 8, struct.unpack_from(f"{order}I", data, position + 4)[0]


def _meta(data: bytes) -> tuple[dict[int, str], int]:
    """Return the SOP class and transfer syntax that the file meta information names, and where the data set begins."""
    position = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == MAGIC else 4 if data[:4] == MAGIC else 0
    found: dict[int, str] = {}
    while (element := _element(data, position, "<")) and element[0] >> 16 == 0x0002:
        tag, _, start, length = element
        if tag in (SOP_CLASS, TRANSFER_SYNTAX):
            found[tag] = data[start : start + min(length, 64)].decode("ascii", "replace").strip(" \0")
        position = start + length
    return found, position


def _inflate(body: memoryview, max_pixels: int, on_damage: OnDamage) -> bytes | None:
    """Inflate the data set of a deflated file; None if it is not deflated, whatever the header says."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    limit = BYTES_PER_PIXEL * max_pixels
    try:
        inflated = inflater.decompress(body, limit)
    except zlib.error as error:
        if _begins_with_elements(bytes(body[:1024])) or not len(body):
            return None
        raise PixelError("corrupt", "DICOM: the deflated data set cannot be inflated") from error
    if inflater.unconsumed_tail:
        raise PixelError("too large", f"the data set inflates to more than {limit:,} bytes")
    if not inflater.eof:
        on_damage(PixelError("truncated", "DICOM: the deflated data set ends too early"))
    return inflated


def parse(data: bytes, max_pixels: int, on_damage: OnDamage) -> Parsed:
    """Read the attributes that pixels depend on, and find the pixel data.

    :raises PixelError: when a deflated data set is damaged or explodes.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    meta, start = _meta(data)
    syntax = meta.get(TRANSFER_SYNTAX, "")
    if syntax == DEFLATED and (inflated := _inflate(memoryview(data)[start:], max_pixels, on_damage)) is not None:
        data, start = inflated, 0
    # pydicom makes an object of each item, also of sequences that are skipped: 85 bytes for each byte of empty ones.
    if sum(data.count(mark, start) for mark in ITEM_MARKS) > MOST_ITEMS:
        raise PixelError("too large", f"DICOM: more than {MOST_ITEMS:,} items of sequences and fragments")
    file = BytesIO(data)
    file.seek(start)
    pixels: list[tuple[int, str | None, int, int]] = []

    def reached(tag: Any, vr: str | None, length: int) -> bool:
        if tag not in (FLOAT, DOUBLE, INTEGER):
            return False
        pixels.append((int(tag), vr, length, file.tell()))
        return True

    order = _byte_order(data[start : start + 2])
    first = _element(data, start, order)
    wanted: list[Any] = [tag_for_keyword(keyword) for keyword in KEYWORDS]
    attributes = read_dataset(file, bool(first and not first[1]), order == "<", stop_when=reached, specific_tags=wanted)
    attributes.set_original_encoding(None, order == "<", None)
    tag, vr, length, position = pixels[-1] if pixels else (None, None, 0, 0)
    end = len(data) if length == UNDEFINED else min(len(data), position + length)
    return Parsed(
        attributes,
        str(attributes.get("SOPClassUID", "") or meta.get(SOP_CLASS, "")),
        syntax,
        order == "<",
        tag,
        vr,
        memoryview(data)[position:end],
        length == UNDEFINED,
    )
