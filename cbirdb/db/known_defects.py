"""Lists known defects of pgvector releases, and refuses operations that they make unsafe.

IVFFlat builds before 0.8.7 (CVE-2026-103484) trust that every value has the dimensions of the index. A value with more
dimensions overwrites memory beyond its list's centre. If the indexed column is declared with its dimensions, and the
index is on no expression, the server has checked each value on storing, and all are safe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psycopg

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.extension import extension_version, version_tuple
from cbirdb.db.rows import one_value
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError
from cbirdb.progress import Progress

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect that a release of pgvector fixed."""

    fixed_in: Version
    description: str


DEFECTS = (
    Defect((0, 8, 7), "a buffer overflow in IVFFlat index builds (CVE-2026-103484)"),
    Defect((0, 8, 6), "a buffer overflow in IVFFlat index builds on 32-bit systems (CVE-2026-18022)"),
    Defect((0, 8, 4), "HNSW indexes that a vacuum damages"),
    Defect((0, 8, 2), "a buffer overflow in parallel HNSW index builds (CVE-2026-3172)"),
)
"""Known defects, the newest fix first."""
SAFE_IVFFLAT = DEFECTS[0].fixed_in


def missing_fixes(installed: str) -> str:
    """Return one sentence with the missing fixes of a release and the releases that have them; empty if none is
    missing.
    """
    lacking = [defect for defect in DEFECTS if version_tuple(installed) < defect.fixed_in]
    if not lacking:
        return ""
    fixes = ", ".join(f"{_words(defect.fixed_in)} fixes {defect.description}" for defect in lacking)
    return f"pgvector {installed} has known defects: {fixes}."


def how_to_update(connection: psycopg.Connection) -> str:
    """Return the update instructions for an administrator."""
    wanted = _words(SAFE_IVFFLAT)
    if on_embedded_server(connection):
        return f"It is part of cbirdb's embedded server, which will bring {wanted} once a package has it."
    return f"Install pgvector {wanted} or newer on the server, then run: ALTER EXTENSION vector UPDATE;"


def on_embedded_server(connection: psycopg.Connection) -> bool:
    """Return True for a connection to an embedded server, whose socket lies beside its data or in a folder of its
    name.
    """
    folder = Path(connection.info.host)
    if not folder.is_absolute():
        return False
    return (folder.parent / "pgdata").is_dir() or re.fullmatch(r"cbirdb-[0-9a-f]{12}", folder.name) is not None


def ivfflat_refusal(connection: psycopg.Connection, encoder: StoredEncoder, *, allowed: bool) -> InputError | None:
    """Return the error why no IVFFlat index may be built for that encoder on this server; None if it may.

    :param allowed: the user accepts the risk of a shared server's release.
    """
    installed = extension_version(connection)
    if installed is None or version_tuple(installed) >= SAFE_IVFFLAT:
        return None
    defect = f"pgvector {installed} has {DEFECTS[0].description}, which {_words(SAFE_IVFFLAT)} fixes"
    if not declares_dimensions(connection, encoder):
        return InputError(
            f"{defect}, and {SCHEMA}.{encoder.table} does not declare that its vectors have {encoder.dim} dimensions.",
            hint="Encode into a new database, or update pgvector.",
        )
    if not (allowed or on_embedded_server(connection)):
        return InputError(
            f"{defect}.",
            hint="Update pgvector, or choose another --method. If every owner is trusted, add --allow-ivfflat.",
        )
    return None


def refuse_unsafe_ivfflat(
    connection: psycopg.Connection, encoder: StoredEncoder, method: str, progress: Progress, *, allowed: bool
) -> None:
    """Refuse an IVFFlat build that is unsafe on this server.

    :raises InputError: when it is.
    """
    if method != "ivfflat":
        return
    if refusal := ivfflat_refusal(connection, encoder, allowed=allowed):
        raise refusal
    installed = extension_version(connection) or ""
    if version_tuple(installed) < SAFE_IVFFLAT and not on_embedded_server(connection):
        progress.note(f"Building an IVFFlat index because of --allow-ivfflat. {missing_fixes(installed)}")


def declares_dimensions(connection: psycopg.Connection, encoder: StoredEncoder) -> bool:
    """Return True if the indexed column is a plain one of pgvector's, declared with the encoder's dimensions."""
    found = connection.execute(
        """
        SELECT EXISTS (
            SELECT
            FROM pg_attribute AS a
            INNER JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind = 'r'
            INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = %s
            INNER JOIN pg_type AS t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
            INNER JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
            INNER JOIN pg_extension AS x ON x.oid = d.refobjid AND x.extname = 'vector'
            WHERE c.relname = %s AND a.attname = 'embedding' AND NOT a.attisdropped AND a.atttypmod = %s
        )
        """,
        [SCHEMA, encoder.table, encoder.dim],
    )
    return bool(one_value(found))


def _words(version: Version) -> str:
    return ".".join(map(str, version))
