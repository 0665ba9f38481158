"""Test what each role can and cannot do, with logins of their own, on a database that no superuser made."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import cbirdb, run
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.db.schema.roles import ROLES
from tests.conftest import Logins, picture_bytes

READER, INGEST, ADMIN, AUDITOR, STRANGER = WHO = ("reader", "ingest", "admin", "auditor", "stranger")


@dataclass
class Acting:
    """Act as a login on a database."""

    dsn: str
    folder: Path

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def cli(self, *arguments: object) -> None:
        """:raises InsufficientPrivilege: when the program says so, as the driver would."""
        code = run(["--dsn", self.dsn, *map(str, arguments)])
        if code == 3:
            raise psycopg.errors.InsufficientPrivilege
        assert code in (0, 4), code

    def new_pictures(self) -> Path:
        root = self.folder / "images"
        (root / "nodule").mkdir(parents=True, exist_ok=True)
        (root / "nodule" / "new.png").write_bytes(picture_bytes(99))
        return root


def new_encoder(acting: Acting) -> None:
    with psycopg.connect(acting.dsn, autocommit=True) as connection:
        stored = register_encoder(connection, "other", dim=2, precision="half", spec={}, provenance={})
        ids = np.array([row[0] for row in connection.execute("SELECT image_id FROM cbir.image")])
        copy_embeddings(connection, stored.table, ids, np.tile(np.float32([0.6, 0.8]), (len(ids), 1)), "half")


SEARCH = "SELECT image_id FROM cbir.similar_images('tiny-image', image_id => 1, k => 3)"
PATIENT, OTHER = "cafe" * 8, "beef" * 8

ACTIONS: dict[str, tuple[set[str], Callable[[Acting], Any]]] = {
    "search in SQL": ({READER, INGEST, ADMIN}, lambda a: a.sql(SEARCH)),
    "search on the command line": (
        {READER, INGEST, ADMIN},
        lambda a: a.cli("search", "--image-id", 1, "-e", "tiny-image", "--purpose", "test"),
    ),
    "read the catalogue": ({READER, INGEST, ADMIN}, lambda a: a.sql("SELECT * FROM cbir.image_overview")),
    "read vectors": ({READER, INGEST, ADMIN}, lambda a: a.sql("SELECT * FROM cbir.embedding_tiny_image")),
    "read metrics": ({READER, INGEST, ADMIN}, lambda a: a.cli("metrics", "-e", "tiny-image", "-n", 1)),
    "see the status": ({READER, INGEST, ADMIN}, lambda a: a.cli("db", "status")),
    "ingest": ({INGEST, ADMIN}, lambda a: a.cli("ingest", "folder", a.new_pictures(), "--name", "more")),
    "encode": (
        {INGEST, ADMIN},
        lambda a: (a.cli("ingest", "folder", a.new_pictures(), "--name", "more"), a.cli("encode", "-e", "tiny-image")),
    ),
    "bring in a new encoder": ({INGEST, ADMIN}, new_encoder),
    "see whether a key of pseudonyms is set": ({INGEST, ADMIN}, lambda a: a.sql("SELECT cbir_internal.note_pseudonym_key()")),
    "delete an image": ({ADMIN}, lambda a: a.sql("DELETE FROM cbir.image WHERE image_id = 1")),
    "build an index": ({ADMIN}, lambda a: a.cli("index", "build", "-e", "tiny-image", "--method", "hnsw")),
    "drop an index": ({ADMIN}, lambda a: a.cli("index", "drop", "-e", "tiny-image")),
    "evaluate": ({ADMIN}, lambda a: a.cli("evaluate", "-e", "tiny-image", "--mode", "exact")),
    "fit a linear probe": (
        {ADMIN}, lambda a: a.cli("classify", "-e", "tiny-image", "--method", "linear", "--grid", "1")
    ),
    "read linear probes": (
        {READER, INGEST, ADMIN},
        lambda a: a.cli("metrics", "-e", "tiny-image", "--by", "linear-class", "--confidence", "--resamples", 100),
    ),
    "write a prediction": (
        {ADMIN}, lambda a: a.sql("UPDATE cbir.probe_prediction SET predicted_label_id = label_id")
    ),
    "drop a dataset": ({ADMIN}, lambda a: a.cli("datasets", "drop", "images", "--yes")),
    "drop an encoder": ({ADMIN}, lambda a: a.cli("encoders", "drop", "tiny-image", "--yes")),
    "upgrade": ({ADMIN}, lambda a: a.cli("db", "upgrade")),
    "create a table": ({ADMIN}, lambda a: a.sql("CREATE TABLE cbir.of_mine (n int)")),
    "read who searched": ({AUDITOR, ADMIN}, lambda a: a.sql("SELECT * FROM cbir.search_audit")),
    "note a search": (
        {ADMIN}, lambda a: a.sql("SELECT cbir_internal.record_search('x', NULL, 1, 1, NULL, 'exact', '{1}')")
    ),
    "search without an entry in the audit": (
        {ADMIN}, lambda a: a.sql("SELECT * FROM cbir_internal.nearest_image('tiny-image', array_fill(1, '{1024}')::vector)")
    ),
    "write encoders": (
        {ADMIN},
        lambda a: a.sql("INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('x', 'embedding_x', 2, 'half')"),
    ),
    "say anew what an encoder is": ({ADMIN}, lambda a: a.sql("UPDATE cbir.encoder SET golden_embedding = '{1}'")),
    "store the record of an encoder": (
        {INGEST, ADMIN}, lambda a: a.cli("encoders", "add", "x", "--loader", "timm", "--weights", "a/b")
    ),
    "write into the audit": ({ADMIN}, lambda a: a.sql(
        "INSERT INTO cbir.search_audit (login, role, function, returned) VALUES ('x', 'x', 'x', '{}')"
    )),
    "change the audit": (set(), lambda a: a.sql("UPDATE cbir.search_audit SET purpose = 'other'")),
    "shorten the audit": (set(), lambda a: a.sql("DELETE FROM cbir.search_audit")),
    "empty the audit": (set(), lambda a: a.sql("TRUNCATE cbir.search_audit")),
    "see whether searches are audited": (
        {READER, INGEST, ADMIN, AUDITOR}, lambda a: a.sql("SELECT enabled FROM cbir.setting WHERE name = 'audit'")
    ),
    "switch the audit off": ({ADMIN}, lambda a: a.sql("UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'")),
    "erase a patient": ({ADMIN}, lambda a: a.cli("erase", "--patient", PATIENT, "--yes")),
    "erase a patient in SQL": ({ADMIN}, lambda a: a.sql("SELECT * FROM cbir.erase_patient(%s)", PATIENT)),
    "merge patients": ({ADMIN}, lambda a: a.cli("patients", "merge", "--from", PATIENT, "--into", OTHER, "--yes")),
    "merge patients in SQL": ({ADMIN}, lambda a: a.sql("SELECT * FROM cbir.merge_patients(%s, %s)", PATIENT, OTHER)),
    "read who was merged": ({ADMIN}, lambda a: a.sql("SELECT * FROM cbir.merged_patient")),
    "ask at an ingest who was merged": (
        {INGEST, ADMIN}, lambda a: a.sql("SELECT * FROM cbir_internal.merged_pseudonym('images', ARRAY[%s])", PATIENT)
    ),
    "erase images without a certificate": ({ADMIN}, lambda a: a.sql("SELECT cbir_internal.erase_images('{1}')")),
    "read certificates of erasure": ({AUDITOR, ADMIN}, lambda a: a.sql("SELECT * FROM cbir.erasure_certificate")),
    "list certificates of erasure": ({AUDITOR, ADMIN}, lambda a: a.cli("erase", "--list")),
    "see which erased patients are back": ({ADMIN}, lambda a: a.sql("SELECT * FROM cbir.returned_patient")),
    "see which images were erased": ({AUDITOR, ADMIN}, lambda a: a.sql("SELECT * FROM cbir.erased_image")),
    "read the program's own notes": ({ADMIN}, lambda a: a.sql("SELECT * FROM cbir.sql_object")),
    "switch row-level security": ({ADMIN}, lambda a: a.cli("db", "row-security", "on")),
    "give a role a dataset": (
        {ADMIN}, lambda a: a.sql("INSERT INTO cbir.dataset_access VALUES ('cbir_reader', 'images')")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(
    role_server: str, logins: Logins, role_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Fill a database with the program, through logins of the roles for that work; yield its name."""
    name = f"cbirdb_template_{uuid.uuid4().hex[:8]}"
    root = tmp_path_factory.mktemp("filled") / "images"
    for number in range(20):
        target = root / ("nodule" if number < 10 else "normal") / f"{number:02}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture_bytes(number))
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        server_admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(role_template))
        )
        ingest, admin = logins.dsn("ingest", name), logins.dsn("admin", name)
        assert run(["--dsn", ingest, "ingest", "folder", str(root)]) == 0
        assert run(["--dsn", ingest, "encode", "-e", "tiny-image"]) == 0
        assert run(["--dsn", admin, "index", "build", "-e", "tiny-image", "--method", "hnsw"]) == 0
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("UPDATE cbir.image SET split = ('{test,train,train,val}'::text[])[1 + image_id % 4]")
            connection.execute(
                "INSERT INTO cbir.patient (dataset_id, pseudonym) VALUES (1, %s), (1, %s)", [PATIENT, OTHER]
            )
            connection.execute("UPDATE cbir.image SET patient_id = 1 WHERE image_id = 5")
            connection.execute(SEARCH.encode())
        assert run(["--dsn", admin, "evaluate", "-e", "tiny-image", "--mode", "exact"]) == 0
        assert run(["--dsn", admin, "classify", "-e", "tiny-image", "--method", "linear", "--grid", "1"]) == 0
        yield name
        server_admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def copy_of_filled(role_server: str, filled: str) -> Iterator[str]:
    """Copy that database for one test; yield the copy's name."""
    name = f"cbirdb_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        server_admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(filled))
        )
        yield name
        server_admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("action", ACTIONS)
