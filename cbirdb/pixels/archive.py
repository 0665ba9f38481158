"""Opens zip archives: their lists of members are bounded, and read once for all members."""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from pathlib import Path

from cbirdb.errors import PixelError

LARGEST_LIST = 16 << 20
"""Bytes that the list of a zip's members may take, some 250,000 names. Held in memory it takes ten times as many."""
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions whose decoder stops at a number of bytes. Others unpack all that a piece of input makes: gigabytes."""


def open_archive(path: Path) -> zipfile.ZipFile:
    """Return a zip, whose list of members this process has read once for all of them.

    :raises OSError: when it cannot be opened.
    :raises PixelError: when its list cannot be read or is too long.
    """
    try:
        facts = path.stat()
        return _list(path, (facts.st_size, facts.st_mtime_ns))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, UnicodeError):
        raise PixelError("damaged zip", "the list of the zip's members cannot be read") from None


@lru_cache(maxsize=1)
def _list(path: Path, _state: tuple[int, int]) -> zipfile.ZipFile:
    """Read the list of members once for all members that this process reads one after the other.

    :param _state: the file's size and time, so that a changed file is read again.
    """
    return zipfile.ZipFile(_BoundedFile(path))


class _BoundedFile:
    """Gives a zip to its reader, and refuses to read as much at once as too long a list of members.

    A zip states the size of its list in several places, of which the reader believes one.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self.seek, self.tell, self.seekable = self._file.seek, self._file.tell, self._file.seekable

    def __del__(self) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """Return bytes.

        :raises PixelError: when they are more than a list of members may take.
        """
        left = max(0, self._size - self.tell())
        if (left if size < 0 else min(left, size)) > LARGEST_LIST:
            raise PixelError("too large", f"the list of the zip's members takes more than {LARGEST_LIST >> 20} MB")
        return self._file.read(size) or b""
