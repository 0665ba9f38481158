"""Converts the values that pixels depend on. Everything else in a header is passed unread."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from cbirdb.errors import PixelError
from cbirdb.pixels.dicom.elements import Elements, Encoding, Wanted

TAGS: Mapping[str, tuple[int, str]] = {
    "SOPClassUID": (0x0008_0016, "UI"),
    "Modality": (0x0008_0060, "CS"),
    "ImagerPixelSpacing": (0x0018_1164, "DS"),
    "NominalScannedPixelSpacing": (0x0018_2010, "DS"),
    "SamplesPerPixel": (0x0028_0002, "US"),
    "PhotometricInterpretation": (0x0028_0004, "CS"),
    "PlanarConfiguration": (0x0028_0006, "US"),
    "NumberOfFrames": (0x0028_0008, "IS"),
    "Rows": (0x0028_0010, "US"),
    "Columns": (0x0028_0011, "US"),
    "PixelSpacing": (0x0028_0030, "DS"),
    "PixelAspectRatio": (0x0028_0034, "IS"),
    "BitsAllocated": (0x0028_0100, "US"),
    "BitsStored": (0x0028_0101, "US"),
    "HighBit": (0x0028_0102, "US"),
    "PixelRepresentation": (0x0028_0103, "US"),
    "PixelPaddingValue": (0x0028_0120, "US"),
    "PixelPaddingRangeLimit": (0x0028_0121, "US"),
    "FloatPixelPaddingValue": (0x0028_0122, "FL"),
    "DoubleFloatPixelPaddingValue": (0x0028_0123, "FD"),
    "FloatPixelPaddingRangeLimit": (0x0028_0124, "FL"),
    "DoubleFloatPixelPaddingRangeLimit": (0x0028_0125, "FD"),
    "WindowCenter": (0x0028_1050, "DS"),
    "WindowWidth": (0x0028_1051, "DS"),
    "RescaleIntercept": (0x0028_1052, "DS"),
    "RescaleSlope": (0x0028_1053, "DS"),
    "RescaleType": (0x0028_1054, "LO"),
    "VOILUTFunction": (0x0028_1056, "CS"),
    "RedPaletteColorLookupTableDescriptor": (0x0028_1101, "US"),
    "GreenPaletteColorLookupTableDescriptor": (0x0028_1102, "US"),
    "BluePaletteColorLookupTableDescriptor": (0x0028_1103, "US"),
    "RedPaletteColorLookupTableData": (0x0028_1201, "OW"),
    "GreenPaletteColorLookupTableData": (0x0028_1202, "OW"),
    "BluePaletteColorLookupTableData": (0x0028_1203, "OW"),
    "SegmentedRedPaletteColorLookupTableData": (0x0028_1221, "OW"),
    "SegmentedGreenPaletteColorLookupTableData": (0x0028_1222, "OW"),
    "SegmentedBluePaletteColorLookupTableData": (0x0028_1223, "OW"),
    "ModalityLUTSequence": (0x0028_3000, "SQ"),
    "LUTDescriptor": (0x0028_3002, "US"),
    "LUTData": (0x0028_3006, "OW"),
    "VOILUTSequence": (0x0028_3010, "SQ"),
    "PixelMeasuresSequence": (0x0028_9110, "SQ"),
    "FrameVOILUTSequence": (0x0028_9132, "SQ"),
    "PixelValueTransformationSequence": (0x0028_9145, "SQ"),
    "PresentationLUTShape": (0x2050_0020, "CS"),
    "SharedFunctionalGroupsSequence": (0x5200_9229, "SQ"),
    "PerFrameFunctionalGroupsSequence": (0x5200_9230, "SQ"),
    "ExtendedOffsetTable": (0x7FE0_0001, "OV"),
    "ExtendedOffsetTableLengths": (0x7FE0_0002, "OV"),
}
"""Tag and value representation by keyword. Numbers that may be US or SS are read as US: the sign depends on the pixels."""
CODES = {"US": "H", "FL": "f", "FD": "d"}
"""Codes of ``struct`` for binary numbers."""


def _wanted(names: str, **inner: Wanted) -> Wanted:
    return {TAGS[name][0]: None for name in names.split()} | {TAGS[name][0]: items for name, items in inner.items()}


_TABLE = _wanted("LUTDescriptor LUTData")
_GROUPS = _wanted(
    "",
    PixelMeasuresSequence=_wanted("PixelSpacing PixelAspectRatio ImagerPixelSpacing NominalScannedPixelSpacing"),
    FrameVOILUTSequence=_wanted("WindowCenter WindowWidth VOILUTFunction", VOILUTSequence=_TABLE),
    PixelValueTransformationSequence=_wanted("RescaleIntercept RescaleSlope RescaleType"),
)
WANTED: Wanted = {
    **{tag: None for name, (tag, kind) in TAGS.items() if kind != "SQ" and name not in {"LUTDescriptor", "LUTData"}},
    **_wanted("", ModalityLUTSequence=_TABLE, VOILUTSequence=_TABLE),
    **_wanted("", SharedFunctionalGroupsSequence=_GROUPS, PerFrameFunctionalGroupsSequence=_GROUPS),
}
"""The elements of a data set that are read."""


class Attributes:
    """The values of a data set or of a sequence's item, by keyword."""

    __slots__ = ("_elements", "_encoding")

    def __init__(self, elements: Elements, encoding: Encoding) -> None:
        self._elements = elements
        self._encoding = encoding

    def values(self, keyword: str) -> list[Any]:
        """Return the numbers or texts of an attribute; none if it is missing or empty. A text may be empty.

        :raises PixelError: when its bytes are no values of its kind.
        """
        tag, kind = TAGS[keyword]
        found = self._elements.get(tag)
        if not found or not isinstance(found, bytes):
            return []
        try:
            if code := CODES.get(kind):
                order = ">" if self._encoding.big_endian else "<"
                return list(struct.unpack(f"{order}{len(found) // struct.calcsize(code)}{code}", found))
            texts = [part.strip(" \0") for part in found.decode("latin-1").split("\\")]
            if texts == [""]:
                return []
            return [float(one) if one else one for one in texts] if kind in {"DS", "IS"} else texts
        except (ValueError, struct.error):
            raise PixelError("corrupt", f"DICOM: {keyword} cannot be read") from None

    def table(self, keyword: str) -> bytes:
        """Return the words of a table in little endian; no bytes if it is missing."""
        found = self._elements.get(TAGS[keyword][0])
        if not isinstance(found, bytes):
            return b""
        if not self._encoding.big_endian:
            return found
        even = found[: len(found) // 2 * 2]
        swapped = bytearray(even)
        swapped[::2], swapped[1::2] = even[1::2], even[::2]
        return bytes(swapped)

    def items(self, keyword: str, place: int = 0) -> Iterator[Attributes]:
        """Yield an item of a sequence, the first by default; nothing if there is none."""
        found = self._elements.get(TAGS[keyword][0])
        if isinstance(found, list) and place < len(found):
            yield Attributes(found[place], self._encoding)
