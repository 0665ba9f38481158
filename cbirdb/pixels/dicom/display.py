"""Shows grey values: modality LUT, then VOI LUT or window, then inversion, once and last (PS3.3 C.7.6, C.11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cbirdb.pixels.dicom.attributes import Attributes
from cbirdb.pixels.dicom.colour import BLOCK, lut_entries
from cbirdb.pixels.dicom.header import Header, real, reals, text
from cbirdb.pixels.dicom.windows import WHITE, Distribution, Values, Window, between, equalising_table, to_bytes
from cbirdb.pixels.rendering import CT_PRESETS, DEFAULT_CT_PRESET, Rendering

Shown: TypeAlias = Callable[[Values], Values]
"""Function from stored values to grey values between 0 and 255."""
PERCENTILES = (0.5, 99.5)
"""Percent of the pixels, without padding, that end in black and begin in white if a header has no window."""
MOST_LEVELS = 1 << 17
"""Integers of a smaller range are looked up in a table; others are computed pixel by pixel."""
HOUNSFIELD = ("", "HU", "HU_MOD")
"""Values of RescaleType of a CT image in Hounsfield units."""


@dataclass(frozen=True, slots=True)
class Lut:
    """A lookup table for grey values."""

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def apply(self, values: Values) -> Values:
        """Return the entries of the values; the first and the last entry for those outside."""
        places = np.clip(np.rint(np.nan_to_num(values)) - self.first, 0, len(self.entries) - 1)
        found: Values = self.entries[places.astype(np.int64)].astype(np.float64)
        return found


@dataclass(frozen=True, slots=True)
class Display:
    """Everything in a header that decides how grey values of one frame look."""

    slope: float
    intercept: float
    modality_lut: Lut | None
    voi_lut: Lut | None
    windows: tuple[Window, ...]
    inverted: bool
    padding: tuple[float, float] | None
    """The stored values from the first to the second are no part of the image."""
    in_hounsfield: bool

    def rescaled(self, stored: Values) -> Values:
        """Apply the modality LUT, else slope and intercept."""
        if self.modality_lut:
            return self.modality_lut.apply(stored)
        return stored * self.slope + self.intercept

    def is_padding(self, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return a mask of padding; None if there is none."""
        if self.padding is None:
            return None
        low, high = self.padding
        mask: NDArray[np.bool_] = (stored >= low) & (stored <= high)
        return mask


def read_display(attributes: Attributes, header: Header, frame: int) -> Display:
    """Read how a frame is displayed: its own functional groups go before the shared ones, those before the top level."""
    sources = _sources(attributes, frame)
    slope = next((found for one in sources if (found := real(one, "RescaleSlope")) is not None), None)
    intercept = next((found for one in sources if (found := real(one, "RescaleIntercept")) is not None), None)
    modality_lut = _lut(attributes, "ModalityLUTSequence", signed=header.signed)
    unit = next((unit for one in sources if (unit := text(one, "RescaleType"))), "")
    rescaled = modality_lut is not None or slope is not None or intercept is not None
    # The output of a modality LUT has no sign; a rescale can give one to unsigned values.
    signed_input = modality_lut is None and (header.signed or (intercept or 0.0) < 0)
    return Display(
        slope=slope or 1.0,
        intercept=intercept or 0.0,
        modality_lut=modality_lut,
        voi_lut=next((lut for one in sources if (lut := _lut(one, "VOILUTSequence", signed=signed_input))), None),
        windows=next((windows for one in sources if (windows := _windows(one))), ()),
        inverted=header.photometric == "MONOCHROME1" or text(attributes, "PresentationLUTShape") == "INVERSE",
        padding=_padding(attributes, header),
        in_hounsfield=text(attributes, "Modality") == "CT" and rescaled and unit in HOUNSFIELD,
    )


def functional_groups(attributes: Attributes, frame: int) -> list[Attributes]:
    """Return the frame's own functional groups and the shared ones, as far as there are any."""
    own = attributes.items("PerFrameFunctionalGroupsSequence", frame)
    return [*own, *attributes.items("SharedFunctionalGroupsSequence")]


