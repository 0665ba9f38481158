"""Upgrades on a real server: repeatable, all or nothing, without superuser, and without losing what others granted."""

from __future__ import annotations

import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import CheckConstraint

from cbirdb.db import migrate
from cbirdb.db.connection import open_database
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.db.tables import metadata
from cbirdb.db.vector_index import Hnsw
from cbirdb.errors import SchemaError
from cbirdb.evaluate import evaluate
from cbirdb.index import build_index

SQL_FILES = list(migrate.sql_files())
CREATED = re.compile(r"^CREATE (?:OR REPLACE )?(FUNCTION|AGGREGATE|VIEW|TYPE) cbir\.(\w+)", re.MULTILINE)

CATALOGUE = {
    "functions": "SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc"
    " WHERE pronamespace = 'cbir'::regnamespace AND prokind <> 'a'",
    "aggregates": "SELECT aggfnoid::regprocedure::text, to_jsonb(a)::text FROM pg_aggregate AS a"
    " JOIN pg_proc ON pg_proc.oid = aggfnoid WHERE pronamespace = 'cbir'::regnamespace",
    "views": "SELECT oid::regclass::text, pg_get_viewdef(oid) FROM pg_class"
    " WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'v'",
    "columns": "SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), attnotnull,"
    " attidentity, pg_get_expr(adbin, adrelid) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
    " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
    " WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v', 'c') AND attnum > 0 AND NOT attisdropped",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'cbir'::regnamespace",
    "indexes": "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
    " JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace = 'cbir'::regnamespace",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "comments": "SELECT (pg_identify_object(classoid, objoid, objsubid)).identity, description FROM pg_description"
    " WHERE (pg_identify_object(classoid, objoid, objsubid)).schema = 'cbir'"
    " OR classoid = 'pg_namespace'::regclass AND objoid = 'cbir'::regnamespace"
    " OR (pg_identify_object(classoid, objoid, objsubid)).identity LIKE 'cbir.%'",
    "grants": "SELECT oid::regclass::text, relacl::text FROM pg_class WHERE relnamespace = 'cbir'::regnamespace"
    " UNION ALL SELECT oid::regprocedure::text, proacl::text FROM pg_proc WHERE pronamespace = 'cbir'::regnamespace",
    "revision": "SELECT version_num FROM cbir.alembic_version",
}


def dump(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All that the catalogue knows about schema ``cbir``, in an order of its own."""
    return {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in CATALOGUE.items()}


@pytest.fixture
def empty(empty_database: str) -> Iterator[psycopg.Connection]:
    """A connection to a database with nothing in it."""
    with psycopg.connect(empty_database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def role(request: pytest.FixtureRequest) -> Iterator[str]:
    """A role without any privilege; ``become`` turns a superuser's session into one of its own."""
    name = f"cbirdb_role_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(request.getfixturevalue("server"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        # What it owns or was granted lies in databases that are dropped later: end that first.
        for (database,) in admin.execute(
            "SELECT datname FROM pg_database JOIN pg_shdepend ON dbid = pg_database.oid OR objid = pg_database.oid"
            " WHERE refobjid = %s::regrole GROUP BY datname",
            [name],
        ).fetchall():
            with psycopg.connect(request.getfixturevalue("server"), dbname=database, autocommit=True) as there:
                there.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def become(connection: psycopg.Connection, role: str) -> None:
    connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))


def allow_create(connection: psycopg.Connection, role: str) -> None:
    connection.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(connection.info.dbname), sql.Identifier(role)
        )
    )


