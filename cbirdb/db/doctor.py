"""Checks that a server is fit for use, one row per check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from cbirdb.db.extension import add_extension_to_search_path, extension_version, version_tuple
from cbirdb.db.index_builds import stray_indexes
from cbirdb.db.known_defects import how_to_update, missing_fixes
from cbirdb.db.rows import first_value, one_row
from cbirdb.db.schema.migrate import (
    MINIMUM_PGVECTOR,
    MINIMUM_POSTGRESQL,
    current_state,
    installed_state,
    table_differences,
)
from cbirdb.db.server.tuning import MB


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check. ``advice`` says what to do if it failed or could be better."""

    check: str
    passed: bool
    detail: str
    advice: str = ""

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints."""
        return {
            "check": self.check,
            "result": "ok" if self.passed else "FAILED",
            "detail": self.detail,
            "advice": self.advice,
        }


def doctor(connection: psycopg.Connection) -> list[Check]:
    """Run all checks. A check that cannot run because an earlier one failed, fails too."""
    return [_guarded(title, check, connection) for title, check in CHECKS.items()]


def _guarded(title: str, check: Callable[[psycopg.Connection], Check], connection: psycopg.Connection) -> Check:
    try:
        with connection.transaction():
            return check(connection)
    except psycopg.Error as error:
        return Check(title, False, str(error).splitlines()[0], "Fix the failed checks above first.")


def _value(connection: psycopg.Connection, query: str, *parameters: object) -> object:
    return first_value(connection.execute(query.encode(), parameters or None))


def check_server(connection: psycopg.Connection) -> Check:
    """Check PostgreSQL's version."""
    version = connection.info.server_version
    return Check(
        "PostgreSQL version",
        version >= MINIMUM_POSTGRESQL,
        str(_value(connection, "SELECT current_setting('server_version')")),
        "" if version >= MINIMUM_POSTGRESQL else "cbirdb needs PostgreSQL 16 or newer.",
    )


def check_extension(connection: psycopg.Connection) -> Check:
    """Check pgvector's version."""
    installed = extension_version(connection)
    wanted = ".".join(map(str, MINIMUM_PGVECTOR))
    if installed is None:
        return Check("pgvector version", False, "not in this database", "Ask a DBA: CREATE EXTENSION vector;")
    if version_tuple(installed) < MINIMUM_PGVECTOR:
        advice = f"cbirdb needs {wanted} or newer. {missing_fixes(installed)}".rstrip()
        return Check("pgvector version", False, installed, advice)
    fixes = missing_fixes(installed)
    return Check("pgvector version", True, installed, f"{fixes} {how_to_update(connection)}" if fixes else "")


def check_migrations(connection: psycopg.Connection) -> Check:
    """Check that the schema is up to date."""
    found, wanted = current_state(connection), installed_state()
    good = found == wanted
    detail = f"migration and functions {found}" if good else f"{found or 'missing'}, this cbirdb has {wanted}"
    return Check("Schema cbir", good, detail, "" if good else "Run: cbirdb db upgrade")


