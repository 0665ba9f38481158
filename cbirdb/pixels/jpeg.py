"""Decodes JPEG through libjpeg-turbo's own interface, which reports damage that Pillow hides. The pixels are Pillow's.

libjpeg fills gaps with made-up pixels and says so in a warning. ``HARMLESS`` lists harmless warnings by their codes in
``jerror.h``. Any other warning is damage, also one that a later version adds. ``docs/damaged-images.md`` lists them
all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import OnDamage

HARMLESS = {
    "JWRN_JFIF_MAJOR": "Warning: unknown JFIF revision number",
    "JWRN_ADOBE_XFORM": "Unknown Adobe color transform code",
    "JWRN_BOGUS_ICC": "Corrupt JPEG data: bad ICC marker",
}
"""Warnings about tags beside the picture, with the beginnings of their texts."""
PREMATURE_END = "Premature end of JPEG file"
"""Text of the warning JWRN_JPEG_EOF."""
UNKNOWN_SAMPLING = "Could not determine subsampling"
"""TurboJPEG's own error. Pillow reads such a file, and no decoder tells if it is complete."""
COLOURS = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""Pillow's modes of a JPEG, and their names in TurboJPEG."""
START_OF_SCAN, APP0, APP2, APP14 = 0xDA, 0xE0, 0xE2, 0xEE


def decode(data: bytes, opened: Image.Image, on_damage: OnDamage) -> Image.Image:
    """Decode a JPEG file.

    :param opened: the same file as Pillow opened it, not yet decoded.
    :raises PixelError: when the file cannot be decoded at all.
    """
    colours = COLOURS[opened.mode]
    try:
        pixels = decode_strictly(data, colours)
    except ValueError as error:
        if UNKNOWN_SAMPLING in str(error):
            on_damage(PixelError("not checkable", "a JPEG with a chroma subsampling whose damage is not reported"))
            opened.load()
            return opened
        on_damage(as_pixel_error(error))
        try:
            pixels = decode_jpeg(without_tags(data), colours, strict=False)
        except ValueError as fatal:
            raise as_pixel_error(fatal) from fatal
    if (opened.width, opened.height) != (pixels.shape[1], pixels.shape[0]):
        raise PixelError("corrupt", "its headers contradict each other about its size")
    if opened.mode == "CMYK":
        pixels = 255 - pixels  # as Pillow does: files store 255 for no ink
    return Image.frombuffer(opened.mode, opened.size, pixels)


def decode_strictly(data: bytes, colours: str) -> NDArray[np.uint8]:
    """Return the pixels, shape (height, width, channels), of a JPEG for which libjpeg reports only unknown tags.

    :raises ValueError: with libjpeg's first report of damage.
    """
    pixels: NDArray[np.uint8]
    try:
        pixels = decode_jpeg(data, colours)
        return pixels
    except ValueError as error:
        if not str(error).startswith(tuple(HARMLESS.values())):
            raise
    # libjpeg tells only the first warning. Without the tag that caused it, it tells the next.
    pixels = decode_jpeg(without_tags(data), colours)
    return pixels


def as_pixel_error(error: ValueError) -> PixelError:
    """Translate libjpeg's report into one of our reasons."""
    return PixelError("truncated" if str(error).startswith(PREMATURE_END) else "corrupt", f"libjpeg: {error}")


def without_tags(data: bytes) -> bytes:
    """Replace unknown versions and transforms by libjpeg's defaults, and drop profiles."""
    kept, position = [data[:2]], 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != bytes([START_OF_SCAN]):
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = bytearray(data[position:end])
        if marker == APP0 and segment[4:9] == b"JFIF\0" and len(segment) > 9:
            segment[9] = 1
        if marker == APP14 and segment[4:9] == b"Adobe" and len(segment) > 15 and segment[15] > 2:
            segment[15] = 1 if _components(data) == 3 else 2
        if marker != APP2:
            kept.append(bytes(segment))
        position = end
    return b"".join([*kept, data[position:]])


def _components(data: bytes) -> int:
    """Return the number of components in the first frame header; 3 if there is none."""
    position = 2
    while data[position : position + 1] == b"\xff" and position + 9 < len(data):
        if 0xC0 <= data[position + 1] <= 0xCF and data[position + 1] not in (0xC4, 0xC8, 0xCC):
            return data[position + 9]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 3
