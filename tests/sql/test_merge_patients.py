"""Test that merging makes one patient of two, that it lasts, and that an erasure takes the whole person."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from cbirdb.db import catalogue, erasure
from cbirdb.db.catalogue import ImageRow, PatientRow
from cbirdb.db.embeddings import find_encoder
from cbirdb.evaluate import EvaluationOptions, evaluate
from cbirdb.metrics.precision import describe_runs
from tests.conftest import Logins, _database
from tests.support.stored_pictures import Picture, fill
from tests.support.two_sites import answer, secure
from tests.support.two_sites import fill as fill_site

PATIENTS = ["a", "a", "b", "b", "c", "c"]
"""Patients of the images 1 to 6."""


@pytest.fixture
def filled(connection: psycopg.Connection) -> psycopg.Connection:
    """Six images of three patients of dataset one, each pair in a study."""
    angles = np.radians(np.arange(6) * 10)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pictures = [Picture(patient=patient, labels=("x",)) for patient in PATIENTS]
    assert fill(connection, vectors, pictures) == [1, 2, 3, 4, 5, 6]
    connection.execute(
        """
        INSERT INTO cbir.study (dataset_id, patient_id, study_uid)
        SELECT dataset_id, patient_id, pseudonym || '/1' FROM cbir.patient ORDER BY patient_id;
        UPDATE cbir.image AS i SET study_id = s.study_id FROM cbir.study AS s WHERE s.patient_id = i.patient_id;
        """
    )
    return connection


def merge(connection: psycopg.Connection, goes: str, stays: str, dataset: str | None = None) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT * FROM cbir.merge_patients(%s, %s, %s)", [goes, stays, dataset]).fetchall()


def owners(connection: psycopg.Connection) -> list[str]:
    """Return the patient of each image; a study must have its images' patient."""
    found = connection.execute(
        "SELECT p.pseudonym, s.patient_id = i.patient_id FROM cbir.image AS i JOIN cbir.patient AS p USING (patient_id)"
        " JOIN cbir.study AS s USING (study_id) ORDER BY image_id"
    ).fetchall()
    assert all(same for _, same in found)
    return [pseudonym for pseudonym, _ in found]


def merged(connection: psycopg.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT m.pseudonym, p.pseudonym FROM cbir.merged_patient AS m JOIN cbir.patient AS p USING (patient_id) ORDER BY 1"
    ).fetchall()


def certificates(connection: psycopg.Connection, pseudonym: str) -> list[dict[str, Any]]:
    return erasure.erase_patients(connection, [(pseudonym, None)])


def test_merge_moves_studies_and_images_and_removes_the_first_patient(filled: psycopg.Connection) -> None:
    filled.execute("UPDATE cbir.patient SET sex = 'F' WHERE pseudonym = 'a'")
    assert merge(filled, "a", "b") == [("one", 1, 2)]
    assert owners(filled) == ["b", "b", "b", "b", "c", "c"]
    assert filled.execute("SELECT pseudonym, sex FROM cbir.patient ORDER BY 1").fetchall() == [("b", "F"), ("c", None)]
    assert merged(filled) == [("a", "b")]


def test_chain_of_merges_ends_at_the_last_patient(filled: psycopg.Connection) -> None:
    merge(filled, "a", "b")
    merge(filled, "b", "c")
    assert owners(filled) == ["c"] * 6
    assert merged(filled) == [("a", "c"), ("b", "c")]


def test_merge_into_a_merged_patient_reaches_the_patient_who_stayed(filled: psycopg.Connection) -> None:
    merge(filled, "a", "b")
    assert merge(filled, "c", "a") == [("one", 1, 2)]
    assert merged(filled) == [("a", "b"), ("c", "b")]


