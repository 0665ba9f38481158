"""Test ``cbirdb ingest`` on real files and a real server: what the catalogue holds, also after files have changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests.conftest import picture_bytes, write_csv
from tests.support.catalogue_checks import Cli, contents, counts, ingest, labels, paper_row, value

pytestmark = pytest.mark.also_by_a_site

PROGRAM = Path(sys.executable).with_name("cbirdb")


def test_ingest_stores_images_labels_and_facts(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    outcome = ingest(cli, "folder", class_folder, "--modality", "XR", "--anatomic-region", "chest")
    assert outcome.code == 0
    assert counts(outcome) == {"added": 20}
    assert outcome.rows[-1]["dataset"] == "images"
    assert Counter(tuple(found) for found in labels(connection).values()) == {("nodule",): 10, ("normal",): 10}
    row = connection.execute(
        "SELECT sha256, width, height, file_bytes, modality, anatomic_region, frame FROM cbir.image"
        " WHERE source = 'nodule/00.png'"
    ).fetchone()
    data = (class_folder / "nodule/00.png").read_bytes()
    assert row == (hashlib.sha256(data).digest(), 48, 40, len(data), "XR", "chest", 0)
    assert value(connection, "SELECT root FROM cbir.dataset") == str(class_folder)


def test_json_output_is_one_array_whose_last_row_has_the_documented_keys(cli: Cli, class_folder: Path) -> None:
    (class_folder / "nodule" / "bad.png").write_text("not a picture")
    outcome = ingest(cli, "folder", class_folder)
    rows = json.loads(outcome.out)
    assert isinstance(rows, list)
    assert {"dataset", "added", "unchanged", "missing", "duplicate", "excluded", "failed"} <= set(rows[-1])
    assert "cbirdb failures" in outcome.err


def test_second_ingest_changes_no_table(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    (class_folder / "nodule" / "bad.png").write_text("not a picture")
    ingest(cli, "folder", class_folder)
    before = contents(connection)
    outcome = ingest(cli, "folder", class_folder)
    assert counts(outcome) == {"unchanged": 20, "failed": 1}
    assert contents(connection) == before


def test_only_new_files_are_added(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    ingest(cli, "folder", class_folder)
    (class_folder / "cyst").mkdir()
    (class_folder / "cyst" / "a.png").write_bytes(picture_bytes(100))
    assert counts(ingest(cli, "folder", class_folder)) == {"added": 1, "unchanged": 20}
    assert labels(connection)["cyst/a.png"] == {"cyst": 1}


def test_limit_caps_an_ingest_and_the_next_run_continues(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    assert counts(ingest(cli, "folder", class_folder, "--limit", 3)) == {"added": 3}
    assert counts(ingest(cli, "folder", class_folder)) == {"added": 17, "unchanged": 3}


def test_file_names_with_any_characters_are_stored_unchanged(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    names = ["a b/[1] 100%.png", """it's/"x".png""", "früh/ä\\n.png", "$1;--/{}.png"]
    for seed, name in enumerate(names):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).write_bytes(picture_bytes(seed))
    assert counts(ingest(cli, "folder", tmp_path / "d")) == {"added": 4}
    assert {name: {name.split("/")[0]: 1} for name in names} == labels(connection)


# --- what has changed ---------------------------------------------------------------------------------------------


