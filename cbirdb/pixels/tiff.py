"""Checks TIFF by libtiff's reports, and uncompressed TIFF by the sizes of its strips."""

from __future__ import annotations

from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
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
from cbirdb.pixels import jpeg, libtiff
from cbirdb.pixels.damage import OnDamage

REPORTED = ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd", "lzma", "webp", "packbits", "jpeg")
"""Compressions, by Pillow's names, whose damage libtiff reports."""
DAMAGE = {"PackBitsDecode": ("",), "JPEGPreDecode": ("Improper JPEG", "JPEG strip size exceeds")}
"""Warnings about image data, by the function of libtiff and the beginning of the text. Others are about tags."""
FROM_LIBJPEG = "JPEGLib"
"""The function that passes libjpeg's messages on."""
SEPARATE_PLANES = 2
SUBSAMPLED = 6
"""PhotometricInterpretation YCbCr, whose uncompressed data are smaller than its pixels."""


def load(picture: Image.Image, data: bytes, on_damage: OnDamage) -> None:
    """Decode an opened TIFF; raise what Pillow raises if it cannot."""
    compression = str(picture.info.get("compression"))
    if compression == "raw":  # Pillow reads it by itself
        picture.load()
        _check_sizes(picture, data, on_damage)
        return
    for message in libtiff.load(picture):
        if (damage := _damage(message)) is not None:
            on_damage(damage)
    if compression not in REPORTED:
        on_damage(PixelError("not checkable", f"a TIFF whose compression ({compression}) does not report damage"))
    elif not libtiff.can_be_heard():
        on_damage(PixelError("not checkable", "a compressed TIFF, as Pillow hides libtiff's warnings here"))


def _damage(message: libtiff.Message) -> PixelError | None:
    """Translate a message into one of our reasons; None if it is not about image data."""
    function, text, is_error = message
    if function == FROM_LIBJPEG and text.startswith(tuple(jpeg.HARMLESS.values())):
        # libjpeg tells only the first warning.
        return PixelError("not checkable", f"a TIFF in which one of libjpeg's warnings hides others: {text}")
    if function == FROM_LIBJPEG:
        return jpeg.as_pixel_error(ValueError(text))
    if is_error or (function in DAMAGE and text.startswith(DAMAGE[function])):
        return PixelError("corrupt", f"libtiff: {text}")
    return None


def _check_sizes(picture: Any, data: bytes, on_damage: OnDamage) -> None:
    """Compare the strips or tiles of uncompressed data with the file and with the picture's size."""
    tags = picture.tag_v2
    if tags.get(PHOTOMETRIC_INTERPRETATION) == SUBSAMPLED:
        on_damage(PixelError("not checkable", "a TIFF with uncompressed YCbCr data"))
        return
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
        found, needed = max(0, min(count, len(data) - start)), rows * -(-columns * sum(plane) // 8)
        if found < needed:
            on_damage(PixelError("truncated", f"TIFF: a strip or tile has {found:,} bytes of {needed:,}"))
