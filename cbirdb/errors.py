"""The errors that a user is meant to read.

Every message is one sentence that says what is wrong and, after it, what to do. The command line
prints it to stderr without a traceback (``-v`` adds one) and exits with ``exit_code``.

No message may carry a patient's name or identifier.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells the shell."""

    OK = 0
    USER = 1
    """The user can mend it; the message says how."""
    USAGE = 2
    """The command line itself is wrong (Click's own code)."""
    DATABASE = 3
    """No server, no permission, no extension, or a schema that is not up to date."""
    PARTIAL = 4
    """Finished, but some images failed or a check failed."""


class CbirdbError(Exception):
    """Base of all expected errors."""

    exit_code: ExitCode = ExitCode.USER

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InputError(CbirdbError):
    """A file, folder, name or number given by the user does not fit."""


class OptionError(InputError):
    """An option's value cannot be right, whatever there is in the database and on disk."""

    exit_code = ExitCode.USAGE


class UnknownNameError(InputError):
    """A name that is not in a registry or in the database."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        from difflib import get_close_matches

        same = [candidate for candidate in known if candidate.lower() == name.lower()]
        close = same or get_close_matches(name, known, n=1, cutoff=0.5)
        if close:
            hint = f"Did you mean '{close[0]}'?"
        elif known:
            hint = f"Known: {', '.join(sorted(known))}."
        else:
            hint = "There is none yet."
        super().__init__(f"There is no {kind} named '{name}'.", hint=hint)


class EncoderError(CbirdbError):
    """An encoder's weights or libraries cannot be had, or it does not fit what is stored."""


class PixelError(CbirdbError):
    """One image file cannot be read; becomes a row of ``cbir.failure``, never ends a run.

    ``reason`` is a short stable word for grouping (``corrupt``, ``empty file``), the message is the detail.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PixelError], tuple[str, str]]:
        """As it travels between processes."""
        return PixelError, (self.reason, self.message)


class DatabaseError(CbirdbError):
    """The server cannot be reached or does not allow what is needed."""

    exit_code = ExitCode.DATABASE


class UnreachableError(DatabaseError):
    """No server answers, or not yet: another try may find it."""


class BusyError(UnreachableError):
    """A server is there, and has no connection left (SQLSTATE 53300)."""


class NotReadyError(UnreachableError):
    """A server is there, and takes no connection yet, or no more (SQLSTATE 57P03)."""


class SchemaError(DatabaseError):
    """The schema ``cbir`` or the extension is missing, too old or too new."""
