"""Keeps the libraries' warnings and log lines from users: they may hold what stands in a header."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("pydicom", "openjpeg")


class _Muted:
    """The loggers' levels, restored when the last thread is done."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.levels: dict[str, int] = {}

    def begin(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.levels = {name: logging.getLogger(name).level for name in LOGGERS}
                for name in LOGGERS:
                    logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def end(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                for name, level in self.levels.items():
                    logging.getLogger(name).setLevel(level)


_MUTED = _Muted()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop everything that the libraries warn of and log."""
    _MUTED.begin()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _MUTED.end()
