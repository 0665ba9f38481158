"""Test that an upgrade by a superuser does not run code that the schema's owner left for it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from cbirdb.db.schema.migrate import upgrade
from cbirdb.errors import SchemaError
from tests.conftest import Logins

BECOME = "ALTER ROLE {} SUPERUSER"


@pytest.fixture
def owner(role_database: str, logins: Logins) -> Iterator[psycopg.Connection]:
    """Connect as a member of the owner's role to ``role_database``."""
    with logins.connect("admin", str(conninfo_to_dict(role_database)["dbname"])) as connection:
        yield connection


def is_superuser(connection: psycopg.Connection, name: str) -> bool:
    return connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [name]).fetchone() == (True,)


@pytest.mark.parametrize("kind", ["VIEW IF EXISTS cbir.nothing; {}; --", "view"])
def test_upgrade_does_not_execute_text_of_the_sql_object_table(
    role_database: str, logins: Logins, owner: psycopg.Connection, kind: str
) -> None:
    become = BECOME.format(logins.names["admin"])
    owner.execute("INSERT INTO cbir.sql_object VALUES (%s, %s)", [kind.format(become), f"cbir.image; {become}"])
    with psycopg.connect(role_database, autocommit=True) as superuser:
        upgrade(superuser)
        assert not is_superuser(superuser, logins.names["admin"])
        assert superuser.execute("SELECT to_regclass('cbir.image') IS NOT NULL").fetchone() == (True,)


@pytest.mark.parametrize(
    "trap",
    [
        "CREATE TRIGGER trap AFTER INSERT ON cbir.sql_object FOR EACH STATEMENT EXECUTE FUNCTION cbir.trap()",
        "CREATE TRIGGER trap AFTER DELETE ON cbir.sql_object FOR EACH ROW EXECUTE FUNCTION cbir.trap()",
        "CREATE TRIGGER trap AFTER UPDATE ON cbir.alembic_version FOR EACH ROW EXECUTE FUNCTION cbir.trap()",
        "CREATE RULE trap AS ON DELETE TO cbir.sql_object DO ALSO SELECT cbir.run_trap()",
    ],
)
def test_upgrade_by_a_superuser_refuses_triggers_and_rules_of_the_owner(
    role_database: str, logins: Logins, owner: psycopg.Connection, trap: str
) -> None:
    body = f"BEGIN RESET ROLE; {BECOME.format(logins.names['admin'])}; RETURN NULL; END"
    owner.execute(f"CREATE FUNCTION cbir.trap() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$".encode())
    owner.execute("CREATE FUNCTION cbir.run_trap() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    owner.execute(trap.encode())
    with psycopg.connect(role_database, autocommit=True) as superuser:
        with pytest.raises(SchemaError, match=r"superuser would run .* trap on cbir\.") as caught:
            upgrade(superuser)
        assert not is_superuser(superuser, logins.names["admin"])
        assert caught.value.hint
        assert superuser.execute("SELECT count(*) > 50 FROM cbir.sql_object").fetchone() == (True,), "nothing is lost"