def toy_encoder(connection: psycopg.Connection, dsn: str, *, images: int = 12) -> list[int]:
    """Labelled images in two splits, embedded by an encoder ``toy`` and indexed with HNSW; returns their ids."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'test')")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source, split)"
        " SELECT dataset_id, n::text, CASE WHEN n <= 3 THEN 'test' ELSE 'train' END"
        " FROM cbir.dataset, generate_series(1, %s) AS n",
        [images],
    )
    connection.execute("INSERT INTO cbir.label (name) VALUES ('XR/chest/a'), ('XR/chest/b')")
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id)"
        " SELECT image_id, label_id FROM cbir.image JOIN cbir.label ON label_id % 2 = image_id % 2"
    )
    ids = [row[0] for row in connection.execute("SELECT image_id FROM cbir.image ORDER BY 1")]
    stored = register_encoder(connection, "toy", dim=4, precision="half", spec={}, provenance={})
    vectors = np.random.default_rng(0).normal(size=(images, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copy_embeddings(connection, stored.table, np.array(ids), vectors.astype(np.float32), "half")
    build_index(connection, stored, Hnsw(), connect=lambda: psycopg.connect(dsn, autocommit=True))
    return ids


def differences(connection: psycopg.Connection) -> list[Any]:
    with connection.transaction(), migrate.sqlalchemy_connection(connection) as bound:
        context = MigrationContext.configure(connection=bound, opts=migrate.alembic_arguments())
        return compare_metadata(context, metadata)


def test_the_migrations_make_other_tables_than_the_metadata_say(connection: psycopg.Connection, dsn: str) -> None:
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
def test_the_comparison_with_the_metadata_overlooks_a_change(connection: psycopg.Connection, change: str) -> None:
    connection.execute(change)
    assert differences(connection)


def test_a_check_constraint_of_the_metadata_is_not_in_the_database(connection: psycopg.Connection) -> None:
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


def test_a_second_upgrade_changes_something(connection: psycopg.Connection, dsn: str) -> None:
    toy_encoder(connection, dsn)
    before = dump(connection)
    migrate.upgrade(connection)
    assert dump(connection) == before
    assert all(before.values())


def test_what_others_made_in_the_schema_is_dropped(connection: psycopg.Connection) -> None:
    connection.execute("CREATE VIEW cbir.hospital_report AS SELECT count(*) FROM cbir.image")
    connection.execute("CREATE FUNCTION cbir.hospital_fn() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    migrate.upgrade(connection)
    migrate.upgrade(connection)
    assert connection.execute("SELECT count, cbir.hospital_fn() FROM cbir.hospital_report").fetchone() == (0, 1)


def test_the_extension_in_our_own_schema_is_in_the_way(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as opened:
        opened.execute("CREATE SCHEMA cbir")
        opened.execute("CREATE EXTENSION vector SCHEMA cbir")
        migrate.upgrade(opened)
        migrate.upgrade(opened)
        assert migrate.current_state(opened) == migrate.installed_state()


def test_an_old_database_becomes_another_one_than_a_fresh_one(connection: psycopg.Connection) -> None:
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


def test_migrations_one_by_one_lead_elsewhere_than_all_at_once(
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


def test_two_upgrades_at_once_get_into_each_others_way(empty_database: str, connection: psycopg.Connection) -> None:
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


def test_an_object_has_no_comment(connection: psycopg.Connection, dsn: str) -> None:
    toy_encoder(connection, dsn)
    bare = connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v')"
        " AND obj_description(oid, 'pg_class') IS NULL"
        " UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'cbir'::regnamespace"
        " AND obj_description(oid, 'pg_proc') IS NULL"
        " UNION ALL SELECT t.oid::regtype::text FROM pg_type t JOIN pg_class c ON c.oid = typrelid"
        " WHERE typnamespace = 'cbir'::regnamespace AND relkind = 'c' AND obj_description(t.oid, 'pg_type') IS NULL"
    ).fetchall()
    assert [name for (name,) in bare if name != "cbir.alembic_version"] == []


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_a_sql_file_is_not_named_after_what_it_creates_or_lacks_its_header(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    created = CREATED.findall(text)
    assert {name for _, name in created} == {path.stem}
    assert len(re.findall(r"^CREATE ", text, re.MULTILINE)) == len(created)
    assert re.match(r"-- Title: \S", lines[0])
    assert re.match(r"-- Description: \S", lines[1])
    assert len(
        re.findall(rf"^COMMENT ON (?:FUNCTION|AGGREGATE|VIEW|TYPE) cbir\.{path.stem}\b", text, re.MULTILINE)
    ) == len(created)


def test_every_view_and_function_of_the_database_comes_from_a_file(connection: psycopg.Connection) -> None:
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('v', 'c')"
        " UNION SELECT proname FROM pg_proc WHERE pronamespace = 'cbir'::regnamespace"
    ).fetchall()
    assert {name for (name,) in found} == {path.stem for path in SQL_FILES}


SEARCH = "cbir.explain_match(bigint,bigint)"


def test_an_upgrade_loses_what_was_granted(connection: psycopg.Connection, role: str) -> None:
    who = sql.Identifier(role)
    connection.execute(sql.SQL("GRANT SELECT ON cbir.precision_by_run TO {} WITH GRANT OPTION").format(who))
    connection.execute(f"REVOKE EXECUTE ON FUNCTION {SEARCH} FROM PUBLIC")
    connection.execute(sql.SQL(f"GRANT EXECUTE ON FUNCTION {SEARCH} TO {{}}").format(who))
    migrate.upgrade(connection)
    row = connection.execute(
        "SELECT has_table_privilege(%(role)s, 'cbir.precision_by_run', 'SELECT WITH GRANT OPTION'),"
        " has_table_privilege(%(role)s, 'cbir.precision_by_class', 'SELECT')",
        {"role": role},
    ).fetchone()
    assert row == (True, False)
    acl = connection.execute("SELECT proacl::text FROM pg_proc WHERE oid = %s::regprocedure", [SEARCH]).fetchone()
    assert acl is not None
    assert f"{role}=X/" in acl[0]


def test_an_upgrade_gives_everybody_back_what_was_revoked_from_them(connection: psycopg.Connection) -> None:
    connection.execute(f"REVOKE EXECUTE ON FUNCTION {SEARCH} FROM PUBLIC")
    migrate.upgrade(connection)
    row = connection.execute(
        "SELECT count(*) FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a"
        " WHERE pg_proc.oid = %s::regprocedure AND a.grantee = 0",
        [SEARCH],
    ).fetchone()
    assert row == (0,)


def test_an_upgrade_loses_a_grant_on_some_columns_of_a_view(connection: psycopg.Connection, role: str) -> None:
    connection.execute(sql.SQL("GRANT SELECT (n) ON cbir.precision_by_run TO {}").format(sql.Identifier(role)))
    migrate.upgrade(connection)
    row = connection.execute(
        "SELECT has_column_privilege(%s, 'cbir.precision_by_run', 'n', 'SELECT')", [role]
    ).fetchone()
    assert row == (True,)


@pytest.mark.parametrize(
    "outside",
    [
        "CREATE VIEW public.monthly_report AS SELECT * FROM cbir.precision_by_run",
        "CREATE VIEW public.monthly_report AS SELECT * FROM cbir.precision_by('class')",
        "CREATE TABLE public.monthly_report (hit cbir.similar_image)",
    ],
)
def test_an_upgrade_breaks_or_drops_what_others_built_on_it(connection: psycopg.Connection, outside: str) -> None:
    connection.execute(outside)
    connection.execute("UPDATE cbir.alembic_version SET version_num = version_num")
    before = dump(connection)
    with pytest.raises(SchemaError, match="monthly_report") as caught:
        migrate.upgrade(connection)
    assert caught.value.hint
    assert dump(connection) == before
    assert connection.execute("SELECT to_regclass('public.monthly_report') IS NOT NULL").fetchone() == (True,)


def test_an_ordinary_role_cannot_upgrade_although_the_extension_is_there(
    empty: psycopg.Connection, role: str, connection: psycopg.Connection
) -> None:
    empty.execute("CREATE EXTENSION vector")
    allow_create(empty, role)
    become(empty, role)
    assert empty.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
    migrate.upgrade(empty)
    migrate.upgrade(empty)
    fresh, own = dump(connection), dump(empty)
    assert {name: own[name] for name in own if name != "grants"} == {
        name: fresh[name] for name in fresh if name != "grants"
    }
    assert empty.execute("SELECT nspowner = %s::regrole FROM pg_namespace WHERE nspname = 'cbir'", [role]).fetchone()


def test_a_missing_extension_is_not_said_in_a_sentence_for_the_administrator(
    empty: psycopg.Connection, role: str
) -> None:
    allow_create(empty, role)
    trusted = empty.execute(
        "SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = 'vector'"
    ).fetchone()
    if trusted == (True,):
        empty.execute(
            sql.SQL("REVOKE CREATE ON DATABASE {} FROM {}").format(
                sql.Identifier(empty.info.dbname), sql.Identifier(role)
            )
        )
    become(empty, role)
    with pytest.raises(SchemaError, match="extension pgvector is not in this database") as caught:
        migrate.upgrade(empty)
    assert "CREATE EXTENSION vector" in str(caught.value.hint)
    assert empty.execute("SELECT to_regnamespace('cbir')").fetchone() == (None,)


def test_a_role_that_may_not_create_anything_gets_a_traceback(empty: psycopg.Connection, role: str) -> None:
    empty.execute("CREATE EXTENSION vector")
    become(empty, role)
    with pytest.raises(migrate.DatabaseError, match="not allowed"):
        migrate.upgrade(empty)


@pytest.fixture
def extension_elsewhere(empty: psycopg.Connection) -> psycopg.Connection:
    """A database whose pgvector is in schema ``ext``, which is on nobody's search path."""
    empty.execute("CREATE SCHEMA ext")
    empty.execute("CREATE EXTENSION vector SCHEMA ext")
    migrate.upgrade(empty)
    return empty


