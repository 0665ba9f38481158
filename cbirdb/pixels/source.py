"""Reads the bytes of a picture: a file, or a member of a zip archive."""

from __future__ import annotations

import stat
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_FILE
from cbirdb.pixels.archive import BOUNDED, open_archive
from cbirdb.pixels.raster import read_file

CHUNK = 1 << 20
"""Bytes inflated at a time."""
ENCRYPTED = 1
"""Flag of an encrypted member."""


def read_source(path: Path, member: str | None = None) -> bytes:
    """Return the bytes of a file, or of a member of the zip archive that it is.

    :raises PixelError: when it cannot be read or is too large.
    """
    if member is None:
        return read_file(path)[0]
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise PixelError("unreadable", "not a regular file")
        data = _read_member(open_archive(path), member)
    except OSError as error:
        reason = "file not found" if isinstance(error, FileNotFoundError) else "unreadable"
        raise PixelError(reason, f"{error.strerror or type(error).__name__}") from error
    except MemoryError:
        raise PixelError("too large", "there is not enough memory to read it") from None
    # zipfile names the member in its texts, and a member's name may hold a patient's.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise PixelError("corrupt", f"the zip archive or its member is damaged ({type(error).__name__})") from None
    if not data:
        raise PixelError("empty file", "the member of the archive has no bytes")
    return data


def _read_member(archive: zipfile.ZipFile, member: str) -> bytes:
    """Inflate a member, and stop where it is larger than allowed, whatever size the archive states."""
    try:
        facts = archive.getinfo(member)
    except KeyError:
        raise PixelError("file not found", "the zip archive has no such member") from None
    if facts.flag_bits & ENCRYPTED:
        raise PixelError("unreadable", "the member of the zip archive is encrypted")
    if facts.compress_type not in BOUNDED:
        raise PixelError("unreadable", "the member is compressed in another way than deflate")
    data = BytesIO()  # unlike a list that is joined, it never holds the bytes twice
    with archive.open(facts) as file:
        while part := file.read(CHUNK):
            if data.tell() + len(part) > LARGEST_FILE:
                raise PixelError("too large", f"more than the limit of {LARGEST_FILE:,} bytes")
            data.write(part)
    return data.getvalue()
