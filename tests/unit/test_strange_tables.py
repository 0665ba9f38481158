"""Read folders whose tables are foreign, damaged, or have a column twice."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.registry import READERS, open_dataset
from cbirdb.errors import InputError
from tests.conftest import picture_bytes
from tests.support.official_layouts import write_chexpert, write_mimic, write_nih14


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
def test_folder_reader_accepts_any_table_beside_the_class_folders(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "nodule").mkdir()
    (tmp_path / "nodule" / "a.png").write_bytes(picture_bytes(1))
    (tmp_path / name).write_bytes(content)
    source = open_dataset("folder", tmp_path, ReadOptions())
    assert source.total == 2
    assert not any(reader.recognises(tmp_path) for reader in READERS.values())


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _damaged(data: bytes) -> bytes:
    return data[:10] + b"\xff" * 16 + data[26:]  # the first block after gzip's header is of no known kind


@pytest.mark.parametrize("spoil", [_cut, _damaged, lambda _: b"no gzip at all"], ids=["cut", "damaged", "no gzip"])
@pytest.mark.parametrize("table", ["mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-chexpert.csv.gz"])
def test_damaged_table_is_refused_with_the_advice_to_fetch_it_again(
    tmp_path: Path, spoil: Callable[[bytes], bytes], table: str
) -> None:
    root = write_mimic(tmp_path / "mimic")
    (root / table).write_bytes(spoil((root / table).read_bytes()))
    with pytest.raises(InputError, match="cannot be read to its end") as refused:
        list(open_dataset("mimic-cxr", root, ReadOptions()).items)
    assert table in str(refused.value)
    assert "Download it again" in str(refused.value)


def test_needed_column_that_appears_twice_is_refused(tmp_path: Path) -> None:
    folder = write_chexpert(tmp_path)
    table = folder / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",Edema", *[line + ",0.0" for line in lines[1:]]]) + "\n")
    with pytest.raises(InputError, match=r"train\.csv has the column Edema twice"):
        list(open_dataset("chexpert", folder, ReadOptions()).items)


def test_unneeded_column_may_appear_twice(tmp_path: Path) -> None:
    root = write_nih14(tmp_path / "nih", old=True)  # every line ends with a comma
    table = root / "Data_Entry_2017.csv"
    table.write_text("".join(f"{line},\n" for line in table.read_text().splitlines()))
    assert len(list(open_dataset("nih14", root, ReadOptions()).items)) == 6


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt"])
def test_list_of_names_in_another_encoding_is_refused_by_its_file_name(tmp_path: Path, name: str) -> None:
    root = write_nih14(tmp_path / "nih")
    (root / name).write_bytes(b"a.png\n\xff\xfe\n")
    with pytest.raises(InputError, match=rf"{name} cannot be read to its end: .*utf-8"):
        open_dataset("nih14", root, ReadOptions())
