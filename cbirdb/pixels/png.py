"""Checks a PNG completely: every CRC, all compressed data, and exactly the header's number of rows.

Pillow checks neither the CRC of image data nor that they end with the last row: it fills or cuts a file whose height
was changed. Here the data are unpacked once and handed to Pillow as stored blocks. So the pixels are Pillow's and
nothing is unpacked twice.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import OnDamage, check_pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""
PALETTE = 3
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of Adam7: first column and row, and the steps between columns and rows."""
STORED_BLOCK = 65_535
"""Most bytes that an uncompressed block of DEFLATE holds."""


def check_and_store(data: bytes, max_pixels: int, on_damage: OnDamage) -> bytes:
    """Check a PNG; return the same picture as a PNG that Pillow need not unpack.

    :raises PixelError: when it cannot be decoded at all.
    """
    chunks = list(_chunks(data, on_damage)) if data != SIGNATURE else []
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return data  # Pillow tells what is wrong with it
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    check_pixels(width, height, max_pixels)
    if colours not in CHANNELS:
        return data
    if colours == PALETTE and not any(kind == b"PLTE" for kind, _ in chunks):
        raise PixelError("corrupt", "PNG: the palette is missing")
    needed = _unpacked_size(width, height, bits * CHANNELS[colours], interlaced=bool(interlaced))
    image = b"".join(content for kind, content in chunks if kind == b"IDAT")
    rows = _unpack(image, needed, on_damage)
    head = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    place = next((number for number, chunk in enumerate(chunks) if chunk[0] == b"IDAT"), len(head))
    before, after = (b"".join(map(_chunk, part)) for part in (head[:place], head[place:]))
    return b"".join([SIGNATURE, before, *_stored(rows), after])


def _chunks(data: bytes, on_damage: OnDamage) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each chunk before IEND; the last one is cut if the file is."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        content = data[position + 8 : end]
        if end + 4 > len(data):
            break
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(data[end : end + 4], "big"):
            on_damage(PixelError("corrupt", f"PNG: wrong CRC of the chunk {kind!r}"))
        if kind == b"IEND":
            return
        yield kind, content
        position = end + 4
    else:
        kind, content = b"", b""
    on_damage(PixelError("truncated", "PNG: the file ends before its end mark"))
    if content:
        yield kind, content


def _unpacked_size(width: int, height: int, pixel_bits: int, *, interlaced: bool) -> int:
    """Return the bytes of all rows, each with its filter byte."""
    size = 0
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * pixel_bits // 8))
    return size


def _unpack(image: bytes, needed: int, on_damage: OnDamage) -> bytes:
    """Unpack the rows; fill missing rows with black."""
    inflater = zlib.decompressobj()
    try:
        # One byte more than needed reveals surplus data, and limits a decompression bomb.
        rows = inflater.decompress(image, needed + 1)
    except zlib.error as error:
        raise PixelError("corrupt", f"PNG: {error}") from error
    if len(rows) > needed:
        on_damage(PixelError("corrupt", "PNG: the image data are longer than the header says"))
    elif len(rows) < needed:
        reason = "truncated" if not inflater.eof else "corrupt"
        on_damage(PixelError(reason, f"PNG: {needed - len(rows):,} of {needed:,} bytes of image data are missing"))
    elif not inflater.eof:
        on_damage(PixelError("truncated", "PNG: the checksum of the image data is missing"))
    return rows[:needed].ljust(needed, b"\0")


def _stored(rows: bytes) -> Iterator[bytes | memoryview]:
    """Yield the chunk of image data with uncompressed bytes, in pieces, so that they are copied once.

    It has no checksum, which was already checked, and no CRC: Pillow reads neither for image data.
    """
    view = memoryview(rows)
    starts = range(0, len(rows), STORED_BLOCK)
    yield struct.pack(">I4sBB", 2 + 5 * len(starts) + len(rows), b"IDAT", 0x78, 0x01)
    for start in starts:
        block = view[start : start + STORED_BLOCK]
        last = start + STORED_BLOCK >= len(rows)
        yield struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield bytes(4)


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, content = chunk
    crc = zlib.crc32(content, zlib.crc32(kind))
    return b"".join([struct.pack(">I4s", len(content), kind), content, struct.pack(">I", crc)])
