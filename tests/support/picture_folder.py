"""Writes folders of small pictures, one folder per class."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import picture_bytes


def write_pictures(root: Path, count: int, *, classes: int) -> Path:
    """Write pictures whose names say their number, spread over the classes in turn; return the folder."""
    for number in range(count):
        path = root / f"class {number % classes}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number))
    return root
