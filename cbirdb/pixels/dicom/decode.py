"""Turns one frame of a DICOM file into the picture that an encoder sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from cbirdb.errors import PixelError
from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels.damage import OnDamage, refuse
from cbirdb.pixels.dicom.file import FileBytes, Parsed, is_dicom, parse
from cbirdb.pixels.dicom.silence import quiet
from cbirdb.pixels.rendering import AS_DISPLAYED, Rendering
from cbirdb.pixels.sop_classes import excluded_sop_class

LEAST_ASPECT, MOST_ASPECT = 1.01, 20.0
"""Ratios of a pixel's sides between these are resampled to 1. A larger one is no picture but a mistake."""


@dataclass(frozen=True, slots=True)
class DecodedDicom:
    """One frame of a DICOM file."""

    picture: Image.Image
    """8-bit RGB with square pixels."""
    pixel_sha256: bytes
    """Hash of the decoded pixels before any rendering. It is the same in all lossless transfer syntaxes."""
    width: int
    height: int
    """Columns and rows as stored, before pixels become square."""
    damage: str | None
    """The decoder's first report that was accepted."""


def decode_dicom(
    data: FileBytes,
    frame: int = 0,
    rendering: Rendering = AS_DISPLAYED,
    max_pixels: int = MAX_PIXELS,
    on_damage: OnDamage = refuse,
) -> DecodedDicom:
    """Decode one frame completely, and render it.

    :param frame: counted from 0.
    :param on_damage: called with each report on damaged pixels.
    :raises PixelError: whatever is wrong. Its text names no value of the header.
    """
    reports: list[PixelError] = []

    def noted(report: PixelError) -> None:
        on_damage(report)
        reports.append(report)

    try:
        with quiet():
            return _decode(data, frame, rendering, max_pixels, noted, lambda: reports[0].message if reports else None)
    except PixelError:
        raise
    except ImportError:
        raise PixelError("not an image", "a DICOM file; install what reads it: pip install 'cbirdb[dicom]'") from None
    except MemoryError:
        raise PixelError("too large", "there is not enough memory to decode it") from None
    # Parsers and decoders of damaged files raise nearly anything, and their texts may hold what stands in the header.
    except Exception as error:  # noqa: BLE001
        raise PixelError("corrupt", f"DICOM: the decoder failed ({type(error).__name__})") from None


def _decode(
    data: FileBytes,
    frame: int,
    rendering: Rendering,
    max_pixels: int,
    on_damage: OnDamage,
    damage: Callable[[], str | None],
) -> DecodedDicom:
    from cbirdb.pixels.dicom.colour import canonical, palette_to_rgb, pixel_sha256, rgb_to_bytes
    from cbirdb.pixels.dicom.display import aspect, read_display, show
    from cbirdb.pixels.dicom.frames import read_frame
    from cbirdb.pixels.dicom.header import read_header

    if not is_dicom(data):
        raise PixelError("not an image", "no DICOM file")
    parsed = _parse(data, max_pixels, on_damage)
    if name := excluded_sop_class(parsed.sop_class):
        raise PixelError(f"no pixels: {name}", "files of this kind hold no image that could be searched")
    if parsed.tag is None:
        raise PixelError(f"no pixels: {_class_name(parsed.sop_class)}", "DICOM: the file has no pixel data")
    header = read_header(parsed, max_pixels)
    decoded = read_frame(parsed, header, frame, on_damage)
    values, photometric = canonical(decoded, header)
    digest = pixel_sha256(values, photometric)
    if photometric == "PALETTE COLOR":
        shown = palette_to_rgb(values, parsed.attributes)
    elif photometric == "RGB":
        shown = rgb_to_bytes(values, min(header.stored, decoded.precision))
    else:
        shown = show(values, read_display(parsed.attributes, header, frame), rendering)
    picture = Image.fromarray(shown)
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    picture = _with_square_pixels(picture, aspect(parsed.attributes, frame), max_pixels)
    return DecodedDicom(picture, digest, header.columns, header.rows, damage())


_last: tuple[FileBytes, int, Parsed] | None = None
"""The file that this process parsed last: the next frame is probably of the same one."""


def forget() -> None:
    """Let go of the file that was parsed last."""
    global _last  # noqa: PLW0603
    _last = None


def _parse(data: FileBytes, max_pixels: int, on_damage: OnDamage) -> Parsed:
    global _last  # noqa: PLW0603
    if _last is not None and _last[0] is data and _last[1] == max_pixels:
        return _last[2]
    _last = None
    reports: list[PixelError] = []
    parsed = parse(data, max_pixels, reports.append)
    for report in reports:
        on_damage(report)
    if not reports:
        _last = (data, max_pixels, parsed)
    return parsed


def _class_name(uid: str) -> str:
    """Return the standard's name of an SOP class. Nothing else that stands in the file is repeated."""
    from pydicom.uid import UID

    name: str = UID(uid).name
    return "unknown SOP class" if name == uid else name


def _with_square_pixels(picture: Image.Image, height_by_width: float, max_pixels: int) -> Image.Image:
    """Stretch the side along which a pixel is longer; shrink the other one if the picture would become too large."""
    stretch = max(height_by_width, 1 / height_by_width)
    if not LEAST_ASPECT <= stretch <= MOST_ASPECT:
        return picture
    width, height = picture.size
    if picture.width * picture.height * stretch > max_pixels:
        height_by_width = 1 / height_by_width
        stretch = 1 / stretch
    size = (width, max(1, round(height * stretch))) if height_by_width > 1 else (max(1, round(width * stretch)), height)
    return picture.resize(size, Image.Resampling.BILINEAR)
