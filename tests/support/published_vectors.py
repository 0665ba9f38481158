"""Small HDF5 files in the authors' form, and the images that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psycopg
from numpy.typing import NDArray

from tests.support.stored_pictures import unit as unit_vectors

DIM = 6
NAMES = [f"nih14/images_{n % 3:03}/{n:08}.png" for n in range(10)]


def unit(number: int = len(NAMES), *, dim: int = DIM) -> NDArray[np.float32]:
    return unit_vectors(number, seed=7, dim=dim)


def write(path: Path, vectors: Mapping[str, Any]) -> Path:
    """One HDF5 dataset per image, named by its path; slashes make groups."""
    with h5py.File(path, "w") as file:
        for name, vector in vectors.items():
            file.create_dataset(name, data=vector)
    return path


def add_images(connection: psycopg.Connection, dataset: str, names: list[str]) -> None:
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'paper-csv')", [dataset])
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split) SELECT dataset_id, unnest(%s::text[]), 'train'"
        " FROM cbir.dataset WHERE name = %s",
        [names, dataset],
    )
