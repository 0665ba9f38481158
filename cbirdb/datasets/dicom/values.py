"""Reads values of header elements. What breaks the rules of its kind is taken as absent, or refused where it matters."""

from __future__ import annotations

import math
import re
from datetime import date

from cbirdb.errors import PixelError

LONGEST_UID = 64
OLDEST = 89
"""Ages above are stored as one more: so few people are older that the age would name them."""
LONGEST_LIFE = 130

_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_DATE = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.44, "Y": 365.25}
_CODECS = {
    "": "latin-1", "ISO_IR 6": "latin-1", "ISO_IR 100": "latin-1", "ISO_IR 101": "iso8859-2", "ISO_IR 109": "iso8859-3",
    "ISO_IR 110": "iso8859-4", "ISO_IR 144": "iso8859-5", "ISO_IR 127": "iso8859-6", "ISO_IR 126": "iso8859-7",
    "ISO_IR 138": "iso8859-8", "ISO_IR 148": "iso8859-9", "ISO_IR 203": "iso8859-15", "ISO_IR 166": "tis-620",
    "ISO_IR 13": "shift_jis", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk",
}  # fmt: skip


def text(value: bytes | None) -> str:
    """Return the text without its padding; empty if absent."""
    return value.decode("latin-1").strip(" \0") if value else ""


def texts(value: bytes | None) -> list[str]:
    """Return the texts of an element with several values."""
    return [part.strip(" \0") for part in value.decode("latin-1").split("\\")] if value else []


def identifier(value: bytes | None, charset: bytes | None) -> str:
    """Return an id, of which a pseudonym is made, in the file's character set; empty if absent."""
    if not value:
        return ""
    if value.isascii() and b"\x1b" not in value:
        return text(value)
    name = (texts(charset) or [""])[0].replace("ISO 2022 IR", "ISO_IR")
    codec = "iso2022_jp_2" if b"\x1b" in value else _CODECS.get(name, "latin-1")
    try:
        return value.decode(codec).strip(" \0")
    except UnicodeDecodeError:
        return text(value)


def uid(value: bytes | None, name: str) -> str:
    """Return a UID.

    :param name: what it identifies, for the message.
    :raises PixelError: when it is absent, too long, or no UID. The message does not show it.
    """
    found = text(value)
    if not found:
        raise PixelError("no UID", f"the header has no {name} UID")
    if len(found) > LONGEST_UID:
        raise PixelError("wrong UID", f"the {name} UID has more than {LONGEST_UID} characters")
    if not _UID.fullmatch(found):
        raise PixelError("wrong UID", f"the {name} UID holds other characters than numbers between dots")
    return found


def is_uid(found: str) -> bool:
    """Return True if the text is a UID."""
    return len(found) <= LONGEST_UID and _UID.fullmatch(found) is not None


def code(found: str) -> str | None:
    """Return a code (PS3.5, representation CS) if it has the form of one: a sentence or a lower-case name has not."""
    return found if _CODE.fullmatch(found) else None


def choice(value: bytes | None, *choices: str) -> str | None:
    """Return the value if it is one of these."""
    found = text(value)
    return found if found in choices else None


def number(value: bytes | None, *, big_endian: bool) -> int | None:
    """Return a binary whole number (US or UL)."""
    return int.from_bytes(value, "big" if big_endian else "little") if value and len(value) in {2, 4} else None


def whole(value: bytes | None) -> int | None:
    """Return a whole number in decimal text (IS); None if absent.

    :raises ValueError: when it is no such number.
    """
    found = texts(value)
    return int(found[0]) if found and found[0] else None


def decimals(value: bytes | None, count: int) -> tuple[float, ...] | None:
    """Return this many decimal numbers (DS); None if there are not as many, or one of them is not finite."""
    try:
        numbers = tuple(float(part) for part in texts(value)[:count])
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def day(value: bytes | None) -> date | None:
    """Return a date: 20240131, or 2024.01.31 as in files of the time before DICOM."""
    match = _DATE.fullmatch(text(value))
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def age_years(value: bytes | None, born: date | None, at: date | None) -> int | None:
    """Return the whole years of an age (045Y, 018M, 003D), else of the time from birth; at most 90.

    Ages above 89 are 90.
    """
    match = _AGE.fullmatch(text(value))
    if match is not None:
        years = int(int(match[1]) * _DAYS[match[2]] / _DAYS["Y"])
    elif born is not None and at is not None:
        years = at.year - born.year - ((at.month, at.day) < (born.month, born.day))
    else:
        return None
    return min(years, OLDEST + 1) if 0 <= years <= LONGEST_LIFE else None
