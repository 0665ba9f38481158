"""Test upgrades without a superuser, with foreign grants and objects, and with the extension in any schema."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from cbirdb.db.embeddings import register_encoder
from cbirdb.db.schema import migrate
from cbirdb.errors import DatabaseError, SchemaError
from cbirdb.evaluate import EvaluationOptions, evaluate
from tests.support.schema_checks import CREATED, SQL_FILES, dump, toy_encoder


def become(connection: psycopg.Connection, role: str) -> None:
    connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))


def allow_create(connection: psycopg.Connection, role: str) -> None:
    connection.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(connection.info.dbname), sql.Identifier(role)
        )
    )


def test_upgrade_works_with_the_extension_in_schema_cbir(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as opened:
        opened.execute("CREATE SCHEMA cbir")
        opened.execute("CREATE EXTENSION vector SCHEMA cbir")
        migrate.upgrade(opened)
        migrate.upgrade(opened)
        assert migrate.current_state(opened) == migrate.installed_state()


SEARCH = "cbir.explain_match(bigint,bigint)"


def test_upgrade_keeps_granted_rights(connection: psycopg.Connection, role: str) -> None:
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


def test_upgrade_keeps_rights_revoked_from_public(connection: psycopg.Connection) -> None:
    connection.execute(f"REVOKE EXECUTE ON FUNCTION {SEARCH} FROM PUBLIC")
    migrate.upgrade(connection)
    row = connection.execute(
        "SELECT count(*) FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a"
        " WHERE pg_proc.oid = %s::regprocedure AND a.grantee = 0",
        [SEARCH],
    ).fetchone()
    assert row == (0,)


def test_upgrade_keeps_a_grant_on_single_columns_of_a_view(connection: psycopg.Connection, role: str) -> None:
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
def test_upgrade_refuses_to_drop_what_others_built_on_the_schema(connection: psycopg.Connection, outside: str) -> None:
    connection.execute(outside)
    connection.execute("UPDATE cbir.alembic_version SET version_num = version_num")
    before = dump(connection)
    with pytest.raises(SchemaError, match="monthly_report") as caught:
        migrate.upgrade(connection)
    assert caught.value.hint
    assert dump(connection) == before
    assert connection.execute("SELECT to_regclass('public.monthly_report') IS NOT NULL").fetchone() == (True,)


def test_ordinary_role_can_upgrade(empty: psycopg.Connection, role: str, connection: psycopg.Connection) -> None:
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


def test_missing_extension_is_named_with_the_statement_for_the_administrator(
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


def test_role_that_may_not_create_a_schema_is_refused(empty: psycopg.Connection, role: str) -> None:
    empty.execute("CREATE EXTENSION vector")
    become(empty, role)
    with pytest.raises(DatabaseError, match="not allowed"):
        migrate.upgrade(empty)


@pytest.fixture
def extension_elsewhere(empty: psycopg.Connection) -> psycopg.Connection:
    """Upgrade a database whose pgvector is in schema ``ext``, which is on no search path."""
    empty.execute("CREATE SCHEMA ext")
    empty.execute("CREATE EXTENSION vector SCHEMA ext")
    migrate.upgrade(empty)
    return empty


def test_upgrade_works_with_the_extension_outside_public(extension_elsewhere: psycopg.Connection) -> None:
    before = dump(extension_elsewhere)
    migrate.upgrade(extension_elsewhere)
    assert dump(extension_elsewhere) == before
    assert extension_elsewhere.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_searches_and_views_work_without_the_extension_on_the_search_path(
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


def test_program_finds_the_extension_outside_its_search_path(
    extension_elsewhere: psycopg.Connection, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cbirdb.cli.options import Context
    from cbirdb.config import Settings

    context = Context(Settings(dsn=empty_database, home=None), quiet=True)
    with context.open_database() as connection:
        ids = toy_encoder(connection, empty_database)
        stored = register_encoder(connection, "toy", dim=4, precision="half", spec={}, provenance={})
        for mode in ("exact", "approximate"):
            options = EvaluationOptions(k=5, mode=mode, workers=2)  # type: ignore[arg-type]
            summary = evaluate(connection, stored, options, connect=context.connect)
            assert (summary.queries, summary.indexed) == (3, len(ids) - 3)
