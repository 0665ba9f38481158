"""Reads PNG, JPEG, TIFF and the like through Pillow, completely or not at all."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_FILE, MAX_PIXELS
from cbirdb.records import FileFacts


def inspect_file(path: Path, max_pixels: int = MAX_PIXELS) -> FileFacts:
    """Read a file once: its hash, its size, and whether every pixel of it decodes.

    :raises PixelError: when it cannot be read, is no image, or is damaged.
    """
    data, modified_ns = _read_bytes(path)
    picture = _decode(data, max_pixels)
    return FileFacts(
        sha256=hashlib.sha256(data).digest(),
        width=picture.width,
        height=picture.height,
        file_bytes=len(data),
        modified_ns=modified_ns,
    )


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A file's picture as 8-bit RGB. Grey values deeper than 8 bits are scaled to their own range.

    :raises PixelError: when it cannot be read, is no image, or is damaged.
    """
    data, _ = _read_bytes(path)
    return to_rgb(_decode(data, max_pixels))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode of Pillow's -> RGB. What is transparent is shown as it is stored, as the paper's code does."""
    if picture.mode.startswith(("I", "F")):
        # Pillow would clip 16-bit values at 255 and turn a radiograph white.
        deep = np.asarray(picture, dtype=np.float64)
        finite = deep[np.isfinite(deep)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        deep = np.nan_to_num(deep, nan=low, posinf=high, neginf=low)
        scaled = (deep - low) * (255.0 / (high - low)) if high > low else np.zeros_like(deep)
        picture = Image.fromarray(np.round(scaled).astype(np.uint8))
    return picture.convert("RGB")


def _read_bytes(path: Path) -> tuple[bytes, int]:
    try:
        # Before reading: what is written to the file meanwhile makes it newer than what is recorded.
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise PixelError("unreadable", "not a regular file")
        if found.st_size > LARGEST_FILE:
            raise PixelError("too large", f"{found.st_size:,} bytes, more than the {LARGEST_FILE:,} that are read")
        data = path.read_bytes()
    except OSError as error:
        reason = "file not found" if isinstance(error, FileNotFoundError) else "unreadable"
        raise PixelError(reason, f"{error.strerror or type(error).__name__}") from error
    except MemoryError as error:
        raise PixelError("too large", "there is not memory enough to read it") from error
    if not data:
        raise PixelError("empty file", "the file has no bytes")
    return data, found.st_mtime_ns


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """The fully decoded first and only frame."""
    try:
        with warnings.catch_warnings():
            # What Pillow finds large is below our limit or refused; corrupt metadata is not our concern.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data))
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise PixelError("multi-frame", f"the file holds {frames} frames; split it into single images")
            if (pixels := picture.width * picture.height) > max_pixels:
                raise PixelError(
                    "too large", f"{pixels:,} pixels, more than the {max_pixels:,} that are safe to decode"
                )
            picture.load()
    except UnidentifiedImageError as error:
        if data[128:132] == b"DICM":
            raise PixelError("not an image", "a DICOM file; this version does not read DICOM yet") from error
        raise PixelError("not an image", "no known image format") from error
    except Image.DecompressionBombError as error:
        raise PixelError("too large", "the picture has more pixels than is safe to decode") from error
    except MemoryError as error:
        raise PixelError("too large", "there is not memory enough to decode it") from error
    except PixelError:
        raise
    # Decoders of damaged files raise nearly anything: OSError, SyntaxError, ValueError, struct.error, IndexError.
    except Exception as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise PixelError(reason, f"{type(error).__name__}: {error}") from error
    return picture
