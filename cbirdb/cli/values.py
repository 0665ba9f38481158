"""What an option's value must be, beyond Click's own types: a value that cannot be right ends with exit code 2."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import click

from cbirdb.names import CONTROLS

LARGEST_BIGINT = 2**63 - 1
LONGEST_PURPOSE = 1000
"""Characters. As in ``cbir_internal.stated_purpose``, like the patterns below."""
_BLANK = re.compile(r"[\t-\r \x85\xa0\u1680\u180e\u2000-\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]*")

COUNT = click.IntRange(1, LARGEST_BIGINT)
"""How many of something, or the id of a row."""


class NumberRange(click.FloatRange):
    """A range that "nan" does not lie in: it compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is not a number.", param, ctx)
        return number


class Text(click.types.StringParamType):
    """A word or more."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it was given."""
        if _BLANK.fullmatch(value):
            self.fail("it is empty." if not value else "it is white space alone.", param, ctx)
        return str(value)


class Line(Text):
    """Text that may be stored and shown: no control character breaks the line it stands in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it was given."""
        text = super().convert(value, param, ctx)
        if CONTROLS.search(text):
            self.fail("it holds a line break or another control character.", param, ctx)
        return text


class Purpose(Line):
    """Why somebody searches, as the audit takes it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it was given."""
        if len(value) > LONGEST_PURPOSE:
            self.fail(f"it is {len(value):,} characters long, more than {LONGEST_PURPOSE:,}.", param, ctx)
        return super().convert(value, param, ctx)


class FilePath(click.Path):
    """A path; an empty one would be taken for the folder that one is in."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path."""
        if not os.fspath(value):
            self.fail("it is empty.", param, ctx)
        return super().convert(value, param, ctx)
