"""Read HDF5 files with one array per image."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cbirdb.ingest import hdf5
from cbirdb.ingest.hdf5 import LARGEST_CACHE, SMALLEST_CACHE, count_leaves, leaves, open_file, read_vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.h5"
    with h5py.File(path, "w") as file:
        for number in range(300):
            file.create_dataset(f"group/{number:0200}", data=np.full(4, number, np.float32))
    return path


def test_cache_grows_with_the_names_and_every_vector_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SMALLEST_CACHE", 1 << 20)
    with open_file(path) as file:
        assert file.id.get_mdc_config().max_size == 1 << 20
        found = list(leaves(file))
        assert file.id.get_mdc_config().max_size > (1 << 20) + 300 * 200
        vectors, problems = read_vectors(file, found, 4)
    assert problems == {}
    assert vectors[:, 0].tolist() == list(range(300))
    assert count_leaves(path) == 300


def test_cache_grows_to_its_largest_size_and_no_further(path: Path) -> None:
    with open_file(path) as file:
        assert file.id.get_mdc_config().max_size == SMALLEST_CACHE
        hdf5._fit_cache(file["group"].id, [b"n" * 64] * 2_000_000)
        assert file.id.get_mdc_config().max_size == LARGEST_CACHE
