"""Separate the connection from psql's other arguments, as `cbirdb db psql` does."""

from __future__ import annotations

import pytest

from cbirdb.cli.psql_arguments import split_arguments
from cbirdb.errors import OptionError


@pytest.mark.parametrize(
    ("arguments", "own", "rest"),
    [
        ("-U alice", {"user": "alice"}, ""),
        ("-Ualice", {"user": "alice"}, ""),
        ("--username=alice", {"user": "alice"}, ""),
        ("--username alice", {"user": "alice"}, ""),
        ("--user alice", {"user": "alice"}, ""),
        ("-XAtU alice -c SELECT", {"user": "alice"}, "-X -A -t -c SELECT"),
        ("-h other -p 5433", {"host": "other", "port": "5433"}, ""),
        ("-d other", {"dbname": "other"}, ""),
        ("other", {"dbname": "other"}, ""),
        ("other alice -c SELECT", {"dbname": "other", "user": "alice"}, "-c SELECT"),
        ("-d other alice", {"dbname": "other", "user": "alice"}, ""),
        ("-d host=h alice", {"host": "h", "user": "alice"}, ""),
        ("postgresql://bob@h:7/db", {"host": "h", "port": "7", "user": "bob", "dbname": "db"}, ""),
        ("-c -Ualice", {}, "-c -Ualice"),
        ("-v name=-U --csv --pset=null=x -F| -P footer", {}, "-v name=-U --csv --pset=null=x -F | -P footer"),
        ("-o", None, None),
        ("--tuples-only --nonsense", None, None),
        ("one two three", None, None),
        ("-d colour=red", None, None),
    ],
)
def test_connection_arguments_are_separated_from_the_rest(
    arguments: str, own: dict[str, str] | None, rest: str | None
) -> None:
    if own is None:
        with pytest.raises(OptionError):
            split_arguments(arguments.split())
    else:
        assert split_arguments(arguments.split()) == (own, (rest or "").split())


def test_empty_value_is_kept() -> None:
    assert split_arguments(["-c", "", "--field-separator="]) == ({}, ["-c", "", "--field-separator="])
