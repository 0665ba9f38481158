"""Measures headers per second, memory at 100,000 files, and decoded images per second by transfer syntax: cbirdb beside
bare pydicom and bare decoders, in turn.

    python benchmarks/dicom.py --json benchmarks/dicom.json

*Decoded* is the part that bare pydicom does as well: parse the file, decode the frame to stored values (`pixel_array`), from
compressed data beside the bare decoder. That is the library that cbirdb uses: it gets the codestream, parses no file, and
gives an array of the same shape. *Shown* is everything: also the hash of the pixels, the window, 8-bit RGB; beside pydicom
with its modality and VOI LUT, scaled to 8-bit RGB, without a hash. The pictures are seeded squares of two sizes, a slice's
and a radiograph's; grey ones have 12 bits and a window. Headers have 110 elements, as those of hospitals. A ratio of 1.10
means 10 % more images per second than the peer. pydicom needs the extra `bench` for RLE and JPEG 2000.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_headers import NUMBERS, TEXTS
from dicom_headers import measure as measure_headers
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cbirdb.limits import MAX_PIXELS
from cbirdb.pixels import refuse
from cbirdb.pixels.dicom import decode_dicom, forget
from cbirdb.pixels.dicom.colour import canonical
from cbirdb.pixels.dicom.file import parse
from cbirdb.pixels.dicom.frames import read_frame
from cbirdb.pixels.dicom.header import read_header
from tests.support.dicom_pixels import ENCODERS, UNCOMPRESSED, compressed, encoded, native

SIDES = (512, 2048)
"""Pixels of a side: a slice, a radiograph."""
Way = Callable[[bytes], object]


def radiograph(side: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return a smooth 12-bit picture with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int32) * 16
    return np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 4095).astype(np.uint16)


def with_usual_header(data: bytes) -> bytes:
    """Return the file with as many more elements as hospitals' files have."""
    made = pydicom.dcmread(io.BytesIO(data))
    made.StudyInstanceUID, made.SeriesInstanceUID, made.StudyDate = "1.2.826.0.1.1", "1.2.826.0.1.2", "20240131"
    made.PatientID, made.PatientName, made.PatientSex, made.PatientAge = "P1", "Doe^Jane", "F", "045Y"
    made.ImageType, made.Manufacturer, made.PixelSpacing = ["ORIGINAL", "PRIMARY"], "SIEMENS", [0.5, 0.5]
    for name in TEXTS:
        setattr(made, name, name[:16])
    for name in (name for name in NUMBERS if name not in made):
        setattr(made, name, 12)
    for group in (0x0009, 0x0019, 0x0029):
        block = made.private_block(group, "BENCHMARK", create=True)
        for element in range(20):
            block.add_new(element, "LO", f"private {element}")
    if made.SamplesPerPixel == 3:  # the window is for grey values
        del made.WindowCenter, made.WindowWidth, made.RescaleSlope, made.RescaleIntercept
    return encoded(made, made.file_meta.TransferSyntaxUID)


def files(side: int) -> dict[str, bytes]:
    """Return a file of each transfer syntax, grey where it holds 12 bits, and some in colour."""
    grey = radiograph(side, 1)
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
    return {name: with_usual_header(data) for name, data in made.items()}


def decoded(data: bytes) -> object:
    """Parse and decode as cbirdb does."""
    parsed = parse(data, MAX_PIXELS, refuse)
    header = read_header(parsed, MAX_PIXELS)
    return canonical(read_frame(parsed, header, 0, refuse), header)


def shown(data: bytes) -> object:
    """Do everything, as if no frame of the file had been decoded before."""
    forget()
    return decode_dicom(data)


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
    size = (found.Rows, found.Columns) if found.SamplesPerPixel == 1 else (found.Rows, found.Columns, 3)
    kind = f"u{found.BitsAllocated // 8}"
    if syntax == uid.RLELossless:
        return lambda _: bare_rle(stream, found, size)
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        from jpeg_ls import decode_pixel_data as decode_jpeg_ls

        return lambda _: np.frombuffer(decode_jpeg_ls(stream)[0], kind).reshape(size)
    if syntax == uid.JPEGBaseline8Bit:
        from simplejpeg import decode_jpeg

        return lambda _: decode_jpeg(stream, "GRAY" if found.SamplesPerPixel == 1 else "RGB").reshape(size)
    if syntax in (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1):
        from imagecodecs import jpeg8_decode

        return lambda _: jpeg8_decode(stream)
    from openjpeg.utils import decode_pixel_data as decode_jpeg_2000

    return lambda _: np.frombuffer(decode_jpeg_2000(stream, version=2), kind).reshape(size)


def bare_rle(stream: bytes, found: Dataset, size: tuple[int, ...]) -> object:
    """Decode the segments with imagecodecs, and put their bytes together without any check."""
    from imagecodecs import packbits_decode

    count, *places = struct.unpack_from("<16I", stream)
    pixels = found.Rows * found.Columns
    planes = [
        np.frombuffer(packbits_decode(stream[start:end], out=pixels), np.uint8)
        for start, end in pairwise([*places[:count], len(stream)])
    ]
    if found.BitsAllocated == 8:
        return (planes[0] if count == 1 else np.stack(planes, -1)).reshape(size)
    values = planes[0].astype("<u2")
    values <<= 8
    values |= planes[1]
    return values.reshape(size)


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
        "shown": shown,
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


HEADS = ("decoded/s", "bare pydicom", "ratio", "bare decoder", "ratio", "shown/s", "pydicom, shown", "ratio")
HEAD = f"| transfer syntax | {' | '.join(HEADS)} |\n|{'---|' * (len(HEADS) + 1)}"


def row(name: str, rates: dict[str, float]) -> str:
    """Return a row of the table."""
    cells = [
        f"{rates[peer]:,.0f} | {rates[ours] / rates[peer]:.2f}" if peer in rates else "- | -"
        for ours, peer in (("decoded", "pydicom"), ("decoded", "decoder"), ("shown", "pydicom, shown"))
    ]
    cells.insert(2, f"{rates['shown']:,.0f}")
    return f"| {name} | {rates['decoded']:,.0f} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="Of 512 x 512 pixels; larger pictures take fewer.")
    parser.add_argument("--side", type=int, action="append", help="Only pictures with so many pixels a side.")
    parser.add_argument("--only", default="", help="Only transfer syntaxes with this in their name, without headers.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    if not options.only:
        results["headers"] = measure_headers()
        print(*(f"{name}: {value:,}" for name, value in results["headers"].items()), sep="\n", end="\n\n")
    for side in options.side or SIDES:
        print(f"\n{side} x {side}\n\n{HEAD}")
        for name, data in files(side).items():
            if options.only in name:
                rates = measure(data, max(3, options.rounds * SIDES[0] // side))
                results[f"{name}, {side}"] = {way: round(rate, 2) for way, rate in rates.items()}
                print(row(name, rates), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
