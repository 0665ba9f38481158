"""Test copies of one picture, and the shares of train, val and test that ``cbirdb ingest`` assigns."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest

from tests.conftest import picture_bytes
from tests.support.catalogue_checks import Cli, counts, ingest, labels, value


def test_duplicates_keep_their_rows_and_labels_and_share_one_split(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    # Each of the twenty stands in a second class and, under another name, in a third.
    for number, path in enumerate(sorted(class_folder.rglob("*.png"))):
        for folder, name in (("second", path.name), ("third", f"x{number}.png")):
            (class_folder / folder).mkdir(exist_ok=True)
            shutil.copyfile(path, class_folder / folder / name)
    outcome = ingest(cli, "folder", class_folder, "--split", "34/33/33")
    assert outcome.code == 0
    assert counts(outcome) == {"added": 60, "duplicate": 40}
    assert connection.execute(
        "SELECT count(*), count(DISTINCT sha256), bool_or(straddles_splits), min(copies), max(copies)"
        " FROM cbir.duplicate_image"
    ).fetchone() == (60, 20, False, 3, 3)
    assert value(connection, "SELECT count(DISTINCT split) FROM cbir.image") == 3
    assert labels(connection)["third/x0.png"] == {"third": 1}


def test_duplicates_are_found_across_datasets_and_runs(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, tmp_path: Path
) -> None:
    ingest(cli, "folder", class_folder)
    shutil.copytree(class_folder / "nodule", tmp_path / "other" / "cyst")
    assert counts(ingest(cli, "folder", tmp_path / "other")) == {"added": 10, "duplicate": 10}
    assert value(connection, "SELECT count(*) FROM cbir.duplicate_image") == 20


def test_copies_in_train_and_test_folders_are_shown_as_straddling(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / "d" / split / "n").mkdir(parents=True)
        (tmp_path / "d" / split / "n" / "a.png").write_bytes(picture_bytes(1))
    ingest(cli, "folder", tmp_path / "d")
    assert connection.execute("SELECT split, straddles_splits FROM cbir.duplicate_image ORDER BY 1").fetchall() == [
        ("test", True),
        ("train", True),
    ]


@pytest.mark.parametrize(
    ("split", "expected"), [("100/0/0", {"train"}), ("0/100/0", {"val"}), ("0/0/100", {"test"})], ids=str
)
def test_share_of_100_percent_takes_all_images(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, split: str, expected: set[str]
) -> None:
    ingest(cli, "folder", class_folder, "--split", split)
    assert {row[0] for row in connection.execute("SELECT split FROM cbir.image")} == expected


def test_split_shares_are_met_and_depend_only_on_the_content(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for number in range(300):
        path = tmp_path / "d" / str(number % 7) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number))
    ingest(cli, "folder", tmp_path / "d", "--split", "50/20/30")
    shares = dict(connection.execute("SELECT split, count(*) FROM cbir.image GROUP BY 1").fetchall())
    # Four standard deviations: 4 * sqrt(300 * 0.5 * 0.5) = 35.
    assert shares == {"train": pytest.approx(150, abs=35), "val": pytest.approx(60, abs=28), "test": pytest.approx(90, abs=32)}  # fmt: skip
    position = "get_byte(sha256, 0) * 100 / 256.0"
    assert value(connection, f"SELECT bool_and({position} < 31) FROM cbir.image WHERE split = 'test'")
    assert value(connection, f"SELECT bool_and({position} > 49) FROM cbir.image WHERE split = 'train'")


def test_split_with_a_superscript_digit_is_refused(cli: Cli, class_folder: Path) -> None:
    assert ingest(cli, "folder", class_folder, "--split", "80/1²/10").code == 2
