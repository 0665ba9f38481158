"""Test upgrades on a real server: repeatable, all or nothing, and equal to the metadata and the SQL files."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint

from cbirdb.db.schema import migrate, sql_objects
from cbirdb.db.schema.open import open_database
from cbirdb.db.schema.tables import metadata
from cbirdb.errors import SchemaError
from tests.support.schema_checks import CREATED, SQL_FILES, dump, toy_encoder


def differences(connection: psycopg.Connection) -> list[Any]:
    with connection.transaction(), migrate.sqlalchemy_connection(connection) as bound:
        context = MigrationContext.configure(connection=bound, opts=migrate.alembic_arguments())
        return compare_metadata(context, metadata)


def test_migrations_make_the_tables_of_the_metadata(connection: psycopg.Connection, dsn: str) -> None:
    toy_encoder(connection, dsn)
    assert differences(connection) == []


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE cbir.image ADD COLUMN extra text",
        "ALTER TABLE cbir.image ALTER COLUMN source DROP NOT NULL",
        "DROP INDEX cbir.image_sha256_idx",
        "COMMENT ON TABLE cbir.image IS 'something else'",
    ],
)
def test_comparison_with_the_metadata_finds_every_change(connection: psycopg.Connection, change: str) -> None:
    connection.execute(change)
    assert differences(connection)


def test_database_has_the_check_constraints_of_the_metadata(connection: psycopg.Connection) -> None:
    """Alembic does not compare check constraints."""
    wanted = {
        (table.name, str(check.name))
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    found = connection.execute(
        "SELECT relname, conname FROM pg_constraint c JOIN pg_class t ON t.oid = conrelid"
        " WHERE contype = 'c' AND connamespace = 'cbir'::regnamespace"
    ).fetchall()
    assert wanted
    assert set(found) == wanted


def test_second_upgrade_changes_nothing(connection: psycopg.Connection, dsn: str) -> None:
    toy_encoder(connection, dsn)
    before = dump(connection)
    migrate.upgrade(connection)
    assert dump(connection) == before
    assert all(before.values())


def test_upgrade_keeps_objects_that_others_made_in_the_schema(connection: psycopg.Connection) -> None:
    connection.execute("CREATE VIEW cbir.hospital_report AS SELECT count(*) FROM cbir.image")
    connection.execute("CREATE FUNCTION cbir.hospital_fn() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    migrate.upgrade(connection)
    migrate.upgrade(connection)
    assert connection.execute("SELECT count, cbir.hospital_fn() FROM cbir.hospital_report").fetchone() == (0, 1)


def test_upgraded_old_database_equals_a_fresh_one(connection: psycopg.Connection) -> None:
    fresh = dump(connection)
    connection.execute("DROP VIEW cbir.precision_by_class, cbir.duplicate_image")
    connection.execute("CREATE VIEW cbir.precision_by_class AS SELECT 1 AS of_old")
    connection.execute("CREATE VIEW cbir.gone_since AS SELECT of_old FROM cbir.precision_by_class")
    connection.execute("CREATE FUNCTION cbir.gone_since(cbir.similar_image) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    connection.execute("CREATE PROCEDURE cbir.gone_too() LANGUAGE sql AS 'SELECT 1'")
    connection.execute("CREATE TYPE cbir.gone_type AS (a int)")
    connection.execute(
        "INSERT INTO cbir.sql_object VALUES ('view', 'cbir.gone_since'), ('type', 'cbir.gone_type'),"
        " ('routine', 'cbir.gone_since(cbir.similar_image)'), ('routine', 'cbir.gone_too()')"
    )
    assert dump(connection) != fresh
    migrate.upgrade(connection)
    assert dump(connection) == fresh
    row = connection.execute("SELECT to_regtype('cbir.gone_type')").fetchone()
    assert row == (None,)


def test_migrations_one_by_one_give_the_same_schema_as_all_at_once(
    empty: psycopg.Connection, connection: psycopg.Connection
) -> None:
    migrate.ensure_extension(empty)
    empty.execute("CREATE SCHEMA cbir")
    config = migrate.alembic_config()
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    for revision in revisions:
        with empty.transaction(), migrate.sqlalchemy_connection(empty) as bound:
            config.attributes["connection"] = bound
            command.upgrade(config, revision)
    migrate.upgrade(empty)
    assert dump(empty) == dump(connection)
    assert revisions[-1] == migrate.head_revision()


def test_two_upgrades_at_once_give_a_whole_schema(empty_database: str, connection: psycopg.Connection) -> None:
    start = threading.Barrier(2)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with psycopg.connect(empty_database, autocommit=True) as own:
                start.wait(timeout=30)
                migrate.upgrade(own)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    with psycopg.connect(empty_database, autocommit=True) as own:
        assert dump(own) == dump(connection)


def test_every_object_has_a_comment(connection: psycopg.Connection, dsn: str) -> None:
    toy_encoder(connection, dsn)
    bare = connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v')"
        " AND obj_description(oid, 'pg_class') IS NULL"
        " UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')"
        " AND obj_description(oid, 'pg_proc') IS NULL"
        " UNION ALL SELECT t.oid::regtype::text FROM pg_type t JOIN pg_class c ON c.oid = typrelid"
        " WHERE typnamespace = 'cbir'::regnamespace AND relkind = 'c' AND obj_description(t.oid, 'pg_type') IS NULL"
    ).fetchall()
    assert [name for (name,) in bare if name != "cbir.alembic_version"] == []


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_sql_file_is_named_after_its_object_and_has_a_header(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    created = CREATED.findall(text)
    assert {name for _, name in created} == {path.stem}
    assert len(re.findall(r"^CREATE ", text, re.MULTILINE)) == len(created)
    assert re.match(r"-- Title: \S", lines[0])
    assert re.match(r"-- Description: \S", lines[1])
    assert len(
        re.findall(
            rf"^COMMENT ON (?:FUNCTION|AGGREGATE|VIEW|TYPE) (?:cbir|cbir_internal)\.{path.stem}\b", text, re.MULTILINE
        )
    ) == len(created)


def test_the_order_names_every_folder_that_an_upgrade_applies() -> None:
    top = sql_objects.repository_folder("sql")
    folders = {path.parent.name for path in top.glob("*/*.sql")} - {"dba"}
    assert {path.parent.name for path in SQL_FILES} == folders
    assert len(SQL_FILES) == len(set(SQL_FILES))


def test_every_function_body_names_only_what_exists(connection: psycopg.Connection) -> None:
    """An upgrade does not check bodies, since a function may call one that comes later."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = cbir, public, pg_temp")
        checked = connection.execute(
            "SELECT count(CASE l.lanname WHEN 'sql' THEN fmgr_sql_validator(p.oid) ELSE plpgsql_validator(p.oid) END)"
            " FROM pg_proc AS p INNER JOIN pg_language AS l ON l.oid = p.prolang"
            " WHERE p.pronamespace::regnamespace::text IN ('cbir', 'cbir_internal') AND l.lanname IN ('sql', 'plpgsql')"
        ).fetchone()
    assert checked is not None
    assert checked[0] > 100


