"""Opens what may hold a header: a file, a member of a zip, a deflated data set. Reads no more than is asked for."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cbirdb.errors import PixelError
from cbirdb.pixels.archive import BOUNDED, open_archive
from cbirdb.pixels.dicom.elements import ReadAt

LARGEST_STREAM = 64 << 20
"""Bytes of a compressed header that are unpacked at most."""
ZIP_START, ZIP_END = b"PK\3\4", b"PK\5\6"


class Stream:
    """Gives a stream that is only read forward as if it were a file."""

    def __init__(self, stream: BinaryIO | Inflated) -> None:
        self._stream = stream
        self._data = b""
        self._start = 0

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position on.

        :raises PixelError: when more than the limit would have to be unpacked.
        """
        if position + size > LARGEST_STREAM + (1 << 20):
            raise PixelError("too large", f"its compressed header takes more than {LARGEST_STREAM >> 20} MB")
        while self._start + len(self._data) < position + size:
            more = self._stream.read(1 << 16)
            if not more:
                break
            # What lies before the position is never asked for again.
            passed = max(0, min(len(self._data), position - self._start))
            self._start += passed
            self._data = self._data[passed:] + more
        offset = position - self._start
        return self._data[max(0, offset) : max(0, offset + size)] if offset >= 0 else b""


class Inflated:
    """Unpacks a raw deflate stream piece by piece."""

    def __init__(self, read_at: ReadAt, position: int) -> None:
        self._read_at = read_at
        self._position = position
        self._unpack = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, size: int) -> bytes:
        """Return at most this many bytes; none at the end.

        :raises PixelError: when the stream is damaged.
        """
        while not self._unpack.eof:
            packed = self._unpack.unconsumed_tail
            if not packed:
                packed = self._read_at(self._position, 1 << 14)
                self._position += len(packed)
            try:
                unpacked = self._unpack.decompress(packed, size)
            except zlib.error:
                raise PixelError("damaged header", "its deflated data cannot be unpacked") from None
            if unpacked or not packed:
                return unpacked
        return b""


@contextmanager
def opened(path: Path) -> Iterator[tuple[ReadAt, int]]:
    """Open a regular file for reading at positions; yield the reader and the file's size.

    :raises OSError: when it cannot be opened.
    :raises PixelError: when it is no regular file: a pipe would wait for its writer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise PixelError("not a file", "it is a device or a pipe")
        yield lambda position, size: os.pread(descriptor, size, position), facts.st_size
    finally:
        os.close(descriptor)


def count_members(path: Path) -> int:
    """Count the members of a zip.

    :raises PixelError: when its list cannot be read.
    """
    return len(open_archive(path).infolist())


def member_name(path: Path, index: int) -> str:
    """Return the name of a zip's member."""
    return open_archive(path).infolist()[index].filename


@contextmanager
def opened_member(path: Path, index: int) -> Iterator[tuple[ReadAt, int]]:
    """Open a member of a zip for reading at positions; yield the reader and the member's stated size.

    :raises PixelError: when it cannot be read.
    """
    archive = open_archive(path)
    member = archive.infolist()[index]
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":":
        raise PixelError("outside of its folder", "the name of a zip's member leads out of the zip")
    if member.flag_bits & 1:
        raise PixelError("encrypted", "the zip's member needs a password")
    if member.compress_type not in BOUNDED:
        raise PixelError("unsupported", "the zip's member is compressed in another way than deflate")
    try:
        with archive.open(member) as stream:
            yield Stream(stream).read_at, member.file_size  # type: ignore[arg-type]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, ValueError, OSError, RuntimeError):
        raise PixelError("damaged zip", "the zip's member cannot be unpacked") from None


def is_folder(path: Path, index: int) -> bool:
    """Tell whether a zip's member is a folder."""
    return open_archive(path).infolist()[index].is_dir()