def test_an_upgrade_needs_the_extension_in_public(extension_elsewhere: psycopg.Connection) -> None:
    before = dump(extension_elsewhere)
    migrate.upgrade(extension_elsewhere)
    assert dump(extension_elsewhere) == before
    assert extension_elsewhere.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_sql_search_needs_the_extension_on_the_callers_search_path(
    extension_elsewhere: psycopg.Connection, empty_database: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as own:
        own.execute("SET search_path = public, ext")
        ids = toy_encoder(own, empty_database)
    with psycopg.connect(empty_database, autocommit=True) as caller:
        caller.execute("SET search_path = ''")
        for mode in ("exact", "approximate", "auto"):
            found = caller.execute(
                "SELECT image_id FROM cbir.similar_images('toy', %s::bigint, k => 50, mode => %s)", [ids[0], mode]
            )
            assert {row[0] for row in found} == set(ids[1:])
        assert (
            len(caller.execute("SELECT * FROM cbir.similar_images('toy', query => '[1,0,0,0]'::ext.vector)").fetchall())
            == 10
        )
        for path in SQL_FILES:
            if "VIEW" in CREATED.search(path.read_text())[1]:
                caller.execute(sql.SQL("SELECT * FROM cbir.{}").format(sql.Identifier(path.stem)))


def test_the_program_needs_the_extension_on_its_search_path(
    extension_elsewhere: psycopg.Connection, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cbirdb.cli.options import Context
    from cbirdb.config import Settings

    context = Context(Settings(dsn=empty_database, home=None), quiet=True)
    with context.open_database() as connection:
        ids = toy_encoder(connection, empty_database)
        stored = register_encoder(connection, "toy", dim=4, precision="half", spec={}, provenance={})
        for mode in ("exact", "approximate"):
            summary = evaluate(connection, stored, connect=context.connect, k=5, mode=mode, workers=2)  # type: ignore[arg-type]
            assert (summary.queries, summary.indexed) == (3, len(ids) - 3)


def test_a_database_of_a_newer_cbirdb_is_downgraded_or_half_changed(connection: psycopg.Connection, dsn: str) -> None:
    connection.execute("UPDATE cbir.alembic_version SET version_num = '9999'")
    before = dump(connection)
    with pytest.raises(SchemaError, match="newer"):
        migrate.upgrade(connection)
    assert dump(connection) == before


def test_the_program_works_on_a_database_of_another_version(connection: psycopg.Connection, dsn: str) -> None:
    from cbirdb.config import Settings

    connection.execute(
        "COMMENT ON SCHEMA cbir IS 'Content-based image retrieval (cbirdb); state 9999 0123456789abcdef'"
    )
    with pytest.raises(SchemaError, match="another version"):
        open_database(Settings(dsn=dsn, home=None))


@pytest.fixture
def broken_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``sql/`` with one more file, that fails at its second statement; returns the file's name."""
    folder = tmp_path / "sql"
    shutil.copytree(migrate.repository_folder("sql"), folder)
    broken = folder / "4_metrics" / "zzz_broken.sql"
    broken.write_text("CREATE VIEW cbir.zzz_broken AS SELECT 1 AS one;\nSELECT no_such_column FROM cbir.image;\n")
    found = migrate.repository_folder
    monkeypatch.setattr(migrate, "repository_folder", lambda name: folder if name == "sql" else found(name))
    return broken.name


def test_a_failing_sql_file_leaves_a_database_half_upgraded(connection: psycopg.Connection, broken_sql: str) -> None:
    before = dump(connection)
    with pytest.raises(SchemaError, match=broken_sql):
        migrate.upgrade(connection)
    assert dump(connection) == before


def test_a_failing_sql_file_leaves_something_in_an_empty_database(empty: psycopg.Connection, broken_sql: str) -> None:
    with pytest.raises(SchemaError, match=broken_sql):
        migrate.upgrade(empty)
    assert empty.execute("SELECT to_regnamespace('cbir')").fetchone() == (None,)
    assert migrate.extension_version(empty) is None