def test_each_role_can_do_only_the_actions_that_it_is_for(
    copy_of_filled: str, logins: Logins, tmp_path: Path, action: str, who: str
) -> None:
    allowed, act = ACTIONS[action]
    acting = Acting(logins.dsn(who, copy_of_filled), tmp_path)
    if who in allowed:
        act(acting)
    else:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            act(acting)


def test_reader_and_ingest_can_read_everything_except_seven_listed_tables(role_database: str) -> None:
    """Check every table and view, later ones included."""
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v')"
        " AND NOT has_table_privilege(%s, oid, 'SELECT') ORDER BY 1"
    )
    of_audit = ["erased_image", "erasure_certificate", "returned_patient", "search_audit"]
    with psycopg.connect(role_database) as connection:
        kept = {role: [row[0] for row in connection.execute(query, [role]).fetchall()] for role in ROLES}
    assert kept["cbir_admin"] == []
    assert (
        kept["cbir_reader"]
        == kept["cbir_ingest"]
        == sorted([*of_audit, "merged_patient", "pseudonym_key", "sql_object"])
    )
    assert "returned_patient" in kept["cbir_auditor"]


def test_every_object_is_owned_by_cbir_admin_or_cbir_search(role_database: str) -> None:
    with psycopg.connect(role_database) as connection:
        owners = connection.execute(
            "SELECT DISTINCT kind, o::regrole::text FROM (SELECT relkind::text, relowner FROM pg_class"
            " WHERE relnamespace = 'cbir'::regnamespace AND relkind <> 'i'"
            " UNION ALL SELECT 'f', proowner FROM pg_proc WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')"
            " UNION ALL SELECT 'n', nspowner FROM pg_namespace WHERE nspname IN ('cbir', 'cbir_internal')) AS t (kind, o)"
        ).fetchall()
    assert set(owners) == {
        (kind, "cbir_admin") for kind in ("r", "S", "c", "f", "n", "v")
    } | {("f", "cbir_search"), ("v", "cbir_search")}  # fmt: skip


