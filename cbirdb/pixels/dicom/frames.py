"""Cuts the wanted frame out of the pixel data, and nothing else: uncompressed bytes, or the fragments of a codestream."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import OnDamage
from cbirdb.pixels.dicom.codecs import J2K, JP2, SOI, Decoded, decode_frame
from cbirdb.pixels.dicom.file import Parsed
from cbirdb.pixels.dicom.header import Header

ITEM, DELIMITER = 0xFFFE_E000, 0xFFFE_E0DD
ITEM_BYTES = b"\xfe\xff\x00\xe0"
MOST_FRAGMENTS = 1 << 22
"""Most fragments of a file. Each takes 16 bytes of memory here."""
SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")
"""Uncompressed, two pixels share their colour: they take two samples each."""


def read_frame(parsed: Parsed, header: Header, frame: int, on_damage: OnDamage) -> Decoded:
    """Return one frame's samples.

    :param frame: counted from 0.
    :raises PixelError: when there is no such frame, or it cannot be decoded.
    """
    if not 0 <= frame < header.frames:
        raise PixelError("no such frame", f"frame {frame + 1}, but the file has {header.frames}")
    if is_encapsulated(parsed):
        stream = encapsulated_frame(parsed, header.frames, frame, on_damage)
        return decode_frame(stream, header, parsed.transfer_syntax, on_damage)
    return native_frame(parsed, header, frame, on_damage)


def is_encapsulated(parsed: Parsed) -> bool:
    """Return True if the pixel data consist of items, whatever the transfer syntax says."""
    value = parsed.value
    if bytes(value[:4]) != ITEM_BYTES or len(value) < 8:
        return False
    if parsed.undefined_length:
        return True
    (length,) = struct.unpack_from("<I", value, 4)
    following = bytes(value[8 + length : 12 + length])
    return length % 4 == 0 and following == ITEM_BYTES


def encapsulated_frame(parsed: Parsed, frames: int, frame: int, on_damage: OnDamage) -> memoryview:
    """Return the codestream of one frame; it is not copied if it lies in one fragment."""
    value = parsed.value
    (table_length,) = struct.unpack_from("<I", value, 4)
    base = 8 + table_length
    if base > len(value):
        raise PixelError("truncated", "DICOM: the pixel data end in the table of their frames")
    extended = _by_extended_offsets(parsed, base, frame)
    if extended is not None:
        return extended
    start = end = None
    if table_length >= 4 * frames and frames > 1:
        offsets = struct.unpack_from(f"<{frames}I", value, 8)
        start = base + offsets[frame]
        end = base + offsets[frame + 1] if frame + 1 < frames else len(value)
        if not base <= start < end <= len(value) or bytes(value[start : start + 4]) != ITEM_BYTES:
            start = end = None  # a wrong table: the fragments themselves tell
    if start is not None and end is not None:
        starts, lengths = _fragments(value, start, end)
    else:
        starts, lengths = _of_frame(value, *_fragments(value, base, len(value)), frames, frame)
    if not starts:
        raise PixelError("truncated", "DICOM: the pixel data have no fragment for this frame")
    if starts[-1] + lengths[-1] > len(value):
        on_damage(PixelError("truncated", "DICOM: the compressed pixels end before their fragment does"))
    fragments = [value[begin : begin + length] for begin, length in zip(starts, lengths, strict=True)]
    return fragments[0] if len(fragments) == 1 else memoryview(b"".join(fragments))


def _by_extended_offsets(parsed: Parsed, base: int, frame: int) -> memoryview | None:
    """Return a frame by the extended offset table; None if there is none or it is wrong."""
    tables = [parsed.attributes.table(f"ExtendedOffsetTable{end}") for end in ("", "Lengths")]
    if not all(len(table) >= 8 * (frame + 1) for table in tables):
        return None
    offset, length = (struct.unpack_from("<Q", table, 8 * frame)[0] for table in tables)
    start = base + offset
    if bytes(parsed.value[start : start + 4]) != ITEM_BYTES or start + 8 + length > len(parsed.value):
        return None
    return parsed.value[start + 8 : start + 8 + length]


def _fragments(value: memoryview, start: int, end: int) -> tuple[array[int], array[int]]:
    """Return where the fragments lie, and their lengths."""
    starts, lengths = array("Q"), array("Q")
    while start + 8 <= end:
        group, element, length = struct.unpack_from("<HHI", value, start)
        if group << 16 | element != ITEM:
            break
        if len(starts) == MOST_FRAGMENTS:
            raise PixelError("corrupt", f"DICOM: more than {MOST_FRAGMENTS:,} fragments")
        starts.append(start + 8)
        lengths.append(length)
        start += 8 + length
    return starts, lengths


def _of_frame(
    value: memoryview, starts: array[int], lengths: array[int], frames: int, frame: int
) -> tuple[array[int], array[int]]:
    """Select the fragments of a frame where no table tells them."""
    if frames == 1:
        return starts, lengths
    if len(starts) == frames:
        return starts[frame : frame + 1], lengths[frame : frame + 1]
    magic = (SOI, J2K, JP2[:4])
    firsts = [place for place, at in enumerate(starts) if bytes(value[at : at + 4]).startswith(magic)]
    if len(starts) < frames and len(firsts) == len(starts):
        if frame < len(starts):  # the file was cut between frames
            return starts[frame : frame + 1], lengths[frame : frame + 1]
        return array("Q"), array("Q")
    if len(firsts) != frames:
        raise PixelError("corrupt", "DICOM: the fragments cannot be told apart by frame")
    begin, end = firsts[frame], firsts[frame + 1] if frame + 1 < frames else len(starts)
    return starts[begin:end], lengths[begin:end]


def native_frame(parsed: Parsed, header: Header, frame: int, on_damage: OnDamage) -> Decoded:
    """Return an uncompressed frame; fill what is missing at its end with zeros, and report it."""
    samples, subsampled = header.samples, False
    if header.photometric in SUBSAMPLED and len(parsed.value) < header.pixels * 3 * header.frames:
        samples, subsampled = 2, True
    bits = header.pixels * samples * header.allocated
    first_bit = frame * bits
    begin, end = first_bit // 8, -(-(first_bit + bits) // 8)
    swapped = not parsed.little_endian and header.allocated == 8 and parsed.vr == "OW"
    if swapped:  # bytes lie in 16-bit words
        begin, end = begin - begin % 2, end + end % 2
    found = bytes(parsed.value[begin:end])
    if len(found) < end - begin - (1 if swapped else 0):
        detail = f"DICOM: {len(found):,} bytes of pixels where {end - begin:,} are needed"
        if not found:
            raise PixelError("truncated", detail)
        on_damage(PixelError("truncated", detail))
    found = found.ljust(end - begin, b"\0")
    if swapped:
        found = np.frombuffer(found, dtype=">u2").astype("<u2").tobytes()[first_bit // 8 - begin :]
    if header.allocated == 1:
        values: NDArray[Any] = np.unpackbits(np.frombuffer(found, np.uint8), bitorder="little")
        values = values[first_bit % 8 :][: header.pixels * samples]
    else:
        kind = "f" if header.floating else "u"
        order = "<" if parsed.little_endian else ">"
        values = np.frombuffer(found, dtype=f"{order}{kind}{header.allocated // 8}")[: header.pixels * samples]
    return Decoded(_shaped(values, header, subsampled=subsampled), header.allocated, header.photometric)


def _shaped(values: NDArray[Any], header: Header, *, subsampled: bool) -> NDArray[Any]:
    """Give the samples their shape, (rows, columns) or (rows, columns, samples)."""
    if header.samples == 1:
        return values.reshape(header.rows, header.columns)
    if subsampled:
        if header.columns % 2:
            raise PixelError("unsupported", "DICOM: subsampled colours in an odd number of columns")
        pairs = values.reshape(-1, 4)  # Y1 Y2 Cb Cr
        whole = np.stack([pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]], axis=1)
        return whole.reshape(header.rows, header.columns, 3)
    if header.planar:
        return np.moveaxis(values.reshape(header.samples, header.rows, header.columns), 0, -1)
    return values.reshape(header.rows, header.columns, header.samples)
