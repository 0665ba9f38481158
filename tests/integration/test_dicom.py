"""Test DICOM from a folder to answers: headers at ingest, pixels at encode, UIDs in searches, opaque names of files."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cbirdb.path_map import PathMap
from tests.conftest import Outcome, write_csv
from tests.support.dicom_archive import ROOT, archive, write

pytestmark = pytest.mark.also_by_a_site

Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of the test's own, which keeps the key and the path map."""
    monkeypatch.setenv("CBIRDB_HOME", str(tmp_path / "home"))


def home() -> Path:
    return Path(os.environ["CBIRDB_HOME"])


def counts(outcome: Outcome) -> dict[str, int]:
    """Return the counts of the last row that are not zero."""
    return {key: value for key, value in outcome.rows[-1].items() if key not in ("dataset", "encoder") and value}


def ingest(cli: Cli, path: Path, *options: object) -> dict[str, int]:
    outcome = cli("ingest", "dicom", path, *options, "--format", "json")
    assert outcome.code in (0, 4), outcome.err
    return counts(outcome)


def encode(cli: Cli, *options: object) -> Outcome:
    return cli("encode", "-e", "tiny-image", *options, "--format", "json")


def rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return archive(tmp_path / "archive")


@pytest.fixture
def searchable(cli: Cli, files: Path) -> Path:
    """Ingest and encode the archive."""
    ingest(cli, files)
    assert encode(cli).code == 0
    return files


