"""Test what follows an erasure: the certificate is always kept, and statements that the role may not run are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Outcome

Cli = Callable[..., Outcome]
PERSON = "cafe" * 8


@pytest.fixture
def person(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> str:
    """Encode and index a folder, give one image to a patient; return the pseudonym."""
    assert cli("ingest", "folder", class_folder).code == 0
    assert cli("encode", "-e", "tiny-image").code == 0
    connection.execute(
        "INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, %s FROM cbir.dataset", [PERSON]
    )
    connection.execute(
        "UPDATE cbir.image SET patient_id = (SELECT patient_id FROM cbir.patient)"
        " WHERE image_id = (SELECT min(image_id) FROM cbir.image)"
    )
    assert cli("index", "build", "-e", "tiny-image", "--method", "hnsw").code == 0
    return PERSON


def test_erase_by_a_non_owner_writes_the_certificate_and_prints_the_owners_statements(
    cli: Cli, connection: psycopg.Connection, person: str, tmp_path: Path
) -> None:
    (name,) = connection.execute("SELECT 'cbirdb_test_' || md5(random()::text)").fetchone() or ("",)
    role = sql.Identifier(name)
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA cbir TO {}").format(role))
        connection.execute(
            sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cbir TO {}").format(role)
        )
        connection.execute(sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cbir TO {}").format(role))
        dsn = psycopg.conninfo.make_conninfo(connection.info.dsn, user=name)
        file = tmp_path / "certificate.json"
        found = cli("--dsn", dsn, "erase", "--patient", person, "--yes", "--certificate", file, "--format", "json")
        assert found.code == 4, found.err
        assert json.loads(file.read_text()) == found.rows
        assert "until their owner runs these" in found.err
        assert "  REINDEX INDEX CONCURRENTLY cbir.embedding_tiny_image_hnsw_1;" in found.err
        assert "  VACUUM" in found.err
        for statement in found.rows[0]["to_run"]:
            assert f"  {statement};" in found.err
    finally:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_dropped_index_needs_no_repair(cli: Cli, person: str) -> None:
    assert cli("erase", "--patient", person, "--yes", "--no-repair").code == 0
    assert cli("index", "drop", "-e", "tiny-image").code == 0
    again = cli("erase", "--patient", person, "--yes")
    assert (again.code, "until their owner" in again.err) == (0, False)


def test_erase_does_not_run_a_foreign_statement_of_a_certificate(
    cli: Cli, connection: psycopg.Connection, person: str
) -> None:
    assert cli("erase", "--patient", person, "--yes", "--no-repair").code == 0
    connection.execute("UPDATE cbir.erasure_certificate SET to_run = '{\"DROP TABLE cbir.failure\"}'")
    again = cli("erase", "--patient", person, "--yes")
    assert again.code == 4
    assert "  DROP TABLE cbir.failure;" in again.err
    assert connection.execute("SELECT to_regclass('cbir.failure') IS NOT NULL").fetchone() == (True,)


def test_certificate_dates_are_iso_whatever_the_datestyle(
    cli: Cli, connection: psycopg.Connection, person: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c DateStyle=SQL,DMY")
    file = tmp_path / "certificate.json"
    assert cli("erase", "--patient", person, "--yes", "--no-repair", "--certificate", file).code == 0
    connection.execute("UPDATE cbir.erasure_certificate SET erased_at = '2026-11-05 10:00+00'")
    (listed,) = cli("erase", "--list", "--format", "json").rows
    assert listed["erased_at"].startswith("2026-11-05T")
    file.write_text(json.dumps([listed]))
    monkeypatch.delenv("PGOPTIONS")
    connection.execute("TRUNCATE cbir.erasure_certificate CASCADE")
    assert cli("erase", "--from-certificate", file, "--yes").code == 0
    assert connection.execute("SELECT erased_at = '2026-11-05 10:00+00' FROM cbir.erasure_certificate").fetchone() == (
        True,
    )
