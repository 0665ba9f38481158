"""Upgrades from the layout with one schema, and the schema of internal functions: who makes it, who may own it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cbirdb.db.catalogue import DICOM_COLUMNS
from cbirdb.db.schema import migrate
from cbirdb.db.schema.sql_objects import drop_sql_objects, sql_files
from cbirdb.errors import DatabaseError
from tests.support.index_checks import Cli
from tests.support.schema_checks import dump, toy_encoder

FIGURES = "SELECT run_id, n, micro_precision, macro_precision FROM cbir.precision_by_run ORDER BY run_id, n"
NEIGHBOURS = "SELECT * FROM cbir.neighbour ORDER BY run_id, query_image_id, rank"
AUDIENCES = """
SELECT p.proname FROM cbir_internal.function_audience() AS a INNER JOIN pg_proc AS p ON p.oid = a.routine
WHERE p.pronamespace = %s::regnamespace AND (a.audience IN ('reader', 'admin')) = %s
"""


LATER = {
    **dict.fromkeys(DICOM_COLUMNS, "text"),
    **dict.fromkeys(("accession", "rendering_sha256"), "text"),
    **dict.fromkeys(("pixel_spacing", "slice_position", "slice_orientation"), "double precision[]"),
    "image_type": "text[]",
    "pixel_sha256": "bytea",
    "replaced_by": "bigint",
}
"""Columns that revision 0010 adds, with their types. Views of today read them; those of then did not."""
OF_THEN = (
    "DROP TABLE cbir.probe_prediction, cbir.probe_class, cbir.probe_run",
    "DROP TABLE cbir.body_part",
    "DROP TABLE cbir.merged_patient",
    "ALTER TABLE cbir.search_run DROP COLUMN merged_images",
    "ALTER TABLE cbir.study DROP COLUMN accession",
    "ALTER TABLE cbir.encoder DROP COLUMN rendering_sha256",
    "ALTER TABLE cbir.image "
    + ", ".join(f"DROP COLUMN {name}" for name in LATER if name not in ("accession", "rendering_sha256")),
)
"""Takes back what the revisions 0010 and 0011 added."""

NO_MERGED_PATIENT = "SELECT NULL::bigint AS dataset_id, NULL::text AS pseudonym, NULL::bigint AS patient_id WHERE FALSE"


def as_of_then(text: str) -> str:
    """Return the statement of an SQL file with one schema and without columns that came later."""
    text = re.sub(r"\b(?:i|st|e)\.(" + "|".join(LATER) + r")\b", lambda found: f"(NULL::{LATER[found[1]]})", text)
    text = text.replace("r.merged_images + 0", "0::bigint")
    text = text.replace("INNER JOIN cbir.merged_patient AS m", f"INNER JOIN ({NO_MERGED_PATIENT}) AS m")
    return text.replace("cbir_internal", "cbir")


def catalogue_of(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the server knows of both schemas, without the numbers of columns: some were added anew."""
    found = dump(connection)
    return found | {"columns": sorted(((row[0], *row[2:]) for row in found["columns"]), key=repr)}


def make_one_schema(connection: psycopg.Connection) -> None:
    """Take the database back to the layout in which all functions lay in schema cbir."""
    with connection.transaction():
        drop_sql_objects(connection)
        connection.execute("DELETE FROM cbir.sql_object")
        connection.execute("DROP SCHEMA cbir_internal")
        for statement in OF_THEN:
            connection.execute(statement)
        connection.execute("SELECT set_config('search_path', 'cbir, public, pg_temp', true)")
        connection.execute("SET LOCAL check_function_bodies = off")
        for path in sql_files():
            if not path.name.startswith("probe_"):
                connection.execute(as_of_then(path.read_text()).encode())
        connection.execute("SELECT set_config('search_path', '', true)")
        connection.execute(
            "INSERT INTO cbir.sql_object (kind, name)"
            " SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'type' END, oid::regclass::text FROM pg_class"
            " WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('v', 'c')"
            " UNION ALL SELECT 'routine', oid::regprocedure::text FROM pg_proc"
            " WHERE pronamespace = 'cbir'::regnamespace"
        )
        revokes = connection.execute(
            "SELECT format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine) FROM cbir.function_audience()"
            " WHERE audience <> 'public'"
        ).fetchall()
        for (statement,) in revokes:
            connection.execute(statement)
        connection.execute("SELECT cbir.create_triggers(), cbir.grant_roles()")
        connection.execute("UPDATE cbir.alembic_version SET version_num = '0008'")


