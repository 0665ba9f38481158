"""Reads the bytes of a picture: a file, or a member of a zip archive."""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path

from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_FILE, LARGEST_HELD
from cbirdb.pixels.archive import BOUNDED, open_archive
from cbirdb.pixels.dicom import FileBytes, is_dicom
from cbirdb.pixels.raster import read_file

CHUNK = 1 << 20
"""Bytes inflated at a time."""
ENCRYPTED = 1
"""Flag of an encrypted member."""
BEGINNING = 64 << 10
"""Bytes that show if a file is DICOM."""


def read_source(path: Path, member: str | None = None) -> FileBytes:
    """Return the bytes of a file, or of a member of the zip archive that it is. A large DICOM file is mapped, not read.

    :raises PixelError: when it cannot be read or is too large.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise PixelError("unreadable", "not a regular file")
        if member is None:
            large = LARGEST_HELD < found.st_size <= LARGEST_FILE
            return (_map_dicom(path) if large else None) or read_file(path)[0]
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


def sha256_of(path: Path, data: FileBytes) -> bytes:
    """Return the hash of what was read from a file.

    :raises PixelError: when a mapped file cannot be read.
    """
    if not isinstance(data, mmap):
        return hashlib.sha256(data).digest()
    try:
        with path.open("rb") as file:  # not through the map, whose pages would all stay in memory
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise PixelError("unreadable", f"{error.strerror or type(error).__name__}") from error


def _map_dicom(path: Path) -> mmap | None:
    """Map a file if it is DICOM: its frames are read one at a time."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ) if is_dicom(file.read(BEGINNING)) else None


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
            if data.tell() + len(part) > LARGEST_HELD:
                detail = f"a zip's member of more than {LARGEST_HELD:,} bytes; unpack the zip and ingest its files"
                raise PixelError("too large", detail)
            data.write(part)
    return data.getvalue()
