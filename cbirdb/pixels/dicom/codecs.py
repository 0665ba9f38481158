"""Decodes one frame's codestream. Which codec it needs is seen in its content; the header's syntax may be wrong.

The size that a codestream states is compared with the header's before anything is decoded.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import OnDamage
from cbirdb.pixels.dicom.header import Header
from cbirdb.pixels.jpeg import UNKNOWN_SAMPLING, as_pixel_error, decode_strictly, without_tags

SOI, END = b"\xff\xd8", b"\xff\xd9"
J2K, JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
RLE_HEADER, MOST_SEGMENTS = 64, 15
DCT, LOSSLESS, JPEG_LS = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA), 0xC3, 0xF7
FRAME_HEADERS = {*range(0xC0, 0xD0), JPEG_LS} - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
APP0, APP14, START_OF_SCAN = 0xE0, 0xEE, 0xDA
RGB_NAMES = (b"RGB", b"rgb")
NO_TRANSFORM = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""An Adobe segment that says: the components are not YCbCr."""
MOST_PADDING = 16
"""Most bytes after the end of a codestream: fragments have an even length, and some writers pad more."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame's samples, shape (rows, columns) or (rows, columns, samples), as the decoder gives them."""

    samples: NDArray[Any]
    precision: int
    """Bits of a sample."""
    photometric: str


@dataclass(frozen=True, slots=True)
class _Stated:
    """The facts that a codestream states of itself."""

    kind: int
    precision: int
    rows: int
    columns: int
    names: bytes
    """Of the components."""
    transform: bool | None = None
    """The components are YCbCr; None: not stated."""


def decode_frame(stream: memoryview, header: Header, syntax: str, on_damage: OnDamage) -> Decoded:
    """Decode a compressed frame.

    :raises PixelError: when no known codec fits, or it fails.
    """
    if stream[:2] == SOI:
        return _decode_jpeg(stream, header, on_damage)
    if stream[: len(JP2)] == JP2:
        stream = stream[max(0, bytes(stream).find(J2K)) :]
    if stream[: len(J2K)] == J2K:
        return _decode_jpeg2000(bytes(stream), header, on_damage)
    if syntax == DEFLATED_FRAMES:
        return _inflate(stream, header)
    if _is_rle(stream, header):
        return _decode_rle(stream, header)
    if not stream:
        raise PixelError("truncated", "DICOM: the frame has no bytes")
    raise PixelError("unsupported", "DICOM: pixels compressed in a way that is not known here, as videos are")


def _check_size(rows: int, columns: int, samples: int, header: Header) -> None:
    if (rows, columns, samples) != (header.rows, header.columns, header.samples):
        raise PixelError("corrupt", "DICOM: header and compressed pixels contradict each other about the size")


def _check_end(stream: bytes | memoryview, on_damage: OnDamage) -> None:
    """Report a codestream without its end marker; for codecs that do not."""
    if END not in bytes(stream[-MOST_PADDING:]):
        on_damage(PixelError("truncated", "DICOM: the compressed pixels end too early"))


def _read_markers(stream: memoryview) -> _Stated:
    """Read a JPEG's markers up to its frame header."""
    position, transform = 2, None
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise PixelError("corrupt", "DICOM: the markers of the JPEG data are damaged")
        marker = stream[position + 1]
        if marker == 0xFF or marker in WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        segment = bytes(stream[position + 4 : position + 2 + length])
        if marker in FRAME_HEADERS:
            if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
                break
            precision, rows, columns, count = struct.unpack_from(">BHHB", segment)
            names = bytes(segment[6 + 3 * number] for number in range(count))
            return _Stated(marker, precision, rows, columns, names, False if names in RGB_NAMES else transform)
        if marker == APP0 and segment.startswith(b"JFIF\0"):
            transform = True
        if marker == APP14 and segment.startswith(b"Adobe") and len(segment) >= 12 and transform is None:
            transform = segment[11] != 0
        if marker == START_OF_SCAN:
            break
        position += 2 + length
    raise PixelError("corrupt", "DICOM: the JPEG data have no frame header")