def check_privileges(connection: psycopg.Connection) -> Check:
    """Check the role's privileges."""
    row = connection.execute(
        "SELECT current_user, rolsuper, has_schema_privilege('cbir', 'CREATE'), has_schema_privilege('cbir', 'USAGE'),"
        " has_function_privilege(to_regprocedure('cbir_internal.store_images(bigint, jsonb)'), 'EXECUTE')"
        " FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is None:
        return Check("Privileges", False, "the server does not know the role", "Connect as another role.")
    role, superuser, create, usage, ingest = row
    granted = {"read": usage, "ingest": ingest, "index": create}
    rights = [name for name, allowed in granted.items() if allowed]
    lacking = [name for name in granted if name not in rights]
    advice = f"This role may not {' or '.join(lacking)}; the schema's owner may." if lacking else ""
    if superuser and not connection.info.host.startswith("/"):
        advice = "This role is a superuser; once the extension exists, cbirdb needs none."
    return Check("Privileges", bool(usage), f"{role} may {', '.join(rights) or 'nothing'}", advice)


def check_memory(connection: psycopg.Connection) -> Check:
    """Check the memory settings."""
    sizes = connection.execute(
        "SELECT pg_size_bytes(current_setting('shared_buffers')), pg_size_bytes(current_setting('maintenance_work_mem')),"
        " pg_size_bytes(current_setting('max_wal_size')), current_setting('max_parallel_maintenance_workers')::int"
    )
    buffers, maintenance, wal, workers = one_row(sizes)
    detail = (
        f"shared_buffers {buffers // MB} MB, maintenance_work_mem {maintenance // MB} MB, max_wal_size {wal // MB} MB,"
        f" {workers} parallel index builders"
    )
    advice = []
    if buffers < 512 * MB:
        advice.append("Raise shared_buffers to a quarter of the machine's memory.")
    if maintenance < 256 * MB:
        advice.append("Raise maintenance_work_mem: an index that does not fit builds many times slower.")
    return Check("Memory settings", True, detail, " ".join(advice))


def check_search(connection: psycopg.Connection) -> Check:
    """Check a nearest-neighbour query through an index."""
    add_extension_to_search_path(connection)
    if not _value(connection, "SELECT has_database_privilege(current_database(), 'TEMP')"):
        return _check_search_without_index(connection)
    # Search real vectors through a real index, in a table that vanishes with the transaction.
    connection.execute("CREATE TEMPORARY TABLE doctor_vector (id int, embedding halfvec(3) NOT NULL) ON COMMIT DROP")
    connection.execute("INSERT INTO doctor_vector VALUES (1, '[1,0,0]'), (2, '[0.6,0.8,0]'), (3, '[0,0,1]')")
    connection.execute("CREATE INDEX ON doctor_vector USING hnsw (embedding halfvec_cosine_ops)")
    connection.execute("SET LOCAL enable_seqscan = off")
    found = connection.execute(
        "SELECT id, round((embedding <=> '[0.8,0.6,0]')::numeric, 3)"
        " FROM doctor_vector ORDER BY embedding <=> '[0.8,0.6,0]' LIMIT 3"
    ).fetchall()
    good = [(number, float(distance)) for number, distance in found] == [(2, 0.04), (1, 0.2), (3, 1.0)]
    detail = "three neighbours through an HNSW index, in order" if good else f"unexpected answer {found}"
    return Check("Nearest-neighbour query", good, detail, "" if good else "This pgvector build gives wrong answers.")


def _check_search_without_index(connection: psycopg.Connection) -> Check:
    """Check a query for a role that may not create a temporary table."""
    found = connection.execute(
        "SELECT id FROM (VALUES (1, '[1,0,0]'::halfvec), (2, '[0.6,0.8,0]'), (3, '[0,0,1]')) AS v (id, embedding)"
        " ORDER BY embedding <=> '[0.8,0.6,0]' LIMIT 3"
    ).fetchall()
    good = [number for (number,) in found] == [2, 1, 3]
    detail = "three neighbours in order, without an index because this role lacks the TEMP privilege"
    return Check("Nearest-neighbour query", good, detail if good else f"unexpected answer {found}")


def check_erasures(connection: psycopg.Connection) -> Check:
    """Check that no erased patient is back."""
    if not _value(connection, "SELECT has_table_privilege('cbir.erasure_certificate', 'SELECT')"):
        return Check("Erased patients", True, "not checked: this role may not read the certificates")
    certificates = _value(connection, "SELECT count(*) FROM cbir.erasure_certificate")
    if not _value(
        connection,
        "SELECT has_table_privilege('cbir.erased_image', 'SELECT')"
        " AND has_function_privilege('cbir.erasure_hash(text, text)', 'EXECUTE')",
    ):
        return Check("Erased patients", True, f"{certificates} certificates; not checked whether anybody is back")
    back = _value(connection, "SELECT count(*) FROM cbir.returned_patient")
    detail = f"{certificates} certificates, {back or 'nobody'} back in the catalogue"
    return Check("Erased patients", not back, detail, "Run: cbirdb erase --reapply" if back else "")


def check_tables(connection: psycopg.Connection) -> Check:
    """Check that tables and columns are those of this version."""
    if not _value(connection, "SELECT has_schema_privilege('cbir', 'USAGE')"):
        return Check(
            "Tables and columns", False, "this role may not use schema cbir", "Ask for membership in cbir_reader."
        )
    differences = table_differences(connection)
    return Check(
        "Tables and columns",
        not differences,
        _listed(differences) or "as this version creates them",
        "Restore the missing objects. If nobody knows the reason, ask for help before writing." if differences else "",
    )


def check_access(connection: psycopg.Connection) -> Check:
    """Check policies, triggers, grants, owners and search paths."""
    if not _value(connection, "SELECT has_function_privilege('cbir_internal.access_fault()', 'EXECUTE')"):
        return Check("Access control", True, "not checked: only the schema's owner can compare access control")
    faults = [
        f"{thing}: {fault}"
        for thing, fault in connection.execute("SELECT object, fault FROM cbir_internal.access_fault()")
    ]
    if no_boundary := next((fault for fault in faults if fault.startswith("role cbir_search: ")), None):
        # No damage: the server's administrator has not created cbirdb's roles.
        faults.remove(no_boundary)
        if not faults:
            return Check(
                "Access control", True, no_boundary, "To create it: cbirdb db roles --script | psql, then upgrade."
            )
    # The temporary copies for the comparison of policies end with the transaction.
    return Check(
        "Access control",
        not faults,
        _listed(faults) or "policies, triggers, grants, owners and search paths are as this version creates them",
        "If nobody changed them on purpose: cbirdb db upgrade, then cbirdb db row-security on." if faults else "",
    )


def _listed(findings: Sequence[str]) -> str:
    return "; ".join(findings)


def check_indexes(connection: psycopg.Connection) -> Check:
    """Check the vector indexes."""
    if not _value(
        connection, "SELECT cbir_internal.sees_all_rows() AND has_table_privilege('cbir.index_build', 'SELECT')"
    ):
        return Check("Vector indexes", True, "not checked: this role may not see the records of builds")
    strays = stray_indexes(connection)
    if not strays:
        used = _value(connection, "SELECT count(*) FROM cbir.index_build WHERE dropped_at IS NULL")
        return Check("Vector indexes", True, f"{used} in use, and no other")
    words = [
        f"cbir.{s.index_name} of {s.encoder} is {'in use' if s.in_use else 'not in use'}{'' if s.valid else ', invalid'}"
        for s in strays
    ]
    advice = [
        f"Run: cbirdb index build -e {name}" for name in sorted({s.encoder for s in strays if s.ours or s.in_use})
    ]
    if not all(s.ours or s.in_use for s in strays):
        advice.append(
            "DROP INDEX CONCURRENTLY the indexes that cbirdb did not build: because of them, searches may be exact."
        )
    return Check("Vector indexes", False, "; ".join(words), " ".join(advice))


CHECKS: dict[str, Callable[[psycopg.Connection], Check]] = {
    "PostgreSQL version": check_server,
    "pgvector version": check_extension,
    "Schema cbir": check_migrations,
    "Tables and columns": check_tables,
    "Access control": check_access,
    "Privileges": check_privileges,
    "Memory settings": check_memory,
    "Nearest-neighbour query": check_search,
    "Erased patients": check_erasures,
    "Vector indexes": check_indexes,
}
"""Checks by title, in the order in which they run."""
