"""Separates psql's arguments about the connection from its other arguments."""

from __future__ import annotations

from collections.abc import Sequence
from getopt import GetoptError, gnu_getopt

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from cbirdb.errors import OptionError

SHORT = "aAbc:d:eEf:F:h:HlL:no:p:P:qR:sStT:U:v:VwWxXz0?1"
LONG = (
    "command=", "dbname=", "file=", "list", "set=", "variable=", "version", "no-psqlrc", "single-transaction",
    "echo-all", "echo-errors", "echo-queries", "echo-hidden", "log-file=", "no-readline", "output=", "quiet",
    "single-step", "single-line", "no-align", "csv", "field-separator=", "html", "pset=", "record-separator=",
    "tuples-only", "table-attr=", "expanded", "field-separator-zero", "record-separator-zero", "host=", "port=",
    "username=", "no-password", "password",
)  # fmt: skip
"""psql's options; those with a colon or an equals sign take a value."""
NAMED = {
    "-U": "user", "--username": "user", "-h": "host", "--host": "host", "-p": "port", "--port": "port",
    "-d": "dbname", "--dbname": "dbname",
}  # fmt: skip


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split psql's arguments into connection parameters, by libpq's names, and the rest for psql.

    psql prefers its connection string to its options, so the options must become part of the string.

    :raises OptionError: for an argument that psql does not know.
    """
    try:
        options, positional = gnu_getopt(list(arguments), SHORT, list(LONG))
    except GetoptError as error:
        raise OptionError(f"psql: {error.msg}.", hint="See: cbirdb db psql -- --help, or man psql") from error
    own: dict[str, str] = {}
    rest: list[str] = []
    for option, value in options:
        if option in NAMED:
            own |= _named(NAMED[option], value)
        elif option.startswith("--"):
            rest.append(f"{option}={value}" if f"{option[2:]}=" in LONG else option)
        else:
            rest += [option, value] if f"{option[1]}:" in SHORT else [option]
    database_named = not {"-d", "--dbname"}.isdisjoint(option for option, _ in options)
    names = ["user"] if database_named else ["dbname", "user"]
    if len(positional) > len(names):
        raise OptionError(f"psql: '{positional[len(names)]}' is one argument too many.")
    for name, value in zip(names, positional, strict=False):
        own |= _named(name, value)
    return own, rest


def _named(name: str, value: str) -> dict[str, str]:
    """Return one connection parameter, or those of a whole connection string given as the database's name."""
    if name != "dbname" or ("=" not in value and "://" not in value):
        return {name: value}
    try:
        return {key: str(part) for key, part in conninfo_to_dict(value).items()}
    except ProgrammingError:
        raise OptionError("The connection string after -d is not valid.") from None
