"""Decodes one damaged DICOM file in a worker process, and measures what it takes."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from cbirdb.errors import PixelError
from cbirdb.pixels.dicom import decode_dicom
from cbirdb.pixels.rendering import Rendering


@dataclass(frozen=True)
class Outcome:
    """The results of one file in a worker."""

    strict: str | None
    """Why it is refused; None: it is shown."""
    lenient: str | None
    escaped: str | None
    """An exception that is no PixelError."""
    seconds: float
    memory: int
    """Most bytes that the worker ever had."""


def attempt(item: tuple[bytes, str]) -> Outcome:
    """Decode one file, in a worker process."""
    data, rendering = item
    start = time.perf_counter()
    results: list[str | None] = []
    escaped = None
    for accepted in (False, True):
        try:
            if accepted:
                decode_dicom(data, 0, Rendering.parse(rendering), on_damage=lambda _: None)
            else:
                decode_dicom(data)
            results.append(None)
        except PixelError as error:
            results.append(error.reason)
        except BaseException as error:  # noqa: BLE001
            escaped = f"{type(error).__name__}: {error}"
            results.append("escaped")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(results[0], results[1], escaped, time.perf_counter() - start, memory)
