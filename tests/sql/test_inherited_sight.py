"""Test that a role sees what it inherits: a membership WITH INHERIT FALSE counts only after SET ROLE."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.stored_pictures import fill, unit


@dataclass(frozen=True)
class Member:
    """Hold a login that is a member of two sites' roles and inherits from one of them."""

    connection: psycopg.Connection
    inherited: str
    settable: str


@pytest.fixture
def member(role_server: str, role_database: str) -> Iterator[Member]:
    """Give datasets 'inherited' and 'settable' to one group role each, and erase a patient from each."""
    tag = uuid.uuid4().hex[:8]
    login, *groups = names = [f"cbirdb_test_{name}_{tag}" for name in ("login", "inherited", "settable")]
    with psycopg.connect(role_database, autocommit=True) as owner:
        fill(owner, unit(2))
        owner.execute("UPDATE cbir.dataset SET name = 'inherited'")
        owner.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('settable', 'test')")
        owner.execute(
            "UPDATE cbir.image SET dataset_id = (SELECT max(dataset_id) FROM cbir.dataset)"
            " WHERE image_id = (SELECT max(image_id) FROM cbir.image)"
        )
        owner.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'gone' FROM cbir.dataset")
        owner.execute("SELECT * FROM cbir.erase_patient('gone')")
        owner.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'of a test' IN ROLE cbir_ingest").format(sql.Identifier(login))
        )
        for group, inherit, dataset in zip(groups, ("TRUE", "FALSE"), ("inherited", "settable"), strict=True):
            owner.execute(sql.SQL("CREATE ROLE {} IN ROLE cbir_ingest").format(sql.Identifier(group)))
            owner.execute(
                sql.SQL("GRANT {} TO {} WITH INHERIT " + inherit).format(sql.Identifier(group), sql.Identifier(login))  # type: ignore[arg-type]
            )
            owner.execute("INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, %s)", [group, dataset])
        owner.execute("SELECT cbir.set_row_security(TRUE)")
        with psycopg.connect(
            make_conninfo(role_database, user=login, password="of a test"), autocommit=True
        ) as connection:
            yield Member(connection, *groups)
        owner.execute("DELETE FROM cbir.dataset_access")
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        for name in names:
            server_admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def seen(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Return the datasets that each way of asking shows."""
    return {
        "erased datasets": [
            row[0] for row in connection.execute("SELECT * FROM cbir_internal.erased_dataset()").fetchall()
        ],
        "erased sources": [
            name
            for name in ("inherited", "settable")
            if connection.execute("SELECT * FROM cbir_internal.erased_source(%s, '{x}', '{gone}')", [name]).fetchall()
        ],
        "images": [row[0] for row in connection.execute("SELECT dataset FROM cbir.image_overview").fetchall()],
        "searches": [
            row[0]
            for row in connection.execute(
                "SELECT dataset FROM cbir.similar_images('toy', query => '[1,0,0,0,0,0,0,0]')"
            ).fetchall()
        ],
    }


def test_role_sees_only_datasets_of_roles_that_it_inherits_from(member: Member) -> None:
    for name, found in seen(member.connection).items():
        assert found == ["inherited"], name


def test_set_role_shows_only_datasets_of_that_role(member: Member) -> None:
    member.connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(member.settable)))
    for name, found in seen(member.connection).items():
        assert found == ["settable"], name


@pytest.mark.parametrize("inherit", [True, False])
def test_member_sees_all_datasets_only_if_it_inherits_from_the_administrator(
    member: Member, role_database: str, inherit: bool
) -> None:
    with psycopg.connect(role_database, autocommit=True) as owner:
        owner.execute(
            sql.SQL("GRANT cbir_admin TO {} WITH INHERIT {}").format(
                sql.Identifier(member.connection.info.user), sql.SQL("TRUE" if inherit else "FALSE")
            )
        )
    for name, found in seen(member.connection).items():
        assert sorted(found) == (["inherited", "settable"] if inherit else ["inherited"]), name
