"""Write phantoms: the same for the same seed, with a long tail, and every class in train and test."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbirdb.datasets.base import ReadOptions
from cbirdb.datasets.folder import FolderReader
from cbirdb.demo.phantoms import CLASSES, write_phantoms
from cbirdb.demo.phantoms import writer as writer_module
from cbirdb.demo.phantoms.anatomy import REGIONS
from cbirdb.demo.phantoms.sketch import SIDE, Sketch
from cbirdb.encoders.shipped import TINY_IMAGE
from cbirdb.encoders.tiny_image import TinyImage
from cbirdb.errors import InputError
from cbirdb.records import ImageRecord


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    assert write_phantoms(root) == sum(CLASSES.values())
    return root


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep only the smallest classes, for tests that do not depend on their number."""
    monkeypatch.setattr(writer_module, "CLASSES", {"US/thyroid/Nodule": 6, "MR/knee/Oedema": 8})


def _digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _records(root: Path) -> list[ImageRecord]:
    items = list(FolderReader().open(root, ReadOptions()).items)
    assert all(isinstance(item, ImageRecord) for item in items)
    return [item for item in items if isinstance(item, ImageRecord)]


def test_folder_reader_finds_every_phantom_with_label_split_modality_and_region(phantoms: Path) -> None:
    records = _records(phantoms)
    assert Counter(label for record in records for label in record.labels) == CLASSES
    assert len({record.modality for record in records}) == 4
    assert len({(record.modality, record.anatomic_region) for record in records}) >= 6
    assert not any(record.split_by_content for record in records)


def test_every_class_is_split_about_70_10_20_into_train_val_and_test(phantoms: Path) -> None:
    splits = Counter((next(iter(record.labels)), record.split) for record in _records(phantoms))
    for label, total in CLASSES.items():
        train, val, test = (splits[label, split] for split in ("train", "val", "test"))
        assert train >= 2, label
        assert test >= 1, label
        assert abs(train - 0.7 * total) <= 1.5, label
        assert abs(val - 0.1 * total) <= 1, label


def test_classes_have_a_long_tail() -> None:
    counts = sorted(CLASSES.values(), reverse=True)
    assert 16 <= len(counts) <= 20
    assert 400 <= sum(counts) <= 550
    assert counts[0] >= 10 * counts[-1]
    assert counts[-1] == 6
    assert sum(counts[: len(counts) // 3]) > 0.5 * sum(counts)


def test_phantoms_are_grey_of_one_size_and_all_different(phantoms: Path) -> None:
    digests = _digests(phantoms)
    assert len(set(digests.values())) == len(digests)
    for name in digests:
        with Image.open(phantoms / name) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (SIDE, SIDE)), name
            low, high = picture.getextrema()
            assert high - low > 100, name


@pytest.mark.usefixtures("few")
def test_same_seed_gives_same_bytes_and_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    for name, seed in [("one", 7), ("two", 7), ("three", 8)]:
        write_phantoms(tmp_path / name, seed=seed)
    one, two, three = (_digests(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() == three.keys()
    assert not set(one.values()) & set(three.values())


def test_phantom_does_not_depend_on_the_other_classes(phantoms: Path, tmp_path: Path, few: None) -> None:
    write_phantoms(tmp_path)
    alone, all_of_them = _digests(tmp_path), _digests(phantoms)
    assert alone.items() <= all_of_them.items()


@pytest.mark.usefixtures("few")
def test_second_run_draws_only_missing_phantoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_phantoms(tmp_path) == 14
    before = _digests(tmp_path)
    lost = tmp_path / "train/MR/knee/Oedema/Oedema-0002.png"
    lost.unlink()
    drawn = []
    draw = writer_module._draw
    monkeypatch.setattr(writer_module, "_draw", lambda *picture: drawn.append(picture) or draw(*picture))
    assert write_phantoms(tmp_path) == 14
    assert drawn == [("MR/knee/Oedema", 2, 0)]
    assert write_phantoms(tmp_path) == 14
    assert len(drawn) == 1
    assert _digests(tmp_path) == before


@pytest.mark.usefixtures("few")
def test_full_disk_leaves_no_partial_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot be written to .*No space left on device"):
        write_phantoms(tmp_path)
    assert not _digests(tmp_path)


@pytest.mark.usefixtures("few")
def test_file_in_place_of_a_folder_and_negative_seed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("not a folder")
    with pytest.raises(InputError, match=r"The phantoms cannot be written to .*\. Choose another folder\."):
        write_phantoms(tmp_path)
    with pytest.raises(InputError, match="0 or more, not -1"):
        write_phantoms(tmp_path / "other", seed=-1)


@pytest.mark.parametrize("label", [label for label in CLASSES if not label.endswith("/normal")])
def test_every_finding_changes_the_picture(label: str) -> None:
    """A misspelt finding would silently be drawn as normal."""
    region, _, finding = label.rpartition("/")
    sick, healthy = Sketch(np.random.default_rng(3)), Sketch(np.random.default_rng(3))
    REGIONS[region](sick, finding)
    REGIONS[region](healthy, "normal")
    assert np.abs(sick.pixels - healthy.pixels).max() > 0.1


def test_tiny_image_separates_regions_and_has_lower_macro_than_micro_precision(phantoms: Path) -> None:
    """The demo shows this: good micro-averaged and lower macro-averaged precision of the nearest neighbour."""
    encoder = TinyImage(TINY_IMAGE)
    records = _records(phantoms)
    vectors = encoder.encode(np.stack([encoder.preprocess(Image.open(record.path)) for record in records]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array([next(iter(record.labels)) for record in records])
    splits = np.array([record.split for record in records])
    nearest = (vectors[splits == "test"] @ vectors[splits == "train"].T).argmax(axis=1)
    wanted, found = labels[splits == "test"], labels[splits == "train"][nearest]
    same_region = [a.rpartition("/")[0] == b.rpartition("/")[0] for a, b in zip(wanted, found, strict=True)]
    hits = wanted == found
    micro, macro = hits.mean(), np.mean([hits[wanted == label].mean() for label in CLASSES])
    assert np.mean(same_region) > 0.98
    assert 0.65 <= micro <= 0.85
    assert macro < micro - 0.05


def test_demo_draws_as_many_phantoms_as_its_docs_say() -> None:
    words = (Path(__file__).resolve().parents[2] / "docs" / "first-steps.md").read_text()
    assert f"draws {sum(CLASSES.values())} phantoms" in words