def test_every_view_is_created_to_run_as_its_reader() -> None:
    """A server without cbir_search hands nothing over; a view of the owner's would then show all rows."""
    views = [path for path in SQL_FILES if "\nCREATE VIEW " in path.read_text()]
    assert len(views) > 20
    for path in views:
        assert f"CREATE VIEW cbir.{path.stem} WITH (security_invoker = TRUE) AS" in path.read_text()


def test_every_view_and_function_of_the_database_comes_from_a_file(connection: psycopg.Connection) -> None:
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('v', 'c')"
        " UNION SELECT proname FROM pg_proc WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')"
    ).fetchall()
    assert {name for (name,) in found} == {path.stem for path in SQL_FILES}


def test_upgrade_refuses_the_database_of_a_newer_cbirdb(connection: psycopg.Connection, dsn: str) -> None:
    connection.execute("UPDATE cbir.alembic_version SET version_num = '9999'")
    before = dump(connection)
    with pytest.raises(SchemaError, match="newer"):
        migrate.upgrade(connection)
    assert dump(connection) == before


def test_program_refuses_a_database_of_another_version(connection: psycopg.Connection, dsn: str) -> None:
    from cbirdb.config import Settings

    connection.execute(
        "COMMENT ON SCHEMA cbir IS 'Content-based image retrieval (cbirdb); state 9999 0123456789abcdef'"
    )
    with pytest.raises(SchemaError, match="another version"):
        open_database(Settings(dsn=dsn, home=None))


@pytest.fixture
def broken_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Add a file to ``sql/`` that fails at its second statement; return the file's name."""
    folder = tmp_path / "sql"
    shutil.copytree(sql_objects.repository_folder("sql"), folder)
    broken = folder / "metrics" / "zzz_broken.sql"
    broken.write_text("CREATE VIEW cbir.zzz_broken AS SELECT 1 AS one;\nSELECT no_such_column FROM cbir.image;\n")
    found = sql_objects.repository_folder
    monkeypatch.setattr(sql_objects, "repository_folder", lambda name: folder if name == "sql" else found(name))
    return broken.name


def test_failing_sql_file_leaves_a_database_unchanged(connection: psycopg.Connection, broken_sql: str) -> None:
    before = dump(connection)
    with pytest.raises(SchemaError, match=broken_sql):
        migrate.upgrade(connection)
    assert dump(connection) == before


def test_failing_sql_file_leaves_an_empty_database_empty(empty: psycopg.Connection, broken_sql: str) -> None:
    with pytest.raises(SchemaError, match=broken_sql):
        migrate.upgrade(empty)
    assert empty.execute("SELECT to_regnamespace('cbir')").fetchone() == (None,)
    assert migrate.extension_version(empty) is None