def test_merge_reaches_every_dataset_that_has_the_first_patient(filled: psycopg.Connection) -> None:
    filled.execute(
        "INSERT INTO cbir.dataset (name, reader) VALUES ('two', 'test'), ('three', 'test');"
        " INSERT INTO cbir.patient (dataset_id, pseudonym, sex)"
        " SELECT dataset_id, CASE name WHEN 'two' THEN 'a' ELSE 'b' END, 'M' FROM cbir.dataset WHERE name <> 'one';"
        " INSERT INTO cbir.image (dataset_id, source, patient_id)"
        " SELECT dataset_id, 'x', patient_id FROM cbir.patient WHERE sex = 'M'"
    )
    assert merge(filled, "a", "b") == [("one", 1, 2), ("two", 0, 1)]
    assert filled.execute(
        "SELECT d.name, p.pseudonym, p.sex FROM cbir.patient AS p JOIN cbir.dataset AS d USING (dataset_id)"
        " JOIN cbir.image AS i USING (patient_id) WHERE i.source = 'x' ORDER BY 1"
    ).fetchall() == [("three", "b", "M"), ("two", "b", "M")]


def test_merge_in_a_named_dataset_leaves_the_others(filled: psycopg.Connection) -> None:
    filled.execute(
        "INSERT INTO cbir.dataset (name, reader) VALUES ('two', 'test');"
        " INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'a' FROM cbir.dataset WHERE name = 'two'"
    )
    assert merge(filled, "a", "b", "two") == [("two", 0, 0)]
    assert owners(filled) == PATIENTS


@pytest.mark.parametrize(
    ("goes", "stays", "dataset", "message"),
    [
        ("a", "a", None, "a patient cannot be merged into itself"),
        ("nobody", "b", None, "there is no patient with the first pseudonym"),
        ("a", "nobody", None, "there is no patient with the second pseudonym"),
        ("a", "b", "two", 'there is no patient with the first pseudonym in dataset "two"'),
        ("old", "b", None, "the patient was merged into another before"),
        ("b", "old", None, "the two patients are one already"),
        ("gone", "b", None, "a patient who was erased cannot be merged"),
        ("a", "gone", None, "a patient who was erased cannot be merged"),
    ],
)
def test_impossible_merge_is_one_sentence_and_changes_nothing(
    filled: psycopg.Connection, goes: str, stays: str, dataset: str | None, message: str
) -> None:
    filled.execute(
        "INSERT INTO cbir.dataset (name, reader) VALUES ('two', 'test');"
        " INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT 1, unnest('{old,gone}'::text[])"
    )
    merge(filled, "old", "b")
    certificates(filled, "gone")
    before = filled.execute("SELECT to_jsonb(p) FROM cbir.patient AS p ORDER BY patient_id").fetchall()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=message) as caught:
        merge(filled, goes, stays, dataset)
    assert caught.value.diag.message_hint
    assert filled.execute("SELECT to_jsonb(p) FROM cbir.patient AS p ORDER BY patient_id").fetchall() == before
    assert owners(filled) == PATIENTS


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO cbir.patient (dataset_id, pseudonym) VALUES (1, 'a')",
        "UPDATE cbir.patient SET pseudonym = 'a' WHERE pseudonym = 'c'",
    ],
)
def test_merged_patient_cannot_become_a_second_row(filled: psycopg.Connection, change: str) -> None:
    merge(filled, "a", "b")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="merged into another"):
        filled.execute(change.encode())


def test_ingest_that_has_looked_merged_patients_up_ends_before_a_merge_begins(
    filled: psycopg.Connection, dsn: str
) -> None:
    with psycopg.connect(dsn) as ingest:
        assert catalogue.merged_pseudonyms(ingest, "one", ["a", "b"]) == {}
        filled.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            merge(filled, "a", "b")
        new = ImageRow("new", "train", "XR", "chest", {}, None, None, PatientRow("a", None))
        catalogue.store_images(ingest, 1, [new], {})
    assert merge(filled, "a", "b") == [("one", 1, 3)]
    assert catalogue.merged_pseudonyms(filled, "one", ["a", "b"]) == {"a": "b"}


