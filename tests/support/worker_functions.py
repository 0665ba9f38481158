"""Give worker processes something to do. They import this module by its name, so it imports nothing slow."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cbirdb.parallel.shared_memory import SharedMemory

Order = tuple[str, Any]
"""An action's name and its argument."""


class UnreadableError(Exception):
    """An error that can be pickled but not unpickled, as it does not keep its arguments."""

    def __init__(self, _what: str, _why: str) -> None:
        super().__init__("cannot be made again")


def obey(order: Order) -> Any:
    """Carry out the order."""
    action, argument = order
    return ACTIONS[action](argument)


def obey_imported(module: str) -> Callable[[Order], Any]:
    """Return a function of a module that only this process has."""

    def missing(order: Order) -> Any:
        return order

    missing.__module__, missing.__qualname__ = module, "missing"
    return missing


def without_core() -> None:
    """Let a process that crashes on purpose leave no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def segfault(_: object = None) -> object:
    """End as a C decoder that reads an invalid address."""
    without_core()
    return ctypes.string_at(0)


def abort(_: object = None) -> NoReturn:
    """End as a C library that finds itself in an impossible state."""
    without_core()
    os.abort()


def spin(_: object = None) -> NoReturn:
    """Stay busy and never return."""
    while True:
        pass


def tell_and_sleep(path: str, seconds: float = 600) -> None:
    """Write this process's id, completely or not at all, and hang."""
    half = Path(f"{path}.{os.getpid()}")
    half.write_text(str(os.getpid()))
    half.rename(path)
    time.sleep(seconds)


def append(entry: tuple[str, str]) -> None:
    """Add a word to a file."""
    path, word = entry
    with Path(path).open("a") as file:
        file.write(f"{word}\n")


def raise_(error: Exception) -> NoReturn:
    """Raise the error that was sent."""
    raise error


def raise_unreadable(_: object = None) -> NoReturn:
    """Raise an error that cannot be unpickled."""
    raise UnreadableError("a", "b")


def raise_unsendable(_: object = None) -> NoReturn:
    """Raise an error that cannot be pickled."""

    class LocalError(Exception):
        """An error without a name that another process could find."""

    raise LocalError


class Squares:
    """Write the square of a number into memory that another process reads."""

    def __init__(self, memory: SharedMemory, size: int) -> None:
        self._memory = memory
        self._size = size

    def __call__(self, number: int) -> None:
        np.ndarray((self._size,), np.int64, self._memory.buffer)[number] = number * number


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "echo": lambda value: value,
    "which": lambda _: (os.getpid(), os.getppid()),
    "segfault": segfault,
    "abort": abort,
    "leave": os._exit,
    "exit": sys.exit,
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": time.sleep,
    "spin": spin,
    "tell and sleep": tell_and_sleep,
    "tell and spin": lambda path: spin(tell_and_sleep(path, 0)),
    "tell and linger": lambda path: tell_and_sleep(path, 0.02),
    "append": append,
    "raise": raise_,
    "raise unreadable": raise_unreadable,
    "raise unsendable": raise_unsendable,
    "unsendable": lambda _: lambda: None,
}
