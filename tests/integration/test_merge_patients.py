"""Test ``cbirdb patients merge``: it finds both patients, asks, and later ingests keep to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest

from cbirdb.cli.main import cbirdb
from cbirdb.pseudonyms import Pseudonyms
from tests.conftest import Outcome
from tests.support.dicom_archive import ROOT, archive, write
from tests.support.official_layouts import write_key, write_nih14

pytestmark = pytest.mark.also_by_a_site

Cli = Callable[..., Outcome]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path)


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of the test's own, which keeps the path map."""
    monkeypatch.setenv("CBIRDB_HOME", str(tmp_path / "home"))


def ingest(cli: Cli, reader: str, path: Path, key: Path, *options: object) -> dict[str, int]:
    """Return the counts that are not zero."""
    outcome = cli("ingest", reader, path, "--name", path.name, "--pseudonym-key", key, *options, "--format", "json")
    assert outcome.code == 0, outcome.err
    return {name: value for name, value in outcome.rows[-1].items() if name != "dataset" and value}


def merge(cli: Cli, key: Path, *arguments: object, yes: bool = True) -> Outcome:
    return cli("patients", "merge", *arguments, "--pseudonym-key", key, *(["--yes"] if yes else []), "--format", "json")


def images(connection: psycopg.Connection) -> dict[tuple[str, str], int]:
    """Count images by dataset and pseudonym."""
    found = connection.execute(
        "SELECT d.name, p.pseudonym, count(i) FROM cbir.patient AS p JOIN cbir.dataset AS d USING (dataset_id)"
        " LEFT JOIN cbir.image AS i USING (patient_id) GROUP BY 1, 2"
    )
    return {(dataset, pseudonym): number for dataset, pseudonym, number in found}