def test_every_function_that_looks_names_up_has_a_pinned_search_path(role_database: str) -> None:
    """Plain SQL functions that the planner inlines cannot have one; they run as the caller, with qualified names. Nor can
    aggregates, whose functions were looked up when they were made."""
    with psycopg.connect(role_database) as connection:
        found = connection.execute(
            "SELECT proname, lanname, prosecdef, coalesce(array_to_string(proconfig, ';'), '')"
            " FROM pg_proc JOIN pg_language AS l ON l.oid = prolang WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')"
            " AND prokind <> 'a'"
        ).fetchall()
    pinned = "search_path=cbir, public, pg_temp"
    assert len(found) > 30
    assert [name for name, language, _, path in found if language != "sql" and pinned not in path] == []
    assert [name for name, _, definer, path in found if definer and pinned not in path] == []


def test_every_view_runs_as_cbir_search_or_as_its_reader(role_database: str) -> None:
    with psycopg.connect(role_database) as connection:
        views = connection.execute(
            "SELECT relname, relowner::regrole::text, coalesce('security_invoker=true' = ANY(reloptions), FALSE)"
            " FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'v'"
        ).fetchall()
    assert len(views) > 8
    assert {(owner, invoker) for _, owner, invoker in views} == {("cbir_search", False), ("cbir_admin", True)}
    assert [name for name, owner, _ in views if owner == "cbir_admin"] == ["returned_patient"]


