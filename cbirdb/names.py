"""What the database can hold as a name, and how to show what it cannot."""

from __future__ import annotations

import re

LONGEST_NAME = 2000
"""Bytes; PostgreSQL's indexes hold no more than about 2,700."""
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
SHOWN = 200
"""Characters that are shown of each end of a longer one."""


def problem_of_name(name: str) -> tuple[str, str] | None:
    """Reason and detail for which the database cannot hold it; None where it can."""
    if "\0" in name:
        return "wrong characters", "a NUL character"
    if name.isascii():
        size = len(name)
    else:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            return "wrong characters", "bytes that are not UTF-8"
    return ("too long", f"{size:,} bytes, more than {LONGEST_NAME:,}") if size > LONGEST_NAME else None


def problem_of_line(name: str) -> tuple[str, str] | None:
    """The same for a name that stands in messages and tables: a control character would break their lines."""
    return problem_of_name(name) or (("wrong characters", "a control character") if _CONTROL.search(name) else None)


CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that break a line or steer a terminal; the same as in ``cbir_internal.stated_purpose``."""


def on_one_line(text: str) -> str:
    """The text with escapes for what would steer a terminal: names of files are whatever somebody called them."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def on_lines(text: str) -> str:
    """The same, where the text's own line breaks are meant."""
    return "\n".join(map(on_one_line, text.split("\n")))


def printable(name: str) -> str:
    """The name itself where the database can hold it; else with escapes, and its middle left out where it is long."""
    if problem_of_name(name) is None:
        return name
    text = name.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return f"{text[:SHOWN]}...{text[-SHOWN:]}" if len(text.encode()) > LONGEST_NAME else text
