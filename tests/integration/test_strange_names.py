"""Test names that the database cannot hold: each becomes a failure with a printable name, and the run continues."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import psycopg
import pytest

from tests.conftest import Outcome, picture_bytes
from tests.support.official_layouts import NIH_ROWS, write_nih14
from tests.support.published_vectors import add_images, unit

Cli = Callable[..., Outcome]


def failures(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT source, reason, detail FROM cbir.failure WHERE NOT resolved").fetchall()


def counts(outcome: Outcome) -> dict[str, int]:
    kept = ("added", "unchanged", "failed", "unknown", "already_there")
    return {key: value for key, value in outcome.rows[-1].items() if key in kept and value}


def deep_file(root: Path, levels: int) -> None:
    """Write a picture so many folders of 200 letters below the root that no single path can name it."""
    at = os.open(root, os.O_RDONLY)
    for level in range(levels):
        name = chr(ord("a") + level) * 200
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    descriptor = os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=at)
    os.write(descriptor, picture_bytes(77))
    os.close(descriptor)
    os.close(at)


def test_path_too_long_for_an_index_fails_and_the_others_are_ingested(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    deep_file(class_folder, 15)
    for expected in ({"added": 20, "failed": 1}, {"unchanged": 20, "failed": 1}):
        outcome = cli("ingest", "folder", class_folder, "--format", "json")
        assert (outcome.code, counts(outcome)) == (4, expected), outcome.err
    ((source, reason, detail),) = failures(connection)
    assert (reason, detail) == ("too long", "3,020 bytes, more than 2,000 in its name")
    assert source.startswith("aaa")
    assert source.endswith("ooo/a.png")
    assert "..." in source


@pytest.mark.parametrize(
    ("before", "after", "source", "detail"),
    [
        ("00000001_000.png", "0000\0.png", "0000\\0.png", "a NUL character in its name"),
        ("Hernia", "Her\0nia", "00000004_000.png", "a NUL character in its label"),
        ("Hernia", "H" * 3000, "00000004_000.png", "3,009 bytes, more than 2,000 in its label"),
        ("2,080", "2\0,080", None, None),
    ],
    ids=["image", "label", "long label", "patient"],
)
def test_damaged_row_of_an_official_table_fails_and_the_others_are_ingested(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, before: str, after: str, source: str, detail: str
) -> None:
    root = write_nih14(tmp_path / "nih", images=False)
    table = root / "Data_Entry_2017_v2020.csv"
    text = table.read_text().replace("No Finding,0,2,80", "No Finding,0,2,080")
    assert before in text
    table.write_text(text.replace(before, after, 1))
    outcome = cli(
        "ingest", "nih14", root, "--labels-only", "--pseudonym-key", tmp_path / "key", "--format", "json"
    )  # fmt: skip
    assert (outcome.code, counts(outcome)) == (4, {"added": 5, "failed": 1}), outcome.err
    ((found, _, why),) = failures(connection)
    assert found == (source or NIH_ROWS[2][0])
    assert why == (detail or "a NUL character in its patient")


def test_hdf5_name_that_is_not_utf8_is_unknown_and_the_others_are_loaded(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    add_images(connection, "P", ["a.png", "b.png"])
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, vector in zip((b"a.png", b"b\xff.png", b"b.png", b"x" * 3000), unit(4), strict=True):
            file.create_dataset(name, data=vector)
    for expected in ({"added": 2, "unknown": 2}, {"already_there": 2, "unknown": 2}):
        outcome = cli("import-embeddings", "-e", "paper", path, "--format", "json")
        assert (outcome.code, counts(outcome)) == (4, expected), outcome.err
    assert sorted(source for source, _, _ in failures(connection)) == ["b\\udcff.png", "x" * 200 + "..." + "x" * 200]


@pytest.mark.parametrize("option", [(), ("--name", "other")], ids=["folder's name", "another"])
def test_folder_name_that_is_not_utf8_is_refused_with_one_sentence(
    cli: Cli, class_folder: Path, option: tuple[str, ...]
) -> None:
    folder = class_folder.rename(class_folder.with_name(os.fsdecode(b"im\xffages")))
    outcome = cli("ingest", "folder", folder, *option)
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "bytes that are not UTF-8" in outcome.err


@pytest.mark.parametrize("name", ["two\nlines", "bell\x07", "red\x1b[31m", "turned\u202earound"])
def test_folder_name_with_control_characters_needs_name_option(
    cli: Callable[..., Outcome], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.png").write_bytes(picture_bytes(1))
    refused = cli("ingest", "folder", folder)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (1, "", 1)
    assert "cannot name a dataset: a control character" in refused.err
    assert not any(ord(one) < 32 for one in refused.err.strip())
    assert cli("ingest", "folder", folder, "--name", "plain").code == 0
