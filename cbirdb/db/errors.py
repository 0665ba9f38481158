"""Turn the driver's errors into ours: what is wrong in one sentence, then what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from cbirdb.errors import BusyError, CbirdbError, DatabaseError, InputError, NotReadyError, UnreachableError


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns the driver's errors into ours: what is wrong, then what to do."""
    try:
        yield
    except CbirdbError:
        raise
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"This role is not allowed to do that: {_first_line(error)}.",
            hint="Ask the owner of schema 'cbir' for the privilege, or connect as another role.",
        ) from error
    except psycopg.errors.DiskFull as error:
        raise DatabaseError(
            f"The server's disk is full: {_first_line(error)}.",
            hint="Make room, start the server if it has stopped, and run the same command again;"
            " what was committed is kept.",
        ) from error
    except psycopg.errors.ProgramLimitExceeded as error:
        raise DatabaseError(
            f"A value is too long for the database: {_first_line(error)}.", hint="Look for damaged names in the input."
        ) from error
    except (
        psycopg.errors.DeadlockDetected,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.QueryCanceled,
    ) as error:
        raise DatabaseError(
            f"The server stopped a statement: {_first_line(error)}.",
            hint="Run the same command again; what was committed is kept.",
        ) from error
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        message = _first_line(error)
        raise InputError(f"{message[0].upper()}{message[1:]}.", hint=_hint(error)) from error
    except psycopg.OperationalError as error:
        if not _is_lost(error):
            raise DatabaseError(f"The database refused: {_first_line(error)}.", hint=_hint(error)) from error
        raise DatabaseError(
            f"The connection to the server was lost: {_first_line(error)}.",
            hint="Run the same command again; what was committed is kept. If it is lost again, the server's log says why"
            " (a full disk, for one).",
        ) from error
    except psycopg.Error as error:
        raise DatabaseError(f"The database refused: {_first_line(error)}.", hint=_hint(error)) from error


def _is_lost(error: psycopg.OperationalError) -> bool:
    """The driver says so without a code; the server by those of connections (08) and of its shutting down (57P)."""
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def _hint(error: psycopg.Error) -> str | None:
    return error.diag.message_hint


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


_CAUSES = (
    (
        "password authentication failed",
        "The server refused the password.",
        "Check the user and PGPASSWORD or ~/.pgpass.",
    ),
    ("no password supplied", "The server asks for a password.", "Set PGPASSWORD or use ~/.pgpass."),
    (
        "certificate verify failed",
        "The server's certificate is not signed by the CA in sslrootcert.",
        "Ask the server's DBA for the CA's certificate; do not lower sslmode.",
    ),
    (
        "does not match host name",
        "The server's certificate is made for another name than the host in the connection string.",
        "Connect by a name that the certificate holds.",
    ),
    (
        "root certificate file",
        "The file with the CA's certificate cannot be read.",
        "Name it with sslrootcert=FILE in the connection string, or PGSSLROOTCERT.",
    ),
    (
        "server does not support SSL",
        "The server offers no encryption, and the connection string asks for it.",
        "Turn it on there (ssl = on).",
    ),
    (
        "pg_hba.conf",
        "The server's rules do not let this role in from here in this way.",
        "Use sslmode=verify-full and a role of your own; pg_hba.conf on the server has the rules.",
    ),
    ("does not exist", "The server has no such database or role: {cause}.", "Check the connection string."),
    (
        "too many clients",
        "The server has as many connections as it allows.",
        "Close sessions that nobody uses, or raise max_connections.",
    ),
    (
        "connection slots are reserved",
        "The server has no connection left for this role; the last are reserved.",
        "Close sessions that nobody uses, or raise max_connections.",
    ),
    (
        "too many connections for",
        "The server allows no more connections for this role or database.",
        "Close sessions that nobody uses, or raise CONNECTION LIMIT.",
    ),
    (
        "the database system is",
        "The server is starting, recovering or shutting down.",
        "Try again in a moment; if it stays so, its log says why (a full disk, for one).",
    ),
    (
        "server closed the connection",
        "The server broke off the connection ({where}).",
        "Try again; if it stays so, its log says why (a full disk, for one).",
    ),
    (
        "Connection refused",
        "No server answers there ({where}).",
        "Check host and port, and that the server runs; where it has stopped, its log says why.",
    ),
    ("No such file", "No server answers there ({where}).", "Check the socket folder, and that the server runs."),
    ("resolve", "The host name is not known: {cause}.", "Check the host in the connection string."),
    ("timeout", "The server did not answer in time ({where}).", "Check host, port and firewall."),
)
"""Each cause as libpq words it, its meaning, and the remedy; the first that fits counts."""
_LASTING = {
    "password authentication failed",
    "no password supplied",
    "certificate verify failed",
    "does not match host name",
    "root certificate file",
    "server does not support SSL",
    "pg_hba.conf",
    "does not exist",
}
"""Those of them that another try will meet again."""
_KINDS: dict[str, type[DatabaseError]] = {
    "too many clients": BusyError,
    "connection slots are reserved": BusyError,
    "too many connections for": BusyError,
    "the database system is": NotReadyError,
}
"""Those of them that say that a server is there."""


def connection_error(error: psycopg.OperationalError) -> DatabaseError:
    """Say in our words why the driver could not connect: by its text, as it passes no SQLSTATE on then."""
    text = str(error)
    target = re.search(r'connection to server (?:at|on socket) "([^"]+)"(?: \([^)]*\))?(?:, port (\d+))?', text)
    where = " port ".join(part for part in target.groups() if part) if target else "as named"
    for needle, sentence, hint in _CAUSES:
        if needle in text:
            kind = _KINDS.get(needle, DatabaseError if needle in _LASTING else UnreachableError)
            return kind(sentence.format(where=where, cause=_last_cause(text)), hint=hint)
    return UnreachableError(f"No connection to the server: {_last_cause(text)}.", hint="Check the connection string.")


def _last_cause(text: str) -> str:
    """Libpq's own words for the last address that it tried."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), text).strip()
    return line.removeprefix("connection failed: ").rstrip(".?")