def _sources(attributes: Attributes, frame: int) -> list[Attributes]:
    """Return the data sets in which windows and rescale values are looked for, the most specific first."""
    nested = [
        item
        for group in functional_groups(attributes, frame)
        for keyword in ("FrameVOILUTSequence", "PixelValueTransformationSequence")
        for item in group.items(keyword)
    ]
    return [*nested, attributes]


def _windows(source: Attributes) -> tuple[Window, ...]:
    """Return the valid windows of a data set."""
    function = text(source, "VOILUTFunction") or "LINEAR"
    pairs = zip(reals(source, "WindowCenter"), reals(source, "WindowWidth"), strict=False)
    return tuple(window for centre, width in pairs if (window := Window(centre, width, function)).is_valid)


def _lut(source: Attributes, sequence: str, *, signed: bool) -> Lut | None:
    """Return the first lookup table of a sequence; None if there is none that can be used."""
    for item in source.items(sequence):
        descriptor = reals(item, "LUTDescriptor")
        data = item.table("LUTData")
        if len(descriptor) != 3 or not data:
            return None
        count, first, bits = (int(one) for one in descriptor)
        entries = lut_entries(data, count or 65_536)
        if not len(entries):
            return None
        if signed and first >= 32_768:  # stored as an unsigned number
            first -= 65_536
        if not 8 <= bits <= 16:
            bits = max(8, int(entries.max()).bit_length())
        return Lut(first, entries, bits)
    return None


