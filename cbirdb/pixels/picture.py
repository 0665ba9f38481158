"""Reads a picture for an encoder, whatever holds it: an image file or DICOM, alone or in a zip archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cbirdb.errors import PixelError
from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels.damage import OnDamage, refuse
from cbirdb.pixels.dicom import FileBytes, decode_dicom, forget, is_dicom
from cbirdb.pixels.raster import decode, to_rgb
from cbirdb.pixels.rendering import AS_DISPLAYED, Rendering
from cbirdb.pixels.source import read_source, sha256_of
from cbirdb.records import FrameFacts


@dataclass(frozen=True, slots=True)
class ReadPicture:
    """A picture as an encoder sees it."""

    picture: Image.Image
    """8-bit RGB."""
    damage: str | None
    """The decoder's first report that was accepted."""
    frame: FrameFacts | None
    """None: an image file, which `ingest` has read and hashed."""


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
    data, sha256 = _read(path, member)
    reports: list[PixelError] = []

    def noted(report: PixelError) -> None:
        on_damage(report)
        reports.append(report)

    facts = None
    if sha256 is not None:
        found = decode_dicom(data, frame, rendering, max_pixels, noted)
        picture = found.picture
        facts = FrameFacts(sha256, found.pixel_sha256, found.width, found.height)
    elif frame:
        raise PixelError("no such frame", f"frame {frame + 1}, but an image file has one")
    else:
        picture = to_rgb(decode(data[:], max_pixels, noted))
    return ReadPicture(picture, reports[0].message if reports else None, facts)


_last: tuple[tuple[Path, str | None, int, int], tuple[FileBytes, bytes]] | None = None
"""The DICOM file that this process read last, and its hash. Its frames come one after the other, often hundreds."""


def _read(path: Path, member: str | None) -> tuple[FileBytes, bytes | None]:
    """Return a file's bytes, and their hash if it is DICOM.

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
    data = read_source(path, member)
    if not is_dicom(data):
        return data, None
    read = (data, sha256_of(path, data))
    if key is not None:
        _last = (key, read)
    return read
