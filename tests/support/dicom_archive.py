"""A small archive of DICOM files: two patients, three studies, files of each kind that an ingest meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from tests.support.dicom_pixels import native

CT, MR, CR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1"
ROOT = "1.2.826.0.1.3680043.8.498."


def pixels(seed: int, *, frames: int = 0) -> NDArray[np.uint16]:
    """Smooth grey values of 12 bits, shape (32, 24), or (frames, 32, 24)."""
    coarse = np.random.default_rng(seed).integers(0, 4096, (max(1, frames), 4, 3)).astype(np.uint16)
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
    return fine if frames else fine[0]


def write(path: Path, seed: int, *, frames: int = 0, **attributes: Any) -> Path:
    """Write one uncompressed file; its pixels and its UIDs come from the seed, unless attributes say otherwise."""
    values: dict[str, Any] = {
        "SOPClassUID": CT, "SOPInstanceUID": f"{ROOT}{seed}.1", "SeriesInstanceUID": f"{ROOT}{seed}.2",
        "StudyInstanceUID": f"{ROOT}{seed}.3", "Modality": "CT", "PatientID": f"P{seed}", "PatientName": "Doe^Jane",
        "StudyDate": "20200102", "PatientAge": "050Y", "PatientSex": "F", "BodyPartExamined": "CHEST",
        "Manufacturer": "SIEMENS", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "BitsStored": 12, "HighBit": 11,
        "WindowCenter": 2048, "WindowWidth": 4096,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        native(pixels(seed, frames=frames), uid.ExplicitVRLittleEndian, **_framed(frames), **(values | attributes))
    )
    return path


def _framed(frames: int) -> dict[str, Any]:
    return {"frames": True} if frames else {}


def archive(folder: Path) -> Path:
    """Six slices of one series, a radiograph, and a file of four frames; returns the folder."""
    for number in range(6):
        write(
            folder / "doe" / f"slice{number}", 10 + number, PatientID="P1", StudyInstanceUID=f"{ROOT}1.3",
            SeriesInstanceUID=f"{ROOT}1.2", InstanceNumber=number,
        )  # fmt: skip
    write(
        folder / "roe" / "chest.dcm", 20, SOPClassUID=CR, Modality="CR", PatientID="P2", PatientSex="M",
        ViewPosition="PA", Laterality="L", BurnedInAnnotation="NO",
    )  # fmt: skip
    write(
        folder / "roe" / "cine",
        30,
        frames=4,
        SOPClassUID=MR,
        Modality="MR",
        PatientID="P2",
        PatientSex="M",
        BodyPartExamined="KNEE",
    )
    return folder
