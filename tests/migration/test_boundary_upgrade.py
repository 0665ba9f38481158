"""Test upgrades and the role cbir_search: without it they are refused where row-level security needs it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run
from cbirdb.db.schema.migrate import upgrade
from tests.conftest import Logins, new_database
from tests.support.schema_checks import dump


@pytest.fixture
def own_schema(role_server: str) -> Iterator[tuple[str, str]]:
    """Make a schema owned by a login that may not act as cbir_search; yield the superuser's and the owner's DSN."""
    owner = f"cbirdb_owner_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(role_server, autocommit=True) as admin, new_database(role_server, None) as dsn:
        name = sql.Identifier(owner)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'of a test'").format(name))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            for schema in ("cbir", "cbir_internal"):
                made = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), name)
                connection.execute(made)
        yield dsn, make_conninfo(dsn, user=owner, password="of a test")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {0} CASCADE").format(name))
            connection.execute("DROP OWNED BY cbir_search CASCADE")
    with psycopg.connect(role_server, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(name))


def test_upgrade_by_an_owner_without_cbir_search_runs_searches_as_the_caller(
    own_schema: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, owner = own_schema
    assert run(["--dsn", owner, "db", "upgrade"]) == 0
    assert run(["--dsn", owner, "db", "doctor"]) == 0
    assert "searches run as their caller" in " ".join(capsys.readouterr().out.split())
    assert run(["--dsn", owner, "db", "row-security", "on"]) == 1
    with psycopg.connect(owner) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_proc WHERE proowner = 'cbir_search'::regrole"
        ).fetchone() == (0,)


def test_upgrade_that_would_end_row_security_is_refused_and_changes_nothing(
    own_schema: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    dsn, owner = own_schema
    role = psycopg.conninfo.conninfo_to_dict(owner)["user"]
    with psycopg.connect(dsn, autocommit=True) as superuser:
        grant = sql.SQL("GRANT cbir_search TO {} WITH INHERIT FALSE, SET TRUE").format(sql.Identifier(str(role)))
        superuser.execute(grant)
        assert run(["--dsn", owner, "db", "upgrade"]) == 0
        assert run(["--dsn", owner, "db", "row-security", "on"]) == 0
        superuser.execute(sql.SQL("REVOKE cbir_search FROM {}").format(sql.Identifier(str(role))))
        before = dump(superuser)
        capsys.readouterr()
        for who in (owner, dsn):
            assert run(["--dsn", who, "db", "upgrade"]) == 3
            told = capsys.readouterr().err
            assert "Row-level security is on" in told
            assert "db roles --script" in told
            assert f"GRANT cbir_search TO {role} WITH INHERIT FALSE, SET TRUE" in told
        assert dump(superuser) == before
        superuser.execute(grant)
        assert run(["--dsn", owner, "db", "upgrade"]) == 0


def test_migration_changes_rows_of_all_datasets_under_row_security(
    role_server: str, role_template: str, logins: Logins
) -> None:
    """Without a policy the owner would see no row, and a migration of data would silently change nothing."""
    with new_database(role_server, role_template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('a', 'test'), ('b', 'test')")
        connection.execute("SELECT cbir.set_row_security(TRUE)")
        database = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
        with logins.connect("admin", database) as admin, admin.transaction():
            admin.execute("SET LOCAL ROLE cbir_admin")
            assert admin.execute("UPDATE cbir.dataset SET reader = 'other'").rowcount == 2
        policies = "SELECT count(*) FROM pg_policies WHERE schemaname = 'cbir'"
        before = connection.execute(policies).fetchone()
        with logins.connect("admin", database) as admin:
            upgrade(admin)
        assert connection.execute(policies).fetchone() == before


def test_cbir_search_may_not_create_objects_after_an_upgrade(role_database: str) -> None:
    with psycopg.connect(role_database) as connection:
        assert connection.execute(
            "SELECT has_schema_privilege('cbir_search', 'cbir', 'CREATE'), has_schema_privilege('cbir_search', 'cbir', 'USAGE')"
        ).fetchone() == (False, True)
        assert connection.execute("SELECT pg_has_role('cbir_admin', 'cbir_search', 'USAGE')").fetchone() == (False,)
        owned = connection.execute(
            "SELECT count(*) FROM pg_class WHERE relowner = 'cbir_search'::regrole AND relkind = 'r'"
        )
        assert owned.fetchone() == (0,)
