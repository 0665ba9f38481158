"""Reading a frame takes a bounded multiple of the file or less; each measurement runs in a process of its own."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_HELD
from cbirdb.pixels import read_picture, source
from cbirdb.pixels.dicom import decode_dicom, forget
from cbirdb.pixels.dicom import file as dicom_file
from tests.support.dicom_pixels import encoded, image, native, smooth

SIDE, FRAMES = 512, 256
SIZE = SIDE * SIDE * 2 * FRAMES
"""128 MiB of pixels, half a megabyte a frame."""
PROGRAM = """
import resource, sys
from pathlib import Path
from cbirdb.pixels import read_picture, source
small, path, member, held = sys.argv[1:]
source.LARGEST_HELD = int(held)
read_picture(Path(small))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for frame in (0, 100, 255):
    read_picture(Path(path), member=member or None, frame=frame)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.fixture
def cine(tmp_path: Path) -> Path:
    """A file of 256 frames, of which the disk holds only the header."""
    small = native(smooth(SIDE, SIDE), NumberOfFrames=FRAMES)
    header = small[: small.index(b"\xe0\x7f\x10\x00OW") + 8]
    path = tmp_path / "cine.dcm"
    path.write_bytes(header + struct.pack("<I", SIZE))
    with path.open("r+b") as file:
        file.truncate(len(header) + 4 + SIZE)
    return path


def peak(path: Path, member: str = "", held: int = LARGEST_HELD) -> int:
    """Bytes of memory that three frames of a file take beyond those of a small file."""
    small = path.with_name("small.dcm")
    small.write_bytes(native(smooth(SIDE, SIDE)))
    command = [sys.executable, "-c", PROGRAM, small, path, member, str(held)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_of_a_large_file_only_the_wanted_frames_take_memory(cine: Path) -> None:
    assert peak(cine, held=16 << 20) < SIZE / 4


def test_members_of_a_zip_take_their_size_once(cine: Path) -> None:
    path = cine.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.write(cine, "a/one.dcm")
    assert peak(path, "a/one.dcm") < SIZE * 1.2 + (16 << 20)


def test_large_file_has_the_pixels_and_the_hash_of_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, copy = tmp_path / "one.dcm", tmp_path / "two.dcm"
    data = native(np.stack([smooth(), smooth()[::-1]]), frames=True)
    path.write_bytes(data)
    copy.write_bytes(data)
    held = read_picture(path, frame=1)
    monkeypatch.setattr(source, "LARGEST_HELD", 1000)
    mapped = read_picture(copy, frame=1)
    assert not isinstance(source.read_source(copy), bytes)
    assert mapped.frame == held.frame
    assert mapped.picture.tobytes() == held.picture.tobytes()


def test_deflated_data_set_is_bounded_together_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = native(smooth(), uid.DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    inflated = len(zlib.decompress(data[start:], -zlib.MAX_WBITS))
    monkeypatch.setattr(dicom_file, "LARGEST_HELD", inflated + len(data) - start)
    decode_dicom(data)
    for bound in (inflated + len(data) - start - 1, 10):
        monkeypatch.setattr(dicom_file, "LARGEST_HELD", bound)
        forget()
        with pytest.raises(PixelError) as caught:
            decode_dicom(data)
        assert caught.value.reason == "too large"


def test_floating_point_values_are_ranked_in_one_copy() -> None:
    values = np.random.default_rng(1).standard_normal((4000, 2000), np.float32)
    made = image(values.view(np.uint32))
    made.add_new("FloatPixelData", "OF", values.tobytes())
    data = encoded(made, uid.ExplicitVRLittleEndian)
    tracemalloc.start()
    decode_dicom(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * values.size + (64 << 20)  # blocks of a million pixels
