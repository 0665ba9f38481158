"""Test that ``cbirdb db doctor`` names damage of tables and access control, and no fault in a sound database."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cbirdb.db.doctor import check_access, check_tables
from cbirdb.db.embeddings import register_encoder
from cbirdb.db.schema.migrate import upgrade
from tests.conftest import Logins, new_database


@pytest.fixture(scope="module")
def secured(role_server: str, role_template: str, logins: Logins) -> Iterator[str]:
    """Make a database under row-level security with an encoder; tests damage it and roll back. Yield its name."""
    with new_database(role_server, role_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            register_encoder(connection, "toy", dim=2, precision="half", spec={}, provenance={})
            connection.execute(
                "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, 'a')", [logins.names["site_a"]]
            )
            connection.execute("SELECT cbir.set_row_security(TRUE)")
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def owner(role_server: str, secured: str) -> Iterator[psycopg.Connection]:
    """Connect as superuser in a transaction that is rolled back."""
    with (
        psycopg.connect(make_conninfo(role_server, dbname=secured), autocommit=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


def test_doctor_finds_no_fault_in_a_sound_database(owner: psycopg.Connection) -> None:
    for check in (check_tables, check_access):
        assert check(owner).passed, check(owner).detail


def test_doctor_finds_no_fault_without_row_security(owner: psycopg.Connection) -> None:
    owner.execute("SELECT cbir.set_row_security(FALSE)")
    assert check_access(owner).passed, check_access(owner).detail


DAMAGE = {
    "ALTER TABLE cbir.image DISABLE ROW LEVEL SECURITY": "table image: row-level security is off",
    "ALTER TABLE cbir.embedding_toy NO FORCE ROW LEVEL SECURITY": "table embedding_toy: row-level security is off",
    "DROP POLICY cbir_tenant ON cbir.patient": "table patient: its policies differ",
    "CREATE POLICY open ON cbir.patient USING (TRUE)": "table patient: its policies differ",
    "DROP POLICY cbir_tenant ON cbir.probe_prediction": "table probe_prediction: its policies differ",
    "ALTER TABLE cbir.probe_run DISABLE ROW LEVEL SECURITY": "table probe_run: row-level security is off",
    "GRANT SELECT ON cbir.probe_class TO cbir_reader": "table probe_class: cbir_reader has SELECT",
    "REVOKE SELECT ON cbir.probe_answer FROM cbir_reader": "view probe_answer: cbir_reader lacks SELECT",
    "ALTER POLICY cbir_tenant ON cbir.study USING (TRUE)": "table study: its policies differ",
    "ALTER TABLE cbir.search_audit DISABLE TRIGGER guard_rows": "trigger guard_rows on search_audit: disabled",
    "DROP TRIGGER refuse_erased ON cbir.image": "trigger refuse_erased on image: missing",
    "CREATE TRIGGER mine BEFORE INSERT ON cbir.image FOR EACH ROW EXECUTE FUNCTION cbir_internal.check_root()": (
        "trigger mine on image: not made by cbirdb"
    ),
    "GRANT SELECT ON cbir.search_audit TO cbir_reader": "table search_audit: cbir_reader has SELECT",
    "GRANT SELECT ON cbir.search_audit TO pg_monitor": "table search_audit: pg_monitor has SELECT",
    "GRANT SELECT ON cbir.image TO PUBLIC": "table image: PUBLIC has SELECT",
    "GRANT INSERT ON cbir.encoder TO cbir_ingest": "table encoder: cbir_ingest has INSERT",
    "REVOKE SELECT ON cbir.image_overview FROM cbir_reader": "view image_overview: cbir_reader lacks SELECT",
    "REVOKE INSERT ON cbir.image FROM cbir_search": "table image: cbir_search lacks INSERT",
    "GRANT SELECT ON cbir.image TO cbir_ingest": "table image: cbir_ingest has SELECT",
    "GRANT EXECUTE ON FUNCTION cbir_internal.nearest_image TO PUBLIC": "everybody may call it",
    "ALTER FUNCTION cbir.similar_images OWNER TO cbir_admin": "it belongs to cbir_admin",
    "ALTER FUNCTION cbir.similar_images SECURITY INVOKER": "it does not run as its owner",
    "ALTER FUNCTION cbir_internal.record_search RESET search_path": "its search_path is not pinned",
    "ALTER VIEW cbir.image_overview OWNER TO cbir_admin": "view image_overview: it does not run as cbir_search",
    "ALTER TABLE cbir.image OWNER TO pg_monitor": "it belongs to",
    "GRANT SELECT (pseudonym) ON cbir.patient TO pg_monitor": "table patient: pg_monitor has SELECT (pseudonym)",
    "GRANT EXECUTE ON FUNCTION cbir_internal.record_search TO pg_monitor": "pg_monitor may call it",
    "GRANT EXECUTE ON FUNCTION cbir_internal.erased_dataset TO pg_monitor": "pg_monitor may call it",
    "REVOKE EXECUTE ON FUNCTION cbir.similar_images FROM cbir_reader": "cbir_reader may not call it",
    "GRANT CREATE ON SCHEMA cbir TO cbir_ingest": "schema cbir: cbir_ingest may create in it",
    "GRANT CREATE ON SCHEMA public TO PUBLIC": "schema public: PUBLIC may create in it",
    "GRANT cbir_search TO pg_monitor": "members of cbir_search: pg_monitor",
    "CREATE RULE mine AS ON INSERT TO cbir.search_audit DO INSTEAD NOTHING": "rule mine on search_audit: not made by cbirdb",
}


@pytest.mark.parametrize("statement", [*DAMAGE])
def test_doctor_names_damage_of_access_control(owner: psycopg.Connection, statement: str) -> None:
    owner.execute(statement.encode())
    found = check_access(owner)
    assert not found.passed
    assert str(DAMAGE[statement]) in found.detail


def test_upgrade_repairs_policies_and_revokes_foreign_rights(secured: str, role_server: str, logins: Logins) -> None:
    with psycopg.connect(make_conninfo(role_server, dbname=secured), autocommit=True) as superuser:
        superuser.execute("ALTER POLICY cbir_tenant ON cbir.study USING (TRUE)")
        superuser.execute(f"GRANT SELECT ON cbir.image TO {logins.names['stranger']}".encode())
        assert not check_access(superuser).passed
        with logins.connect("admin", secured) as admin:
            upgrade(admin)
        assert check_access(superuser).passed, check_access(superuser).detail


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("ALTER TABLE cbir.image DROP COLUMN split CASCADE", "split"),
        ("ALTER TABLE cbir.image ADD COLUMN patient_name text", "patient_name"),
        ("DROP TABLE cbir.failure CASCADE", "failure"),
        ("ALTER TABLE cbir.image ALTER COLUMN source DROP NOT NULL", "source"),
        ("DROP INDEX cbir.image_sha256_idx", "image_sha256_idx"),
    ],
)
def test_doctor_names_damage_of_tables(owner: psycopg.Connection, statement: str, named: str) -> None:
    owner.execute(statement.encode())
    found = check_tables(owner)
    assert not found.passed
    assert named in found.detail


def test_recreated_role_sees_nothing_until_it_is_confirmed(role_server: str, secured: str, logins: Logins) -> None:
    dsn = make_conninfo(role_server, dbname=secured)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE cbirdb_test_again IN ROLE cbir_reader")
        try:
            connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('again', 'test')")
            connection.execute(
                "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES ('cbirdb_test_again', 'again')"
            )
            assert _seen(connection, "cbirdb_test_again") == ["again"]
            connection.execute("DROP ROLE cbirdb_test_again")
            fault = check_access(connection)
            assert "there is no such role" in fault.detail
            connection.execute("CREATE ROLE cbirdb_test_again IN ROLE cbir_reader")
            assert _seen(connection, "cbirdb_test_again") == []
            assert "run: cbirdb db row-security confirm" in check_access(connection).detail
            assert len(connection.execute("SELECT * FROM cbir.confirm_access()").fetchall()) == 1
            assert _seen(connection, "cbirdb_test_again") == ["again"]
            assert check_access(connection).passed
        finally:
            connection.execute("DELETE FROM cbir.dataset_access WHERE dataset = 'again'")
            connection.execute("DROP ROLE IF EXISTS cbirdb_test_again")


def _seen(connection: psycopg.Connection, role: str) -> list[str]:
    with connection.transaction():
        connection.execute(f"SET LOCAL ROLE {role}".encode())
        return [name for (name,) in connection.execute("SELECT dataset FROM cbir.dataset_overview")]
