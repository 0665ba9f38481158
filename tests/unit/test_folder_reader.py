"""Read a folder per class: labels, splits and modality come from the paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.folder import FolderReader
from cbirdb.errors import InputError
from cbirdb.records import DatasetItem, Excluded, Failure, ImageRecord


def make(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def read(root: Path, **options: object) -> list[DatasetItem]:
    source = FolderReader().open(root, ReadOptions(**options))
    items = list(source.items)
    assert source.total == len(items), "the progress bar's total is not the number of items"
    return items


def one(root: Path, file: str, **options: object) -> ImageRecord:
    """Return the record of a folder with this one file."""
    (item,) = read(make(root, file), **options)
    assert isinstance(item, ImageRecord)
    return item


def test_record_has_dataset_source_path_and_label(tmp_path: Path) -> None:
    root = make(tmp_path / "chest", "normal/a.png")
    source = FolderReader().open(root, ReadOptions())
    assert source.datasets == ("chest",)
    assert source.root == root
    (record,) = source.items
    assert record == ImageRecord(
        "chest", "normal/a.png", root / "normal/a.png", split_by_content=True, labels={"normal": 1}
    )


def test_given_name_becomes_the_dataset(tmp_path: Path) -> None:
    assert one(tmp_path / "x", "normal/a.png", name="NIH").dataset == "NIH"


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("normal/a.png", "normal"),
        ("XR/chest/Pneumonia/a.png", "XR/chest/Pneumonia"),
        ("lobe left/not [sure]/a b.png", "lobe left/not [sure]"),
        ("Zyste/Lungenödem ~ früh/ä.png", "Zyste/Lungenödem ~ früh"),
        ("""it's/"so"/a'b".png""", """it's/"so\""""),
        ("100% sure/$x; DROP/a\\b.png", "100% sure/$x; DROP"),
    ],
)
def test_nested_folders_become_the_label_path_as_spelt(tmp_path: Path, file: str, label: str) -> None:
    record = one(tmp_path, file)
    assert record.labels == {label: 1}
    assert record.source == file
    assert record.path is not None
    assert record.path.is_file()


def test_file_in_no_folder_has_no_label(tmp_path: Path) -> None:
    assert one(tmp_path, "a.png").labels == {}


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("training", "train"),
        ("TRAIN", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("test", "test"),
        ("Testing", "test"),
    ],
)
@pytest.mark.parametrize("pattern", ["{}/XR/chest/a.png", "XR/{}/chest/a.png", "XR/chest/{}/a.png"])
def test_split_folder_at_any_level_sets_the_split_and_is_no_part_of_the_label(
    tmp_path: Path, folder: str, split: str, pattern: str
) -> None:
    record = one(tmp_path, pattern.format(folder))
    assert record.split == split
    assert not record.split_by_content
    assert record.labels == {"XR/chest": 1}


def test_only_the_first_split_folder_counts(tmp_path: Path) -> None:
    record = one(tmp_path, "train/test/a.png")
    assert (record.split, dict(record.labels)) == ("train", {"test": 1})


@pytest.mark.parametrize("file", ["normal/train.png", "training set/a.png", "nottest/a.png"])
def test_name_that_only_contains_a_split_word_sets_no_split(tmp_path: Path, file: str) -> None:
    record = one(tmp_path, file)
    assert record.split is None
    assert record.split_by_content


def test_file_outside_the_split_folders_of_the_others_is_a_failure(tmp_path: Path) -> None:
    items = read(make(tmp_path / "d", "train/normal/a.png", "normal/b.png", "notes.txt"))
    assert [(item.source, item.reason) for item in items if isinstance(item, Failure)] == [
        ("notes.txt", "unknown split"),
        ("normal/b.png", "unknown split"),
    ]
    assert [item.source for item in items if isinstance(item, ImageRecord)] == ["train/normal/a.png"]


@pytest.mark.parametrize(
    "file", [".DS_Store", "n/.hidden.png", ".git/n/x.png", "n/Thumbs.db", "n/desktop.ini", "__MACOSX/n/._a.png"]
)
def test_hidden_files_are_excluded_and_counted(tmp_path: Path, file: str) -> None:
    items = read(make(tmp_path, "n/a.png", file))
    assert [item for item in items if not isinstance(item, ImageRecord)] == [Excluded(file, "hidden file")]
    assert sum(isinstance(item, ImageRecord) for item in items) == 1


def test_dataset_below_a_hidden_folder_is_read(tmp_path: Path) -> None:
    assert one(tmp_path / ".cache" / "d", "n/a.png").labels == {"n": 1}


@pytest.mark.parametrize("hidden", [".git/test/x", "__MACOSX/train/n/._a.png"])
def test_split_folder_below_a_hidden_folder_is_ignored(tmp_path: Path, hidden: str) -> None:
    assert not [item for item in read(make(tmp_path, "n/a.png", hidden)) if isinstance(item, Failure)]


def test_label_pattern_sets_the_label_and_a_file_without_a_match_is_a_failure(tmp_path: Path) -> None:
    root = make(tmp_path / "busi", "all/benign (1).png", "all/malignant (12).png", "all/readme.txt")
    items = read(root, label_pattern=r"(?P<label>\w+) \(\d+\)")
    assert [dict(item.labels) for item in items if isinstance(item, ImageRecord)] == [{"benign": 1}, {"malignant": 1}]
    assert [(item.source, item.reason, item.dataset) for item in items if isinstance(item, Failure)] == [
        ("all/readme.txt", "no label", "busi")
    ]


