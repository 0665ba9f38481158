"""Reads a picture for an encoder, whatever holds it: an image file or DICOM, alone or in a zip archive."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cbirdb.errors import PixelError
from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels.damage import OnDamage, refuse
from cbirdb.pixels.dicom import decode_dicom, forget, is_dicom
from cbirdb.pixels.raster import decode, to_rgb
from cbirdb.pixels.rendering import AS_DISPLAYED, Rendering
from cbirdb.pixels.source import read_source_with_time


@dataclass(frozen=True, slots=True)
class ReadPicture:
    """A picture, and the facts about its file that the database stores."""

    picture: Image.Image
    """8-bit RGB."""
    sha256: bytes
    """Hash of the file's bytes; of the member's in an archive."""
    pixel_sha256: bytes
    """Hash of the decoded pixels before any rendering."""
    width: int
    height: int
    """Size as stored. A DICOM picture whose pixels are not square is stretched, and has another."""
    file_bytes: int
    modified_ns: int
    damage: str | None
    """The decoder's first report that was accepted."""
    is_dicom: bool = False


def read_picture(
    path: Path,
    *,
    member: str | None = None,
    frame: int = 0,
    rendering: Rendering = AS_DISPLAYED,
    max_pixels: int = MAX_PIXELS,
    on_damage: OnDamage = refuse,
) -> ReadPicture:
    """Read a picture once.

    :param member: name inside the zip archive at ``path``.
    :param frame: of a DICOM file, counted from 0. An image file has only frame 0.
    :param rendering: how DICOM is shown. Image files are not changed by it.
    :param on_damage: called with each report on a damaged picture.
    :raises PixelError: when it cannot be read, holds no such frame, or is damaged.
    """
    data, modified_ns, sha256 = _read(path, member)
    if is_dicom(data):
        found = decode_dicom(data, frame, rendering, max_pixels, on_damage)
        facts = (found.picture, sha256, found.pixel_sha256, found.width, found.height)
        return ReadPicture(*facts, len(data), modified_ns, found.damage, is_dicom=True)
    if frame:
        raise PixelError("no such frame", f"frame {frame + 1}, but an image file has one")
    reports: list[PixelError] = []

    def noted(report: PixelError) -> None:
        on_damage(report)
        reports.append(report)

    picture = decode(data, max_pixels, noted)
    damage = reports[0].message if reports else None
    facts = (to_rgb(picture), sha256, raster_sha256(picture), picture.width, picture.height)
    return ReadPicture(*facts, len(data), modified_ns, damage)


_last: tuple[tuple[Path, str | None, int, int], tuple[bytes, int, bytes]] | None = None
"""The file that this process read last. Its frames come one after the other, and there may be hundreds."""


def _read(path: Path, member: str | None) -> tuple[bytes, int, bytes]:
    """Return a file's bytes, the time of its last change in nanoseconds, and the hash of the bytes.

    :raises PixelError: when it cannot be read.
    """
    global _last  # noqa: PLW0603
    try:
        found = path.stat()
        key = (path, member, found.st_size, found.st_mtime_ns)
    except OSError:
        key = None
    if _last is not None and _last[0] == key:
        return _last[1]
    # Before the next one is read: both may be large.
    _last = None
    forget()
    data, modified_ns = read_source_with_time(path, member)
    read = (data, modified_ns, hashlib.sha256(data).digest())
    if key is not None and is_dicom(data):
        _last = (key, read)
    return read


def raster_sha256(picture: Image.Image) -> bytes:
    """Return the hash of an image's grey values, or of its colours as RGB, with their shape and type."""
    grey = picture.mode == "L" or picture.mode.startswith(("I", "F"))
    values = np.ascontiguousarray(np.asarray(picture if grey else to_rgb(picture)))
    digest = hashlib.sha256(f"{values.shape} {values.dtype.str}\n".encode())
    digest.update(values.data)
    return digest.digest()
