"""Checks option values beyond Click's own types: an impossible value ends with exit code 2."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import click

from cbirdb.names import CONTROLS

LARGEST_BIGINT = 2**63 - 1
LONGEST_PURPOSE = 1000
"""Longest purpose in characters, as in ``cbir_internal.stated_purpose``; so are the patterns below."""
_BLANK = re.compile(r"[\t-\r \x85\xa0\u1680\u180e\u2000-\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]*")

COUNT = click.IntRange(1, LARGEST_BIGINT)
"""Type of a count, or of the id of a row."""


class NumberRange(click.FloatRange):
    """A range that does not contain "nan", which compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is not a number.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """Text that is not blank."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged."""
        if _BLANK.fullmatch(value):
            self.fail("it is empty." if not value else "it is white space alone.", param, ctx)
        return str(value)


class Line(Text):
    """Text that is safe to store and show: no control character breaks its line."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged."""
        text = super().convert(value, param, ctx)
        if CONTROLS.search(text):
            self.fail("it contains a line break or another control character.", param, ctx)
        return text


class Purpose(Line):
    """The reason of a search, as the audit stores it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged."""
        if len(value) > LONGEST_PURPOSE:
            self.fail(f"it is {len(value):,} characters long, more than {LONGEST_PURPOSE:,}.", param, ctx)
        return super().convert(value, param, ctx)


class FilePath(click.Path):
    """A path that is not empty; an empty one would mean the working directory."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path."""
        if not os.fspath(value):
            self.fail("it is empty.", param, ctx)
        return super().convert(value, param, ctx)
