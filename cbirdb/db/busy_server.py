"""Ask a server again that is there but takes no connection now."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from cbirdb.errors import BusyError, NotReadyError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BUSY_S = 15.0
"""How long a server without a free connection is asked again."""
ASK_AGAIN_S = 0.5


def wait_while_busy(ask: Callable[[], Answer], *, starting_s: float | None = None) -> Answer:
    """Ask until the server answers, and say once that this waits.

    :param starting_s: patience with a server that starts or recovers; None: ``BUSY_S``.
    :raises UnreachableError: when patience is at its end.
    """
    started, told = time.monotonic(), False
    while True:
        try:
            return ask()
        except (BusyError, NotReadyError) as error:
            patience = BUSY_S if starting_s is None or isinstance(error, BusyError) else starting_s
            if time.monotonic() - started > patience:
                raise
            if not told:
                log.warning("%s Trying again for up to %.0f seconds.", error.message, patience)
                told = True
        time.sleep(ASK_AGAIN_S)