@pytest.mark.parametrize("named", ["a", "b", "c"])
def test_erasure_by_any_pseudonym_takes_the_whole_person(filled: psycopg.Connection, named: str) -> None:
    filled.execute(
        "INSERT INTO cbir.search_audit (login, role, function, purpose, filter, returned)"
        " SELECT 'x', 'x', 'x', 'case of ' || p.pseudonym, jsonb_build_object('without_patient', p.patient_id), '{}'"
        " FROM cbir.patient AS p"
    )
    merge(filled, "a", "b")
    merge(filled, "b", "c")
    found = sorted(certificates(filled, named), key=lambda row: -row["removed"].get("image", 0))
    assert [row["removed"].get("image") for row in found] == [6, None, None]
    assert found[0]["removed"]["merged_patient"] == 2
    assert "VACUUM (ANALYZE) cbir.merged_patient" in found[0]["to_run"]
    hashes = filled.execute("SELECT encode(cbir.erasure_hash('one', unnest('{a,b,c}'::text[])), 'hex')").fetchall()
    assert {row["pseudonym_sha256"] for row in found} == {value for (value,) in hashes}
    for table in ("patient", "merged_patient", "study", "image", "embedding_toy"):
        assert filled.execute(f"SELECT count(*) FROM cbir.{table}".encode()).fetchone() == (0,), table
    assert filled.execute("SELECT DISTINCT purpose, filter FROM cbir.search_audit").fetchall() == [
        ("case of erased", {"without_patient": "erased"})
    ]
    assert erasure.erased_sources(filled, "one", ["f", "g", "h"], ["a", "b", "someone"]) == {"f", "g"}
    for pseudonym in "abc":
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="erased patient"):
            filled.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) VALUES (1, %s)", [pseudonym])


@pytest.mark.parametrize("merged_before_backup", [False, True])
def test_certificates_erase_what_an_older_backup_brings_back(
    filled: psycopg.Connection, server: str, template: str, merged_before_backup: bool
) -> None:
    """The backup is a second database: the same patients, of before the erasure."""
    merge(filled, "a", "b")
    kept = json.loads(json.dumps(certificates(filled, "b")))
    for dsn in _database(server, template):
        with psycopg.connect(dsn, autocommit=True) as backup:
            fill(backup, np.eye(6, dtype=np.float32), [Picture(patient=patient) for patient in PATIENTS])
            if merged_before_backup:
                merge(backup, "a", "b")
            erasure.reapply(backup, kept)
            assert backup.execute("SELECT pseudonym FROM cbir.patient").fetchall() == [("c",)]
            assert backup.execute("SELECT count(*) FROM cbir.image").fetchone() == (2,)
            assert backup.execute("SELECT count(*) FROM cbir.returned_patient").fetchone() == (0,)


def test_erased_patient_who_was_merged_in_a_backup_is_erased_with_the_person(
    filled: psycopg.Connection, server: str, template: str
) -> None:
    kept = json.loads(json.dumps(certificates(filled, "a")))
    for dsn in _database(server, template):
        with psycopg.connect(dsn, autocommit=True) as backup:
            fill(backup, np.eye(6, dtype=np.float32), [Picture(patient=patient) for patient in PATIENTS])
            merge(backup, "a", "b")
            erasure.reapply(backup, kept)
            assert backup.execute("SELECT pseudonym FROM cbir.patient").fetchall() == [("c",)]
            assert merged(backup) == []


def run_of(connection: psycopg.Connection, *, same_patient: bool) -> int:
    stored = find_encoder(connection, "toy")
    assert stored is not None
    dsn = connection.info.dsn
    found = evaluate(
        connection, stored, EvaluationOptions(k=5, mode="exact", workers=1, same_patient=same_patient),
        connect=lambda: psycopg.connect(dsn, autocommit=True),
    )  # fmt: skip
    return found.run_id


