"""Test that other roles can neither block an erasure nor bring an erased patient back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import find_encoder, register_encoder
from cbirdb.db.schema.migrate import upgrade
from tests.conftest import Logins
from tests.support.stored_pictures import Picture, fill

PATIENTS = ["p0", "p0", "p1", "p1", "p2", "p2"]
"""Patients of the images 1 to 6."""


@pytest.fixture
def owner(role_database: str) -> Iterator[psycopg.Connection]:
    """Connect as superuser to a database with six images of three patients, the roles and their logins."""
    with psycopg.connect(role_database, autocommit=True) as connection:
        angles = np.radians(np.arange(6) * 10)
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        assert fill(connection, vectors, [Picture(patient=patient) for patient in PATIENTS]) == [1, 2, 3, 4, 5, 6]
        yield connection


def acting(owner: psycopg.Connection, logins: Logins, who: str) -> psycopg.Connection:
    return logins.connect(who, str(conninfo_to_dict(owner.info.dsn)["dbname"]))


def audited(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT query_image_id, filter, returned, erased_ids FROM cbir.search_audit ORDER BY audit_id"
    ).fetchall()


def erase(owner: psycopg.Connection, pseudonym: str) -> dict[str, int]:
    row = owner.execute("SELECT removed FROM cbir.erase_patient(%s)", [pseudonym]).fetchone()
    assert row is not None
    removed: dict[str, int] = row[0]
    return removed


@pytest.mark.parametrize(
    ("given", "noted"), [("{{2,3},{4,5}}", [2, 3, 4, 5]), ("{1,NULL,3}", [1, 3]), ("{NULL}", []), ("{}", [])]
)
def test_erasure_succeeds_after_a_search_with_an_unusual_image_list(
    owner: psycopg.Connection, logins: Logins, given: str, noted: list[int]
) -> None:
    with acting(owner, logins, "reader") as reader:
        reader.execute("SELECT * FROM cbir.similar_images('toy', image_id => 1, image_ids => %s::bigint[])", [given])
    assert [row[1] for row in audited(owner)] == [{"image_ids": noted}]
    assert erase(owner, "p1")["image"] == 2
    assert [row[1] for row in audited(owner)] == [{"image_ids": [n for n in noted if n not in (3, 4)]}]


@pytest.mark.parametrize(
    ("listed", "left", "erased"),
    [
        ([[2, 3], [4, 5]], [2, 5], 2),
        ([1, None, 3], [1], 1),
        ([[[3]], "x", {"n": 4}], [], 2),
        ([3.5, 3, 10**30], [3.5, 10**30], 1),
        ("x", "x", 0),
    ],
)
def test_audit_rows_of_older_versions_are_redacted_at_any_depth(
    owner: psycopg.Connection, listed: Any, left: Any, erased: int
) -> None:
    owner.execute(
        "INSERT INTO cbir.search_audit (login, role, function, filter, returned) VALUES ('x', 'x', 'x', %s, '{}')",
        [Jsonb({"image_ids": listed, "label": "a"})],
    )
    assert erase(owner, "p1")["search_audit_redacted"] == (erased > 0)
    assert audited(owner) == [(None, {"image_ids": left, "label": "a"}, [], erased)]


TRIGGERS = {
    "note_setting": ("setting (name text, enabled boolean)", "INSERT", "('audit', FALSE)"),
    "refuse_erased": ("patient (dataset_id bigint, pseudonym text)", "INSERT", "(1, 'p1')"),
    "guard_audit": ("search_audit (LIKE cbir.setting)", "DELETE", "('audit', FALSE, now(), 'x')"),
}


@pytest.mark.parametrize("who", ["reader", "ingest", "admin"])
@pytest.mark.parametrize("function", TRIGGERS)
def test_no_role_can_attach_a_trigger_function_to_its_own_table(
    owner: psycopg.Connection, logins: Logins, function: str, who: str
) -> None:
    """They run as the owner: on a table of one's own they once forged audit rows and revealed erased patients."""
    table, event, values = TRIGGERS[function]
    erase(owner, "p1")
    before = audited(owner)
    name = table.split()[0]
    rows = "REFERENCING NEW TABLE AS added FOR EACH STATEMENT" if function == "refuse_erased" else "FOR EACH ROW"
    hung = f"""
        CREATE TEMPORARY TABLE {table};
        CREATE TRIGGER t AFTER {event} ON pg_temp.{name} {rows} EXECUTE FUNCTION cbir_internal.{function}();
        INSERT INTO pg_temp.{name} VALUES {values};
        DELETE FROM pg_temp.{name};
    """
    with acting(owner, logins, who) as login, pytest.raises(psycopg.errors.InsufficientPrivilege):
        login.execute(hung.encode())
    assert audited(owner) == before


def test_upgrade_lets_a_site_role_that_reads_images_search(owner: psycopg.Connection, logins: Logins) -> None:
    """It need not be a member of cbir_reader; noting a search is granted to whoever may read images."""
    name = sql.Identifier(logins.names["stranger"])
    owner.execute(sql.SQL("GRANT USAGE ON SCHEMA cbir TO {}").format(name))
    owner.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA cbir TO {}").format(name))
    search = "SELECT image_id FROM cbir.similar_images('toy', image_id => 1, k => 1)"
    with acting(owner, logins, "stranger") as login:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="similar_images"):
            login.execute(search)
        upgrade(owner)
        assert login.execute(search).fetchall() == [(3,)]


def test_erasure_and_explain_match_succeed_when_an_encoder_has_no_table(
    owner: psycopg.Connection, logins: Logins
) -> None:
    owner.execute(
        "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('ghost', 'embedding_ghost', 4, 'half')"
    )
    with acting(owner, logins, "reader") as login:
        found = login.execute("SELECT encoder FROM cbir.explain_match(1, 3)").fetchall()
        assert found == [("toy",)]
    owner.execute("SELECT cbir_internal.forget_embeddings('{5}')")
    removed = erase(owner, "p1")
    assert (removed["image"], removed["embedding_toy"]) == (2, 2)
    assert owner.execute("SELECT image_id FROM cbir.embedding_toy ORDER BY 1").fetchall() == [(1,), (2,), (6,)]


def test_ingest_role_can_change_only_the_provenance_of_an_encoder(owner: psycopg.Connection, logins: Logins) -> None:
    owner.execute("GRANT UPDATE ON cbir.encoder TO cbir_ingest")  # as earlier versions did
    upgrade(owner)
    with acting(owner, logins, "ingest") as login:
        for column, value in (("table_name", "embedding_x"), ("dim", 3), ("precision", "half"), ("name", "x")):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                login.execute(sql.SQL("UPDATE cbir.encoder SET {} = %s").format(sql.Identifier(column)), [value])
        # The first vectors that the program computes itself, after others were imported.
        golden = [1.0, 0.0]
        provenance = {"weights_sha256": "0" * 64}
        register_encoder(
            login, "toy", dim=2, precision=None, spec={}, provenance=provenance, golden_embedding=golden
        )  # fmt: skip
        stored = find_encoder(login, "toy")
        assert stored is not None
        assert (stored.golden_embedding, stored.weights_sha256) == (golden, "0" * 64)
