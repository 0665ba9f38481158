"""Waits for something that another process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(what: Callable[[], bool], *, seconds: float = 30) -> None:
    """Return when ``what()`` is true; fail if it is not within the given seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not true within {seconds:g} seconds"
        time.sleep(0.02)
