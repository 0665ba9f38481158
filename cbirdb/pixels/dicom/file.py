"""Finds the data set and the pixel data in the bytes of a DICOM file, also without preamble or with a wrong syntax."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from mmap import mmap
from typing import TypeAlias

from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_HELD
from cbirdb.pixels.damage import OnDamage
from cbirdb.pixels.dicom.attributes import WANTED, Attributes
from cbirdb.pixels.dicom.elements import ENDS, UNDEFINED, Elements, Encoding, Window, encoding_of, walk

FileBytes: TypeAlias = bytes | mmap
"""The bytes of a file, held in memory or mapped."""
PREAMBLE = 128
MAGIC = b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
SOP_CLASS, TRANSFER_SYNTAX = 0x0002_0002, 0x0002_0010
FLOAT, DOUBLE, INTEGER = 0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010
"""Tags of the three kinds of pixel data."""
BYTES_PER_PIXEL = 4
"""A deflated file may inflate to so many bytes for each pixel that may be decoded."""
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT_VRS = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN"}
SHORT_VRS |= {b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
FIRST_PIXELS = FLOAT - 1
"""The greatest tag before pixel data."""
LONGEST_TABLE = 32 << 20
"""Bytes of the longest table that is read: one of the offsets of four million frames has as many."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's data set and where its pixel data lie."""

    attributes: Attributes
    sop_class: str
    transfer_syntax: str
    little_endian: bool
    tag: int | None
    """Kind of pixel data; None: there are none."""
    vr: str
    value: memoryview
    """The pixel data's value, up to the end of the file where its length is undefined or wrong."""
    undefined_length: bool


def is_dicom(data: FileBytes) -> bool:
    """Return True if the bytes begin as a DICOM file: with its preamble, or with two plausible elements."""
    if data[PREAMBLE : PREAMBLE + 4] == MAGIC or data[:4] == MAGIC:
        return True
    return _begins_with_elements(data)


def _begins_with_elements(data: FileBytes) -> bool:
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


def _byte_order(data: FileBytes) -> str:
    """Return the struct code of the byte order: groups of a first element are small numbers."""
    return ">" if data[:1] == b"\0" and data[1:2] != b"\0" else "<"


def _element(data: FileBytes, position: int, order: str) -> tuple[int, bytes, int, int] | None:
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


def _meta(data: FileBytes) -> tuple[dict[int, str], int]:
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
    limit = min(BYTES_PER_PIXEL * max_pixels, LARGEST_HELD - len(body))
    if limit <= 0:
        raise PixelError("too large", f"a deflated data set of more than {LARGEST_HELD:,} bytes")
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


def parse(data: FileBytes, max_pixels: int, on_damage: OnDamage) -> Parsed:
    """Read the attributes that pixels depend on, and find the pixel data.

    :raises PixelError: when a deflated data set is damaged or explodes.
    """
    meta, start = _meta(data)
    syntax = meta.get(TRANSFER_SYNTAX, "")
    if syntax == DEFLATED and (inflated := _inflate(memoryview(data)[start:], max_pixels, on_damage)) is not None:
        data, start = inflated, 0
    encoding = encoding_of(data[start : start + 6].ljust(6, b"\0"))
    elements, pixels = _elements(data, start, encoding)
    attributes = Attributes(elements, encoding)
    tag, kind, length, position = pixels or (None, b"", 0, 0)
    end = len(data) if length == UNDEFINED else min(len(data), position + length)
    return Parsed(
        attributes,
        (attributes.values("SOPClassUID") or [meta.get(SOP_CLASS, "")])[0],
        syntax,
        not encoding.big_endian,
        tag,
        kind.decode("latin-1"),
        memoryview(data)[position:end],
        length == UNDEFINED,
    )


def _elements(
    data: FileBytes, position: int, encoding: Encoding
) -> tuple[Elements, tuple[int, bytes, int, int] | None]:
    """Return the wanted elements, and tag, representation, length and position of the pixel data; None: there are none."""
    window = Window(lambda start, size: data[start : start + size])
    found: Elements = {}
    while True:
        more, position = walk(window, position, None, encoding, WANTED, last=FIRST_PIXELS, longest=LONGEST_TABLE)
        found.update(more)
        element = window.element(position, encoding)
        if element is None or element[0] in ENDS:
            return found, None
        tag, _, length, start = element
        if tag in (FLOAT, DOUBLE, INTEGER):
            return found, element
        if length == UNDEFINED:
            return found, None
        position = start + length  # out of order
