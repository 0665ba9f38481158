"""Chooses the frames of a multi-frame file, and reads what its header says of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cbirdb.datasets.dicom import tags
from cbirdb.datasets.dicom.header import Header, items_of
from cbirdb.datasets.dicom.values import decimals, whole
from cbirdb.errors import OptionError, PixelError
from cbirdb.pixels.dicom.elements import Elements

MOST_FRAMES = 100_000
SMALLEST_FRAME = 64
"""Bytes that a frame takes in a file at least."""
_EVERY = re.compile(r"every(?::([1-9][0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """The frames to take: every one, each ``step``-th, the first or the middle one."""

    which: str = "every"
    step: int = 1

    @classmethod
    def of(cls, text: str) -> FrameChoice:
        """Read a choice: every, first, middle or every:N.

        :raises OptionError: when it is none of these.
        """
        if text in {"first", "middle"}:
            return cls(text)
        match = _EVERY.fullmatch(text)
        if match is None:
            raise OptionError(f"'{text}' does not choose frames.", hint="Give every, first, middle or every:N.")
        return cls("every", int(match[1] or 1))

    def of_file(self, frames: int) -> Iterable[int]:
        """Return the chosen ones of a file's frames, from 0."""
        if self.which == "first":
            return (0,)
        if self.which == "middle":
            return ((frames - 1) // 2,)
        return range(0, frames, self.step)


@dataclass(frozen=True, slots=True)
class FrameValues:
    """Undecoded values that may differ between frames, and the region of a frame's own anatomy."""

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    image_type: bytes | None
    laterality: bytes | None
    regions: list[Elements]


def count_frames(header: Header, file_bytes: int | None) -> int:
    """Return the number of frames.

    :param file_bytes: the file's size; None if it is compressed as a whole.
    :raises PixelError: when the number is impossible.
    """
    try:
        stated = whole(header.value(tags.FRAMES))
    except ValueError:
        raise PixelError("impossible value", "the number of frames is no number") from None
    frames = 1 if stated is None else stated
    if frames < 1:
        raise PixelError("impossible value", "the number of frames is less than 1")
    if frames > MOST_FRAMES:
        raise PixelError("too many frames", f"the header states more than {MOST_FRAMES:,} frames")
    if file_bytes is not None and frames > 1 and frames * SMALLEST_FRAME > file_bytes:
        raise PixelError("impossible value", f"{frames:,} frames do not fit into a file of {file_bytes:,} bytes")
    return frames


def frame_values(header: Header, frame: int) -> FrameValues:
    """Return what the header says of a frame: its own functional groups, else the shared ones, else the file's own."""
    per_frame, shared = header.items(tags.PER_FRAME), header.items(tags.SHARED)
    groups = [*per_frame[frame : frame + 1], *shared[:1]]

    def value(group: int, tag: int) -> bytes | None:
        for elements in groups:
            for item in items_of(elements, group)[:1]:
                if isinstance(found := item.get(tag), bytes) and found:
                    return found
        return None

    spacing = decimals(
        value(tags.PIXEL_MEASURES, tags.SPACING) or header.value(tags.SPACING) or header.value(tags.DETECTOR_SPACING), 2
    )
    anatomy = [item for elements in groups for item in items_of(elements, tags.FRAME_ANATOMY)]
    return FrameValues(
        position=decimals(value(tags.PLANE_POSITION, tags.POSITION) or header.value(tags.POSITION), 3),
        orientation=decimals(value(tags.PLANE_ORIENTATION, tags.ORIENTATION) or header.value(tags.ORIENTATION), 6),
        spacing=spacing if spacing is not None and min(spacing) > 0 else None,
        image_type=value(tags.MR_FRAME_TYPE, tags.FRAME_TYPE)
        or value(tags.CT_FRAME_TYPE, tags.FRAME_TYPE)
        or header.value(tags.IMAGE_TYPE),
        laterality=value(tags.FRAME_ANATOMY, tags.FRAME_LATERALITY),
        regions=[region for item in anatomy for region in items_of(item, tags.ANATOMIC_REGION)],
    )
