"""Intact pictures of each format and kind, made here."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80


def smooth(seed: int = 3) -> Image.Image:
    """A grey picture with structure and some noise, as a radiograph has; its rows differ."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
    wide = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray(np.clip(wide + rng.integers(-5, 6, wide.shape), 0, 255).astype(np.uint8))


def coloured() -> Image.Image:
    """Three such pictures as red, green and blue."""
    return Image.merge("RGB", [smooth(1), smooth(2), smooth(3)])


def encoded(picture: Image.Image, file_format: str, **how: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **how)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def interlaced_png(picture: Image.Image) -> bytes:
    """A grey PNG in Adam7's order, which Pillow reads and does not write."""
    values = np.asarray(picture)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, across in passes for row in values[top::down, left::across]]
    data = b"".join(b"\0" + row.tobytes() for row in rows if len(row))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 0, 0, 0, 1)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep() -> Image.Image:
    """Sixteen bits of grey."""
    return Image.fromarray(np.asarray(smooth()).astype(np.uint16) * 13)


def generated() -> Iterator[tuple[str, str, bytes]]:
    """Format, name and content of each."""
    grey, colour = smooth(), coloured()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, picture, how in (
        ("grey", grey, {}),
        ("colour 4:2:0", colour, {}),
        ("colour 4:4:4", colour, {"subsampling": 0, "quality": 95}),
        ("progressive", colour, {"progressive": True}),
        ("restart markers", grey, {"restart_marker_blocks": 4}),
        ("CMYK", colour.convert("CMYK"), {}),
        ("EXIF", grey, {"exif": exif}),
        ("optimised", grey, {"optimize": True}),
    ):
        yield "JPEG", f"generated {name}", encoded(picture, "JPEG", **how)
    transparent = colour.copy()
    transparent.putalpha(grey)
    for name, picture in (
        ("grey", grey),
        ("colour", colour),
        ("RGBA", transparent),
        ("palette", colour.convert("P", palette=Image.Palette.ADAPTIVE)),
        ("16 bit", deep()),
        ("1 bit", grey.convert("1")),
    ):
        yield "PNG", f"generated {name}", encoded(picture, "PNG")
    yield "PNG", "generated interlaced", interlaced_png(grey)
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield "TIFF", f"generated {compression or 'raw'}", encoded(grey, "TIFF", compression=compression)
        if compression != "jpeg":
            yield "TIFF", f"generated 16 bit {compression or 'raw'}", encoded(deep(), "TIFF", compression=compression)
        yield "TIFF", f"generated colour {compression or 'raw'}", encoded(colour, "TIFF", compression=compression)
    yield "GIF", "generated", encoded(grey, "GIF")
    yield "BMP", "generated", encoded(grey, "BMP")
    yield "WEBP", "generated lossy", encoded(colour, "WEBP")
    yield "WEBP", "generated lossless", encoded(colour, "WEBP", lossless=True)
    yield "JPEG2000", "generated", encoded(grey, "JPEG2000")
    yield "PPM", "generated", encoded(grey, "PPM")
