"""``cbirdb ingest`` on real files and a real server: what is in the catalogue afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Outcome, picture, picture_bytes, write_csv

Cli = Callable[..., Outcome]
PROGRAM = Path(sys.executable).with_name("cbirdb")
TABLES = ("dataset", "image", "label", "image_label", "failure", "encoder")


def ingest(cli: Cli, *arguments: object) -> Outcome:
    return cli("ingest", *arguments, "--format", "json")


def counts(outcome: Outcome) -> dict[str, int]:
    """What the last row counts, without zeros."""
    return {key: value for key, value in outcome.rows[-1].items() if key != "dataset" and value}


def contents(connection: psycopg.Connection) -> dict[str, list[tuple]]:
    """Everything that is in the catalogue, but for the times of failures."""
    found = {}
    for table in TABLES:
        query = sql.SQL("SELECT to_jsonb(t) - 'last_at' - 'occurrences' FROM {} AS t").format(
            sql.Identifier("cbir", table)
        )
        found[table] = sorted(connection.execute(query).fetchall(), key=str)
    return found


def value(connection: psycopg.Connection, query: str, *parameters: object) -> object:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def labels(connection: psycopg.Connection) -> dict[str, dict[str, int]]:
    """Labels with their values by image."""
    found = connection.execute(
        "SELECT i.source, coalesce(jsonb_object_agg(l.name, il.value) FILTER (WHERE l.name IS NOT NULL), '{}')"
        " FROM cbir.image AS i LEFT JOIN cbir.image_label AS il USING (image_id) LEFT JOIN cbir.label AS l USING (label_id)"
        " GROUP BY i.image_id"
    )
    return dict(found.fetchall())


def paper_row(filepath: str, **changes: object) -> dict[str, object]:
    return {
        "filepath": filepath,
        "dataset": "P",
        "split": "train",
        "modality": "XR",
        "anatomic_region": "chest",
        "XR/chest/Normal": 1,
        "XR/chest/Mass": 0,
    } | changes


def test_images_labels_and_facts_reach_the_catalogue(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
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


def test_stdout_is_one_json_array_whose_last_row_has_the_promised_keys(cli: Cli, class_folder: Path) -> None:
    (class_folder / "nodule" / "bad.png").write_text("not a picture")
    outcome = ingest(cli, "folder", class_folder)
    rows = json.loads(outcome.out)
    assert isinstance(rows, list)
    assert {"dataset", "added", "unchanged", "missing", "duplicate", "excluded", "failed"} <= set(rows[-1])
    assert "cbirdb failures" in outcome.err


def test_a_second_run_adds_nothing_and_changes_no_table(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
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


def test_a_limit_looks_at_no_more_and_the_next_run_goes_on(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    assert counts(ingest(cli, "folder", class_folder, "--limit", 3)) == {"added": 3}
    assert counts(ingest(cli, "folder", class_folder)) == {"added": 17, "unchanged": 3}


def test_names_of_any_characters_are_stored_as_they_are(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    names = ["a b/[1] 100%.png", """it's/"x".png""", "früh/ä\\n.png", "$1;--/{}.png"]
    for seed, name in enumerate(names):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).write_bytes(picture_bytes(seed))
    assert counts(ingest(cli, "folder", tmp_path / "d")) == {"added": 4}
    assert {name: {name.split("/")[0]: 1} for name in names} == labels(connection)


