"""Listens to libtiff's errors and warnings while Pillow decodes.

Pillow switches libtiff's warnings off before it opens a file, and errors go to the process's stderr. libtiff calls one
function for every directory that it reads, the *tag extender*, which exists for programs with tags of their own. Ours
adds no tag: it switches the warnings on again. All this is libtiff's public interface.
"""

from __future__ import annotations

import ctypes
import io
import threading
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


class Message(NamedTuple):
    """An error or a warning."""

    function: str
    """The function of libtiff that reports."""
    text: str
    is_error: bool


class _Listener:
    """The functions that libtiff calls, in the whole process. They are made once, since small pictures load fast."""

    def __init__(self, set_errors: Any, set_warnings: Any, set_extender: Any) -> None:
        self._turn = threading.Lock()
        self._thread = 0
        self._heard: list[Message] = []
        self._set_warnings, self._set_extender = set_warnings, set_extender
        self._on_error, self._on_warning = HANDLER(self._hear_error), HANDLER(self._hear_warning)
        self._on_opening = EXTENDER(self._extend)
        self._extend_before: int | None = None
        self._error_before = HANDLER(set_errors(self._on_error) or 0)

    def load(self, picture: Image.Image) -> list[Message]:
        with self._turn:
            self._heard, self._thread = [], threading.get_ident()
            self._extend_before = self._set_extender(self._on_opening)
            try:
                picture.load()
            finally:
                self._set_extender(self._extend_before)
                self._thread = 0
            return self._heard

    def _hear_error(self, function: bytes | None, form: bytes, values: int | None) -> None:
        if threading.get_ident() == self._thread:
            self._heard.append(Message(_text(function or b""), _formatted(form, values), is_error=True))
        elif self._error_before:
            self._error_before(function, form, values)

    def _hear_warning(self, function: bytes | None, form: bytes, values: int | None) -> None:
        if threading.get_ident() == self._thread:
            self._heard.append(Message(_text(function or b""), _formatted(form, values), is_error=False))

    def _extend(self, opened: int) -> None:
        self._set_warnings(self._on_warning)
        if self._extend_before:
            EXTENDER(self._extend_before)(opened)


def load(picture: Image.Image) -> list[Message]:
    """Decode an opened TIFF and return libtiff's messages, which reach no stderr. Threads take turns.

    The list stays empty where libtiff cannot be reached; ``can_be_heard`` tells.

    :raises Exception: whatever Pillow raises.
    """
    if (listener := _listener()) is not None:
        return listener.load(picture)
    picture.load()
    return []


@cache
def can_be_heard() -> bool:
    """Return True if the warning about a strip with one byte too many arrives, as a later Pillow might prevent."""
    file = io.BytesIO()
    Image.new("L", (3, 1)).save(file, "TIFF", compression="packbits")
    run_of_three, run_of_four = bytes([257 - 3, 0]), bytes([257 - 4, 0])
    heard = load(Image.open(io.BytesIO(file.getvalue().replace(run_of_three, run_of_four, 1))))
    return any(not message.is_error for message in heard)


@cache
def _listener() -> _Listener | None:
    """Return the listener to the libtiff that Pillow uses; None if it cannot be reached."""
    # Names are looked up in Pillow's module, then in the libraries that it is linked to.
    library = ctypes.CDLL(_imaging.__file__)
    if not all(hasattr(library, name) for name in SETTERS):
        return None
    setters: list[Any] = [library[name] for name in SETTERS]
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return _Listener(*setters)


def _formatted(form: bytes, values: int | None) -> str:
    """Fill a format of printf."""
    text = ctypes.create_string_buffer(LONGEST_TEXT)
    # In the usual calling conventions, a va_list is an address or is passed by its address.
    ctypes.pythonapi.PyOS_vsnprintf(text, ctypes.c_size_t(LONGEST_TEXT), form, ctypes.c_void_p(values))
    return _text(text.value)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()