def _decode_jpeg(stream: memoryview, header: Header, on_damage: OnDamage) -> Decoded:
    stated = _read_markers(stream)
    _check_size(stated.rows, stated.columns, len(stated.names), header)
    if stated.kind == JPEG_LS:
        _check_end(stream, on_damage)
        return _decode_jpeg_ls(stream, stated, header)
    if stated.kind == LOSSLESS:
        _check_end(stream, on_damage)
        return _decode_by_imagecodecs(stream, stated, header)
    if stated.kind in DCT and stated.precision == 8:
        return _decode_8_bits(bytes(stream), stated, header, on_damage)
    if stated.kind in DCT and stated.precision == 12:
        _check_end(stream, on_damage)
        return _decode_by_imagecodecs(stream, stated, header)
    raise PixelError("unsupported", "DICOM: a kind of JPEG that DICOM does not name")


def _is_ybr(stated: _Stated, header: Header) -> bool:
    """Return True if the components are YCbCr: as the codestream says, else as the header says."""
    return header.photometric.startswith("YBR") if stated.transform is None else stated.transform


def _decode_8_bits(stream: bytes, stated: _Stated, header: Header, on_damage: OnDamage) -> Decoded:
    """Decode as for JPEG files, with libjpeg's reports of damage."""
    colours = "GRAY" if header.samples == 1 else "RGB"
    if header.samples == 3 and not _is_ybr(stated, header):
        stream = SOI + NO_TRANSFORM + stream[2:]
    try:
        pixels = decode_strictly(stream, colours)
    except ValueError as error:
        if UNKNOWN_SAMPLING in str(error):
            raise PixelError("not checkable", "a JPEG with a chroma subsampling whose damage is not reported") from None
        on_damage(as_pixel_error(error))
        pixels = _leniently(without_tags(stream), colours)
    return Decoded(pixels.reshape(_shape(header)), 8, _after_transform(header))


def _leniently(stream: bytes, colours: str) -> NDArray[np.uint8]:
    from simplejpeg import decode_jpeg

    try:
        pixels: NDArray[np.uint8] = decode_jpeg(stream, colours, strict=False)
    except ValueError as fatal:
        raise as_pixel_error(fatal) from fatal
    return pixels


def _after_transform(header: Header) -> str:
    return "RGB" if header.samples == 3 else header.photometric


def _decode_by_imagecodecs(stream: memoryview, stated: _Stated, header: Header) -> Decoded:
    """Decode lossless and 12-bit JPEG."""
    from imagecodecs import jpeg8_decode

    transformed = stated.kind != LOSSLESS and _is_ybr(stated, header)
    space = None if header.samples == 1 else "YCBCR" if transformed else "RGB"
    wanted = "RGB" if space else None
    pixels = jpeg8_decode(stream, colorspace=space, outcolorspace=wanted)  # type: ignore[arg-type]  # any buffer
    photometric = _after_transform(header) if stated.kind != LOSSLESS else header.photometric
    return Decoded(pixels.reshape(_shape(header)), stated.precision, photometric)


def _decode_jpeg_ls(stream: memoryview, stated: _Stated, header: Header) -> Decoded:
    from jpeg_ls import decode_pixel_data

    # Without a marker behind the last bit CharLS counts zeros for ten seconds and more, even of a tiny picture.
    buffer, facts = decode_pixel_data(b"".join((stream, END)))
    planar = header.samples > 1 and facts["interleave_mode"] == 0
    pixels = _as_samples(buffer, stated.precision, header, planar=planar)
    return Decoded(pixels, stated.precision, header.photometric)


def _decode_jpeg2000(stream: bytes, header: Header, on_damage: OnDamage) -> Decoded:
    """Decode JPEG 2000 and High-Throughput JPEG 2000."""
    from openjpeg.utils import decode_pixel_data

    if len(stream) < 43:
        raise PixelError("truncated", "DICOM: the JPEG 2000 data have no header")
    right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
    samples, depth = struct.unpack_from(">HB", stream, 40)
    _check_size(bottom - top, right - left, samples, header)
    precision = (depth & 0x7F) + 1
    _check_end(stream, on_damage)
    pixels = _as_samples(decode_pixel_data(stream, version=2), precision, header, planar=False)
    # The decoder undoes the codestream's own colour transform.
    photometric = "RGB" if header.photometric in ("YBR_RCT", "YBR_ICT") else header.photometric
    return Decoded(pixels, precision, photometric)


