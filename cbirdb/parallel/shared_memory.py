"""Memory that this process and its workers see at once."""

from __future__ import annotations

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any


class SharedMemory:
    """A block of bytes that travels to a worker process by being an argument of it.

    The standard library's shared memory lies in /dev/shm, of which a container has 64 MB unless told otherwise, and
    whoever writes beyond that is killed; this has no such limit, and is gone with its last process.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        """New memory; or, with a descriptor, the memory that another process made."""
        self._descriptor = _make(size) if descriptor is None else descriptor
        self.buffer = mmap.mmap(self._descriptor, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (DupFd(self._descriptor), len(self.buffer))

    def close(self) -> None:
        """Give back the descriptor; the memory goes when no array of it is left."""
        os.close(self._descriptor)


def _make(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("cbirdb")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _attach(travelling: Any, size: int) -> SharedMemory:
    return SharedMemory(size, travelling.detach())