@pytest.mark.parametrize("goes", ["a", "c"])
def test_stored_run_without_own_patients_refuses_figures_after_a_merge(filled: psycopg.Connection, goes: str) -> None:
    """Patient a has queries alone, c indexed images alone: the sum over indexed images does not see the former."""
    filled.execute("UPDATE cbir.image SET split = CASE WHEN image_id <= 2 THEN 'test' ELSE 'train' END")
    run = run_of(filled, same_patient=False)
    leaks = "SELECT count(*) FROM cbir.leaking_image(%s)"
    filled.execute(leaks, [run])
    assert "merged" not in describe_runs(filled, [run])[0]
    merge(filled, goes, "b")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="have changed since the run"):
        filled.execute(leaks, [run])
    assert "the patient of 2 of its images was merged into another" in describe_runs(filled, [run])[0]
    assert run_of(filled, same_patient=False) != run
    assert filled.execute("SELECT count(*) FROM cbir.search_run").fetchone() == (2,)


def test_run_that_a_merge_does_not_touch_stays_as_it_is(filled: psycopg.Connection) -> None:
    filled.execute("UPDATE cbir.image SET split = (ARRAY[NULL, NULL, 'test', 'train', 'test', 'train'])[image_id]")
    run = run_of(filled, same_patient=False)
    merge(filled, "a", "b")
    assert "merged" not in describe_runs(filled, [run])[0]


@pytest.fixture
def sites(role_server: str, role_template: str, logins: Logins) -> Iterator[str]:
    """Two sites under row-level security, both with a patient "shared"; yield the database's name."""
    for dsn in _database(role_server, role_template):
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill_site(connection, "a")
            fill_site(connection, "b")
            connection.execute(
                "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'shared' FROM cbir.dataset"
            )
            secure(connection, logins)
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.mark.parametrize("who", ["reader", "ingest", "site_a", "ingest_a", "auditor", "stranger"])
def test_only_administrators_merge_patients_and_see_who_was_merged(sites: str, logins: Logins, who: str) -> None:
    for statement in (
        "SELECT * FROM cbir.merge_patients('a1', 'a2')",
        "SELECT * FROM cbir_internal.merge_in_dataset(1, 1, 'a2')",
        "SELECT cbir_internal.note_merge('{1}')",
        "SELECT * FROM cbir.merged_patient",
        "INSERT INTO cbir.merged_patient VALUES (1, 'x', 1, 1)",
    ):
        with logins.connect(who, sites) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_site_asks_for_merged_patients_of_its_own_datasets_alone(sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as admin:
        assert merge(admin, "b1", "b2") == [("b", 1, 2)]
        assert merge(admin, "a1", "a2") == [("a", 1, 2)]
        assert merge(admin, "shared", "a2", "a") == [("a", 0, 0)]
        assert answer(admin, "SELECT * FROM cbir_internal.access_fault()") == []
    with logins.connect("ingest_a", sites) as site:
        asked = ["a1", "b1", "b2", "shared"]
        assert catalogue.merged_pseudonyms(site, "a", asked) == {"a1": "a2", "shared": "a2"}
        assert catalogue.merged_pseudonyms(site, "b", asked) == {}
        assert catalogue.merged_pseudonyms(site, "absent", asked) == {}
        refused: Callable[[], object] = lambda: catalogue.store_images(  # noqa: E731
            site, 1, [ImageRow("new", None, None, None, {}, None, None, PatientRow("a1", None))], {}
        )
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="merged into another"):
            refused()


def test_merged_patient_of_a_hidden_dataset_cannot_be_told_from_an_absent_one(sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as admin:
        merge(admin, "b1", "b2")
    hidden = admin_id(logins, sites, "b")
    with logins.connect("ingest_a", sites) as site:
        store = "SELECT * FROM cbir_internal.store_images(%s, %s)"
        tried = [
            answer(site, store, hidden, json.dumps([{"source": "new", "pseudonym": name, "labels": {}}]))
            for name in ("b1", "b77")
        ]
    assert tried[0] == tried[1]


def admin_id(logins: Logins, database: str, name: str) -> int:
    with logins.connect("admin", database) as admin:
        row = admin.execute("SELECT dataset_id FROM cbir.dataset WHERE name = %s", [name]).fetchone()
    assert row is not None
    return int(row[0])