def _is_rle(stream: memoryview, header: Header) -> bool:
    """Return True if a header of RLE segments begins here."""
    if len(stream) < RLE_HEADER:
        return False
    count, first = struct.unpack_from("<II", stream)
    return bool(count == header.samples * -(-header.allocated // 8) <= MOST_SEGMENTS and first == RLE_HEADER)


def _decode_rle(stream: memoryview, header: Header) -> Decoded:
    """Decode segments of PackBits. pylibjpeg-rle panics on damaged ones: no exception, and lines on stderr."""
    count, *places = struct.unpack_from("<16I", stream)
    segments = [stream[start:end] for start, end in pairwise([*places[:count], len(stream)])]
    if header.allocated == 1:
        samples = np.unpackbits(_unpack_bits(segments[0], -(-header.pixels // 8)), bitorder="little")[: header.pixels]
        return Decoded(samples.reshape(_shape(header)), 1, header.photometric)
    size = count // header.samples
    planes = [_join_bytes(segments[first : first + size], header.pixels) for first in range(0, count, size)]
    samples = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    return Decoded(samples.reshape(_shape(header)), header.allocated, header.photometric)


def _join_bytes(segments: list[memoryview], pixels: int) -> NDArray[Any]:
    """Return one sample of each pixel. A segment holds one byte of it, the most significant first."""
    values = _unpack_bits(segments[0], pixels)
    if len(segments) > 1:
        values = values.astype(f"<u{len(segments)}")
        for segment in segments[1:]:
            values <<= 8
            values |= _unpack_bits(segment, pixels)
    return values


def _unpack_bits(segment: memoryview, size: int) -> NDArray[Any]:
    """Unpack a segment to so many bytes; more are ignored."""
    from imagecodecs import packbits_decode

    try:
        unpacked = bytes(packbits_decode(segment, out=size))  # type: ignore[arg-type]  # any buffer
    # More bytes than wanted: damage, or a byte of padding. Pillow, which is slower, stops before them.
    except RuntimeError:
        try:
            unpacked = Image.frombytes("L", (size, 1), bytes(segment), "packbits", "L").tobytes()
        except ValueError:
            unpacked = b""
    if len(unpacked) < size:
        raise PixelError("truncated", "DICOM: a segment of the RLE data ends too early")
    return np.frombuffer(unpacked, np.uint8)


def _inflate(stream: memoryview, header: Header) -> Decoded:
    size = header.pixels * header.samples * max(8, header.allocated) // 8
    try:
        buffer = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, size)
    except zlib.error:
        raise PixelError("corrupt", "DICOM: a deflated frame cannot be inflated") from None
    return Decoded(
        _as_samples(buffer, header.allocated, header, planar=header.planar), header.allocated, header.photometric
    )


def _shape(header: Header) -> tuple[int, ...]:
    return (header.rows, header.columns) if header.samples == 1 else (header.rows, header.columns, header.samples)


def _as_samples(buffer: Any, precision: int, header: Header, *, planar: bool) -> NDArray[Any]:
    """View decoded bytes as samples, in the least container that fits the precision.

    :raises PixelError: when there are not exactly the bytes of a frame.
    """
    size = 1 if precision <= 8 else 2 if precision <= 16 else 4 if precision <= 32 else 8
    if len(buffer) != header.pixels * header.samples * size:
        raise PixelError("corrupt", "DICOM: the compressed pixels are more or fewer than the header says")
    samples = np.frombuffer(buffer, dtype=f"<u{size}")
    if planar:
        return np.moveaxis(samples.reshape(header.samples, header.rows, header.columns), 0, -1).reshape(_shape(header))
    return samples.reshape(_shape(header))
