"""Measures the cost of decoders that report damage: cbirdb's decoding beside Pillow's alone, in pairs.

    python benchmarks/decoding.py --json benchmarks/decoding.json

Every picture is decoded both ways in turn, round by round; for each way the best round of each picture counts. Real
pictures come from `../shared/data`, if it exists; the others are seeded. A ratio of 1.10 means 10 % more.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cbirdb.pixels.raster import decode

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_SETS = {
    "JPEG, real, 64 x 64": "medical_mnist/**/*.jpeg",
    "JPEG, real, 224 x 224": "busi/**/*.jpg",
    "PNG, real, 224 x 224": "nih14/**/*.png",
}


def radiograph(side: int, seed: int) -> Image.Image:
    """Return a smooth picture with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8))


def real_radiographs(count: int) -> list[Image.Image]:
    """Return real ones of 224 x 224 and, first, 49 of them side by side; none without `../shared/data`."""
    paths = sorted(REAL.glob(REAL_SETS["PNG, real, 224 x 224"]))
    small = [Image.open(path).convert("L") for path in paths[: max(count, 49)]]
    large = Image.new("L", (7 * 224, 7 * 224))
    for place, picture in enumerate(small[:49]):
        large.paste(picture, (place % 7 * 224, place // 7 * 224))
    return [large, *small[:count]] if small else []


def picture_sets(count: int, only: str) -> dict[str, list[bytes]]:
    """Return files by kind."""
    sets = {
        name: [path.read_bytes() for path in sorted(REAL.glob(pattern))[:count]] for name, pattern in REAL_SETS.items()
    }
    large = [radiograph(1600, seed) for seed in range(3)]
    colour = Image.merge("RGB", large)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1600, 1600), dtype=np.uint8))
    runs = noise.resize((400, 1600)).resize((1600, 1600), Image.Resampling.NEAREST)
    real = real_radiographs(count)
    deep = [Image.fromarray(np.asarray(picture).astype(np.uint16) * 16) for picture in large]
    for name, pictures, how in (
        ("JPEG, grey, 1600 x 1600", large, {"format": "JPEG", "quality": 90}),
        ("JPEG, colour, 1600 x 1600", [colour], {"format": "JPEG", "quality": 90}),
        ("JPEG, progressive, 1600 x 1600", [colour], {"format": "JPEG", "quality": 90, "progressive": True}),
        ("PNG, grey, 1600 x 1600", large, {"format": "PNG"}),
        ("PNG, 16 bit, 1600 x 1600", deep, {"format": "PNG"}),
        ("PNG, colour, 1600 x 1600", [colour], {"format": "PNG"}),
        ("TIFF, uncompressed, 16 bit", deep, {"format": "TIFF"}),
        ("TIFF, LZW, 16 bit", deep, {"format": "TIFF", "compression": "tiff_lzw"}),
        ("TIFF, deflate, 16 bit", deep, {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        ("TIFF, PackBits", large, {"format": "TIFF", "compression": "packbits"}),
        ("TIFF, PackBits, noise alone", [noise], {"format": "TIFF", "compression": "packbits"}),
        ("TIFF, PackBits, short runs", [runs], {"format": "TIFF", "compression": "packbits"}),
        ("TIFF, PackBits, real, 1568 x 1568", real[:1], {"format": "TIFF", "compression": "packbits"}),
        ("TIFF, PackBits, real, 224 x 224", real[1:], {"format": "TIFF", "compression": "packbits"}),
        ("TIFF, JPEG", large, {"format": "TIFF", "compression": "jpeg"}),
        ("TIFF, JPEG, colour", [colour], {"format": "TIFF", "compression": "jpeg"}),
        ("TIFF, JPEG, real, 1568 x 1568", real[:1], {"format": "TIFF", "compression": "jpeg"}),
        ("TIFF, JPEG, real, 224 x 224", real[1:], {"format": "TIFF", "compression": "jpeg"}),
    ):
        files = []
        for picture in pictures:
            buffer = io.BytesIO()
            picture.save(buffer, **how)
            files.append(buffer.getvalue())
        sets[name] = files
    return {name: files for name, files in sets.items() if files and (not only or only in name)}


def by_pillow(data: bytes) -> None:
    """Decode as Pillow's users do."""
    Image.open(io.BytesIO(data)).load()


def seconds(way: Callable[[bytes], object], data: bytes) -> float:
    """Return the processor time of one call, which other processes disturb less than the wall time."""
    began = time.process_time()
    way(data)
    return time.process_time() - began


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=100, help="Real pictures of each kind.")
    parser.add_argument("--only", default="", help="Only pictures whose kind has this in its name.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    print(f"| pictures | ratio to Pillow alone | ms a picture | Pillow alone |\n|{'---|' * 4}")
    for name, files in picture_sets(options.count, options.only).items():
        pairs = []
        for data in files:
            rounds = [(seconds(decode, data), seconds(by_pillow, data)) for _ in range(options.rounds)]
            pairs.append((min(ours for ours, _ in rounds), min(theirs for _, theirs in rounds)))
        ours, theirs = (statistics.fmean(times) * 1000 for times in zip(*pairs, strict=True))
        results[name] = {"ratio": round(ours / theirs, 3), "ms": round(ours, 3), "pillow_ms": round(theirs, 3)}
        print(f"| {name} | {ours / theirs:.2f} | {ours:.3f} | {theirs:.3f} |")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
