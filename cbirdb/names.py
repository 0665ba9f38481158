"""Checks that the database can store a name, and makes other names printable."""

from __future__ import annotations

import re

LONGEST_NAME = 2000
"""Bytes of the longest name; PostgreSQL's indexes hold at most about 2,700."""
SHOWN = 200
"""Characters shown of each end of a longer name."""


def problem_of_name(name: str) -> tuple[str, str] | None:
    """Return the reason and the detail why the database cannot store a name; None if it can."""
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
    """Return the problem of a name that messages and tables show; a control character would break their lines."""
    return problem_of_name(name) or (("wrong characters", "a control character") if CONTROLS.search(name) else None)


CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that break a line or steer a terminal; the same as in ``cbir_internal.stated_purpose``."""


def escape_controls(text: str) -> str:
    """Return the text with its control characters escaped.

    Whoever named a file chose its characters, and some steer a terminal.
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_controls_by_line(text: str) -> str:
    """Return the text with its control characters escaped, except its own line breaks."""
    return "\n".join(map(escape_controls, text.split("\n")))


def printable(name: str) -> str:
    """Return the name if the database can store it, else the name with escapes and, if long, without its middle."""
    if problem_of_name(name) is None:
        return name
    text = name.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return f"{text[:SHOWN]}...{text[-SHOWN:]}" if len(text.encode()) > LONGEST_NAME else text
