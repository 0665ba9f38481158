"""Tables that are not what their names promise: of other people's making, damaged, or with a column that stands twice."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.registry import READERS, open_dataset
from tests.conftest import picture_bytes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", b"id,label\n1,a\n"),
        ("train.csv", b""),
        ("train.csv", b"Path\n"),
        ("train.csv", b"Path\nelsewhere/a.png\n"),
        ("train.csv", "Path,Name\na,Müller\n".encode("latin-1")),
        ("train.csv", b"Path\n" + b"x" * 200_000),
        ("train.csv.gz", b"no gzip at all"),
        ("train.csv.gz", gzip.compress(b"Path\na\n" * 1000)[:40]),
        ("train.csv.gz", gzip.compress(b"Path\n" + os.urandom(4000).hex().encode())[:-2000] + bytes(2000)),
        ("z.csv", "filepath,dataset,Größe\n".encode("latin-1")),
    ],
    ids=["other", "empty", "no rows", "other paths", "latin-1", "long", "no gzip", "cut", "damaged", "paper"],
)
def test_any_table_may_lie_in_a_folder_of_classes(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "nodule").mkdir()
    (tmp_path / "nodule" / "a.png").write_bytes(picture_bytes(1))
    (tmp_path / name).write_bytes(content)
    source = open_dataset("folder", tmp_path, ReadOptions())
    assert source.total == 2
    assert not any(reader.recognises(tmp_path) for reader in READERS.values())
