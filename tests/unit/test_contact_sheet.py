"""Draw the contact sheet: positions, captions without overlap, and files that are refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from cbirdb.errors import InputError
from cbirdb.search import contact_sheet
from cbirdb.search.contact_sheet import COLUMNS, Tile, draw_contact_sheet, write_contact_sheet
from cbirdb.search.sheet_font import BUILT_IN, SheetFont

GREEN, RED, GREY, BLUE = (24, 128, 56), (190, 30, 36), (150, 152, 158), (20, 82, 170)
WHITE = (255, 255, 255)
CELL, GAP, MARGIN, FRAME = contact_sheet._CELL, contact_sheet._GAP, contact_sheet._MARGIN, contact_sheet._FRAME
LONG = "XR/chest/" + "Enlarged Cardiomediastinum/" * 12 + "left lower lobe|Pleural Effusion"


def _tile(verdict: bool | None = None, caption: tuple[str, ...] = ("distance 0.1", "XR/chest/normal")) -> Tile:
    return Tile(Image.new("L", (64, 64), 128), caption, verdict)


def _pixels(sheet: Image.Image) -> NDArray[np.uint8]:
    assert sheet.mode == "RGB"
    return np.asarray(sheet)


def _frames(sheet: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return the top left corner (x, y) of each frame of this colour, row by row."""
    same = (_pixels(sheet) == colour).all(axis=2)
    bar = CELL
    run = np.lib.stride_tricks.sliding_window_view(same, bar, axis=1).all(axis=2)
    starts = run & ~np.pad(run, ((1, 0), (0, 0)))[:-1]
    return [
        (int(x), int(y)) for y, x in np.argwhere(starts) if run[y : y + FRAME, x].all() and same[y : y + CELL, x].all()
    ]


def _width(columns: int) -> int:
    return 2 * MARGIN + columns * CELL + (columns - 1) * GAP


@pytest.mark.parametrize(
    ("results", "columns", "rows"), [(0, 3, 0), (1, 3, 1), (4, 4, 1), (5, 5, 1), (6, 5, 2), (10, 5, 2), (11, 5, 3)]
)
def test_results_stand_in_rows_of_five_below_the_query(results: int, columns: int, rows: int) -> None:
    sheet = draw_contact_sheet(_tile(), [_tile(verdict=True)] * results, title="Similar images")
    assert sheet.width == _width(columns)
    (query,) = _frames(sheet, BLUE)
    frames = _frames(sheet, GREEN)
    assert len(frames) == results
    assert [x for x, _ in frames] == [MARGIN + (i % COLUMNS) * (CELL + GAP) for i in range(results)]
    assert len({y for _, y in frames}) == rows
    assert all(y > query[1] + CELL for _, y in frames)
    assert all(y + CELL < sheet.height for _, y in frames)


def test_verdict_is_shown_by_colour_and_by_mark() -> None:
    sheet = draw_contact_sheet(_tile(), [_tile(True), _tile(False), _tile(None)], title="Similar images")
    found = {colour: _frames(sheet, colour) for colour in (GREEN, RED, GREY)}
    assert [len(frames) for frames in found.values()] == [1, 1, 1]
    pixels = _pixels(sheet)
    for colour, written in [(GREEN, True), (RED, True), (GREY, False)]:
        ((x, y),) = found[colour]
        line = pixels[y + CELL : y + CELL + 28, x + 60 : x + CELL]
        assert (line == colour).all(axis=2).any() == written
    # Tick and cross differ in shape, not only in colour.
    marks = []
    for colour, word in [(GREEN, "match"), (RED, "no match")]:
        ((x, y),) = found[colour]
        left = x + CELL - round(BUILT_IN.of(15).getlength(word)) - 21
        marks.append((pixels[y + CELL + 6 : y + CELL + 24, left : left + 16] == colour).all(axis=2))
    assert all(mark.sum() > 20 for mark in marks)
    assert (marks[0] != marks[1]).sum() > 20