def become_owner(connection: psycopg.Connection, role: str, *schemas: str) -> None:
    """Give these schemas and all tables to the role, and make the session one of the role's."""
    who = sql.Identifier(role)
    for schema in schemas:
        connection.execute(sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(schema), who))
    owned = connection.execute(
        "SELECT format('ALTER %s %s OWNER TO', kind, name) FROM ("
        " SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, oid::regclass::text FROM pg_class"
        " WHERE relnamespace = 'cbir'::regnamespace AND relkind IN ('r', 'v', 'c')"
        " UNION ALL SELECT 'ROUTINE', oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'cbir'::regnamespace) AS t (kind, name)"
    ).fetchall()
    for (statement,) in owned:
        connection.execute(sql.SQL(statement + " {}").format(who))
    connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(who))


def test_schema_cbir_has_only_functions_for_people(connection: psycopg.Connection) -> None:
    assert connection.execute(AUDIENCES, ["cbir", False]).fetchall() == []
    inside = {name for (name,) in connection.execute(AUDIENCES, ["cbir_internal", True])}
    assert inside == {"access_fault", "trigger_definition", "wrong_call", "wrong_grant"}  # db doctor calls these


def test_an_upgrade_from_one_schema_keeps_data_figures_and_grants(
    cli: Cli, connection: psycopg.Connection, dsn: str, role: str
) -> None:
    toy_encoder(connection, dsn)
    assert cli("evaluate", "-e", "toy", "-k", "5").code == 0
    current = catalogue_of(connection)
    make_one_schema(connection)
    assert connection.execute("SELECT to_regprocedure('cbir.checked_count(text, bigint)')").fetchone() != (None,)
    for granted in (
        "SELECT ON cbir.precision_by_run",
        "EXECUTE ON FUNCTION cbir.similar_studies",
        "USAGE ON SCHEMA cbir",
    ):
        connection.execute(sql.SQL(f"GRANT {granted} TO {{}}").format(sql.Identifier(role)))
    moved = sql.SQL("GRANT EXECUTE ON FUNCTION cbir.modified_precision TO {}").format(sql.Identifier(role))
    connection.execute(moved)
    before = [connection.execute(query.encode()).fetchall() for query in (FIGURES, NEIGHBOURS)]
    assert all(before)

    migrate.upgrade(connection)

    assert [connection.execute(query.encode()).fetchall() for query in (FIGURES, NEIGHBOURS)] == before
    after = catalogue_of(connection)
    assert {part: after[part] for part in after if part != "grants"} == {
        part: current[part] for part in current if part != "grants"
    }
    rights = connection.execute(
        "SELECT has_table_privilege(%(role)s, 'cbir.precision_by_run', 'SELECT'),"
        " has_function_privilege(%(role)s, 'cbir.similar_studies'::regproc, 'EXECUTE'),"
        " has_function_privilege(%(role)s, 'cbir_internal.modified_precision'::regproc, 'EXECUTE'),"
        " has_schema_privilege(%(role)s, 'cbir_internal', 'USAGE'),"
        " has_function_privilege(%(role)s, 'cbir_internal.erase_images'::regproc, 'EXECUTE')",
        {"role": role},
    ).fetchone()
    assert rights == (True, True, True, True, False)


def test_an_owner_who_may_not_create_the_internal_schema_is_told_the_statement(
    connection: psycopg.Connection, dsn: str, role: str
) -> None:
    make_one_schema(connection)
    before = catalogue_of(connection)
    become_owner(connection, role, "cbir")
    with pytest.raises(DatabaseError, match="needs the schema 'cbir_internal'") as refused:
        migrate.upgrade(connection)
    connection.execute("RESET SESSION AUTHORIZATION")
    assert [name for name, _ in catalogue_of(connection)["functions"]] == [name for name, _ in before["functions"]]
    hint = str(refused.value.hint)
    assert hint.endswith(f"CREATE SCHEMA cbir_internal AUTHORIZATION {role};")
    connection.execute(hint.partition(": ")[2].encode())
    connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
    migrate.upgrade(connection)
    assert migrate.current_state(connection) == migrate.installed_state()


def test_an_internal_schema_of_somebody_else_is_refused(connection: psycopg.Connection, role: str) -> None:
    connection.execute(sql.SQL("ALTER SCHEMA cbir_internal OWNER TO {}").format(sql.Identifier(role)))
    with pytest.raises(DatabaseError, match="belongs to another role"):
        migrate.upgrade(connection)
