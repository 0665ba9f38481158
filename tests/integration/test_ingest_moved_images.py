"""Test that images first ingested without files, or moved to other folders later, remain the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Outcome, picture_bytes
from tests.support.official_layouts import (
    NIH_ROWS,
    write_chexpert,
    write_mimic,
    write_nih14,
    write_radimagenet,
)

Cli = Callable[..., Outcome]


@pytest.fixture
def nih(cli: Cli, tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Provide a function that ingests NIH's folder and returns the counts that are not zero."""

    def ingest(*options: object) -> dict[str, int]:
        outcome = cli(
            "ingest", "nih14", tmp_path / "nih", "--pseudonym-key", tmp_path / "key", "--format", "json", *options
        )
        assert outcome.code == 0, outcome.err
        return {key: value for key, value in outcome.rows[-1].items() if key != "dataset" and value}

    return ingest


def sources(connection: psycopg.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT source FROM cbir.image ORDER BY source").fetchall()]


def test_nih_images_ingested_without_files_first_are_stored_once(
    connection: psycopg.Connection, tmp_path: Path, nih: Callable[..., dict[str, int]]
) -> None:
    write_nih14(tmp_path / "nih")
    assert nih("--labels-only") == {"added": 6}
    assert sources(connection) == [row[0] for row in NIH_ROWS]
    assert nih() == {"updated": 6}
    assert sources(connection) == [f"images/{row[0]}" for row in NIH_ROWS]
    assert nih() == {"unchanged": 6}
    assert nih("--labels-only") == {"unchanged": 6}
    assert sources(connection) == [f"images/{row[0]}" for row in NIH_ROWS]


def test_nih_images_moved_to_another_folder_keep_ids_labels_and_embeddings(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, nih: Callable[..., dict[str, int]]
) -> None:
    root = write_nih14(tmp_path / "nih")
    assert nih() == {"added": 6}
    assert cli("encode", "-e", "tiny-image").code == 0
    known = (
        "SELECT i.image_id, i.sha256, i.split, array_agg(l.name ORDER BY l.name), e.embedding::text"
        " FROM cbir.image AS i JOIN cbir.image_label USING (image_id) JOIN cbir.label AS l USING (label_id)"
        " JOIN cbir.embedding_tiny_image AS e USING (image_id) GROUP BY i.image_id, e.image_id ORDER BY 1"
    )
    before = connection.execute(known).fetchall()
    (root / "images").rename(root / "images_001")
    assert nih() == {"updated": 6}
    assert sources(connection) == [f"images_001/{row[0]}" for row in NIH_ROWS]
    assert connection.execute(known).fetchall() == before
    # One of them moves on alone, and another is new.
    (root / "images_002").mkdir()
    (root / "images_001" / NIH_ROWS[2][0]).rename(root / "images_002" / NIH_ROWS[2][0])
    assert nih() == {"updated": 1, "unchanged": 5}
    assert cli("encode", "-e", "tiny-image", "--format", "json").rows[0]["already_there"] == 6


@pytest.mark.parametrize(
    ("reader", "write"),
    [("mimic-cxr", write_mimic), ("chexpert", write_chexpert), ("radimagenet", write_radimagenet)],
    ids=["mimic-cxr", "chexpert", "radimagenet"],
)
def test_images_of_other_datasets_ingested_without_files_first_are_stored_once(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, reader: str, write: Callable[[Path], Path]
) -> None:
    folder = write(tmp_path / "d")
    command = ("ingest", reader, folder, "--pseudonym-key", tmp_path / "key")
    assert cli(*command, "--labels-only").code == 0
    before = sources(connection)
    assert cli(*command).code == 0
    assert sources(connection) == before


def test_files_of_one_name_in_two_class_folders_are_two_images(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for number, name in enumerate(("nodule", "normal")):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "a.png").write_bytes(picture_bytes(number))
        counts = cli("ingest", "folder", tmp_path / "images", "--format", "json").rows[-1]
        assert (counts["added"], counts["updated"], counts["unchanged"]) == (1, 0, number)
    assert sources(connection) == ["nodule/a.png", "normal/a.png"]