@pytest.mark.parametrize(
    "caption",
    [
        ("distance 0.1", LONG),
        ("W" * 400,),
        (LONG, LONG, LONG),
        ("a\nb\tc\0d" * 40,),
        ("Überdehnung/é/中文/" * 20,),
        ("/" * 300,),
        (" ",),
        ("",),
    ],
)
def test_captions_never_touch_a_tile_or_leave_their_column(caption: tuple[str, ...]) -> None:
    """A letter may lean out by one pixel; apart from that the space between columns stays white."""
    tiles = [_tile(True, caption)] * 7
    sheet = draw_contact_sheet(_tile(None, caption), tiles, title="Similar images")
    pixels = _pixels(sheet)
    frames = _frames(sheet, GREEN)
    assert len(frames) == 7  # an overlapped frame would not be found
    picture = np.full((CELL - 2 * FRAME, CELL - 2 * FRAME, 3), 128)
    for x, y in frames:
        assert (pixels[y + FRAME : y + CELL - FRAME, x + FRAME : x + CELL - FRAME] == picture).all()
    below = frames[0][1]
    for column in range(COLUMNS):
        end = MARGIN + column * (CELL + GAP) + CELL
        gap = pixels[below:, end + 1 : end + GAP - 1]
        assert (gap == WHITE).all(), column
    assert (pixels[:, : MARGIN - 1] == WHITE).all()
    assert (pixels[:, sheet.width - MARGIN + 1 :] == WHITE).all()
    assert (pixels[sheet.height - 8 :] == WHITE).all()
    # The space above the second row stays white.
    assert (pixels[frames[5][1] - 8 : frames[5][1]] == WHITE).all()


@pytest.mark.parametrize(
    "text",
    [LONG, "W" * 400, "XR/chest/normal", "one two three", "/" * 300, "x" * 23 + "/y"],
    ids=["long label", "one long word", "short label", "three words", "slashes", "break before the last letter"],
)
@pytest.mark.parametrize("width", [40, 194, 800])
def test_wrapped_lines_fit_the_width_and_keep_beginning_and_end_of_the_text(text: str, width: int) -> None:
    font = BUILT_IN.of(14)
    lines = contact_sheet._wrap(text, BUILT_IN, 14, width, 4)
    assert 1 <= len(lines) <= 4
    assert all(font.getlength(line) <= width for line in lines)
    assert text.startswith(lines[0])
    assert text.endswith(lines[-1].removeprefix("…"))
    shown = "".join(lines)
    if "…" not in shown:
        assert shown.replace(" ", "") == text.replace(" ", "")


def test_label_paths_break_after_slashes() -> None:
    lines = contact_sheet._wrap("XR/chest/Enlarged_Cardiomediastinum", BUILT_IN, 14, 194, 4)
    assert lines == ["XR/chest/", "Enlarged_Cardiomediastinum"]


def test_letters_that_the_font_lacks_are_replaced() -> None:
    assert BUILT_IN.plain("Pneumothorax, spontané\n 中 µm") == "Pneumothorax, spontane ? ?m"


