"""Provides memory that this process and its workers share."""

from __future__ import annotations

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any


class SharedMemory:
    """A block of bytes that reaches a worker process as an argument.

    The standard library's shared memory lies in /dev/shm. A container has 64 MB there by default, and a process that
    writes more is killed. This class has no such limit, and the memory is freed with its last process.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        """Allocate memory, or map the memory of another process by its descriptor."""
        self._descriptor = _make(size) if descriptor is None else descriptor
        self.buffer = mmap.mmap(self._descriptor, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (DupFd(self._descriptor), len(self.buffer))

    def close(self) -> None:
        """Close the descriptor. The memory is freed when no array uses it any more."""
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
