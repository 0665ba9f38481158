"""Reads PNG, JPEG, TIFF and similar files through Pillow, completely or not at all."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_FILE, MAX_PIXELS
from cbirdb.pixels import jpeg, png, tiff
from cbirdb.pixels.damage import OnDamage, check_pixels, refuse
from cbirdb.pixels.dicom import decode_dicom, is_dicom
from cbirdb.records import FileFacts

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "PPM", "WEBP")
"""Accepted formats, by Pillow's names: those whose damage we know how to detect. Others run programs (EPS)."""
WHITE_IS_ZERO = 0
"""Value of TIFF 6.0's tag PhotometricInterpretation."""
BLOCK = 1 << 20
"""Pixels scaled at a time."""


def inspect_file(path: Path, max_pixels: int = MAX_PIXELS, *, accept_damaged: bool = False) -> FileFacts:
    """Read a file once: return its hash and size, and check that every pixel decodes.

    :param accept_damaged: note a decoder's report instead of refusing the file.
    :raises PixelError: when the file cannot be read, is no image, or is damaged.
    """
    data, modified_ns = read_file(path)
    reports: list[PixelError] = []
    picture = decode(data, max_pixels, reports.append if accept_damaged else refuse)
    return FileFacts(
        sha256=hashlib.sha256(data).digest(),
        width=picture.width,
        height=picture.height,
        file_bytes=len(data),
        modified_ns=modified_ns,
        damage=reports[0].message if reports else None,
    )


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS, on_damage: OnDamage = refuse) -> Image.Image:
    """Return a file's picture as 8-bit RGB. Grey values deeper than 8 bits are scaled to their own range.

    :param on_damage: called with each report on a damaged picture.
    :raises PixelError: when the file cannot be read, is no image, or is damaged.
    """
    data, _ = read_file(path)
    return to_rgb(decode(data, max_pixels, on_damage))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert any mode of Pillow's to RGB. Transparent pixels show their stored colour, as in the paper's code."""
    if picture.mode.startswith(("I", "F")):
        # Pillow would clip 16-bit values at 255 and turn a radiograph white.
        picture = Image.fromarray(_eight_bits(picture))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow advises on transparent palettes; we show the stored colours
        return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> NDArray[np.uint8]:
    """Scale deep grey values to their own range, shape (height, width). NaN becomes black."""
    values = np.asarray(picture)
    sign = -1.0 if _white_is_zero(picture) else 1.0
    # In blocks: float64 takes four times the memory of 16-bit values, and each step another copy.
    rows = max(1, BLOCK // max(1, picture.width))
    blocks = [slice(top, top + rows) for top in range(0, picture.height, rows)]
    ends = [sign * end for block in blocks for end in _finite_ends(values[block])] or [0.0]
    low, high = min(ends), max(ends)
    scaled = np.zeros(values.shape, dtype=np.uint8)
    for block in blocks if high > low else ():
        deep = np.nan_to_num(sign * values[block].astype(np.float64), nan=low, posinf=high, neginf=low)
        scaled[block] = np.round((deep - low) * (255.0 / (high - low)))
    return scaled


def _finite_ends(values: NDArray[Any]) -> list[float]:
    """Return the lowest and the highest finite value; nothing if there is none."""
    finite = values[np.isfinite(values)]
    return [float(finite.min()), float(finite.max())] if finite.size else []


def _white_is_zero(picture: Image.Image) -> bool:
    """Return True if a TIFF declares its lowest value as white. Pillow honours that only up to 8 bits."""
    tags = getattr(picture, "tag_v2", None)
    return tags is not None and tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def read_file(path: Path) -> tuple[bytes, int]:
    """Return a file's bytes, and when it was last changed, in nanoseconds.

    :raises PixelError: when it cannot be read or is too large.
    """
    try:
        # Before reading: a later write makes the file newer than its recorded time.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise PixelError("unreadable", "not a regular file")
        if found.st_size > LARGEST_FILE:
            raise PixelError("too large", f"{found.st_size:,} bytes, more than the limit of {LARGEST_FILE:,}")
        data = path.read_bytes()
    except OSError as error:
        reason = "file not found" if isinstance(error, FileNotFoundError) else "unreadable"
        raise PixelError(reason, f"{error.strerror or type(error).__name__}") from error
    except MemoryError as error:
        raise PixelError("too large", "there is not enough memory to read it") from error
    if not data:
        raise PixelError("empty file", "the file has no bytes")
    return data, found.st_mtime_ns


def decode(data: bytes, max_pixels: int = MAX_PIXELS, on_damage: OnDamage = refuse) -> Image.Image:
    """Decode the only frame completely; of DICOM the first one, as displayed."""
    # A DICOM file may begin as a TIFF does and hold a second picture.
    if is_dicom(data):
        return decode_dicom(data, max_pixels=max_pixels, on_damage=on_damage).picture
    try:
        with warnings.catch_warnings():
            # Our own limit replaces Pillow's warning about size, and damaged metadata do not matter here.
            warnings.simplefilter("ignore")
            return _decode_checked(data, max_pixels, on_damage)
    except UnidentifiedImageError as error:
        raise PixelError("not an image", "no known image format") from error
    except Image.DecompressionBombError as error:
        raise PixelError("too large", "the picture has more pixels than is safe to decode") from error
    except MemoryError as error:
        raise PixelError("too large", "there is not enough memory to decode it") from error
    except PixelError:
        raise
    # Decoders of damaged files raise nearly anything: OSError, SyntaxError, ValueError, struct.error, IndexError.
    except Exception as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise PixelError(reason, f"{type(error).__name__}: {error}") from error


def _decode_checked(data: bytes, max_pixels: int, on_damage: OnDamage) -> Image.Image:
    """Decode with the decoder that reports damage of the format."""
    if data.startswith(png.SIGNATURE):
        data = png.check_and_store(data, max_pixels, on_damage)
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise PixelError("multi-frame", f"the file holds {frames} frames; split it into single images")
    check_pixels(picture.width, picture.height, max_pixels)
    if picture.format in ("JPEG", "MPO"):
        return jpeg.decode(data, picture, on_damage)
    if picture.format == "TIFF":
        tiff.load(picture, data, on_damage)
    else:
        picture.load()
    return picture
