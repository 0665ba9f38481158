"""Measures how fast `cbirdb ingest dicom` reads headers, beside bare pydicom, and the memory that names of files take.

    python benchmarks/dicom_headers.py --json benchmarks/dicom_headers.json

Both read the same files with the same number of processes, in turn, round by round; the best round of each counts. Bare
pydicom is `dcmread(stop_before_pixels=True)` in a pool of processes, and nothing is done with the result. A ratio of 1.10
means that cbirdb reads 10 % more headers per second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import tracemalloc
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.dicom.find import find_files
from cbirdb.datasets.dicom.reader import DicomReader
from cbirdb.parallel.machine import machine_cpus
from cbirdb.pseudonyms import Pseudonyms

TEXTS = ("StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName", "StationName", "ConvolutionKernel")
NUMBERS = (
    "SliceThickness", "KVP", "DataCollectionDiameter", "ReconstructionDiameter", "GantryDetectorTilt", "TableHeight",
    "ExposureTime", "XRayTubeCurrent", "Exposure", "FocalSpots", "SliceLocation", "WindowCenter", "WindowWidth",
    "RescaleIntercept", "RescaleSlope",
)  # fmt: skip


def write_slice(path: Path, number: int) -> None:
    """Write a CT slice of 64 x 64 pixels with a header of usual size."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.826.0.1.3680043.8.498.{number}"
    made.StudyInstanceUID, made.SeriesInstanceUID = f"1.2.826.0.1.{number // 1000}", f"1.2.826.0.2.{number // 100}"
    made.PatientID, made.PatientName, made.PatientSex, made.PatientAge = f"P{number // 1000}", "Doe^Jane", "F", "045Y"
    made.Modality, made.BodyPartExamined, made.StudyDate = "CT", "CHEST", "20240131"
    made.ImageType, made.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "SIEMENS"
    made.ManufacturerModelName = "SOMATOM Definition AS"
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing = [0.5, 0.5]
    for name in TEXTS:
        setattr(made, name, f"{name} {number}"[:16])
    for name in NUMBERS:
        setattr(made, name, 12)
    for group in (0x0009, 0x0019, 0x0029):
        block = made.private_block(group, "BENCHMARK", create=True)
        for element in range(20):
            block.add_new(element, "LO", f"private {element}")
    made.Rows = made.Columns = 64
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 15, 0, 1
    made.PhotometricInterpretation, made.PixelData = "MONOCHROME2", bytes(8192)
    made.preamble, made.file_meta = bytes(128), FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=False)


def bare(path: str) -> int:
    """Read a header with pydicom, and keep nothing of it."""
    return len(pydicom.dcmread(path, stop_before_pixels=True))


def seconds_of_cbirdb(folder: Path) -> float:
    """Return the seconds for all records of the folder, with the start of the processes."""
    began = time.perf_counter()
    source = DicomReader().open(folder, ReadOptions(pseudonyms=lambda: Pseudonyms(b"k" * 32)))
    assert sum(1 for _ in source.items) == source.total
    return time.perf_counter() - began


def seconds_of_pydicom(folder: Path, processes: int) -> float:
    """Return the seconds for all headers of the folder, with the start of the processes."""
    began = time.perf_counter()
    files = sorted(map(str, folder.iterdir()))
    with multiprocessing.get_context("forkserver").Pool(processes) as pool:
        assert all(pool.imap(bare, files, chunksize=16))
    return time.perf_counter() - began


def bytes_per_name(folder: Path, files: int) -> float:
    """Return the bytes that each name takes while a folder of so many files is read; names have 60 characters."""
    for number in range(files):
        if number % 1000 == 0:
            series = folder / f"{number // 1000:030}"
            series.mkdir()
        (series / f"1.2.826.0.1.3680043.8.498.{number:030}.dcm").touch()
    tracemalloc.start()
    found = find_files(folder, AllowedRoots())
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert found.count == files
    return held / files


def measure(*, files: int = 4000, names: int = 100_000, rounds: int = 3) -> dict[str, float]:
    """Return headers per second, ours and pydicom's, and the memory that names of files take."""
    processes = machine_cpus()
    with tempfile.TemporaryDirectory() as temporary:
        slices, empty = Path(temporary, "slices"), Path(temporary, "names")
        slices.mkdir()
        empty.mkdir()
        for number in range(files):
            write_slice(slices / f"{number:06}.dcm", number)
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(seconds_of_pydicom(slices, processes))
            ours.append(seconds_of_cbirdb(slices))
        return {
            "processes": processes,
            "files": files,
            "cbirdb_headers_per_s": round(files / min(ours)),
            "pydicom_headers_per_s": round(files / min(theirs)),
            "ratio": round(min(theirs) / min(ours), 2),
            "names": names,
            "bytes_per_name": round(bytes_per_name(empty, names)),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(files=options.files, names=options.names, rounds=options.rounds)
    for name, value in result.items():
        print(f"{name:24}{value:>12,}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