def test_register_encoder_ignores_temporary_types_of_the_caller(copy_of_filled: str, logins: Logins) -> None:
    """A type named halfvec of the caller must not get into a table that the owner makes."""
    with logins.connect("ingest", copy_of_filled) as connection:
        connection.execute("CREATE DOMAIN pg_temp.halfvec AS text")
        connection.execute("SET search_path = pg_temp, public, cbir")
        register_encoder(connection, "other", dim=2, precision="half", spec={}, provenance={})
        row = connection.execute(
            "SELECT format_type(atttypid, atttypmod), relowner::regrole::text FROM pg_attribute"
            " JOIN pg_class c ON c.oid = attrelid WHERE c.oid = 'cbir.embedding_other'::regclass AND attname = 'embedding'"
        ).fetchone()
    assert row is not None
    assert row[0] in ("halfvec(2)", "public.halfvec(2)")
    assert row[1] == "cbir_admin"


DOCS = Path(__file__).resolve().parents[2] / "docs" / "access.md"


def test_sql_of_the_access_guide_does_what_it_says(role_server: str, copy_of_filled: str, logins: Logins) -> None:
    blocks = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 4
    with psycopg.connect(make_conninfo(role_server, dbname=copy_of_filled), autocommit=True) as connection:
        connection.execute("CREATE ROLE dr_adams LOGIN PASSWORD 'of a test'")
        try:
            connection.execute(blocks[0].replace("chest_a", "images").encode())
            dsn = make_conninfo(role_server, dbname=copy_of_filled, user="dr_adams", password="of a test")
            with psycopg.connect(dsn, autocommit=True) as reader:
                assert reader.execute("SELECT count(*) FROM cbir.image_overview").fetchone() == (20,)
            with logins.connect("reader", copy_of_filled) as reader:
                assert reader.execute("SELECT count(*) FROM cbir.image_overview").fetchone() == (0,)
            connection.execute(blocks[1].encode())
            connection.execute(blocks[2].encode())
            found = connection.execute("SELECT purpose, filter FROM cbir.search_audit ORDER BY audit_id DESC LIMIT 3")
            assert found.fetchall() == [
                (None, {"purpose_required": True}), (None, {"audit": False}), ("tumour board", {}),
            ]  # fmt: skip
            connection.execute(
                "INSERT INTO cbir.search_audit (searched_at, login, role, function, returned)"
                " VALUES (now() - interval '11 years', 'x', 'x', 'similar_images', '{}')"
            )
            kept = connection.execute("SELECT count(*) - 1 FROM cbir.search_audit").fetchone()
            connection.execute(blocks[3].encode())
            assert connection.execute("SELECT count(*) FROM cbir.search_audit").fetchone() == kept
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot be changed or deleted"):
                connection.execute("DELETE FROM cbir.search_audit")
        finally:
            connection.execute("DROP ROLE IF EXISTS site_a, dr_adams")