def _padding(attributes: Attributes, header: Header) -> tuple[float, float] | None:
    """Return the range of stored values that are padding."""
    prefix = "" if not header.floating else "Float" if header.allocated == 32 else "DoubleFloat"
    value = real(attributes, f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = real(attributes, f"{prefix}PixelPaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    if not header.floating:
        ends = [_with_sign(end, header) for end in ends]
    return min(ends), max(ends)


def _with_sign(value: float, header: Header) -> float:
    """Read a padding value, whose 16 bits may have a sign, as pixels are read. Some writers store the other sign."""
    if header.signed and value >= 1 << 15:
        value -= 1 << 16
    span = 1 << min(header.allocated, 16)
    if header.signed:
        return (value + span / 2) % span - span / 2
    return value % span


def show(stored: NDArray[Any], display: Display, rendering: Rendering) -> NDArray[np.uint8]:
    """Return the picture of a frame, shape (rows, columns), or (rows, columns, 3) for several windows.

    Padding is black.
    """
    padding = display.is_padding(stored)
    levels, low = _levels(stored)
    if rendering.kind == "hu-windows" and display.in_hounsfield:
        channels = [_map(stored, _stretched(display, ends), levels, low) for ends in rendering.ranges]
        shown = np.stack(channels, axis=-1)
    elif rendering.kind in ("min-max", "equalise"):
        ends = _distribution(stored, padding, levels, low, display).ends()
        shown = _map(stored, _stretched(display, ends), levels, low)
        if display.inverted:
            shown = 255 - shown
        if rendering.kind == "equalise":
            kept = shown if padding is None else shown[~padding]
            shown = equalising_table(np.bincount(kept.ravel(), minlength=256))[shown]
    else:
        chosen = _chosen(display, rendering)
        if chosen is None:
            ends = _distribution(stored, padding, levels, low, display).percentiles(*PERCENTILES)
            chosen = _stretched(display, ends)
        shown = _map(stored, chosen, levels, low)
        if display.inverted:
            shown = 255 - shown
    if padding is not None:
        shown[padding] = 0
    return shown


def _stretched(display: Display, ends: tuple[float, float]) -> Shown:
    """Return the function that shows one end as black and the other as white."""
    return lambda values: between(display.rescaled(values), *ends)


def _chosen(display: Display, rendering: Rendering) -> Shown | None:
    """Return the function from stored values to grey values between 0 and 255, not inverted; None: no window is given."""
    if rendering.kind == "ct-preset" and display.in_hounsfield:
        preset = Window(*CT_PRESETS[rendering.preset or DEFAULT_CT_PRESET])
        return lambda values: preset.apply(display.rescaled(values))
    if lut := display.voi_lut:
        return lambda values: lut.apply(display.rescaled(values)) * (WHITE / ((1 << lut.bits) - 1))
    if display.windows:
        window = display.windows[rendering.window - 1 if rendering.window <= len(display.windows) else 0]
        return lambda values: window.apply(display.rescaled(values))
    if display.in_hounsfield:
        preset = Window(*CT_PRESETS[DEFAULT_CT_PRESET])
        return lambda values: preset.apply(display.rescaled(values))
    return None


def _levels(stored: NDArray[Any]) -> tuple[Values | None, int]:
    """Return all integers between the lowest and the highest value, and the lowest; no levels if there are too many."""
    if stored.dtype.kind == "f" or not stored.size:
        return None, 0
    low, high = int(stored.min()), int(stored.max())
    if high - low >= MOST_LEVELS:
        return None, 0
    return np.arange(low, high + 1, dtype=np.float64), low


def _blocks(stored: NDArray[Any]) -> list[slice]:
    rows = max(1, BLOCK // max(1, stored.shape[1]))
    return [slice(top, top + rows) for top in range(0, stored.shape[0], rows)]


def _distribution(
    stored: NDArray[Any], padding: NDArray[np.bool_] | None, levels: Values | None, low: int, display: Display
) -> Distribution:
    """Count the values that are no padding, as the modality LUT gives them."""
    if levels is None:
        return Distribution(_sorted(stored, padding, display), None)
    counts = np.zeros(len(levels), np.int64)
    for block in _blocks(stored):
        kept = stored[block].ravel() if padding is None else stored[block][~padding[block]]
        counts += np.bincount(kept.astype(np.int64) - low, minlength=len(levels))
    return Distribution.of(display.rescaled(levels), counts)


def _sorted(stored: NDArray[Any], padding: NDArray[np.bool_] | None, display: Display) -> Values:
    """Return all finite values that are no padding, as the modality LUT gives them, ascending.

    They are the only copy: distinct values with their counts would take five times the memory of floating-point pixels.
    """
    values, filled = np.empty(stored.size, np.float64), 0
    for block in _blocks(stored):
        kept = stored[block].ravel() if padding is None else stored[block][~padding[block]]
        found = display.rescaled(kept.astype(np.float64))
        found = found[np.isfinite(found)]
        values[filled : filled + found.size] = found
        filled += found.size
    values[:filled].sort()
    return values[:filled]


def _map(stored: NDArray[Any], shown_as: Shown, levels: Values | None, low: int) -> NDArray[np.uint8]:
    """Apply a function to each pixel, through a table if the values are few."""
    shown = np.empty(stored.shape, np.uint8)
    if levels is None:
        for block in _blocks(stored):
            shown[block] = to_bytes(shown_as(stored[block].astype(np.float64)))
        return shown
    table, places = to_bytes(shown_as(levels)), stored
    if stored.itemsize <= 2:  # a table of all bit patterns needs no subtraction
        whole = np.zeros(1 << 8 * stored.itemsize, np.uint8)
        whole[np.arange(low, low + len(levels)) % len(whole)] = table
        table, places, low = whole, stored.view(f"u{stored.itemsize}"), 0
    for block in _blocks(stored):
        np.take(table, places[block].astype(np.int64) - low if low else places[block], out=shown[block], mode="clip")
    return shown


def aspect(attributes: Attributes, frame: int) -> float:
    """Return a pixel's height divided by its width; 1 if the header does not say."""
    measured = [item for group in functional_groups(attributes, frame) for item in group.items("PixelMeasuresSequence")]
    for source in (*measured[:1], attributes):
        for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            found = reals(source, keyword)
            if len(found) >= 2 and found[0] > 0 and found[1] > 0:
                return found[0] / found[1]
    return 1.0
