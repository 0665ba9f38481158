"""Waits for a server that exists but accepts no connection yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from cbirdb.errors import BusyError, NotReadyError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BUSY_S = 15.0
"""Seconds for which a server without a free connection is tried again."""
ASK_AGAIN_S = 0.5


def wait_while_busy(ask: Callable[[], Answer], *, starting_s: float | None = None) -> Answer:
    """Call ``ask`` until the server answers, and log once that this waits.

    :param starting_s: seconds to wait for a server that starts or recovers; None: ``BUSY_S``.
    :raises UnreachableError: when the time is up.
    """
    started, has_warned = time.monotonic(), False
    while True:
        try:
            return ask()
        except (BusyError, NotReadyError) as error:
            patience = BUSY_S if starting_s is None or isinstance(error, BusyError) else starting_s
            if time.monotonic() - started > patience:
                raise
            if not has_warned:
                log.warning("%s Trying again for up to %.0f seconds.", error.message, patience)
                has_warned = True
        time.sleep(ASK_AGAIN_S)
