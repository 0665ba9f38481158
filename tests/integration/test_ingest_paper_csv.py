"""Test ``cbirdb ingest paper-csv``: rows with and without images, and wrong rows."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.conftest import picture_bytes, write_csv
from tests.support.catalogue_checks import Cli, counts, ingest, labels, open_failures, paper_row, value


def test_changed_csv_row_is_updated_and_the_others_stay_unchanged(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    rows = [paper_row("a.png"), paper_row("b.png")]
    ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
    rows[0] |= {"split": "test", "modality": "CR", "XR/chest/Normal": 0, "XR/chest/Mass": -1}
    assert counts(ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))) == {"updated": 1, "unchanged": 1}
    assert labels(connection) == {"a.png": {"XR/chest/Mass": -1}, "b.png": {"XR/chest/Normal": 1}}
    found = connection.execute("SELECT split, modality FROM cbir.image WHERE source = 'a.png'").fetchone()
    assert found == ("test", "CR")


def test_csv_rows_without_images_are_ingested_without_file_facts(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", [paper_row("a.png"), paper_row("b.png")]))
    assert (outcome.code, counts(outcome)) == (0, {"added": 2})
    assert value(connection, "SELECT root FROM cbir.dataset WHERE name = 'P'") is None
    assert value(connection, "SELECT count(*) FROM cbir.image WHERE sha256 IS NULL AND width IS NULL") == 2


def test_images_missing_on_disk_are_counted_and_left_out(
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


def test_file_facts_added_later_are_kept_when_images_are_omitted_again(
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


def test_wrong_csv_rows_are_recorded_with_their_line_and_resolved_once_corrected(
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


def test_repeated_csv_row_is_a_failure_and_the_first_row_counts(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    rows = [paper_row("a.png"), paper_row("a.png", split="test")]
    for occurrence in (1, 2):
        outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
        assert outcome.code == 4
        assert open_failures(connection) == [("a.png", "repeated row", occurrence)]
    assert value(connection, "SELECT string_agg(split, ',') FROM cbir.image") == "train"


def test_csv_with_wrong_columns_fails_and_the_other_files_are_ingested(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    write_csv(tmp_path / "a.csv", [{"file": "a.png", "class": "x"}])
    write_csv(tmp_path / "b.csv", [paper_row("b.png")])
    outcome = ingest(cli, "paper-csv", tmp_path)
    assert (outcome.code, counts(outcome)) == (4, {"added": 1, "failed": 1})
    assert open_failures(connection) == [(str(tmp_path / "a.csv"), "wrong columns", 1)]


def test_corrected_columns_of_a_csv_resolve_its_failure(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    ingest(cli, "paper-csv", write_csv(tmp_path / "a.csv", [{"file": "a.png"}]))
    ingest(cli, "paper-csv", write_csv(tmp_path / "a.csv", [paper_row("a.png")]))
    assert open_failures(connection) == []


@pytest.mark.parametrize("where", ["filepath", "split", "XR/chest/Mass"])
def test_csv_row_with_a_nul_character_fails_and_the_others_are_ingested(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, where: str
) -> None:
    rows = [paper_row("a.png") | {where: "x\0y"}, paper_row("b.png")]
    outcome = ingest(cli, "paper-csv", write_csv(tmp_path / "p.csv", rows))
    assert (outcome.code, counts(outcome)) == (4, {"added": 1, "failed": 1})
    assert list(labels(connection)) == ["b.png"]


def test_modality_and_region_options_apply_to_csv_files(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    csv_file = write_csv(tmp_path / "p.csv", [paper_row("a.png", modality="", anatomic_region="")])
    ingest(cli, "paper-csv", csv_file, "--modality", "CT", "--anatomic-region", "lung")
    assert connection.execute("SELECT modality, anatomic_region FROM cbir.image").fetchone() == ("CT", "lung")