def test_pictures_keep_their_proportions_on_a_black_background() -> None:
    tile = Tile(Image.new("RGB", (200, 50), (200, 100, 50)), (), True)
    sheet = draw_contact_sheet(_tile(), [tile], title="")
    ((x, y),) = _frames(sheet, GREEN)
    inside = _pixels(sheet)[y + FRAME : y + CELL - FRAME, x + FRAME : x + CELL - FRAME]
    rows = (inside == (200, 100, 50)).all(axis=(1, 2))
    side = CELL - 2 * FRAME
    assert rows.sum() == side // 4
    assert (inside[~rows] == 0).all()
    assert abs(int(np.argmax(rows)) - (side - side // 4) // 2) <= 1


@pytest.mark.parametrize(
    "image",
    [
        Image.new("1", (9, 9), 1),
        Image.new("P", (300, 20)),
        Image.new("RGBA", (20, 300), (255, 255, 255, 10)),
        Image.new("LA", (1, 1)),
        Image.new("CMYK", (640, 480)),
        Image.new("L", (1, 5000), 255),
        Image.new("L", (5000, 1), 255),
    ],
    ids=lambda image: f"{image.mode} {image.size}",
)
def test_picture_of_any_mode_and_size_is_drawn_and_left_unchanged(image: Image.Image) -> None:
    before = (image.mode, image.size, image.tobytes())
    sheet = draw_contact_sheet(Tile(image), [Tile(image, ("distance 0",), True)], title="Similar images")
    assert len(_frames(sheet, GREEN)) == 1
    assert (image.mode, image.size, image.tobytes()) == before


def test_missing_file_is_drawn_as_a_crossed_out_box_with_words() -> None:
    sheet = draw_contact_sheet(Tile(None), [Tile(None, ("distance 0.1",), False)], title="Similar images")
    ((x, y),) = _frames(sheet, RED)
    inside = _pixels(sheet)[y + FRAME : y + CELL - FRAME, x + FRAME : x + CELL - FRAME]
    assert tuple(inside[3, CELL // 2]) == (222, 223, 226)
    assert (inside[20, 20] < 200).all()
    words = inside[CELL // 2 - FRAME - 8 : CELL // 2 - FRAME + 8]
    assert (words < 100).all(axis=2).any()


def test_new_sheet_replaces_an_older_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "sheet.PNG"
    write_contact_sheet(target, _tile(), [], title="An older one")
    write_contact_sheet(target, _tile(), [_tile(True)], title="Similar images")
    with Image.open(target) as written:
        expected = draw_contact_sheet(_tile(), [_tile(True)], title="Similar images")
        assert written.format == "PNG"
        assert (np.asarray(written) == _pixels(expected)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.PNG"]


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet", ".png", "sheet.png.gz"])
def test_sheet_that_does_not_end_in_png_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"does not end in \.png"):
        write_contact_sheet(tmp_path / name, _tile(), [], title="")
    assert not list(tmp_path.iterdir())


def test_sheet_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no folder .*nowhere for the contact sheet\. Create it first\."):
        write_contact_sheet(tmp_path / "nowhere" / "sheet.png", _tile(), [], title="")


def test_picture_that_is_no_contact_sheet_is_not_overwritten(tmp_path: Path) -> None:
    radiograph = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(radiograph)
    before = radiograph.read_bytes()
    with pytest.raises(InputError, match="not a contact sheet"):
        write_contact_sheet(radiograph, _tile(), [], title="")
    assert radiograph.read_bytes() == before


def test_folder_under_the_sheets_name_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(InputError, match=r"sheet\.png exists and is not a contact sheet"):
        write_contact_sheet(tmp_path / "sheet.png", _tile(), [], title="")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


@pytest.fixture
def latin_font(tmp_path: Path) -> Path:
    """Write Pillow's own font, which has a degree sign but no accented letters, to a file."""
    data = ImageFont.load_default(size=14).path
    assert isinstance(data, io.BytesIO)
    path = tmp_path / "latin.ttf"
    path.write_bytes(data.getvalue())
    return path


def test_named_font_keeps_the_letters_that_it_has(latin_font: Path) -> None:
    for font in (SheetFont(latin_font), BUILT_IN):
        assert font.plain("±2°, spontané\n größer 中") == "±2°, spontane gro?er ?"


def test_named_font_draws_the_captions(latin_font: Path) -> None:
    font = SheetFont(latin_font)
    written, blank = (draw_contact_sheet(Tile(None, (text,)), [], title="a", font=font) for text in ("±2°", ""))
    assert written.size == blank.size
    assert written.tobytes() != blank.tobytes()


def test_file_that_is_no_font_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "font.ttf"
    path.write_text("no font")
    with pytest.raises(InputError, match="is not a font") as refused:
        write_contact_sheet(tmp_path / "a.png", _tile(), [], title="", font=SheetFont(path))
    assert "TrueType" in str(refused.value.hint)
    assert not (tmp_path / "a.png").exists()
