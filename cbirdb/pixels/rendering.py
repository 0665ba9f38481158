"""Says how DICOM is shown to an encoder: which window, how many channels. The rendering is part of the encoder.

Needs neither NumPy nor pydicom, so that commands that only want an encoder's record start at once.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cbirdb.errors import InputError, UnknownNameError

Kind: TypeAlias = Literal["as-displayed", "ct-preset", "hu-windows", "min-max", "equalise"]

VERSION = 1
"""Number of the code that renders. It grows with each change that makes other pictures of the same pixels."""
CT_PRESETS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "stroke": (40.0, 40.0),
    "temporal-bone": (600.0, 2800.0),
}
"""Centre and width in Hounsfield units, as given by Radiopaedia's article *Windowing (CT)*,
https://radiopaedia.org/articles/windowing-ct; ``soft-tissue`` is its window of the abdomen, ``bone`` of the spine.
"""
DEFAULT_CT_PRESET = "soft-tissue"
"""Window of a CT image that states none."""
CHANNELS = 3
"""Windows of ``hu-windows``: they become red, green and blue."""
NUMBER = r"[+-]?\d{1,6}(?:\.\d{1,6})?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
FORMS = "as-displayed, as-displayed:2 (the second window), ct-preset:lung, hu-windows:-1024..1024,-135..215,0..80, min-max or equalise"


@dataclass(frozen=True, slots=True)
class Rendering:
    """How pixels become a picture of 8-bit RGB."""

    kind: Kind = "as-displayed"
    window: int = 1
    """Number of the shown window among an image's several, counted from 1. The first, where there are fewer."""
    preset: str | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    """Lowest and highest Hounsfield units of red, green and blue."""

    @classmethod
    def parse(cls, text: str) -> Rendering:
        """Read the text of an option or an encoder's record.

        :raises InputError: when it is no rendering.
        """
        kind, _, detail = text.strip().lower().partition(":")
        if kind == "as-displayed" and (detail or ":" not in text):
            if not detail:
                return cls()
            if re.fullmatch(r"[1-9]\d{0,2}", detail):
                return cls(window=int(detail))
        elif kind == "ct-preset" and detail:
            if detail not in CT_PRESETS:
                raise UnknownNameError("CT preset", detail, sorted(CT_PRESETS))
            return cls("ct-preset", preset=detail)
        elif kind == "hu-windows" and detail:
            return cls("hu-windows", ranges=_ranges(detail))
        elif kind in ("min-max", "equalise") and ":" not in text:
            return cls("min-max" if kind == "min-max" else "equalise")
        raise InputError(f"'{text}' is not a rendering.", hint=f"Write {FORMS}.")

    def __str__(self) -> str:
        """Return the text in its one canonical form."""
        if self.kind == "ct-preset":
            return f"ct-preset:{self.preset}"
        if self.kind == "hu-windows":
            return "hu-windows:" + ",".join(f"{_number(low)}..{_number(high)}" for low, high in self.ranges)
        if self.kind == "as-displayed" and self.window > 1:
            return f"as-displayed:{self.window}"
        return self.kind

    @property
    def sha256(self) -> str:
        """Return the hexadecimal hash of the text, the rendering code's version and the preset's window."""
        window = CT_PRESETS[self.preset or DEFAULT_CT_PRESET]
        return hashlib.sha256(f"{self}\n{VERSION}\n{window}".encode()).hexdigest()


AS_DISPLAYED = Rendering()


def _ranges(detail: str) -> tuple[tuple[float, float], ...]:
    """Read the three windows of ``hu-windows``."""
    found = [RANGE.fullmatch(part.strip()) for part in detail.split(",")]
    ranges = tuple((float(one[1]), float(one[2])) for one in found if one)
    if len(found) != CHANNELS or len(ranges) != CHANNELS:
        raise InputError(
            f"'hu-windows:{detail}' does not name three windows.",
            hint="Write them as lowest..highest, as in hu-windows:-1024..1024,-135..215,0..80.",
        )
    if wrong := [one for one in ranges if one[0] >= one[1]]:
        low, high = (_number(end) for end in wrong[0])
        raise InputError(f"The window {low}..{high} is empty.", hint="Write the lower number first.")
    return ranges


def _number(value: float) -> str:
    """Write a number without needless digits."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
