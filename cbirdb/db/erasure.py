"""Erases patients, certifies it, and keeps them from coming back: the SQL side of ``cbirdb erase``."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from cbirdb.db.lock_waits import LockWaits

log = logging.getLogger(__name__)

# Only these statements run because a certificate says so. A certificate's text lies in a table, which an administrator
# of the schema may write.
_CLEANUP = re.compile(
    r'(?:REINDEX INDEX CONCURRENTLY|VACUUM(?: \(ANALYZE\))?) (cbir\.(?:[a-z_][a-z0-9_]*|"(?:[^"]|"")+"))'
)


def erased_datasets(connection: psycopg.Connection) -> list[str]:
    """Return the names of datasets with erased patients."""
    return [row[0] for row in connection.execute("SELECT cbir_internal.erased_dataset()")]


def erased_sources(
    connection: psycopg.Connection,
    dataset: str,
    sources: Sequence[str],
    pseudonyms: Sequence[str | None],
    *,
    both: bool = False,
) -> set[str]:
    """Return the sources among these images that belong to erased patients.

    :param pseudonyms: pseudonym of each image's patient; None if unknown.
    :param both: return only images whose source and patient are both known as erased.
    """
    if not sources:
        return set()
    found = connection.execute(
        "SELECT cbir_internal.erased_source(%s, %s::text[], %s::text[], %s)",
        [dataset, list(sources), list(pseudonyms), both],
    )
    return {row[0] for row in found}


_CERTIFICATE = """
SELECT c.certificate_id::text, c.dataset, encode(c.pseudonym_sha256, 'hex') AS pseudonym_sha256,
       to_json(c.erased_at) #>> '{}' AS erased_at, c.login, c.role, c.removed, c.to_run,
       ARRAY(
           SELECT encode(i.source_sha256, 'hex') FROM cbir.erased_image AS i
           WHERE i.certificate_id = c.certificate_id ORDER BY 1
       ) AS sources_sha256
"""
"""Query of a certificate in the form of a file."""


def erase_patients(connection: psycopg.Connection, people: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Erase patients by pseudonym and dataset (None: any), all or none of them; return their certificates."""
    certificates: list[dict[str, Any]] = []
    with connection.transaction():
        for pseudonym, dataset in people:
            found = connection.execute(
                "SELECT certificate_id FROM cbir.erase_patient(%s, %s)", [pseudonym, dataset]
            ).fetchall()
            certificates += _read(connection, [row[0] for row in found])
    return certificates


def reapply(connection: psycopg.Connection, certificates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Store certificates and erase again everybody who has one; return the new certificates."""
    with connection.transaction():
        connection.execute("SELECT cbir.restore_certificates(%s)", [Jsonb(list(certificates))])
        found = connection.execute("SELECT certificate_id FROM cbir.reapply_erasures()").fetchall()
        return _read(connection, [row[0] for row in found])


def all_certificates(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Return every certificate of this database, in the order of the erasures."""
    return _read(connection, None)


def known_pseudonyms(connection: psycopg.Connection, people: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs of pseudonym and dataset that belong to a stored, a merged or an erased patient."""
    found = connection.execute(
        """
        SELECT given.pseudonym, given.dataset
        FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS given (pseudonym, dataset, position)
        WHERE EXISTS (
            SELECT FROM cbir.patient AS p INNER JOIN cbir.dataset AS d ON d.dataset_id = p.dataset_id
            WHERE p.pseudonym = given.pseudonym AND d.name = given.dataset
        ) OR EXISTS (
            SELECT FROM cbir.merged_patient AS m INNER JOIN cbir.dataset AS d ON d.dataset_id = m.dataset_id
            WHERE m.pseudonym = given.pseudonym AND d.name = given.dataset
        ) OR EXISTS (
            SELECT FROM cbir.erasure_certificate AS c
            WHERE c.pseudonym_sha256 = cbir.erasure_hash(given.dataset, given.pseudonym)
        )
        ORDER BY given.position
        """,
        [[pseudonym for pseudonym, _ in people], [dataset for _, dataset in people]],
    )
    return found.fetchall()


def is_known(connection: psycopg.Connection, pseudonym: str, dataset: str | None) -> bool:
    """Return True if the pseudonym belongs to a stored, a merged or an erased patient.

    :param dataset: None: in any dataset.
    """
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM cbir.patient AS p INNER JOIN cbir.dataset AS d ON d.dataset_id = p.dataset_id
            WHERE p.pseudonym = %(pseudonym)s AND (%(dataset)s::text IS NULL OR d.name = %(dataset)s)
        ) OR EXISTS (
            SELECT FROM cbir.merged_patient AS m INNER JOIN cbir.dataset AS d ON d.dataset_id = m.dataset_id
            WHERE m.pseudonym = %(pseudonym)s AND (%(dataset)s::text IS NULL OR d.name = %(dataset)s)
        ) OR EXISTS (
            SELECT FROM cbir.erasure_certificate AS c
            WHERE c.pseudonym_sha256 = cbir.erasure_hash(c.dataset, %(pseudonym)s)
                AND (%(dataset)s::text IS NULL OR c.dataset = %(dataset)s)
        )
        """,
        {"pseudonym": pseudonym, "dataset": dataset},
    ).fetchone()
    return row == (True,)


def run_cleanup(connection: psycopg.Connection, certificates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Run the statements that remove deleted vectors from indexes and files, each once; return those that did not run.

    The connection must be in autocommit mode, since none of them can run in a transaction. Tables and indexes that no
    longer exist are skipped.
    """
    wanted = list(dict.fromkeys(statement for certificate in certificates for statement in certificate["to_run"]))
    warnings: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        # The server refuses VACUUM of another role's table only with a warning.
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic.message_primary or "")

    not_run: list[str] = []
    connection.add_notice_handler(note)
    try:
        # Indexes first: VACUUM is faster on a newly built one.
        for statement in sorted(wanted, key=lambda text: text.startswith("VACUUM")):
            warnings.clear()
            known = _CLEANUP.fullmatch(statement)
            if known and not _exists(connection, known[1]):
                continue
            try:
                if known:
                    with LockWaits(connection).naming_blockers():
                        connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege as error:
                warnings.append(str(error))
            if warnings or not known:
                log.info("not run: %s %s", statement, "; ".join(warnings))
                not_run.append(statement)
    finally:
        connection.remove_notice_handler(note)
    return not_run


def _exists(connection: psycopg.Connection, relation: str) -> bool:
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [relation]).fetchone() == (True,)


def _read(connection: psycopg.Connection, ids: Sequence[Any] | None) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute(
        _CERTIFICATE.encode()
        + b" FROM cbir.erasure_certificate AS c WHERE %(ids)s::uuid[] IS NULL OR c.certificate_id = ANY(%(ids)s)"
        b" ORDER BY c.erased_at, c.certificate_id",
        {"ids": list(ids) if ids is not None else None},
    )
    return cursor.fetchall()
