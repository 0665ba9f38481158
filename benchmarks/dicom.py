"""Measures headers per second, memory at 100,000 files, and decoded images per second by transfer syntax: cbirdb beside
bare pydicom and bare decoders, in turn.

    python benchmarks/dicom.py --json benchmarks/dicom.json

*Decoded* is the part that bare pydicom does as well: parse the file, decode the frame to stored values (`pixel_array`), from
compressed data beside the bare decoder, which gets the codestream and parses nothing. *Shown* is everything: also the
hash of the pixels, the window, 8-bit RGB; beside pydicom with its modality and VOI LUT, scaled to 8-bit RGB, without a
hash. The pictures are seeded, 512 x 512; grey ones have 12 bits and a window. A ratio of 1.10 means 10 % more images per
second than the peer.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_headers import measure as measure_headers
from PIL import Image
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels import refuse
from cbirdb.pixels.dicom import decode_dicom
from cbirdb.pixels.dicom.colour import canonical
from cbirdb.pixels.dicom.file import parse
from cbirdb.pixels.dicom.frames import read_frame
from cbirdb.pixels.dicom.header import read_header
from tests.support.dicom_pixels import ENCODERS, UNCOMPRESSED, compressed, native

Way = Callable[[bytes], object]


def radiograph(side: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return a smooth 12-bit picture with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int32) * 16
    return np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 4095).astype(np.uint16)


def files() -> dict[str, bytes]:
    """Return a file of each transfer syntax, grey where it holds 12 bits, and some in colour."""
    grey = radiograph(512, 1)
    eight = (grey >> 4).astype(np.uint8)
    colour = np.stack([eight, eight[::-1], eight[:, ::-1]], -1)
    made = {}
    for syntax in (*UNCOMPRESSED, *ENCODERS):
        write = native if syntax in UNCOMPRESSED else compressed
        window = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": -24}
        name = str(uid.UID(syntax).name)
        made[f"{name}, grey"] = (
            write(eight, syntax, WindowCenter=120, WindowWidth=200)
            if syntax == uid.JPEGBaseline8Bit
            else write(grey, syntax, BitsStored=12, **window)
        )
        if syntax in (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEG2000Lossless):
            made[f"{name}, colour"] = write(colour, syntax)
    return made


def decoded(data: bytes) -> object:
    """Parse and decode as cbirdb does."""
    parsed = parse(data, MAX_PIXELS, refuse)
    header = read_header(parsed, MAX_PIXELS)
    return canonical(read_frame(parsed, header, 0, refuse), header)


def by_pydicom(data: bytes) -> object:
    """Parse and decode."""
    return pydicom.dcmread(io.BytesIO(data)).pixel_array


def displayed_by_pydicom(data: bytes) -> object:
    """Parse, decode and show."""
    found = pydicom.dcmread(io.BytesIO(data))
    values = found.pixel_array
    if found.SamplesPerPixel == 1:
        values = apply_voi_lut(apply_modality_lut(values, found), found)
        low, high = values.min(), values.max()
        values = np.rint((values - low) * (255.0 / max(1e-9, high - low))).astype(np.uint8)
    return Image.fromarray(values).convert("RGB")


def bare_decoder(data: bytes) -> Way | None:
    """Return a call of the codec on the file's codestream; None for uncompressed pixels."""
    found = pydicom.dcmread(io.BytesIO(data))
    syntax = found.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return None
    stream = get_frame(found.PixelData, 0, number_of_frames=1)
    if syntax == uid.RLELossless:
        from rle.utils import decode_pixel_data as decode_rle

        size = {"rows": found.Rows, "columns": found.Columns, "bits_allocated": found.BitsAllocated}
        return lambda _: decode_rle(stream, version=2, **size)
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        from jpeg_ls import decode_pixel_data as decode_jpeg_ls

        return lambda _: decode_jpeg_ls(stream)
    if syntax == uid.JPEGBaseline8Bit:
        from simplejpeg import decode_jpeg

        return lambda _: decode_jpeg(stream, "GRAY" if found.SamplesPerPixel == 1 else "RGB")
    if syntax in (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1):
        from imagecodecs import jpeg8_decode

        return lambda _: jpeg8_decode(stream)
    from openjpeg.utils import decode_pixel_data as decode_jpeg_2000

    return lambda _: decode_jpeg_2000(stream, version=2)


def seconds(way: Way, data: bytes) -> float:
    """Return the processor time of one call, which other processes disturb less than the wall time.

    A call before it brings its code and data into the caches, which the other ways have emptied.
    """
    way(data)
    began = time.process_time()
    way(data)
    return time.process_time() - began


def measure(data: bytes, rounds: int) -> dict[str, float]:
    """Return images per second by way; ways that cannot decode the file are left out."""
    ways: dict[str, Way] = {
        "decoded": decoded,
        "shown": decode_dicom,
        "pydicom": by_pydicom,
        "pydicom, shown": displayed_by_pydicom,
    }
    if (bare := bare_decoder(data)) is not None:
        ways["decoder"] = bare
    possible = {}
    for name, way in ways.items():
        try:
            way(data)
        except (RuntimeError, NotImplementedError):  # pydicom alone has no decoder for 12-bit and lossless JPEG
            continue
        possible[name] = way
    times: dict[str, list[float]] = {name: [] for name in possible}
    for _ in range(rounds):
        for name, way in possible.items():
            times[name].append(seconds(way, data))
    return {name: 1 / max(1e-9, min(found)) for name, found in times.items()}


def main() -> None:
    """Measure and print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="Only transfer syntaxes with this in their name, without headers.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    if not options.only:
        results["headers"] = measure_headers()
        print(*(f"{name}: {value:,}" for name, value in results["headers"].items()), sep="\n", end="\n\n")
    pairs = (("decoded", "pydicom"), ("decoded", "decoder"), ("shown", "pydicom, shown"))
    heads = ("decoded/s", "bare pydicom", "ratio", "bare decoder", "ratio", "shown/s", "pydicom, shown", "ratio")
    print(f"| transfer syntax | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name, data in files().items():
        if options.only not in name:
            continue
        rates = measure(data, options.rounds)
        results[name] = {way: round(rate, 1) for way, rate in rates.items()}
        cells = [
            f"{rates[peer]:,.0f} | {rates[ours] / rates[peer]:.2f}" if peer in rates else "- | -"
            for ours, peer in pairs
        ]
        cells.insert(2, f"{rates['shown']:,.0f}")
        print(f"| {name} | {rates['decoded']:,.0f} | {' | '.join(cells)} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
