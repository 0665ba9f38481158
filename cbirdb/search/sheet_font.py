"""Provides the font of a contact sheet: Pillow's own for Latin letters, or a named one for any script."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import ImageFont

from cbirdb.errors import InputError

Face: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MISSING = "\U0010ffff"
"""A code point that no font has; a font draws its sign for missing characters."""


@dataclass(frozen=True, slots=True)
class SheetFont:
    """A font by its file; None: Pillow's own, which has Latin letters without accents."""

    path: Path | None = None

    def of(self, size: int) -> Face:
        """Return the font in a size in pixels.

        :raises InputError: when the file is not a font.
        """
        return _face(self.path, size)

    def plain(self, text: str) -> str:
        """Reduce a text to one line of characters that the font has: drop accents it lacks, write ``?`` for the rest."""
        shown = "".join(self._shown(char) for char in unicodedata.normalize("NFC", text))
        return " ".join(shown.split())

    def _shown(self, char: str) -> str:
        if not char.isprintable():
            return " "
        if char.isascii() or _has(self.path, char):
            return char
        parts = [part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)]
        if parts == [char]:
            return "?"
        return "".join(part if part.isascii() or _has(self.path, part) else "?" for part in parts)


BUILT_IN = SheetFont()


@functools.cache
def _face(path: Path | None, size: int) -> Face:
    if path is None:
        return ImageFont.load_default(size=size)
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise InputError(
            f"{path} is not a font that can be read.",
            hint="Name a TrueType or OpenType file, such as NotoSans-Regular.ttf.",
        ) from error


@functools.cache
def _has(path: Path | None, char: str) -> bool:
    """Return True if the font has a picture for a character, and not only its sign for missing ones."""
    face = _face(path, 16)
    pictures = [face.getmask(each) for each in (char, _MISSING)]
    return (pictures[0].size, bytes(pictures[0])) != (pictures[1].size, bytes(pictures[1]))
