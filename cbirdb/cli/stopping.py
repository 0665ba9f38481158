"""Has SIGTERM end a command as Ctrl-C does: finished work is kept, and worker processes end with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` in the main thread when SIGTERM arrives; leave a parent's choice to ignore it."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def terminated() -> bool:
    """Return True if SIGTERM has interrupted the command."""
    return signal.getsignal(signal.SIGTERM) is _ignore


def _interrupt(*_: object) -> None:
    # A second one (`timeout` sends two) must not break off what the first one has begun: writing finished work.
    signal.signal(signal.SIGTERM, _ignore)
    raise KeyboardInterrupt


def _ignore(*_: object) -> None: ...
