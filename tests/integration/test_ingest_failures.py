"""Test files that ``cbirdb ingest`` cannot read: each is recorded and later resolved, and the run continues."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from tests.conftest import picture, picture_bytes
from tests.support.catalogue_checks import Cli, contents, counts, ingest, open_failures, value

pytestmark = pytest.mark.also_by_a_site


def test_file_name_that_is_not_utf8_fails_and_the_others_are_ingested(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    with open(os.fsencode(class_folder) + b"/nodule/\xff.png", "wb") as file:  # noqa: PTH123
        file.write(picture_bytes(100))
    outcome = ingest(cli, "folder", class_folder)
    assert outcome.code == 4
    assert counts(outcome) == {"added": 20, "failed": 1}


def damage(folder: Path) -> dict[str, str]:
    """Write one unreadable file of each kind; return the reason expected for each."""
    png, jpeg = picture_bytes(200), picture_bytes(201, file_format="JPEG")
    corrupt = bytearray(png)
    corrupt[len(png) // 2 : len(png) // 2 + 40] = bytes(40)
    for name, data in {
        "empty.png": b"",
        "text.png": b"not a picture",
        "short.png": png[: int(len(png) * 0.8)],
        "short.jpg": jpeg[: int(len(jpeg) * 0.9)],
        "corrupt.png": bytes(corrupt),
    }.items():
        (folder / name).write_bytes(data)
    picture(202).save(folder / "frames.gif", save_all=True, append_images=[picture(203)])
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return {
        "empty.png": "empty file",
        "text.png": "not an image",
        "short.png": "truncated",
        "short.jpg": "truncated",
        "corrupt.png": "corrupt",
        "frames.gif": "multi-frame",
        "loop.png": "unreadable",
        "gone.png": "file not found",
    }


def test_every_kind_of_damage_is_recorded_and_the_rest_is_ingested(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    expected = damage(class_folder / "nodule")
    outcome = ingest(cli, "folder", class_folder)
    assert outcome.code == 4
    assert counts(outcome) == {"added": 20, "failed": len(expected)}
    assert open_failures(connection) == sorted((f"nodule/{name}", reason, 1) for name, reason in expected.items())
    assert value(connection, "SELECT count(*) FROM cbir.failure WHERE detail = '' OR dataset_id IS NULL") == 0
    assert "2 truncated" in outcome.err


def test_repeated_failure_increases_its_count(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    expected = damage(class_folder / "nodule")
    ingest(cli, "folder", class_folder)
    assert ingest(cli, "folder", class_folder).code == 4
    assert open_failures(connection) == sorted((f"nodule/{name}", reason, 2) for name, reason in expected.items())


def test_repaired_file_resolves_its_failure_and_the_others_stay_open(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    for name in ("a.png", "b.png"):
        (class_folder / "nodule" / name).write_text("not a picture")
    ingest(cli, "folder", class_folder)
    (class_folder / "nodule" / "a.png").write_bytes(picture_bytes(200))
    assert counts(ingest(cli, "folder", class_folder)) == {"added": 1, "unchanged": 20, "failed": 1}
    assert open_failures(connection) == [("nodule/b.png", "not an image", 2)]
    assert [row["source"] for row in cli("failures", "--format", "json").rows] == ["nodule/b.png"]
    assert len(cli("failures", "--all", "--format", "json").rows) == 2


def test_image_damaged_after_ingest_is_a_failure(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    ingest(cli, "folder", class_folder)
    (class_folder / "nodule" / "00.png").write_bytes(b"overwritten")
    outcome = ingest(cli, "folder", class_folder)
    assert (outcome.code, counts(outcome)) == (4, {"unchanged": 19, "failed": 1})
    assert open_failures(connection) == [("nodule/00.png", "not an image", 1)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("folder", "{}/missing"), "There is no folder"),
        (("folder", "{}/a.txt"), "is a file, not a folder"),
        (("folder", "{}/empty"), "There are no files"),
        (("folders", "{}"), "Did you mean 'folder'?"),
        (("folder", "{}", "--split", "80/20"), "is not a split"),
        (("folder", "{}", "--split", "80/10/20"), "110 percent"),
        (("folder", "{}", "--label-pattern", "(x"), "not a regular expression"),
        (("paper-csv", "{}"), "no CSV files"),
    ],
)
def test_bad_input_gives_one_sentence_and_changes_nothing(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    outcome = cli("ingest", *(argument.format(tmp_path) for argument in arguments))
    assert outcome.code == (2 if any(argument.startswith("--") for argument in arguments) else 1)
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""
    assert not any(contents(connection).values())