def test_commands_of_the_access_guide_use_existing_options() -> None:
    lines = re.findall(r"^\$ cbirdb (.*)$", DOCS.read_text(), re.MULTILINE)
    assert len(lines) > 7
    for line in lines:
        words = shlex.split(line, comments=True)
        command: click.Command = cbirdb
        known = {option for parameter in cbirdb.params for option in parameter.opts}
        for word in words:
            if isinstance(command, click.Group) and word in command.list_commands(click.Context(command)):
                command = command.get_command(click.Context(command), word) or command
                known |= {option for parameter in command.params for option in parameter.opts}
            elif word == "|":
                break
            elif word.startswith("--"):
                assert word in known, line
        assert not isinstance(command, click.Group), line


@pytest.mark.parametrize("name", ["image", "embedding_x; DROP TABLE cbir.image", "embedding_É", "alembic_version"])
def test_encoder_table_name_must_derive_from_the_encoder_name(role_database: str, name: str) -> None:
    """Not even the owner can set another name."""
    with psycopg.connect(role_database, autocommit=True) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('odd', %s, 2, 'half')", [name]
        )


def test_db_roles_hands_an_existing_schema_over_and_grants_rights(
    role_server: str, logins: Logins, capsys: pytest.CaptureFixture[str]
) -> None:
    """A superuser made the schema before; the command hands it over and grants rights."""
    name = f"cbirdb_test_{uuid.uuid4().hex[:12]}"
    dsn = make_conninfo(role_server, dbname=name)
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        server_admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute("CREATE SCHEMA cbir")
            connection.execute("CREATE TABLE cbir.of_superuser (n int)")
        assert run(["--dsn", dsn, "db", "roles", "--format", "csv"]) == 0
        assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["role", *ROLES]
        with logins.connect("admin", name) as connection:
            assert connection.execute(
                "SELECT bool_and(relowner = 'cbir_admin'::regrole) FROM pg_class"
                " WHERE relnamespace = 'cbir'::regnamespace AND relkind <> 'v'"
            ).fetchone() == (True,)
        with logins.connect("reader", name) as connection:
            assert connection.execute("SELECT count(*) FROM cbir.image_overview").fetchone() == (0,)
        assert run(["--dsn", dsn, "db", "roles"]) == 0
        server_admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_roles_script_is_printed_and_can_be_run_twice(role_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["db", "roles", "--script"]) == 0
    script = capsys.readouterr().out
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        query = (
            "SELECT oid, rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname LIKE 'cbir\\_%' ORDER BY rolname"
        )
        before = server_admin.execute(query).fetchall()
        server_admin.execute(script.encode())
        assert server_admin.execute(query).fetchall() == before
    assert [row[1:] for row in before] == [(name, False, False) for name in sorted(ROLES)]


def test_role_that_may_not_create_roles_is_told_how_others_can(
    server: str, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the server that has none of the roles."""
    name = f"cbirdb_role_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as server_admin:
        server_admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'of a test'").format(sql.Identifier(name)))
        code = run(["--dsn", make_conninfo(dsn, user=name, password="of a test"), "db", "roles"])
        server_admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
    assert code == 3
    assert "db roles --script" in capsys.readouterr().err
