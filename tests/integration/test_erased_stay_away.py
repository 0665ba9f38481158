"""Test that an erased patient cannot return under another name, and that other patients are not mistaken for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cbirdb.pseudonyms import Pseudonyms
from tests.conftest import Outcome
from tests.support.official_layouts import NIH_ROWS, write_key, write_nih14

Cli = Callable[..., Outcome]
ERASED = [row[0] for row in NIH_ROWS if row[3] == 1]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path)


@pytest.fixture
def erased(cli: Cli, tmp_path: Path, key: Path) -> Path:
    """Ingest NIH's folder as 'nih' and erase patient 1; return the folder."""
    root = write_nih14(tmp_path / "nih")
    assert cli("ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih").code == 0
    assert cli("erase", "--patient-id", "1", "--pseudonym-key", key, "--yes").code == 0
    return root


def sources(connection: psycopg.Connection, dataset: str) -> set[str]:
    found = connection.execute(
        "SELECT i.source FROM cbir.image AS i JOIN cbir.dataset AS d USING (dataset_id) WHERE d.name = %s", [dataset]
    )
    return {Path(row[0]).name for row in found}


@pytest.mark.parametrize("dropped", [False, True], ids=["beside the first", "after the first was dropped"])
def test_same_files_under_another_dataset_name_exclude_the_erased_patient(
    cli: Cli, connection: psycopg.Connection, erased: Path, key: Path, dropped: bool
) -> None:
    if dropped:
        assert cli("datasets", "drop", "nih", "--yes").code == 0
    again = cli("ingest", "nih14", erased, "--pseudonym-key", key, "--name", "other", "--format", "json")
    assert (again.rows[-1]["added"], again.rows[-1]["excluded"]) == (4, 2)
    assert "2 left out: erased patient." in again.err
    assert sources(connection, "other") == {row[0] for row in NIH_ROWS} - set(ERASED)


def test_other_patient_with_the_same_number_is_not_excluded(
    cli: Cli, connection: psycopg.Connection, erased: Path, key: Path, tmp_path: Path
) -> None:
    """Patients and files are numbered from 1 everywhere: only both together identify a patient."""
    strangers = write_nih14(tmp_path / "strangers", images=False)
    table = strangers / "Data_Entry_2017_v2020.csv"
    table.write_text(
        table.read_text().replace("00000001_", "strange_").replace("_000.png,No Finding,0,2", "_000.png,No Finding,0,1")
    )
    found = cli(
        "ingest", "nih14", strangers, "--labels-only", "--pseudonym-key", key, "--name", "strangers", "--format", "json"
    )
    assert (found.rows[-1]["added"], found.rows[-1]["excluded"]) == (6, 0)
    assert len(sources(connection, "strangers")) == 6


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("patient", "UPDATE cbir.patient SET pseudonym = %(pseudonym)s WHERE patient_id = %(patient)s"),
        ("image", "UPDATE cbir.image SET source = %(source)s WHERE image_id = %(image)s"),
        ("image", "UPDATE cbir.image SET dataset_id = %(dataset)s WHERE source = %(source)s"),
        ("patient", "UPDATE cbir.patient SET dataset_id = %(dataset)s WHERE pseudonym = %(pseudonym)s"),
    ],
)
def test_update_cannot_turn_a_row_into_the_erased_patient(
    connection: psycopg.Connection, erased: Path, key: Path, table: str, change: str
) -> None:
    (dataset, patient, image) = connection.execute(
        "SELECT dataset_id, patient_id, image_id FROM cbir.image ORDER BY image_id LIMIT 1"
    ).fetchone() or (0, 0, 0)
    names = {
        "pseudonym": Pseudonyms.from_file(key, create=False).of("nih", "1"), "source": f"images/{ERASED[0]}",
        "dataset": dataset, "patient": patient, "image": image,
    }  # fmt: skip
    if "SET dataset_id" in change:
        connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('elsewhere', 'nih14')")
        column = "source" if table == "image" else "pseudonym"
        connection.execute(
            sql.SQL("INSERT INTO cbir.{} (dataset_id, {}) SELECT max(dataset_id), %s FROM cbir.dataset").format(
                sql.Identifier(table), sql.Identifier(column)
            ),
            [names[column]],
        )
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="erased patient"):
        connection.execute(change.encode(), names)
    connection.execute("UPDATE cbir.image SET split = 'test'")
    connection.execute("UPDATE cbir.image SET source = 'renamed.png' WHERE image_id = %s", [image])


def test_dataset_with_a_certificate_keeps_its_name_and_no_other_takes_it(
    cli: Cli, connection: psycopg.Connection, erased: Path
) -> None:
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('free', 'nih14')")
    for old, new in (("nih", "nih2"), ("free", "nih")):
        if new == "nih":
            assert cli("datasets", "drop", "nih", "--yes").code == 0
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="cannot be renamed") as caught:
            connection.execute("UPDATE cbir.dataset SET name = %s WHERE name = %s", [new, old])
        assert caught.value.diag.message_hint
    connection.execute("UPDATE cbir.dataset SET name = 'freed', root = '/elsewhere' WHERE name = 'free'")


def test_repeated_row_of_an_erased_patient_is_excluded_and_not_recorded(
    cli: Cli, connection: psycopg.Connection, erased: Path, key: Path
) -> None:
    table = erased / "Data_Entry_2017_v2020.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1], lines[3]]) + "\n")
    again = cli("ingest", "nih14", erased, "--pseudonym-key", key, "--name", "nih", "--format", "json")
    assert (again.rows[-1]["excluded"], again.rows[-1]["failed"]) == (3, 1)
    found = connection.execute("SELECT source, reason FROM cbir.failure").fetchall()
    assert found == [("images/00000002_000.png", "repeated row")]


def test_planner_statistics_do_not_show_the_erased_patient(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    def shown() -> set[str]:
        found = connection.execute(
            "SELECT tablename::text FROM pg_stats WHERE schemaname = 'cbir' AND"
            " concat(histogram_bounds, most_common_vals) ~ ANY (%s)",
            [["00000001_", Pseudonyms.from_file(key, create=False).of("nih", "1")]],
        )
        return {row[0] for row in found}

    root = write_nih14(tmp_path / "nih")
    assert cli("ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih").code == 0
    connection.execute("ANALYZE")
    assert {"patient", "image"} <= shown()
    assert cli("erase", "--patient-id", "1", "--pseudonym-key", key, "--yes").code == 0
    assert shown() == set()
