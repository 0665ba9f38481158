"""Lists the classes of phantoms, and writes them as a folder of PNG files."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbirdb.demo.phantoms.anatomy import REGIONS
from cbirdb.demo.phantoms.sketch import Sketch
from cbirdb.errors import InputError
from cbirdb.records import SPLITS, Split

CLASSES: Mapping[str, int] = {
    "XR/chest/normal": 70,
    "XR/chest/Effusion": 44,
    "XR/chest/Cardiomegaly": 40,
    "XR/chest/Pneumothorax": 24,
    "XR/hand/normal": 42,
    "XR/hand/Fracture": 12,
    "CT/abdomen/normal": 44,
    "CT/abdomen/Cyst": 16,
    "CT/head/normal": 40,
    "CT/head/Haemorrhage": 22,
    "MR/brain/normal": 30,
    "MR/brain/Tumour": 16,
    "MR/knee/normal": 26,
    "MR/knee/Oedema": 8,
    "US/breast/Cyst": 20,
    "US/breast/Tumour": 10,
    "US/thyroid/normal": 14,
    "US/thyroid/Nodule": 6,
}
"""Label path -> number of images over all splits, at least 2. A new finding is also drawn in its region's function."""


def write_phantoms(root: Path, *, seed: int = 0) -> int:
    """Write ``root/<split>/<modality>/<region>/<finding>/<finding>-0001.png`` for all of ``CLASSES``.

    The pictures are 8-bit grey, 128 x 128. The same seed gives the same bytes. An existing file stays unchanged,
    whatever its seed, so that the next run completes an interrupted one.

    :returns: the number of images in the whole set, written now or earlier.
    :raises InputError: when a folder or file cannot be written, or ``seed`` is negative.
    """
    if seed < 0:
        raise InputError(f"The seed must be 0 or more, not {seed}.")
    count = 0
    try:
        for label, total in CLASSES.items():
            for split in SPLITS:
                (root / split / label).mkdir(parents=True, exist_ok=True)
            for number, split in enumerate(_splits(total), start=1):
                target = root / split / label / f"{label.rpartition('/')[2]}-{number:04}.png"
                if not target.exists():
                    _write_png(target, _draw(label, number, seed))
                count += 1
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"The phantoms cannot be written to {root}: {reason}.", hint="Choose another folder."
        ) from error
    return count


def _splits(total: int) -> Iterator[Split]:
    """Yield the split of each image of a class: about 70 % train, 10 % val, 20 % test, in this order."""
    test = max(1, round(0.2 * total))
    val = round(0.1 * total)
    for number in range(total):
        yield "train" if number < total - val - test else "val" if number < total - test else "test"


def _write_png(target: Path, pixels: NDArray[np.uint8]) -> None:
    """Write under another name first, so that a kill leaves no partial picture; readers skip hidden files."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(png.getvalue())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _draw(label: str, number: int, seed: int) -> NDArray[np.uint8]:
    """Draw one picture, shape (SIDE, SIDE), which depends only on its own label, number and the seed."""
    region, _, finding = label.rpartition("/")
    rng = np.random.default_rng([seed, zlib.crc32(label.encode()), number])
    sketch = Sketch(rng)
    REGIONS[region](sketch, finding)
    # Apply a window, the reader's choice of brightness and contrast. Black stays black.
    pixels = rng.uniform(0.88, 1.12) * np.clip(sketch.pixels, 0, None) ** rng.uniform(0.75, 1.3)
    levels: NDArray[np.uint8] = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return levels
