"""Defines the errors that a user reads.

A message is one sentence that says what is wrong. A hint that says what to do follows it. The command line prints both
to stderr without a traceback (``-v`` adds one) and exits with ``exit_code``.

No message may carry a patient's name or identifier.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of the process."""

    OK = 0
    USER = 1
    """The user can fix it; the message says how."""
    USAGE = 2
    """The command line itself is wrong (Click's own code)."""
    DATABASE = 3
    """No server, no permission, no extension, or a schema that is not up to date."""
    PARTIAL = 4
    """The command finished, but some images or a check failed."""
    INTERRUPTED = 130
    """Ctrl-C (SIGINT) stopped the command."""
    TERMINATED = 143
    """SIGTERM stopped the command."""


class CbirdbError(Exception):
    """Base class of all expected errors."""

    exit_code: ExitCode = ExitCode.USER

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InputError(CbirdbError):
    """Raised when a file, folder, name or number from the user does not fit."""


class OptionError(InputError):
    """Raised when an option's value is wrong, whatever the database and the disk hold."""

    exit_code = ExitCode.USAGE


class UnknownNameError(InputError):
    """Raised when a name is in neither a registry nor the database."""

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
    """Raised when an encoder's weights or libraries are missing, or do not fit the stored embeddings."""


class PixelError(CbirdbError):
    """Raised when an image file cannot be read. It becomes a row of ``cbir.failure`` and never ends a run.

    ``reason`` is a short stable word for grouping (``corrupt``, ``empty file``); the message is the detail.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PixelError], tuple[str, str]]:
        """Make the error picklable, so that worker processes can send it."""
        return PixelError, (self.reason, self.message)


class DatabaseError(CbirdbError):
    """Raised when the server cannot be reached or refuses an operation."""

    exit_code = ExitCode.DATABASE


class UnreachableError(DatabaseError):
    """Raised when no server answers. A later try may succeed."""


class BusyError(UnreachableError):
    """Raised when the server has no connection left (SQLSTATE 53300)."""


class NotReadyError(UnreachableError):
    """Raised when the server is starting or stopping and accepts no connection (SQLSTATE 57P03)."""


class SchemaError(DatabaseError):
    """Raised when the schema ``cbir`` or the extension is missing, too old or too new."""