def test_changed_file_loses_its_embedding_and_a_touched_file_keeps_it(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    ingest(cli, "folder", class_folder)
    cli("encode", "-e", "tiny-image")
    (class_folder / "nodule" / "00.png").write_bytes(picture_bytes(300))
    os.utime(class_folder / "nodule" / "01.png", (1, 1))
    assert counts(ingest(cli, "folder", class_folder)) == {"updated": 2, "unchanged": 18}
    without = connection.execute(
        "SELECT source FROM cbir.image AS i WHERE NOT EXISTS"
        " (SELECT FROM cbir.embedding_tiny_image AS e WHERE e.image_id = i.image_id)"
    ).fetchall()
    assert without == [("nodule/00.png",)]
    digest = hashlib.sha256(picture_bytes(300)).digest()
    assert value(connection, "SELECT sha256 FROM cbir.image WHERE source = 'nodule/00.png'") == digest
    assert labels(connection)["nodule/00.png"] == {"nodule": 1}
    assert cli("encode", "-e", "tiny-image", "--format", "json").rows[-1]["encoded"] == 1


def test_changed_file_of_the_same_size_loses_its_embedding(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """Uncompressed pictures of one size are files of one size, whatever they show."""
    root = tmp_path / "images"
    root.mkdir()
    for number, name in enumerate(("kept.bmp", "changed.bmp")):
        (root / name).write_bytes(picture_bytes(number, file_format="BMP"))
    ingest(cli, "folder", root)
    cli("encode", "-e", "tiny-image")
    file = root / "changed.bmp"
    before = file.stat()
    file.write_bytes(picture_bytes(300, file_format="BMP"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file.stat().st_size == before.st_size
    assert counts(ingest(cli, "folder", root)) == {"updated": 1, "unchanged": 1}
    encoded = connection.execute("SELECT source FROM cbir.image JOIN cbir.embedding_tiny_image USING (image_id)")
    assert encoded.fetchall() == [("kept.bmp",)]
    digest = value(connection, "SELECT sha256 FROM cbir.image WHERE source = 'changed.bmp'")
    assert digest == hashlib.sha256(file.read_bytes()).digest()


def test_file_of_another_size_is_read_again_although_its_time_is_unchanged(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    ingest(cli, "folder", class_folder)
    file = class_folder / "nodule" / "00.png"
    before = file.stat()
    file.write_bytes(picture_bytes(300))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size != before.st_size
    assert counts(ingest(cli, "folder", class_folder)) == {"updated": 1, "unchanged": 19}
    digest = value(connection, "SELECT sha256 FROM cbir.image WHERE source = 'nodule/00.png'")
    assert digest == hashlib.sha256(file.read_bytes()).digest()


def test_dataset_in_another_folder_is_refused_unless_moved_is_given(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, tmp_path: Path
) -> None:
    ingest(cli, "folder", class_folder)
    moved = tmp_path / "new place" / "images"
    shutil.copytree(class_folder, moved)
    before = contents(connection)
    refused = ingest(cli, "folder", moved)
    assert refused.code == 1
    assert "--moved" in refused.err
    assert contents(connection) == before
    assert counts(ingest(cli, "folder", moved, "--moved")) == {"unchanged": 20}
    assert value(connection, "SELECT root FROM cbir.dataset") == str(moved)


def test_name_of_a_dataset_with_another_layout_is_refused(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, tmp_path: Path
) -> None:
    ingest(cli, "folder", class_folder, "--name", "P")
    before = contents(connection)
    refused = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", [paper_row("a.png")]))
    assert refused.code == 1
    assert "--name" in refused.err
    assert contents(connection) == before


def test_dry_run_counts_and_writes_nothing(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    (class_folder / "nodule" / "bad.png").write_text("not a picture")
    outcome = ingest(cli, "folder", class_folder, "--dry-run")
    assert outcome.code == 4
    assert counts(outcome) == {"added": 20, "failed": 1}
    assert not any(contents(connection).values())
    assert "nothing was written" in outcome.err


def test_dry_run_predicts_the_counts_of_the_real_run(cli: Cli, class_folder: Path) -> None:
    shutil.copyfile(class_folder / "nodule" / "00.png", class_folder / "nodule" / "copy.png")
    ingest(cli, "folder", class_folder, "--limit", 3)
    foretold = counts(ingest(cli, "folder", class_folder, "--dry-run"))
    assert foretold == counts(ingest(cli, "folder", class_folder))


# --- two at once ----------------------------------------------------------------------------------------------------


def test_two_ingests_of_one_folder_at_once_store_each_image_once(
    dsn: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for number in range(600):
        path = tmp_path / "d" / str(number % 5) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number) if number % 50 else b"not a picture")
    command = [PROGRAM, "--dsn", dsn, "ingest", "folder", tmp_path / "d", "--format", "json"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [4, 4], outputs
    rows = [json.loads(out)[-1] for out, _ in outputs]
    assert [row["added"] + row["unchanged"] for row in rows] == [588, 588]
    assert sum(row["added"] for row in rows) == 588
    found = connection.execute("SELECT count(*), count(DISTINCT source) FROM cbir.image").fetchone()
    assert found == (588, 588)
    assert value(connection, "SELECT count(*) FROM cbir.image_label") == 588
    assert connection.execute("SELECT count(*), min(occurrences), max(occurrences) FROM cbir.failure").fetchone() == (
        12,
        2,
        2,
    )
