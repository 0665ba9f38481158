"""Makes the inputs of the chaos: pictures, patients, and vectors in the paper's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cbirdb.demo.phantoms import write_phantoms
from tests.conftest import picture_bytes, write_csv
from tests.support.official_layouts import NIH_HEADER
from tests.support.published_vectors import write

PATIENTS, IMAGES_EACH = 75, 4
PUBLISHED, DIM, CLASSES = 12_000, 24, 12
"""Enough for three batches of an ingest and of an import."""
MANY = 8_000
"""Of them: enough for an evaluation by products of matrices. The rest is evaluated by scans."""


def write_inputs(folder: Path) -> None:
    """Write the folders ``phantoms`` and ``nih``, and ``published.csv`` with ``published.h5``."""
    write_phantoms(folder / "phantoms")
    damaged = next((folder / "phantoms" / "train").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:-200])
    _write_patients(folder / "nih")
    _write_published(folder)


def _write_patients(root: Path) -> None:
    """Patients with several studies each, in the layout of NIH ChestX-ray14."""
    (root / "images").mkdir(parents=True)
    lines, test = [NIH_HEADER.format(sex="Sex")], []
    for number in range(PATIENTS * IMAGES_EACH):
        patient, follow_up = divmod(number, IMAGES_EACH)
        name = f"{patient + 1:08}_{follow_up:03}.png"
        finding = ("Effusion", "Hernia", "No Finding", "Effusion|Mass")[patient % 4]
        sex = "FM"[patient % 2]
        lines.append(f"{name},{finding},{follow_up},{patient + 1},{40 + patient},{sex},PA,48,40,0.143,0.143")
        (root / "images" / name).write_bytes(picture_bytes(number))
        if patient % 3 == 0:
            test.append(name)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    (root / "test_list.txt").write_text("\n".join(test) + "\n")
    rest = [line.partition(",")[0] for line in lines[1:]]
    (root / "train_val_list.txt").write_text("\n".join(name for name in rest if name not in test) + "\n")


def _write_published(folder: Path) -> None:
    """Vectors around a centre for each class; the last image has none, and the last vector no image."""
    rng = np.random.default_rng(11)
    classes = rng.integers(0, CLASSES, PUBLISHED)
    vectors = rng.normal(size=(CLASSES, DIM))[classes] + rng.normal(scale=0.8, size=(PUBLISHED, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"published/images/{number:06}.png" for number in range(PUBLISHED)]
    rows: list[dict[str, object]] = [
        {
            "filepath": name, "dataset": "many" if number < MANY else "few", "split": "test" if number % 5 == 0 else "train",
            "modality": "XR", "anatomic_region": "chest",
        } | {f"XR/chest/class {label}": int(label == classes[number]) for label in range(CLASSES)}
        for number, name in enumerate(names)
    ]  # fmt: skip
    write_csv(folder / "published.csv", rows)
    given = dict(zip([*names[:-1], "published/images/unknown.png"], vectors, strict=True))
    write(folder / "published.h5", given)