def test_every_frame_becomes_an_image_with_its_hierarchy(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    assert ingest(cli, files) == {"added": 11}
    assert rows(
        connection,
        "SELECT modality, modality_code, anatomic_region, view, laterality, count(*), count(DISTINCT study_uid),"
        " count(DISTINCT series_uid), count(DISTINCT patient), max(frame), min(study_date::text), min(patient_age_years)"
        " FROM cbir.image_overview GROUP BY 1, 2, 3, 4, 5 ORDER BY 1",
    ) == [
        ("CT", "CT", "chest", None, None, 6, 1, 1, 1, 1, "2020-01-02", 50),
        ("MR", "MR", "knee", None, None, 4, 1, 1, 1, 4, "2020-01-02", 50),
        ("XR", "CR", "chest", "PA", "L", 1, 1, 1, 1, 1, "2020-01-02", 50),
    ]


def test_ingest_reads_no_pixels_and_encode_fills_the_hashes(
    cli: Cli, connection: psycopg.Connection, files: Path
) -> None:
    ingest(cli, files)
    assert rows(connection, "SELECT count(*), count(sha256), count(pixel_sha256) FROM cbir.image") == [(11, 0, 0)]
    outcome = encode(cli)
    assert counts(outcome) == {"encoded": 11}
    assert rows(connection, "SELECT count(*), count(sha256), count(DISTINCT pixel_sha256) FROM cbir.image") == [
        (11, 11, 11)
    ]


def test_sex_that_one_file_of_a_patient_states_is_kept(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    write(files / "doe" / "zz", 95, PatientID="P1", PatientSex=None)
    ingest(cli, files)
    assert rows(connection, "SELECT sex, count(*) FROM cbir.patient GROUP BY 1 ORDER BY 1") == [("F", 1), ("M", 1)]


def test_second_ingest_and_encode_change_nothing(cli: Cli, connection: psycopg.Connection, searchable: Path) -> None:
    before = rows(connection, "SELECT * FROM cbir.image ORDER BY image_id")
    assert ingest(cli, searchable) == {"unchanged": 11}
    assert counts(encode(cli)) == {"already_there": 11}
    assert rows(connection, "SELECT * FROM cbir.image ORDER BY image_id") == before


def test_files_that_disagree_about_a_patient_are_not_updated_by_turns(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for number, sex, age, accession in ((1, "F", "050Y", "A1"), (2, "M", "051Y", "A2"), (3, "O", "049Y", "A3")):
        write(
            tmp_path / "d" / str(number), number, PatientID="P", PatientSex=sex, PatientAge=age,
            AccessionNumber=accession, StudyInstanceUID=f"{ROOT}1.3",
        )  # fmt: skip
    assert ingest(cli, tmp_path / "d") == {"added": 3}
    before = rows(connection, "SELECT * FROM cbir.patient, cbir.study")
    assert ingest(cli, tmp_path / "d") == {"unchanged": 3}
    assert rows(connection, "SELECT * FROM cbir.patient, cbir.study") == before
    write(tmp_path / "d" / "4", 4, PatientID="P", PatientSex="M", StudyInstanceUID=f"{ROOT}1.3")
    assert ingest(cli, tmp_path / "d") == {"added": 1, "unchanged": 3}


def test_folder_that_has_moved_keeps_its_names(
    cli: Cli, connection: psycopg.Connection, searchable: Path, tmp_path: Path
) -> None:
    searchable.rename(tmp_path / "elsewhere")
    assert ingest(cli, tmp_path / "elsewhere", "--moved") == {"unchanged": 11}


def test_changed_file_is_encoded_again(cli: Cli, connection: psycopg.Connection, searchable: Path) -> None:
    before = rows(connection, "SELECT sha256 FROM cbir.image WHERE modality = 'XR'")
    write(
        searchable / "roe" / "chest.dcm", 99, SOPInstanceUID=f"{ROOT}20.1", SOPClassUID="1.2.840.10008.5.1.4.1.1.1",
        Modality="CR", PatientID="P2", PatientSex="M", StudyInstanceUID=f"{ROOT}20.3", SeriesInstanceUID=f"{ROOT}20.2",
    )  # fmt: skip
    assert ingest(cli, searchable) == {"updated": 1, "unchanged": 10}
    assert counts(encode(cli)) == {"encoded": 1, "already_there": 10}
    assert rows(connection, "SELECT sha256 FROM cbir.image WHERE modality = 'XR'") != before


def test_file_that_changed_after_the_first_encode_is_a_failure_of_the_next(
    cli: Cli, connection: psycopg.Connection, searchable: Path
) -> None:
    write(searchable / "doe" / "slice0", 98, SOPInstanceUID=f"{ROOT}10.1")
    connection.execute("DELETE FROM cbir.embedding_tiny_image WHERE image_id IN (SELECT min(image_id) FROM cbir.image)")
    outcome = encode(cli)
    assert (outcome.code, counts(outcome)["failed"]) == (4, 1)
    assert "file changed" in outcome.err


def test_frames_option_takes_some_frames(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    ingest(cli, files, "--frames", "every:3")
    assert rows(connection, "SELECT frame FROM cbir.image_overview WHERE modality = 'MR' ORDER BY 1") == [(1,), (4,)]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--sop-uid", f"{ROOT}11.1"), 5),
        (("--sop-uid", f"{ROOT}30.1", "--frame", 3), 3),
        (("--series-uid", f"{ROOT}1.2", "--sop-uid", f"{ROOT}11.1"), 5),
        (("--study-uid", f"{ROOT}20.3"), 4),
    ],
)
def test_search_starts_from_uids(cli: Cli, searchable: Path, arguments: tuple[object, ...], found: int) -> None:
    outcome = cli("search", "-e", "tiny-image", *arguments, "--same-patient", "--format", "json", "-k", 50)
    assert outcome.code == 0, outcome.err
    own = {row["study_uid"] for row in outcome.rows}
    assert len(outcome.rows) == 10
    assert len(own) == 3 if found != 4 else 2


def test_search_by_a_dicom_file_finds_itself(cli: Cli, searchable: Path) -> None:
    outcome = cli(
        "search", "-e", "tiny-image", "--image", searchable / "roe" / "cine", "--frame", 2, "-k", 1, "--format", "json"
    )
    assert outcome.code == 0, outcome.err
    (row,) = outcome.rows
    assert row["sop_uid"] == f"{ROOT}30.1"
    assert row["distance"] == pytest.approx(0, abs=1e-3)


def test_frame_that_a_query_file_lacks_is_one_sentence(cli: Cli, searchable: Path) -> None:
    outcome = cli("search", "-e", "tiny-image", "--image", searchable / "roe" / "cine", "--frame", 9)
    assert outcome.code == 1
    assert "no such frame" in outcome.err


def test_filters_of_dicom_restrict_a_search(cli: Cli, searchable: Path) -> None:
    outcome = cli(
        "search", "-e", "tiny-image", "--sop-uid", f"{ROOT}10.1", "--view", "PA", "--laterality", "L", "--manufacturer",
        "Siemens", "--image-type", "PRIMARY", "--body-part", "CHEST", "--format", "json",
    )  # fmt: skip
    assert [row["sop_uid"] for row in outcome.rows] == [f"{ROOT}20.1"], outcome.err


@pytest.mark.parametrize(
    ("choice", "encoded", "failed", "code"), [("keep", 12, 0, 0), ("replace", 11, 0, 0), ("skip", 11, 1, 4)]
)
def test_equal_uid_with_other_pixels_ends_as_chosen(
    cli: Cli, connection: psycopg.Connection, files: Path, choice: str, encoded: int, failed: int, code: int
) -> None:
    write(files / "zoe" / "again", 97, SOPInstanceUID=f"{ROOT}10.1", PatientID="P1")
    ingest(cli, files)
    outcome = encode(cli, "--on-conflict", choice)
    assert (outcome.code, outcome.rows[-1]["encoded"], outcome.rows[-1]["failed"]) == (code, encoded, failed)
    assert "SOP instance UID of an older file and other pixels" in outcome.err
    assert "removed while" not in outcome.err
    left = {"keep": 12, "replace": 11, "skip": 11}[choice]
    assert rows(connection, "SELECT count(*) FROM cbir.embedding_tiny_image") == [(left,)]
    names_one = cli("search", "-e", "tiny-image", "--sop-uid", f"{ROOT}10.1").code == 0
    assert names_one == (choice == "replace")


def test_copy_of_a_file_is_not_searched_twice(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    shutil.copy(files / "doe" / "slice0", files / "doe" / "zz copy")
    assert ingest(cli, files) == {"added": 12}
    outcome = encode(cli)
    assert counts(outcome) == {"encoded": 11, "already_there": 1}
    assert "1 are copies" in outcome.err
    assert counts(encode(cli)) == {"already_there": 12}


def test_damaged_pixels_are_a_failure_of_encode_unless_accepted(
    cli: Cli, connection: psycopg.Connection, files: Path
) -> None:
    whole = (files / "doe" / "slice0").read_bytes()
    (files / "doe" / "slice0").write_bytes(whole[:-600])
    assert ingest(cli, files) == {"added": 11}
    refused = encode(cli)
    assert (refused.code, counts(refused)) == (4, {"encoded": 10, "failed": 1})
    accepted = encode(cli, "--accept-damaged")
    assert (accepted.code, accepted.rows[-1]["encoded"]) == (0, 1)
    assert rows(connection, "SELECT count(*) FROM cbir.image WHERE damage IS NOT NULL") == [(1,)]
    assert rows(connection, "SELECT count(*) FROM cbir.failure WHERE NOT resolved") == [(0,)]


def test_recheck_finds_damage_of_pixels_that_were_read_before(
    cli: Cli, connection: psycopg.Connection, searchable: Path
) -> None:
    assert ingest(cli, searchable, "--recheck") == {"unchanged": 11}
    damaged = searchable / "doe" / "slice0"
    before, whole = damaged.stat(), damaged.read_bytes()
    damaged.write_bytes(whole[:-600] + bytes(600))  # of the same size, as silent damage of a disk is
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ingest(cli, searchable) == {"unchanged": 11}
    assert ingest(cli, searchable, "--recheck") == {"updated": 1, "unchanged": 10}
    damaged.write_bytes(whole[:-600])
    os.utime(damaged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ingest(cli, searchable, "--recheck") == {"unchanged": 10, "failed": 1}


def test_second_rendering_of_one_table_is_refused(cli: Cli, connection: psycopg.Connection, searchable: Path) -> None:
    assert rows(connection, "SELECT rendering_sha256 IS NOT NULL FROM cbir.encoder") == [(True,)]
    connection.execute("UPDATE cbir.encoder SET rendering_sha256 = repeat('0', 64)")
    outcome = encode(cli)
    assert outcome.code == 1
    assert "rendering" in outcome.err
    assert cli("search", "-e", "tiny-image", "--image", searchable / "doe" / "slice0").code == 1


def test_raster_table_takes_dicom_without_another_preprocessing(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, files: Path
) -> None:
    assert cli("ingest", "folder", class_folder).code == 0
    assert encode(cli).code == 0
    query = "SELECT preprocessing_sha256, rendering_sha256 FROM cbir.encoder"
    ((preprocessing, rendering),) = rows(connection, query)
    assert rendering is None
    ingest(cli, files)
    assert encode(cli).code == 0
    ((same, now),) = rows(connection, query)
    assert same == preprocessing
    assert now is not None


def test_zip_is_read_in_place(cli: Cli, connection: psycopg.Connection, files: Path, tmp_path: Path) -> None:
    packed = tmp_path / "in" / "doe.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(files.rglob("*")):
            if path.is_file():
                made.write(path, path.relative_to(files))
    assert ingest(cli, packed) == {"added": 11}
    outcome = encode(cli)
    assert (outcome.code, counts(outcome)) == (0, {"encoded": 11}), outcome.err


def test_paths_option_keep_stores_paths_and_needs_no_map(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    ingest(cli, files, "--paths", "keep")
    assert not (home() / "path-map.sqlite").exists()
    assert ("doe/slice0",) in rows(connection, "SELECT source FROM cbir.image")
    assert counts(encode(cli)) == {"encoded": 11}


def test_machine_without_the_path_map_is_told_what_to_do(cli: Cli, files: Path, tmp_path: Path) -> None:
    ingest(cli, files)
    kept = (home() / "path-map.sqlite").rename(tmp_path / "map")
    outcome = encode(cli)
    assert outcome.code == 1
    assert "does not know where the files" in outcome.err
    assert counts(encode(cli, "--path-map", kept)) == {"encoded": 11}


def test_path_map_is_rebuilt_by_ingesting_again(cli: Cli, files: Path) -> None:
    ingest(cli, files)
    (home() / "path-map.sqlite").unlink()
    assert ingest(cli, files) == {"unchanged": 11}
    assert counts(encode(cli)) == {"encoded": 11}


def test_dry_run_writes_no_path(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    ingest(cli, files, "--dry-run")
    assert not (home() / "path-map.sqlite").exists()
    assert rows(connection, "SELECT count(*) FROM cbir.image") == [(0,)]


def test_failure_has_an_opaque_name_whose_path_the_machine_shows(
    cli: Cli, connection: psycopg.Connection, files: Path
) -> None:
    write(files / "doe" / "bad", 96, SOPInstanceUID="1." * 40 + "1")
    assert ingest(cli, files) == {"added": 11, "failed": 1}
    (shown,) = cli("failures", "--show-paths", "--format", "json").rows
    assert shown["source"].startswith("dicom-")
    assert shown["path"] == str(files / "doe" / "bad")
    (without,) = cli("failures", "--format", "json").rows
    assert "path" not in without


def test_hashed_uids_are_found_by_the_uid_of_the_file(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    ingest(cli, files, "--uids", "hash")
    assert encode(cli).code == 0
    assert all(uid.startswith("2.25.") for (uid,) in rows(connection, "SELECT sop_uid FROM cbir.image"))
    outcome = cli("search", "-e", "tiny-image", "--sop-uid", f"{ROOT}11.1", "-k", 1, "--same-patient")
    assert outcome.code == 0, outcome.err


def test_labels_come_from_a_list_by_uid(cli: Cli, connection: psycopg.Connection, files: Path, tmp_path: Path) -> None:
    listed = write_csv(tmp_path / "labels.csv", [{"series_uid": f"{ROOT}1.2", "label": "CT/chest/nodule"}])
    ingest(cli, files, "--labels", listed)
    assert rows(
        connection, "SELECT count(*) FROM cbir.image_overview WHERE labels = '{CT/chest/nodule}'"
    ) == [(6,)]  # fmt: skip


def test_word_for_a_body_part_of_the_users_own_is_taken(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    connection.execute("INSERT INTO cbir.body_part VALUES ('CHEST', 'thorax')")
    ingest(cli, files)
    assert rows(connection, "SELECT DISTINCT anatomic_region FROM cbir.image WHERE modality = 'CT'") == [("thorax",)]


def test_images_of_one_patient_are_in_one_split(cli: Cli, connection: psycopg.Connection, tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / "many" / str(number), 200 + number, PatientID=f"P{number // 4}")
    ingest(cli, tmp_path / "many", "--split", "40/30/30")
    found = rows(connection, "SELECT patient_id, count(DISTINCT split), min(split) FROM cbir.image GROUP BY 1")
    assert {splits for _, splits, _ in found} == {1}
    assert len({split for _, _, split in found}) > 1


def test_one_patient_has_one_pseudonym_in_two_datasets(cli: Cli, connection: psycopg.Connection, files: Path) -> None:
    ingest(cli, files / "doe", "--name", "one")
    ingest(cli, files / "doe", "--name", "two")
    assert rows(connection, "SELECT count(*), count(DISTINCT pseudonym) FROM cbir.patient") == [(2, 1)]


def test_erasure_by_the_patients_own_number_takes_files_out_of_the_path_map(
    cli: Cli, connection: psycopg.Connection, searchable: Path
) -> None:
    outcome = cli("erase", "--patient-id", "P1", "--yes")
    assert outcome.code == 0, outcome.err
    assert rows(connection, "SELECT count(*) FROM cbir.image") == [(5,)]
    with PathMap.open(home() / "path-map.sqlite", read_only=True) as paths:
        ((root,),) = rows(connection, "SELECT root FROM cbir.dataset")
        assert len(paths.sources(root)) == 2
    with sqlite3.connect(home() / "path-map.sqlite") as raw:
        assert not [row for row in raw.execute("SELECT path FROM file") if b"doe" in row[0]]
    assert ingest(cli, searchable) == {"unchanged": 5, "excluded": 6}
    with PathMap.open(home() / "path-map.sqlite", read_only=True) as paths:
        assert len(paths.sources(root)) == 2


def test_burned_in_text_can_be_kept_out_of_a_sheet(cli: Cli, searchable: Path, tmp_path: Path) -> None:
    sheets = []
    for options in ((), ("--hide-burned-in",)):
        sheet = tmp_path / f"sheet{len(options)}.png"
        outcome = cli(
            "search", "-e", "tiny-image", "--sop-uid", f"{ROOT}10.1", "--sheet", sheet, *options, "--format", "json"
        )
        assert outcome.code == 0, outcome.err
        sheets.append(sheet.read_bytes())
    assert sheets[0] != sheets[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", "some"), "frames"),
        (("--labels", "missing.csv"), "--labels"),
        (("--modality", "CT"), "--modality"),
    ],
)  # fmt: skip
def test_bad_option_is_one_sentence(cli: Cli, files: Path, options: tuple[str, str], message: str) -> None:
    outcome = cli("ingest", "dicom", files, *options)
    assert outcome.code in (1, 2)
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_folder_without_dicom_says_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = cli("ingest", "dicom", tmp_path / "empty")
    assert outcome.code == 1
    assert json.dumps(outcome.err).count("Error") == 1
