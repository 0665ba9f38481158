"""Reads and checks the attributes that say how pixel data are to be read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cbirdb.errors import PixelError
from cbirdb.pixels.damage import check_pixels
from cbirdb.pixels.dicom.attributes import Attributes
from cbirdb.pixels.dicom.file import DOUBLE, FLOAT, INTEGER, Parsed

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
SAMPLES = {
    **dict.fromkeys((*MONOCHROME, "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_422", "YBR_PARTIAL_420"), 3),
}
"""Samples of a pixel by photometric interpretation."""
ALLOCATED = (1, 8, 16, 32, 64)
LARGEST_SIDE = 65_535
BITS_PER_PIXEL = 32
"""A frame may have so many bits for each pixel that may be decoded; frames of deeper pixels must be smaller."""
MOST_FRAMES = 1 << 31


@dataclass(frozen=True, slots=True)
class Header:
    """The layout of one frame's pixels."""

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    """Bits that a sample takes in uncompressed data."""
    stored: int
    """Bits of it that are the sample."""
    high_bit: int
    signed: bool
    planar: bool
    frames: int
    floating: bool
    """The samples are floating-point numbers."""

    @property
    def pixels(self) -> int:
        """Return the pixels of a frame."""
        return self.rows * self.columns

    @property
    def is_monochrome(self) -> bool:
        """Return True if grey values are stored."""
        return self.photometric in MONOCHROME


def number(attributes: Attributes, keyword: str, default: int | None = None) -> int:
    """Return a whole number of the header.

    :raises PixelError: when it is missing and has no default, or is no whole number. The value is not named.
    """
    found = attributes.values(keyword)
    if not found or found[0] == "":
        if default is None:
            raise PixelError("corrupt", f"DICOM: {keyword} is missing")
        return default
    if not found[0] % 1 == 0:  # neither is infinity
        raise PixelError("corrupt", f"DICOM: {keyword} is not a number")
    return int(found[0])


def real(attributes: Attributes, keyword: str) -> float | None:
    """Return a finite number of the header; None if it is missing or is no number."""
    found = reals(attributes, keyword)
    return found[0] if found else None


def reals(attributes: Attributes, keyword: str) -> list[float]:
    """Return the numbers of an attribute; none if one of them is missing or not finite."""
    found = attributes.values(keyword)
    return [float(one) for one in found] if all(one != "" and math.isfinite(one) for one in found) else []


def text(attributes: Attributes, keyword: str) -> str:
    """Return the first text of an attribute in upper case; an empty one if it is missing."""
    found = attributes.values(keyword)
    return found[0].upper() if found else ""


def read_header(parsed: Parsed, max_pixels: int) -> Header:
    """Read the layout of a frame, and refuse what is impossible or too large.

    :raises PixelError: when it is.
    """
    attributes = parsed.attributes
    rows, columns = number(attributes, "Rows"), number(attributes, "Columns")
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise PixelError("corrupt", "DICOM: the picture has no rows or columns")
    check_pixels(columns, rows, max_pixels)
    photometric = text(attributes, "PhotometricInterpretation")
    samples = number(attributes, "SamplesPerPixel", SAMPLES.get(photometric, 1))
    if not photometric:
        photometric = "RGB" if samples == 3 else "MONOCHROME2"
    if SAMPLES.get(photometric) != samples:
        known = photometric in SAMPLES
        detail = (
            "PhotometricInterpretation and SamplesPerPixel contradict each other"
            if known
            else "an unknown PhotometricInterpretation"
        )
        raise PixelError("corrupt" if known else "unsupported", f"DICOM: {detail}")
    # An explicit 0 is what some writers store for a single frame.
    frames = number(attributes, "NumberOfFrames", 1) or 1
    if not 0 < frames < MOST_FRAMES:
        raise PixelError("corrupt", "DICOM: NumberOfFrames is out of range")
    floating = parsed.tag in (FLOAT, DOUBLE)
    if floating and not samples == 1:
        raise PixelError("unsupported", "DICOM: colours as floating-point numbers")
    usual = {FLOAT: 32, DOUBLE: 64, INTEGER: None}[parsed.tag or INTEGER]
    allocated = usual or number(attributes, "BitsAllocated")
    stored = allocated if floating else number(attributes, "BitsStored", allocated)
    if allocated not in ALLOCATED or not 0 < stored <= allocated:
        raise PixelError("unsupported", "DICOM: BitsAllocated or BitsStored is not one of those that exist")
    if rows * columns * samples * allocated > max_pixels * BITS_PER_PIXEL:
        raise PixelError("too large", f"a frame of more than {max_pixels * BITS_PER_PIXEL // 8:,} bytes")
    high_bit = number(attributes, "HighBit", stored - 1)
    if not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    return Header(
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=not floating and number(attributes, "PixelRepresentation", 0) == 1,
        planar=samples > 1 and number(attributes, "PlanarConfiguration", 0) == 1,
        frames=frames,
        floating=floating,
    )
