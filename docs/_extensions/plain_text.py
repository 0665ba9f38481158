"""Put text that is no Markdown, but may hold `code`, onto a page of Markdown."""

from __future__ import annotations

import re

MARKS = re.compile(r"([\\*_\[\]<>$|#~])")


def escaped(text: str) -> str:
    """Return the text with every mark of Markdown escaped, except in `code`."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else MARKS.sub(r"\\\1", piece) for piece in pieces)


def flowing(text: str) -> str:
    """Return the text on one line."""
    return " ".join(text.split())