def test_a_file_name_that_is_not_utf8_is_a_failure_and_not_the_end(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    with open(os.fsencode(class_folder) + b"/nodule/\xff.png", "wb") as file:  # noqa: PTH123
        file.write(picture_bytes(100))
    outcome = ingest(cli, "folder", class_folder)
    assert outcome.code == 4
    assert counts(outcome) == {"added": 20, "failed": 1}


# --- failures ---------------------------------------------------------------------------------------------------


def damage(folder: Path) -> dict[str, str]:
    """One file of each kind that cannot be read, and the reason that must be given for it."""
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


def open_failures(connection: psycopg.Connection) -> list[tuple[str, str, int]]:
    return connection.execute(
        "SELECT source, reason, occurrences FROM cbir.failure WHERE stage = 'ingest' AND NOT resolved ORDER BY source"
    ).fetchall()


def test_every_kind_of_damage_is_recorded_with_its_reason_while_the_rest_is_ingested(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    expected = damage(class_folder / "nodule")
    outcome = ingest(cli, "folder", class_folder)
    assert outcome.code == 4
    assert counts(outcome) == {"added": 20, "failed": len(expected)}
    assert open_failures(connection) == sorted((f"nodule/{name}", reason, 1) for name, reason in expected.items())
    assert value(connection, "SELECT count(*) FROM cbir.failure WHERE detail = '' OR dataset_id IS NULL") == 0
    assert "2 truncated" in outcome.err


def test_a_failure_that_is_met_again_is_counted_up_and_not_repeated(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    expected = damage(class_folder / "nodule")
    ingest(cli, "folder", class_folder)
    assert ingest(cli, "folder", class_folder).code == 4
    assert open_failures(connection) == sorted((f"nodule/{name}", reason, 2) for name, reason in expected.items())


def test_a_failure_is_resolved_when_the_file_was_mended_and_the_others_stay_open(
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


def test_an_image_that_was_damaged_after_it_was_ingested_is_a_failure(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
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
def test_bad_input_is_one_sentence_and_leaves_the_database_as_it_was(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    outcome = cli("ingest", *(argument.format(tmp_path) for argument in arguments))
    assert outcome.code == 1
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""
    assert not any(contents(connection).values())


# --- duplicates and splits ----------------------------------------------------------------------------------------


def test_duplicates_keep_their_own_rows_and_labels_are_counted_and_never_straddle_the_split(
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


def test_copies_that_the_given_folders_put_on_both_sides_are_shown(
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
def test_a_share_of_all_takes_all(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, split: str, expected: set[str]
) -> None:
    ingest(cli, "folder", class_folder, "--split", split)
    assert {row[0] for row in connection.execute("SELECT split FROM cbir.image")} == expected


def test_shares_are_met_and_depend_on_the_content_alone(
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


def test_a_split_in_superscript_is_refused_like_any_other_nonsense(cli: Cli, class_folder: Path) -> None:
    assert ingest(cli, "folder", class_folder, "--split", "80/1²/10").code == 1


# --- what has changed ---------------------------------------------------------------------------------------------


def test_a_changed_file_is_updated_and_loses_its_embedding_while_a_touched_one_keeps_it(
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


def test_a_changed_row_of_a_csv_is_updated_without_touching_the_others(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    rows = [paper_row("a.png"), paper_row("b.png")]
    ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
    rows[0] |= {"split": "test", "modality": "CR", "XR/chest/Normal": 0, "XR/chest/Mass": -1}
    assert counts(ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))) == {"updated": 1, "unchanged": 1}
    assert labels(connection) == {"a.png": {"XR/chest/Mass": -1}, "b.png": {"XR/chest/Normal": 1}}
    found = connection.execute("SELECT split, modality FROM cbir.image WHERE source = 'a.png'").fetchone()
    assert found == ("test", "CR")


def test_a_dataset_in_another_folder_is_refused_until_it_is_said_to_have_moved(
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


def test_a_name_that_belongs_to_a_dataset_of_another_layout_is_refused(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, tmp_path: Path
) -> None:
    ingest(cli, "folder", class_folder, "--name", "P")
    before = contents(connection)
    refused = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", [paper_row("a.png")]))
    assert refused.code == 1
    assert "--name" in refused.err
    assert contents(connection) == before


def test_a_dry_run_counts_and_writes_nothing(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    (class_folder / "nodule" / "bad.png").write_text("not a picture")
    outcome = ingest(cli, "folder", class_folder, "--dry-run")
    assert outcome.code == 4
    assert counts(outcome) == {"added": 20, "failed": 1}
    assert not any(contents(connection).values())
    assert "nothing was written" in outcome.err


def test_a_dry_run_foretells_what_the_run_will_count(cli: Cli, class_folder: Path) -> None:
    shutil.copyfile(class_folder / "nodule" / "00.png", class_folder / "nodule" / "copy.png")
    ingest(cli, "folder", class_folder, "--limit", 3)
    foretold = counts(ingest(cli, "folder", class_folder, "--dry-run"))
    assert foretold == counts(ingest(cli, "folder", class_folder))


# --- the paper's CSV files ------------------------------------------------------------------------------------------


def test_rows_alone_are_ingested_without_facts(cli: Cli, connection: psycopg.Connection, tmp_path: Path) -> None:
    outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", [paper_row("a.png"), paper_row("b.png")]))
    assert (outcome.code, counts(outcome)) == (0, {"added": 2})
    assert value(connection, "SELECT root FROM cbir.dataset WHERE name = 'P'") is None
    assert value(connection, "SELECT count(*) FROM cbir.image WHERE sha256 IS NULL AND width IS NULL") == 2


def test_images_that_are_not_on_disk_are_counted_as_missing_and_left_out(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(picture_bytes(1))
    csv_file = write_csv(tmp_path / "p.csv", [paper_row("a.png"), paper_row("b.png"), paper_row("c.png")])
    outcome = ingest(cli, "paper-csv", csv_file, "--images", images)
    assert (outcome.code, counts(outcome)) == (0, {"added": 1, "missing": 2})
    assert "b.png" in outcome.err
    assert list(labels(connection)) == ["a.png"]
    (images / "b.png").write_bytes(picture_bytes(2))
    assert counts(ingest(cli, "paper-csv", csv_file, "--images", images)) == {"added": 1, "unchanged": 1, "missing": 1}


def test_images_can_be_given_later_and_are_kept_when_left_out_again(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(picture_bytes(1))
    csv_file = write_csv(tmp_path / "p.csv", [paper_row("a.png")])
    ingest(cli, "paper-csv", csv_file)
    assert counts(ingest(cli, "paper-csv", csv_file, "--images", images)) == {"updated": 1}
    assert counts(ingest(cli, "paper-csv", csv_file)) == {"unchanged": 1}
    assert value(connection, "SELECT width FROM cbir.image") == 48


def test_wrong_rows_are_recorded_with_their_lines_and_resolved_once_mended(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    rows = [paper_row("a.png"), paper_row("b.png", split="x"), paper_row("c.png", **{"XR/chest/Mass": 7})]
    outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
    assert (outcome.code, counts(outcome)) == (4, {"added": 1, "failed": 2})
    found = connection.execute("SELECT source, line, reason FROM cbir.failure ORDER BY line").fetchall()
    assert found == [("b.png", 3, "unknown split"), ("c.png", 4, "wrong label value")]
    rows[1]["split"] = "test"
    ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
    assert open_failures(connection) == [("c.png", "wrong label value", 2)]


def test_a_row_that_stands_twice_is_a_failure_and_the_first_one_counts(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    rows = [paper_row("a.png"), paper_row("a.png", split="test")]
    for occurrence in (1, 2):
        outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
        assert outcome.code == 4
        assert open_failures(connection) == [("a.png", "repeated row", occurrence)]
    assert value(connection, "SELECT string_agg(split, ',') FROM cbir.image") == "train"


def test_a_csv_with_wrong_columns_is_recorded_and_the_other_files_are_ingested(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    write_csv(tmp_path / "a.csv", [{"file": "a.png", "class": "x"}])
    write_csv(tmp_path / "b.csv", [paper_row("b.png")])
    outcome = ingest(cli, "paper-csv", tmp_path)
    assert (outcome.code, counts(outcome)) == (4, {"added": 1, "failed": 1})
    assert open_failures(connection) == [(str(tmp_path / "a.csv"), "wrong columns", 1)]


def test_a_csv_with_wrong_columns_that_was_mended_is_resolved(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    ingest(cli, "paper-csv", write_csv(tmp_path / "a.csv", [{"file": "a.png"}]))
    ingest(cli, "paper-csv", write_csv(tmp_path / "a.csv", [paper_row("a.png")]))
    assert open_failures(connection) == []


@pytest.mark.parametrize("where", ["filepath", "split", "XR/chest/Mass"])
def test_a_nul_character_in_a_row_is_a_failure_and_not_the_end(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, where: str
) -> None:
    rows = [paper_row("a.png") | {where: "x\0y"}, paper_row("b.png")]
    outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
    assert (outcome.code, counts(outcome)) == (4, {"added": 1, "failed": 1})
    assert list(labels(connection)) == ["b.png"]


def test_modality_and_region_of_all_images_hold_for_csv_files_too(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    csv_file = write_csv(tmp_path / "p.csv", [paper_row("a.png", modality="", anatomic_region="")])
    ingest(cli, "paper-csv", csv_file, "--modality", "CT", "--anatomic-region", "lung")
    assert connection.execute("SELECT modality, anatomic_region FROM cbir.image").fetchone() == ("CT", "lung")


# --- two at once ----------------------------------------------------------------------------------------------------


def test_two_ingests_of_one_folder_at_once_leave_each_image_once(
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
