"""Listens to libtiff's errors and warnings while Pillow decodes.

Pillow switches libtiff's warnings off before it opens a file, and errors go to the process's stderr. libtiff calls one
function for every directory that it reads, the *tag extender*, which exists for programs with tags of their own. Ours
adds no tag: it switches the warnings on again. All this is libtiff's public interface.
"""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from PIL import Image, _imaging

LONGEST_TEXT = 1000
"""Most bytes kept of a message."""
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
"""TIFFErrorHandler: the function that reports, a format of printf, and its values (a va_list)."""
EXTENDER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""TIFFExtendProc: the opened file."""
SETTERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler", "TIFFSetTagExtender")
"""Each sets one function for the whole process and returns the one before."""
_one_at_a_time = threading.Lock()


class Message(NamedTuple):
    """An error or a warning."""

    function: str
    """The function of libtiff that reports."""
    text: str
    is_error: bool


@contextmanager
def messages() -> Iterator[list[Message]]:
    """Collect the messages of this thread; none reach stderr meanwhile. Other threads that listen wait.

    The list stays empty where libtiff cannot be reached; ``can_be_heard`` tells.
    """
    heard: list[Message] = []
    if not (setters := _setters()):
        yield heard
        return
    set_errors, set_warnings, set_extender = setters
    thread = threading.get_ident()

    def listen(function: bytes | None, form: bytes, values: int | None, *, is_error: bool) -> None:
        if threading.get_ident() == thread:
            heard.append(Message((function or b"").decode("utf-8", "replace"), _formatted(form, values), is_error))

    def extend(opened: int) -> None:
        set_warnings(on_warning)
        if extender_before:
            EXTENDER(extender_before)(opened)

    on_error = HANDLER(lambda *report: listen(*report, is_error=True))
    on_warning = HANDLER(lambda *report: listen(*report, is_error=False))
    on_opening = EXTENDER(extend)
    with _one_at_a_time:
        errors_before, warnings_before = set_errors(on_error), set_warnings(on_warning)
        extender_before = set_extender(on_opening)
        try:
            yield heard
        finally:
            set_extender(extender_before)
            set_warnings(warnings_before)
            set_errors(errors_before)


@cache
def can_be_heard() -> bool:
    """Return True if the warning about a strip with one byte too many arrives, as a later Pillow might prevent."""
    file = io.BytesIO()
    Image.new("L", (3, 1)).save(file, "TIFF", compression="packbits")
    run_of_three, run_of_four = bytes([257 - 3, 0]), bytes([257 - 4, 0])
    with messages() as heard:
        Image.open(io.BytesIO(file.getvalue().replace(run_of_three, run_of_four, 1))).load()
    return any(not message.is_error for message in heard)


@cache
def _setters() -> list[Callable[[Any], int | None]]:
    """Return the setters of the libtiff that Pillow uses; none if they cannot be reached."""
    # Names are looked up in Pillow's module, then in the libraries that it is linked to.
    library = ctypes.CDLL(_imaging.__file__)
    if not all(hasattr(library, name) for name in SETTERS):
        return []
    setters: list[Any] = [library[name] for name in SETTERS]
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters


def _formatted(form: bytes, values: int | None) -> str:
    """Fill a format of printf."""
    text = ctypes.create_string_buffer(LONGEST_TEXT)
    # In the usual calling conventions, a va_list is an address or is passed by its address.
    ctypes.pythonapi.PyOS_vsnprintf(text, ctypes.c_size_t(LONGEST_TEXT), form, ctypes.c_void_p(values))
    return text.value.decode("utf-8", "replace").strip()