def rows(connection: psycopg.Connection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT to_jsonb(t) FROM cbir.{table} AS t ORDER BY 1".encode()).fetchall()


def test_later_ingest_of_a_merged_patients_rasters_changes_nothing(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    root = write_nih14(tmp_path / "nih")
    pseudonyms = Pseudonyms.from_file(key, create=False)
    first, second = pseudonyms.of("nih", "1"), pseudonyms.of("nih", "2")
    assert ingest(cli, "nih14", root, key)["added"] == 6
    before = images(connection)
    outcome = merge(cli, key, "--from", first, "--into", second)
    assert outcome.rows == [{"dataset": "nih", "studies": 2, "images": 2}]
    assert images(connection) == {
        name: number + (2 if name[1] == second else 0) for name, number in before.items() if name[1] != first
    }
    stored = {table: rows(connection, table) for table in ("patient", "study", "image", "merged_patient")}
    assert ingest(cli, "nih14", root, key) == {"unchanged": 6}
    assert {table: rows(connection, table) for table in stored} == stored


def test_merge_by_number_in_dicom_reaches_new_files_and_the_erasure(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    """P1 is a woman and P2 a man in the files: the sex of the patient who stays counts."""
    files = archive(tmp_path / "archive")
    ingest(cli, "dicom", files, key)
    outcome = merge(cli, key, "--from-id", "P1", "--into-id", "P2")
    assert outcome.rows == [{"dataset": "archive", "studies": 1, "images": 6}]
    assert ingest(cli, "dicom", files, key) == {"unchanged": 11}
    write(files / "late" / "slice", 40, PatientID="P1")
    assert ingest(cli, "dicom", files, key) == {"added": 1, "unchanged": 11}
    stays = Pseudonyms.from_file(key, create=False).of_dicom("P2")
    assert images(connection) == {("archive", stays): 12}
    assert connection.execute("SELECT sex FROM cbir.patient").fetchall() == [("M",)]

    erased = cli("erase", "--patient-id", "P1", "--pseudonym-key", key, "--yes", "--format", "json")
    assert sorted(row["removed"].get("image", 0) for row in erased.rows) == [0, 12]
    write(files / "later" / "slice", 41, PatientID="P1")
    write(files / "later" / "other", 42, PatientID="P2")
    assert ingest(cli, "dicom", files, key) == {"excluded": 14}


def test_sex_that_only_the_first_patient_has_does_not_change_files_of_the_second(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    write(tmp_path / "files" / "a", 1, PatientID="P1")
    write(tmp_path / "files" / "b", 2, PatientID="P2", PatientSex="")
    ingest(cli, "dicom", tmp_path / "files", key)
    assert merge(cli, key, "--from-id", "P1", "--into-id", "P2").code == 0
    assert connection.execute("SELECT sex FROM cbir.patient").fetchall() == [("F",)]
    assert ingest(cli, "dicom", tmp_path / "files", key) == {"unchanged": 2}


def test_number_with_and_without_issuer_becomes_one_patient_in_every_dataset(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    write(tmp_path / "one" / "a", 1, PatientID="7")
    write(tmp_path / "one" / "b", 2, PatientID="7", IssuerOfPatientID="St Elsewhere")
    write(tmp_path / "two" / "a", 3, PatientID="7")
    for name in ("one", "two"):
        ingest(cli, "dicom", tmp_path / name, key)
    outcome = merge(cli, key, "--from-id", "7", "--into-id", "7", "--into-issuer", "St Elsewhere")
    assert [(row["dataset"], row["images"]) for row in outcome.rows] == [("one", 1), ("two", 1)]
    stays = Pseudonyms.from_file(key, create=False).of_dicom("7", "St Elsewhere")
    assert images(connection) == {("one", stays): 2, ("two", stays): 1}
    write(tmp_path / "two" / "b", 4, PatientID="7")
    # The older image moves to the split of the patient that it now belongs to.
    first = ingest(cli, "dicom", tmp_path / "two", key)
    assert first["added"] == 1
    assert first.get("updated", 0) + first.get("unchanged", 0) == 1
    assert ingest(cli, "dicom", tmp_path / "two", key) == {"unchanged": 2}
    assert images(connection) == {("one", stays): 2, ("two", stays): 2}
    assert connection.execute(
        "SELECT count(DISTINCT i.split) FROM cbir.image AS i INNER JOIN cbir.dataset AS d USING (dataset_id)"
        " WHERE d.name = 'two'"
    ).fetchone() == (1,)


def test_patient_of_another_dataset_with_the_first_number_alone_is_left(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    """NIH numbers its patients from 1; its patient 1 is not the one of the DICOM files."""
    ingest(cli, "nih14", write_nih14(tmp_path / "nih"), key)
    for number, patient in ((1, "1"), (2, "P2")):
        write(tmp_path / "files" / patient, number, PatientID=patient)
    ingest(cli, "dicom", tmp_path / "files", key)
    outcome = merge(cli, key, "--from-id", "1", "--into-id", "P2")
    assert [row["dataset"] for row in outcome.rows] == ["files"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("", 2, "Give --from and --into"),
        ("--from {p1}", 2, "Give --from and --into"),
        ("--from {p1} --into-id P2", 2, "Give --from and --into"),
        ("--from {p1} --into {p2} --from-id P1 --into-id P2", 2, "Give --from and --into"),
        ("--from {p1} --into {p2} --issuer x", 2, "need --from-id and --into-id"),
        ("--from {p1} --into {p1}", 1, "A patient cannot be merged into itself."),
        ("--from nobody --into {p1}", 1, "There is no patient with the first pseudonym."),
        ("--from {p1} --into nobody", 1, "There is no patient with the second pseudonym."),
        ("--from {p1} --into {p2} --dataset archiv", 1, "Did you mean 'archive'?"),
        ("--from-id P9 --into-id P2", 1, "number of --from-id"),
        ("--from-id P1 --into-id P9", 1, "number of --into-id"),
        ("--from-id P1 --into-id P2 --issuer x", 1, "number of --from-id"),
        ("--from-id P1 --into-id P1", 1, "A patient cannot be merged into itself."),
    ],
)
def test_impossible_merge_is_refused_before_the_question(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path, arguments: str, code: int, sentence: str
) -> None:
    ingest(cli, "dicom", archive(tmp_path / "archive"), key)
    pseudonyms = Pseudonyms.from_file(key, create=False)
    names = {"p1": pseudonyms.of_dicom("P1"), "p2": pseudonyms.of_dicom("P2")}
    before = images(connection)
    outcome = merge(cli, key, *arguments.format(**names).split(), yes=False)
    assert (outcome.code, "[y/N]" in outcome.err) == (code, False)
    assert sentence in outcome.err
    assert not any(name in outcome.err for name in ("P1", "P2", *names.values()))
    assert images(connection) == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_merge_asks_first_and_prompts_for_numbers(
    cli: Cli, connection: psycopg.Connection, dsn: str, tmp_path: Path, key: Path, answer: str, code: int
) -> None:
    ingest(cli, "dicom", archive(tmp_path / "archive"), key)
    arguments = ["patients", "merge", "--from-id", "-", "--into-id", "-", "--pseudonym-key", str(key)]
    outcome = click.testing.CliRunner().invoke(
        cbirdb, ["--dsn", dsn, *arguments], input=f"P1\nP2\n{answer}\n", standalone_mode=False
    )
    assert "Give the patient's images (6) and studies (1) in archive to the other patient for good?" in outcome.output
    assert len(images(connection)) == (1 if answer == "y" else 2)
    assert "P1" not in outcome.output
    assert ("Nothing was merged." in outcome.output) == (code == 1)
    assert ROOT not in outcome.output
