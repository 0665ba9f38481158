"""Draws a query and its results as one picture, to look at or to put into a report."""

from __future__ import annotations

import bisect
import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from cbirdb.errors import InputError, OptionError
from cbirdb.search.sheet_font import BUILT_IN, Face, SheetFont

COLUMNS = 5
"""Results per row."""

_TILE = 184
"""Pixels along each side of a picture on the sheet, without its frame."""
_FRAME = 5
_CELL = _TILE + 2 * _FRAME
_GAP = 20
_MARGIN = 24
_LINE = 19
"""Pixels from one line of a caption to the next."""
_LONGEST = 4
"""Most lines of one caption entry; longer ones lose their middle."""

_Colour: TypeAlias = tuple[int, int, int]

_EMPTY: _Colour = (222, 223, 226)
_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 28), (96, 98, 104)
_QUERY_FRAME = (20, 82, 170)
_VERDICTS = {
    True: ((24, 128, 56), "match"),
    False: ((190, 30, 36), "no match"),
    None: ((150, 152, 158), ""),
}
"""Verdict -> colour of the frame, and the word beside the mark. The word is for those who cannot tell the colours."""


SOFTWARE = "cbirdb contact sheet"


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture and its caption.

    ``image`` has 8 bits per channel and any size; ``None`` if its file cannot be read. Each entry of ``caption`` begins
    a new line and wraps at slashes and spaces. ``verdict`` is True if a result shares a label with the query, and
    ``None`` if unknown. A query's verdict is not drawn.
    """

    image: Image.Image | None
    caption: tuple[str, ...] = ()
    verdict: bool | None = None


def check_target(path: Path) -> None:
    """Refuse a path to which no contact sheet can be written, before the search starts.

    :raises OptionError: when ``path`` does not end in .png.
    :raises InputError: when its folder does not exist, or it is another picture.
    """
    if path.suffix.lower() != ".png":
        raise OptionError(f"A contact sheet is a PNG file; {path.name} does not end in .png.")
    if path.exists() and not _is_our_sheet(path):
        raise InputError(f"{path} exists and is not a contact sheet.", hint="Choose another name.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent} for the contact sheet.", hint="Create it first.")


def _signature() -> PngInfo:
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    return info


def _is_our_sheet(path: Path) -> bool:
    """Return True if the file is an older sheet, which may be replaced. A radiograph named by mistake may not."""
    try:
        with Image.open(path) as found:
            return found.info.get("Software") == SOFTWARE
    except OSError:
        return False


def write_contact_sheet(
    path: Path, query: Tile, results: Sequence[Tile], *, title: str, font: SheetFont = BUILT_IN
) -> None:
    """Save ``draw_contact_sheet`` as a PNG file; an existing file is replaced as a whole.

    :raises OptionError: when ``path`` does not end in .png.
    :raises InputError: when its folder does not exist, it cannot be written, or the font cannot be read.
    """
    check_target(path)
    png = io.BytesIO()
    draw_contact_sheet(query, results, title=title, font=font).save(png, format="PNG", pnginfo=_signature())
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(png.getvalue())
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"The contact sheet {path} cannot be written: {reason}.") from error
    finally:
        partial.unlink(missing_ok=True)


def draw_contact_sheet(query: Tile, results: Sequence[Tile], *, title: str, font: SheetFont = BUILT_IN) -> Image.Image:
    """Draw the query at the top and the results below it in rows of COLUMNS, in the given order.

    :returns: an RGB picture, dark on white. The number of results up to COLUMNS determines its width, the length of the
        captions its height.
    """
    columns = min(COLUMNS, max(3, len(results)))
    width = 2 * _MARGIN + columns * _CELL + (columns - 1) * _GAP
    text_width = width - 2 * _MARGIN
    heading = _wrap(title, font, 22, text_width, 3)
    beside = _lines(query.caption, text_width - _CELL - _GAP, font)
    captions = [_lines(tile.caption, _CELL, font) for tile in results]
    rows = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    query_top = _MARGIN + len(heading) * 28 + 12
    query_height = max(_CELL, 34 + len(beside) * _LINE)
    tops = [query_top + query_height + 64]
    for row in rows:
        tops.append(tops[-1] + _CELL + 30 + max(len(lines) for lines in row) * _LINE + _GAP)

    sheet = _Sheet(width, tops[-1] + (_MARGIN - _GAP if rows else _MARGIN), font)
    sheet.write(_MARGIN, _MARGIN, heading, size=22, step=28)
    sheet.picture(_MARGIN, query_top, query.image, _QUERY_FRAME)
    beside_x = _MARGIN + _CELL + _GAP
    sheet.write(beside_x, query_top, ["Query"], size=20, colour=_QUERY_FRAME)
    sheet.write(beside_x, query_top + 34, beside)
    rule = query_top + query_height + 22
    sheet.draw.line([(_MARGIN, rule), (width - _MARGIN, rule)], fill=(214, 216, 220))
    sheet.write(_MARGIN, rule + 12, [_count(len(results))], size=15, colour=_FAINT)
    for index, tile in enumerate(results):
        x, y = _MARGIN + index % columns * (_CELL + _GAP), tops[index // columns]
        sheet.result(x, y, index + 1, tile)
        sheet.write(x, y + _CELL + 30, captions[index])
    return sheet.image


def _count(results: int) -> str:
    if results == 0:
        return "Nothing was found."
    return "The nearest image" if results == 1 else f"The {results} nearest images"


class _Sheet:
    """White paper that text and pictures are drawn on. Places are in pixels from its top left corner."""

    def __init__(self, width: int, height: int, font: SheetFont) -> None:
        self.image = Image.new("RGB", (width, height), _PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.font = font

    def write(
        self, x: int, y: int, lines: Sequence[str], *, size: int = 14, step: int = _LINE, colour: _Colour = _INK
    ) -> None:
        """Write ``lines`` below each other, ``step`` pixels apart."""
        for index, line in enumerate(lines):
            self.draw.text((x, y + index * step), line, fill=colour, font=self.font.of(size), anchor="la")

    def result(self, x: int, y: int, rank: int, tile: Tile) -> None:
        """Draw a result's picture, its rank, and its verdict."""
        colour, word = _VERDICTS[tile.verdict]
        self.picture(x, y, tile.image, colour)
        self.write(x, y + _CELL + 5, [f"#{rank}"], size=18)
        if tile.verdict is not None:
            left = x + _CELL - math.ceil(self.font.of(15).getlength(word))
            self.write(left, y + _CELL + 7, [word], size=15, colour=colour)
            self.mark(left - 20, y + _CELL + 9, colour, tick=tile.verdict)

    def mark(self, x: int, y: int, colour: _Colour, *, tick: bool) -> None:
        """Draw a tick or a cross, 13 pixels wide. The built-in font has neither."""
        if tick:
            self.draw.line([(x, y + 7), (x + 4, y + 11), (x + 12, y + 2)], fill=colour, width=3, joint="curve")
        else:
            self.draw.line([(x + 1, y + 1), (x + 11, y + 11)], fill=colour, width=3)
            self.draw.line([(x + 1, y + 11), (x + 11, y + 1)], fill=colour, width=3)

    def picture(self, x: int, y: int, image: Image.Image | None, colour: _Colour) -> None:
        """Draw a framed picture in its own proportions on black, or a crossed-out box without one."""
        self.draw.rectangle([(x, y), (x + _CELL - 1, y + _CELL - 1)], fill=colour)
        left, top = x + _FRAME, y + _FRAME
        right, bottom = left + _TILE - 1, top + _TILE - 1
        if image is None:
            self.draw.rectangle([(left, top), (right, bottom)], fill=_EMPTY)
            for ends in ([(left, top), (right, bottom)], [(left, bottom), (right, top)]):
                self.draw.line(ends, fill=(184, 186, 190), width=2)
            middle_x, middle_y = left + _TILE // 2, top + _TILE // 2
            self.draw.rectangle([(middle_x - 60, middle_y - 14), (middle_x + 60, middle_y + 14)], fill=_EMPTY)
            self.draw.text((middle_x, middle_y), "no readable file", fill=_INK, font=self.font.of(15), anchor="mm")
            return
        self.draw.rectangle([(left, top), (right, bottom)], fill=(0, 0, 0))
        scale = _TILE / max(image.size)
        # At least one pixel, or a strip of 1 x 5000 would vanish.
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        self.image.paste(small, (left + (_TILE - size[0]) // 2, top + (_TILE - size[1]) // 2))


def _lines(caption: Sequence[str], width: int, font: SheetFont) -> list[str]:
    return [line for entry in caption for line in _wrap(entry, font, 14, width, _LONGEST)]


def _wrap(text: str, sheet_font: SheetFont, size: int, width: int, longest: int) -> list[str]:
    """Break ``text`` after slashes and spaces into at most ``longest`` lines of at most ``width`` pixels.

    A longer text loses its part before the last line, because a label path's end says the most.
    """
    lines: list[str] = []
    rest, font = sheet_font.plain(text), sheet_font.of(size)
    while rest:
        fits = _fitting(rest, font, width)
        if fits < len(rest) and len(lines) == longest - 1:
            start = bisect.bisect_left(
                range(len(rest)), True, lo=1, key=lambda start: _inked("…" + rest[start:], font) <= width
            )
            lines.append("…" + rest[start:].lstrip())
            break
        if fits < len(rest):
            breaks = [match.end() for match in re.finditer(r"[/ |,;]", rest[:fits])]
            fits = breaks[-1] if breaks else fits
        lines.append(rest[:fits].rstrip())
        rest = rest[fits:]
    return lines


def _fitting(text: str, font: Face, width: int) -> int:
    """Return the largest number of leading characters that fit into ``width`` pixels; at least one."""
    # No character is narrower than a pixel, which bounds the cost of a long text.
    return max(1, bisect.bisect_right(range(1, min(len(text), width) + 1), width, key=lambda n: _inked(text[:n], font)))


def _inked(text: str, font: Face) -> int:
    """Return the pixels from the left end of ``text`` to its last ink. A last letter may lean out of its own box."""
    return math.ceil(max(font.getlength(text), font.getbbox(text)[2]))