def test_label_pattern_that_matches_an_empty_label_is_a_failure(tmp_path: Path) -> None:
    (item,) = read(make(tmp_path, "n/a.png"), label_pattern=r"(?P<label>x*)a")
    assert isinstance(item, Failure)
    assert item.reason == "no label"


def test_label_pattern_matches_folders_too(tmp_path: Path) -> None:
    assert one(tmp_path, "p17/CT_head/a.png", label_pattern=r"^p\d+/(?P<label>[^/]+)/").labels == {"CT_head": 1}


@pytest.mark.parametrize(
    ("pattern", "words"), [(r"(\w+)", "no group named 'label'"), (r"(?P<label>", "not a regular expression")]
)
def test_bad_label_pattern_is_refused_before_anything_is_read(tmp_path: Path, pattern: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FolderReader().open(make(tmp_path, "n/a.png"), ReadOptions(label_pattern=pattern))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("XR/chest/Pneumonia/a.png", ("XR", "chest")),
        ("CT/lung/a.png", ("CT", "lung")),
        ("train/MR/knee/Oedema/a.png", ("MR", "knee")),
        ("CT/a.png", (None, None)),
        ("chest/XR/a.png", (None, None)),
        ("ct/lung/a.png", (None, None)),
    ],
)
def test_modality_and_region_come_from_a_label_path_that_begins_with_a_dicom_code(
    tmp_path: Path, file: str, expected: tuple[str | None, str | None]
) -> None:
    record = one(tmp_path, file)
    assert (record.modality, record.anatomic_region) == expected


def test_given_modality_and_region_override_the_path(tmp_path: Path) -> None:
    record = one(tmp_path, "XR/chest/a.png", modality="CR", anatomic_region="thorax")
    assert (record.modality, record.anatomic_region) == ("CR", "thorax")


def test_files_are_read_in_sorted_order(tmp_path: Path) -> None:
    root = make(tmp_path, "b/2.png", "b/10.png", "a/z.png", "B/1.png", "0.png")
    sources = [item.source for item in read(root)]
    assert sources == ["0.png", "B/1.png", "a/z.png", "b/10.png", "b/2.png"]


def test_links_to_folders_elsewhere_are_followed_only_if_allowed(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "cysts/a.png")
    root = make(tmp_path / "d", "n/b.png")
    (root / "n" / "link.png").symlink_to(elsewhere / "cysts" / "a.png")
    (root / "cyst").symlink_to(elsewhere / "cysts", target_is_directory=True)
    asked = AllowedRoots(named=(str(elsewhere),))
    assert [item.source for item in read(root, allowed=asked)] == ["cyst/a.png", "n/b.png", "n/link.png"]
    left_out, *others = read(root)
    assert (left_out.source, left_out.reason) == ("cyst", "outside of its folder")
    assert [item.source for item in others] == ["n/b.png", "n/link.png"], "what a link to a file shows, ingest asks"


def test_broken_link_is_listed(tmp_path: Path) -> None:
    root = make(tmp_path, "n/a.png")
    (root / "n" / "b.png").symlink_to(tmp_path / "gone.png")
    assert [item.source for item in read(root)] == ["n/a.png", "n/b.png"]


def test_folder_linked_into_itself_is_walked_once(tmp_path: Path) -> None:
    root = make(tmp_path / "d", "n/a.png")
    (root / "n" / "back").symlink_to(root, target_is_directory=True)
    assert [item.source for item in read(root) if isinstance(item, ImageRecord)] == ["n/a.png"]


def test_folder_linked_under_a_second_name_is_read_under_both_names(tmp_path: Path) -> None:
    root = make(tmp_path / "d", "B/a.png")
    (root / "A").symlink_to(root / "B", target_is_directory=True)
    assert [item.source for item in read(root) if isinstance(item, ImageRecord)] == ["A/a.png", "B/a.png"]


def test_folder_without_read_permission_is_a_failure(bound_by_permissions: Path) -> None:
    root = make(bound_by_permissions, "n/a.png", "secret/b.png")
    (root / "secret").chmod(0)
    failures = [item for item in read(root) if isinstance(item, Failure)]
    (root / "secret").chmod(0o700)
    assert [(item.source, item.reason) for item in failures] == [("secret", "unreadable")]


@pytest.mark.parametrize("files", [(), (".DS_Store", "n/Thumbs.db")], ids=["nothing", "hidden only"])
def test_folder_without_files_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    (tmp_path / "n").mkdir()
    with pytest.raises(InputError, match="no files"):
        FolderReader().open(make(tmp_path, *files), ReadOptions())


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        FolderReader().open(tmp_path / "missing", ReadOptions())


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a file, not a folder"):
        FolderReader().open(make(tmp_path, "a.png") / "a.png", ReadOptions())


def test_relative_path_gives_the_folders_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path / "chest", "n/a.png"))
    assert FolderReader().open(Path(), ReadOptions()).datasets == ("chest",)
