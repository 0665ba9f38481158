"""Turns the driver's errors into ours: a sentence on the fault, then what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from cbirdb.errors import BusyError, CbirdbError, DatabaseError, InputError, NotReadyError, UnreachableError


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into ours."""
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
            hint="Make room, start the server if it has stopped, and run the same command again."
            " Committed work is kept.",
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
            hint="Run the same command again. Committed work is kept.",
        ) from error
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        message = _first_line(error)
        raise InputError(f"{message[0].upper()}{message[1:]}.", hint=_hint(error)) from error
    except psycopg.OperationalError as error:
        if not _is_lost(error):
            raise DatabaseError(f"The database refused: {_first_line(error)}.", hint=_hint(error)) from error
        raise DatabaseError(
            f"The connection to the server was lost: {_first_line(error)}.",
            hint="Run the same command again. Committed work is kept. If the connection is lost again, read the server's"
            " log; its disk may be full.",
        ) from error
    except psycopg.Error as error:
        raise DatabaseError(f"The database refused: {_first_line(error)}.", hint=_hint(error)) from error


def _is_lost(error: psycopg.OperationalError) -> bool:
    """Return True if the connection is lost: no code from the driver, or a code of class 08 or 57P from the server."""
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
        "Turn it on at the server (ssl = on).",
    ),
    (
        "pg_hba.conf",
        "The server's rules do not admit this role from this address in this way.",
        "Use sslmode=verify-full and a role of your own; the rules are in pg_hba.conf on the server.",
    ),
    ("does not exist", "The server has no such database or role: {cause}.", "Check the connection string."),
    (
        "too many clients",
        "The server has no free connection left.",
        "Close unused sessions, or raise max_connections.",
    ),
    (
        "connection slots are reserved",
        "The server has no free connection for this role; the last ones are reserved.",
        "Close unused sessions, or raise max_connections.",
    ),
    (
        "too many connections for",
        "The server allows no more connections for this role or database.",
        "Close unused sessions, or raise CONNECTION LIMIT.",
    ),
    (
        "the database system is",
        "The server is starting, recovering or shutting down.",
        "Try again in a moment. If that does not help, read the server's log; its disk may be full.",
    ),
    (
        "server closed the connection",
        "The server closed the connection ({where}).",
        "Try again. If that does not help, read the server's log; its disk may be full.",
    ),
    (
        "Connection refused",
        "No server answers at {where}.",
        "Check host and port, and that the server runs. If it has stopped, its log says why.",
    ),
    ("No such file", "No server answers at {where}.", "Check the socket folder, and that the server runs."),
    ("resolve", "The host name is unknown: {cause}.", "Check the host in the connection string."),
    ("timeout", "The server did not answer in time ({where}).", "Check host, port and firewall."),
)
"""Texts of libpq, their meanings, and the remedies; the first match counts."""
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
"""Texts of errors that another try will meet again."""
_KINDS: dict[str, type[DatabaseError]] = {
    "too many clients": BusyError,
    "connection slots are reserved": BusyError,
    "too many connections for": BusyError,
    "the database system is": NotReadyError,
}
"""Texts of errors of a server that exists."""


def connection_error(error: psycopg.OperationalError) -> DatabaseError:
    """Explain in our words why the driver could not connect. It has only a text then, no SQLSTATE."""
    text = str(error)
    target = re.search(r'connection to server (?:at|on socket) "([^"]+)"(?: \([^)]*\))?(?:, port (\d+))?', text)
    where = " port ".join(part for part in target.groups() if part) if target else "the given address"
    for needle, sentence, hint in _CAUSES:
        if needle in text:
            kind = _KINDS.get(needle, DatabaseError if needle in _LASTING else UnreachableError)
            return kind(sentence.format(where=where, cause=_last_cause(text)), hint=hint)
    return UnreachableError(f"No connection to the server: {_last_cause(text)}.", hint="Check the connection string.")


def _last_cause(text: str) -> str:
    """Return libpq's own words for the last address that it tried."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), text).strip()
    return line.removeprefix("connection failed: ").rstrip(".?")
