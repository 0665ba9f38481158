"""Read the authors' CSV files: each cell becomes a value, each mistake a failure with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbirdb.datasets import paper_csv
from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.paper_csv import PaperCsvReader
from cbirdb.errors import InputError
from cbirdb.records import DatasetItem, Failure, ImageRecord

HEADER = "filepath,dataset,split,modality,anatomic_region,XR/chest/Pneumonia,XR/chest/Normal"


def read(path: Path, **options: object) -> list[DatasetItem]:
    return list(PaperCsvReader().open(path, ReadOptions(**options)).items)


def rows(tmp_path: Path, *lines: str, header: str = HEADER, **options: object) -> list[DatasetItem]:
    """Read a file of this header and these lines."""
    path = tmp_path / "data.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return read(path, **options)


def failure(items: list[DatasetItem]) -> Failure:
    """Return the one item, which must be a failure."""
    (item,) = items
    assert isinstance(item, Failure)
    return item


def test_row_becomes_a_record(tmp_path: Path) -> None:
    assert rows(tmp_path, "a/1.png,NIH14,test,XR,chest,1,0") == [
        ImageRecord("NIH14", "a/1.png", None, "test", False, "XR", "chest", {"XR/chest/Pneumonia": 1})
    ]


def test_each_file_of_a_folder_has_its_own_label_columns(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(f"{HEADER}\nb.png,B,train,XR,chest,0,1\n")
    (tmp_path / "a.csv").write_text("filepath,dataset,split,modality,anatomic_region,CT/Cyst\na.png,A,val,CT,,1.0\n")
    (tmp_path / "notes.txt").write_text("not a CSV file")
    source = PaperCsvReader().open(tmp_path, ReadOptions())
    assert source.total == 2
    items = list(source.items)
    assert [(i.dataset, i.source, dict(i.labels)) for i in items if isinstance(i, ImageRecord)] == [
        ("A", "a.png", {"CT/Cyst": 1}),
        ("B", "b.png", {"XR/chest/Normal": 1}),
    ]


def test_csv_files_in_the_subfolder_datasets_are_found(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "a.csv").write_text(f"{HEADER}\na.png,A,train,XR,chest,0,1\n")
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("1", 1), ("1.0", 1), (" 1 ", 1), ("-1", -1), ("-1.0", -1), ("0", None), ("0.0", None), ("-0", None), ("", None)],
)
def test_label_cell_is_read_in_every_spelling_of_its_number(tmp_path: Path, cell: str, expected: int | None) -> None:
    (item,) = rows(tmp_path, f"a.png,A,train,XR,chest,{cell},1")
    assert isinstance(item, ImageRecord)
    assert item.labels.get("XR/chest/Pneumonia") == expected
    assert item.labels["XR/chest/Normal"] == 1


@pytest.mark.parametrize("cell", ["2", "0.5", "yes", "nan", "1,0", "inf"])
def test_other_label_value_is_a_failure_that_names_value_and_column(tmp_path: Path, cell: str) -> None:
    found = failure(rows(tmp_path, f'a.png,A,train,XR,chest,"{cell}",1'))
    assert (found.source, found.dataset, found.reason, found.line) == ("a.png", "A", "wrong label value", 2)
    assert f"'{cell}'" in found.detail
    assert "XR/chest/Pneumonia" in found.detail


@pytest.mark.parametrize(
    ("cell", "split"),
    [("train", "train"), ("val", "val"), ("validate", "val"), ("valid", "val"), ("Test", "test"), (" train ", "train")],
)
def test_split_is_read_in_the_spellings_of_the_published_files(tmp_path: Path, cell: str, split: str) -> None:
    (item,) = rows(tmp_path, f"a.png,A,{cell},XR,chest,0,1")
    assert isinstance(item, ImageRecord)
    assert item.split == split
    assert not item.split_by_content


@pytest.mark.parametrize("cell", ["", "holdout", "0"])
def test_unknown_split_is_a_failure_with_its_line(tmp_path: Path, cell: str) -> None:
    items = rows(tmp_path, "a.png,A,train,XR,chest,0,1", f"b.png,A,{cell},XR,chest,0,1")
    found = failure(items[1:])
    assert (found.source, found.dataset, found.reason, found.line) == ("b.png", "A", "unknown split", 3)


@pytest.mark.parametrize("line", [",A,train,XR,chest,0,1", "  ,A,train,XR,chest,0,1", "a.png,,train,XR,chest,0,1"])
def test_row_without_filepath_or_dataset_is_a_failure(tmp_path: Path, line: str) -> None:
    found = failure(rows(tmp_path, line))
    assert (found.reason, found.line) == ("incomplete row", 2)


def test_blank_modality_and_region_become_none(tmp_path: Path) -> None:
    (item,) = rows(tmp_path, "a.png,A,train, ,,0,1")
    assert isinstance(item, ImageRecord)
    assert item.modality is None
    assert item.anatomic_region is None


def test_row_with_fewer_fields_than_the_header_is_a_failure(tmp_path: Path) -> None:
    found = failure(rows(tmp_path, "a.png,A,train,XR,chest,1"))
    assert (found.source, found.reason, found.line) == ("a.png", "wrong columns", 2)


def test_label_column_that_appears_twice_is_a_failure(tmp_path: Path) -> None:
    found = failure(
        rows(tmp_path, "a.png,A,train,XR,chest,1,0", header=f"{HEADER.rsplit(',', 1)[0]},XR/chest/Pneumonia")
    )
    assert (found.reason, found.detail) == ("wrong columns", "the column XR/chest/Pneumonia stands twice")


def test_row_with_more_fields_than_the_header_is_a_failure(tmp_path: Path) -> None:
    found = failure(rows(tmp_path, "a.png,A,train,XR,chest,0,1,1"))
    assert (found.source, found.reason, found.line) == ("a.png", "wrong columns", 2)


def test_missing_columns_are_named_beside_those_found(tmp_path: Path) -> None:
    found = failure(rows(tmp_path, "a.png,A,train", header="filepath,dataset,partition"))
    assert (found.source, found.reason) == (str(tmp_path / "data.csv"), "wrong columns")
    assert "no column split, modality, anatomic_region" in found.detail
    assert "partition" in found.detail


def test_file_separated_by_semicolons_has_the_wrong_columns(tmp_path: Path) -> None:
    assert failure(rows(tmp_path, "a;b", header=HEADER.replace(",", ";"))).reason == "wrong columns"


def test_rows_after_a_bad_row_are_read(tmp_path: Path) -> None:
    items = rows(tmp_path, "a.png,A,nope,XR,chest,0,1", "b.png,A,train,XR,chest,7,1", "c.png,A,train,XR,chest,0,1")
    assert [type(item) for item in items] == [Failure, Failure, ImageRecord]


def test_files_after_a_bad_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("wrong\n1\n")
    (tmp_path / "b.csv").write_text(f"{HEADER}\nb.png,B,train,XR,chest,0,1\n")
    assert [type(item) for item in read(tmp_path)] == [Failure, ImageRecord]


def test_empty_file_is_a_failure_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    found = failure(read(tmp_path))
    assert (found.source, found.reason) == (str(tmp_path / "a.csv"), "wrong columns")
    assert "an empty file" in found.detail


def test_file_with_a_header_alone_is_a_failure(tmp_path: Path) -> None:
    found = failure(rows(tmp_path))
    assert (found.source, found.reason) == (str(tmp_path / "data.csv"), "no rows")


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{HEADER}\na.png,A,train,XR,chest,0,1\n", encoding="utf-8-sig")
    (item,) = read(tmp_path / "a.csv")
    assert isinstance(item, ImageRecord)


def test_quoted_commas_and_quotes_belong_to_the_field(tmp_path: Path) -> None:
    header = 'filepath,dataset,split,modality,anatomic_region,"CT/mass, left"'
    (item,) = rows(tmp_path, '"p 1, ""a"".png",A,train,CT,"chest, upper",1', header=header)
    assert isinstance(item, ImageRecord)
    assert item.source == 'p 1, "a".png'
    assert item.anatomic_region == "chest, upper"
    assert item.labels == {"CT/mass, left": 1}


def test_line_number_of_a_failure_counts_lines_and_not_rows(tmp_path: Path) -> None:
    # The first record takes lines 2 and 3, line 4 is blank.
    items = rows(tmp_path, '"a\nb.png",A,train,XR,chest,0,1', "", "c.png,A,nope,XR,chest,0,1")
    assert failure(items[1:]).line == 5


def test_windows_line_ends_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(f"{HEADER}\r\na.png,A,train,XR,chest,0,1\r\n".encode())
    (item,) = read(tmp_path)
    assert isinstance(item, ImageRecord)
    assert item.labels == {"XR/chest/Normal": 1}


def test_given_name_replaces_the_dataset_column(tmp_path: Path) -> None:
    items = rows(tmp_path, "a.png,A,train,XR,chest,0,1", "b.png,,train,XR,chest,0,1", name="mine")
    assert [item.dataset for item in items] == ["mine", "mine"]


def test_file_paths_lie_below_the_images_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (item,) = rows(tmp_path, "a/1.png,A,train,XR,chest,0,1", images=images)
    assert isinstance(item, ImageRecord)
    assert item.path == images / "a/1.png"


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_images_option_that_names_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    if kind == "file":
        images.touch()
    with pytest.raises(InputError, match="no folder"):
        rows(tmp_path, "a.png,A,train,XR,chest,0,1", images=images)


@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 20, "filepath,größe\n".encode("latin-1"), HEADER.encode("utf-16")],
    ids=["binary", "latin-1", "utf-16"],
)
def test_file_that_is_not_utf8_text_is_a_failure(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    found = failure(read(tmp_path))
    assert (found.source, found.reason) == (str(tmp_path / "a.csv"), "unreadable")


def test_rows_before_unreadable_bytes_are_kept(tmp_path: Path) -> None:
    good = "".join(f"{number}.png,A,train,XR,chest,0,1\n" for number in range(1000))
    (tmp_path / "a.csv").write_bytes(f"{HEADER}\n{good}".encode() + b"\xff\xfe\xfd\n")
    *kept, last = read(tmp_path)
    assert isinstance(last, Failure)
    assert "the rest of the file was not read" in last.detail
    assert kept
    assert all(isinstance(item, ImageRecord) for item in kept)


def test_folder_without_csv_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CSV files"):
        read(tmp_path)


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        read(tmp_path / "missing.csv")


@pytest.mark.parametrize(("lines", "rows"), [(1, 1), (2, 1), (3, 2), (200_000, 199_999)])
def test_rows_are_counted_without_the_header_and_as_at_least_one(tmp_path: Path, lines: int, rows: int) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a line that is longer than nothing\n" * lines)
    assert paper_csv._count_rows(table) == rows
