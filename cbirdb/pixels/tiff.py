"""Checks TIFF by libtiff's reports. Pillow disables its warnings and lets it write errors to the process's stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
    JPEGTABLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
)

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import OnDamage
from cbirdb.pixels.jpeg import UNKNOWN_SAMPLING, as_pixel_error, decode_strictly

REPORTED = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd", "lzma", "webp")
"""Compressions, by Pillow's names, whose damage libtiff reports as an error."""
CHECKED = ("raw", "packbits", "jpeg")
"""Compressions that are checked here, because Pillow or libtiff tolerate their damage. For others (fax) no check
exists.
"""
SEPARATE_PLANES = 2
SUBSAMPLED = 6
"""PhotometricInterpretation YCbCr, whose uncompressed data are smaller than its pixels."""
LONGEST_EXCESS = 127
"""Most bytes that a run of PackBits can have beyond the end of its picture."""
LONGEST_MESSAGE = 1 << 16
"""Most bytes kept of libtiff's messages."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A strip or a tile of one plane."""

    data: memoryview
    width: int
    height: int
    size: int
    """Bytes after unpacking."""


def load(picture: Image.Image, data: bytes, on_damage: OnDamage) -> None:
    """Decode an opened TIFF; raise what Pillow raises if it cannot."""
    compression = str(picture.info.get("compression"))
    # Pillow reads uncompressed data by itself.
    messages: AbstractContextManager[list[str]] = nullcontext([]) if compression == "raw" else _libtiff_messages()
    with messages as messages_of_libtiff:
        picture.load()
    if messages_of_libtiff:
        on_damage(PixelError("corrupt", f"libtiff: {messages_of_libtiff[0]}"))
    if compression in REPORTED:
        return
    tags = picture.tag_v2  # type: ignore[attr-defined]
    subsampled = compression != "jpeg" and tags.get(PHOTOMETRIC_INTERPRETATION) == SUBSAMPLED
    if compression not in CHECKED or subsampled:
        on_damage(PixelError("not checkable", f"a TIFF whose compression ({compression}) does not report damage"))
        return
    for piece in _pieces(picture, data, on_damage):
        if compression == "raw":
            _check_size(len(piece.data), piece, on_damage)
        elif compression == "packbits":
            if not _fills_exactly(piece):
                _check_size(_unpacked_size(piece), piece, on_damage, exact=True)
        else:
            _check_jpeg(piece, picture, on_damage)


@contextmanager
def _libtiff_messages() -> Iterator[list[str]]:
    """Collect libtiff's messages instead of letting them reach stderr.

    The stderr is the whole process's, so the messages of other threads would be taken for libtiff's.
    """
    collected: list[str] = []
    if sys.stderr is not None:
        sys.stderr.flush()
    reading, writing = os.pipe()
    # A full pipe drops the rest: nobody reads it until libtiff is done.
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    stderr = os.dup(2)
    os.dup2(writing, 2)
    try:
        yield collected
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(writing)
        text = os.read(reading, LONGEST_MESSAGE).decode("utf-8", "replace")
        os.close(reading)
        collected += [line.removeprefix("tempfile.tif: ") for line in text.splitlines() if line.strip()]


def _pieces(picture: Any, data: bytes, on_damage: OnDamage) -> Iterator[_Piece]:
    """Yield the strips or tiles that the file's directory describes."""
    tags = picture.tag_v2
    view = memoryview(data)
    width, height = int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH])
    bits = tags.get(BITSPERSAMPLE, (1,))
    samples = int(tags.get(SAMPLESPERPIXEL, 1))
    bits = [int(bits[0])] * samples if len(bits) < samples else [int(depth) for depth in bits[:samples]]
    planes = [[depth] for depth in bits] if tags.get(PLANAR_CONFIGURATION) == SEPARATE_PLANES else [bits]
    tiled = TILEOFFSETS in tags
    if tiled:
        wide, high = int(tags[TILEWIDTH]), int(tags[TILELENGTH])
    else:
        wide, high = width, min(height, int(tags.get(ROWSPERSTRIP, height)) or height)
    places = list(tags.get(TILEOFFSETS if tiled else STRIPOFFSETS, ()))
    # libtiff computes missing counts.
    counts_given = list(tags.get(TILEBYTECOUNTS if tiled else STRIPBYTECOUNTS, ()))
    counts = counts_given or [len(data)] * len(places)
    shapes = [
        (wide, high if tiled else min(high, height - top), plane)
        for plane in planes
        for top in range(0, height, high)
        for _ in range(0, width, wide)
    ]
    if min(len(places), len(counts)) < len(shapes):
        on_damage(PixelError("corrupt", f"TIFF: {len(shapes)} strips or tiles are needed, {len(places)} are listed"))
    for (columns, rows, plane), start, count in zip(shapes, places, counts, strict=False):
        if start + count > len(data) and counts_given:
            on_damage(PixelError("truncated", "TIFF: a strip or tile ends after the end of the file"))
        size = rows * -(-columns * sum(plane) // 8)
        yield _Piece(view[start : start + count], columns, rows, size)


def _check_size(found: int, piece: _Piece, on_damage: OnDamage, *, exact: bool = False) -> None:
    if found < piece.size:
        on_damage(PixelError("truncated", f"TIFF: a strip or tile has {found:,} bytes of {piece.size:,}"))
    elif exact and found > piece.size:
        on_damage(PixelError("corrupt", f"TIFF: a strip or tile has {found:,} bytes where {piece.size:,} fit"))


def _fills_exactly(piece: _Piece) -> bool:
    """Return True if PackBits gives exactly the expected number of bytes. Fast, since Pillow's decoder checks it.

    A run of bytes that differ from the last data byte is appended. If it appears exactly where the picture ends, the
    size is right.
    """
    other = piece.data[-1] ^ 0xFF if piece.data else 0
    run = bytes([257 - LONGEST_EXCESS, other])
    try:
        line = Image.frombytes("L", (piece.size + LONGEST_EXCESS, 1), bytes(piece.data) + run, "packbits", "L")
    except ValueError:
        return False
    return line.tobytes()[piece.size :] == bytes([other]) * LONGEST_EXCESS


def _unpacked_size(piece: _Piece) -> int:
    """Return the bytes that PackBits makes of a piece, up to the expected number, where libtiff cuts or stops."""
    data, size, position, wanted = piece.data, 0, 0, piece.size
    end = len(data)
    while size < wanted and position < end:
        control = data[position]
        if control < 128:
            # Literal bytes; the file may hold fewer of them.
            size += min(control + 1, end - position - 1)
            position += control + 2
        elif control == 128:
            position += 1
        else:
            if position + 1 < end:
                size += 257 - control
            position += 2
    return size


def _check_jpeg(piece: _Piece, picture: Any, on_damage: OnDamage) -> None:
    """Decode a piece again with a decoder that reports damage; libtiff only warns, and its warnings are lost."""
    tables = bytes(picture.tag_v2.get(JPEGTABLES, b""))
    stream = tables[:-2] + bytes(piece.data[2:]) if tables else bytes(piece.data)
    try:
        found = decode_strictly(stream, "GRAY" if len(picture.getbands()) == 1 else "RGB")
    except ValueError as error:
        unknown = UNKNOWN_SAMPLING in str(error)
        on_damage(
            PixelError("not checkable", "a TIFF with JPEG data of unknown subsampling")
            if unknown
            else as_pixel_error(error)
        )
        return
    if found.shape[:2] != (piece.height, piece.width):
        on_damage(PixelError("corrupt", "TIFF: the JPEG data of a strip or tile have another size than its place"))
