"""Brings samples into one canonical form, and colours into RGB of 8 bits."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbirdb.errors import PixelError
from cbirdb.pixels.dicom.attributes import Attributes
from cbirdb.pixels.dicom.codecs import Decoded
from cbirdb.pixels.dicom.header import Header, reals

BLOCK = 1 << 20
"""Pixels converted at a time: floating-point copies take many times the memory."""
RED, BLUE = 1.402, 1.772
GREEN_OF_BLUE, GREEN_OF_RED = 0.344136, 0.714136
"""Factors of YBR_FULL, PS3.3 C.7.6.3.1.2."""
MOST_ENTRIES = 65_536
NAMES = ("Red", "Green", "Blue")


def canonical(decoded: Decoded, header: Header) -> tuple[NDArray[Any], str]:
    """Return samples as stored values and their photometric interpretation: grey, palette indices or RGB.

    The result does not depend on the transfer syntax: unused bits are cut off, the sign is extended, the container
    depends on the stored bits, and YBR becomes RGB.
    """
    samples = decoded.samples
    if header.floating:
        return samples.astype(f"<f{samples.itemsize}", copy=False), decoded.photometric
    shift = header.high_bit + 1 - header.stored
    if decoded.precision <= header.high_bit:
        shift = 0
    bits = min(header.stored, decoded.precision)
    values = _stored_values(samples, bits, shift, signed=header.signed)
    size = 1 if header.stored <= 8 else 2 if header.stored <= 16 else 4 if header.stored <= 32 else 8
    kind = "i" if header.signed else "u"
    values = values.astype(f"<{kind}{size}", copy=False)
    if decoded.photometric.startswith("YBR"):
        return _ybr_to_rgb(values, decoded.photometric, bits), "RGB"
    return values, decoded.photometric


def _stored_values(samples: NDArray[Any], bits: int, shift: int, *, signed: bool) -> NDArray[Any]:
    """Cut the stored bits out of containers that may hold overlays in others, and extend the sign."""
    size = samples.dtype.itemsize
    kind = samples.dtype.newbyteorder("=")
    unsigned: NDArray[Any] = samples.astype(kind, copy=False).view(f"u{size}")
    if bits == 8 * size and not shift:
        return unsigned.view(f"i{size}" if signed else f"u{size}")
    values: NDArray[Any] = unsigned >> np.array(shift, unsigned.dtype) if shift else unsigned
    # In place where the samples are our own: a decoder's array, not a view of the file's bytes.
    own = values if values.flags.writeable else None
    values = np.bitwise_and(values, np.array((1 << bits) - 1, unsigned.dtype), out=own)
    if signed:
        sign = np.array(1 << (bits - 1), unsigned.dtype)
        values = ((values ^ sign) - sign).view(f"i{size}")
    return values


def pixel_sha256(values: NDArray[Any], photometric: str) -> bytes:
    """Return the hash of a frame's samples with their shape, type and meaning."""
    digest = hashlib.sha256(f"{values.shape} {values.dtype.str} {photometric}\n".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def _ybr_to_rgb(values: NDArray[Any], photometric: str, bits: int) -> NDArray[Any]:
    """Convert full or partial range YCbCr, shape (rows, columns, 3)."""
    if values.dtype.kind != "u":
        raise PixelError("unsupported", "DICOM: colours with a sign")
    flat = np.ascontiguousarray(values).reshape(-1, 3)
    converted = np.empty_like(flat)
    half, most = float(1 << (bits - 1)), float((1 << bits) - 1)
    partial = photometric.startswith("YBR_PARTIAL")
    for start in range(0, len(flat), BLOCK):
        luma, blue, red = flat[start : start + BLOCK].astype(np.float32).T
        blue, red = blue - half, red - half
        if partial:  # 16 to 235 and 16 to 240 of 8 bits, ITU-R BT.601
            scale = (most + 1) / 256
            luma, blue, red = (luma - 16 * scale) * (255 / 219), blue * (255 / 224), red * (255 / 224)
        mixed = np.stack([luma + RED * red, luma - GREEN_OF_BLUE * blue - GREEN_OF_RED * red, luma + BLUE * blue], -1)
        converted[start : start + BLOCK] = np.rint(np.clip(mixed, 0, most))
    return converted.reshape(values.shape)


def rgb_to_bytes(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Scale colours of any depth to 8 bits."""
    if bits == 8:
        return values.astype(np.uint8, copy=False)
    most = (1 << bits) - 1
    shown = np.empty(values.shape, np.uint8)
    rows = max(1, BLOCK // max(1, values.shape[1]))
    for top in range(0, values.shape[0], rows):
        shown[top : top + rows] = np.rint(np.clip(values[top : top + rows].astype(np.float64), 0, most) * (255 / most))
    return shown


def palette_to_rgb(values: NDArray[Any], attributes: Attributes) -> NDArray[np.uint8]:
    """Replace palette indices by their colours (PS3.3 C.7.6.3.1.5 and C.7.9.2)."""
    tables, firsts, depths = [], [], []
    for name in NAMES:
        entries, first, depth = _descriptor(attributes, name)
        tables.append(_entries(attributes, name, entries, depth))
        firsts.append(first)
        depths.append(depth)
    deep = max(depths) > 8 and max(int(table.max(initial=0)) for table in tables) > 255
    shown = np.empty((*values.shape, 3), np.uint8)
    for channel, (table, first) in enumerate(zip(tables, firsts, strict=True)):
        if values.dtype.kind == "i" and first >= MOST_ENTRIES // 2:  # a signed number
            first -= MOST_ENTRIES  # noqa: PLW2901
        # Some writers store 8-bit entries although the descriptor says 16.
        colours = (table >> 8 if deep else table).astype(np.uint8)
        rows = max(1, BLOCK // max(1, values.shape[1]))
        for top in range(0, values.shape[0], rows):
            places = np.clip(values[top : top + rows].astype(np.int64) - first, 0, len(colours) - 1)
            shown[top : top + rows, :, channel] = colours[places]
    return shown


def _descriptor(attributes: Attributes, name: str) -> tuple[int, int, int]:
    """Return a table's number of entries, its first index, and the bits of an entry."""
    found = reals(attributes, f"{name}PaletteColorLookupTableDescriptor")
    if len(found) != 3:
        raise PixelError("corrupt", "DICOM: the descriptor of the palette is missing or damaged")
    entries, first, depth = (int(one) for one in found)
    return entries or MOST_ENTRIES, first, depth


def _entries(attributes: Attributes, name: str, count: int, depth: int) -> NDArray[np.uint16]:
    """Return a table's entries."""
    if data := attributes.table(f"{name}PaletteColorLookupTableData"):
        table = lut_entries(data, count)
    elif data := attributes.table(f"Segmented{name}PaletteColorLookupTableData"):
        table = _expand(data, count, depth)
    else:
        raise PixelError("corrupt", "DICOM: the palette is missing")
    if not len(table):
        raise PixelError("corrupt", "DICOM: the palette is empty")
    return table


def lut_entries(data: bytes, count: int) -> NDArray[np.uint16]:
    """Return at most ``count`` entries of a lookup table: 16-bit words, or bytes if they are too few for words."""
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2")
    if len(words) >= count:
        return words[:count]
    packed = np.frombuffer(data, np.uint8)
    return packed[:count].astype(np.uint16) if len(packed) >= count else words


def _expand(data: bytes, count: int, depth: int) -> NDArray[np.uint16]:
    """Expand a segmented table (PS3.3 C.7.9.2), and stop at ``count`` entries: a small table can ask for any number."""
    numbers = np.frombuffer(data[: len(data) // 2 * 2], "<u2") if depth > 8 else np.frombuffer(data, np.uint8)
    wide = depth > 8
    table = np.zeros(count, np.uint16)
    filled = _expand_segments(numbers.astype(np.int64), table, 0, None, wide=wide)
    if filled < count:
        raise PixelError("corrupt", "DICOM: the segments of the palette do not fill it")
    return table


def _expand_segments(
    numbers: NDArray[np.int64], table: NDArray[np.uint16], filled: int, most: int | None, *, wide: bool, start: int = 0
) -> int:
    """Write the entries of at most ``most`` segments; return how many entries are filled."""
    place, done = start, 0
    while place + 1 < len(numbers) and filled < len(table) and (most is None or done < most):
        code, length = int(numbers[place]), int(numbers[place + 1])
        done += 1
        if code == 0:  # discrete
            values = numbers[place + 2 : place + 2 + length][: len(table) - filled]
            place += 2 + length
        elif code == 1:  # linear, from the entry before
            if not filled or place + 2 >= len(numbers):
                raise PixelError("corrupt", "DICOM: the segments of the palette are damaged")
            before, last = int(table[filled - 1]), int(numbers[place + 2])
            steps = np.arange(1, length + 1)[: len(table) - filled]
            values = np.rint(before + (last - before) * steps / max(1, length)).astype(np.int64)
            place += 3
        elif code == 2 and most is None:  # indirect: segments that stand earlier are repeated
            target = _offset(numbers[place + 2 :], wide=wide)
            filled = _expand_segments(numbers, table, filled, length, wide=wide, start=target)
            place += 4 if wide else 6
            continue
        else:
            raise PixelError("corrupt", "DICOM: the segments of the palette are damaged")
        table[filled : filled + len(values)] = values
        filled += len(values)
    return filled


def _offset(numbers: NDArray[np.int64], *, wide: bool) -> int:
    """Return the place that an indirect segment refers to: a byte offset of 32 bits, low part first."""
    needed = 2 if wide else 4
    if len(numbers) < needed:
        raise PixelError("corrupt", "DICOM: the segments of the palette are damaged")
    packed = numbers[:needed].astype("<u2" if wide else "u1").tobytes()
    offset: int = struct.unpack("<I", packed)[0]
    return offset // 2 if wide else offset
