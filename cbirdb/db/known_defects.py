"""Known defects of the pgvector releases that cbirdb runs on, and what must not be done with those that have them.

IVFFlat builds before 0.8.7 (CVE-2026-103484) trust that every value has the dimensions of the index: a value with more
of them is added up beyond the memory of its list's centre. Where the index is on a column that is declared with its
dimensions, and on no expression, the server has checked each value as it was stored, and none can differ.
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
    """What a release of pgvector mended."""

    mended_in: Version
    what: str


DEFECTS = (
    Defect((0, 8, 7), "a buffer overflow in IVFFlat index builds (CVE-2026-103484)"),
    Defect((0, 8, 6), "a buffer overflow in IVFFlat index builds on 32-bit systems (CVE-2026-18022)"),
    Defect((0, 8, 4), "HNSW indexes that a vacuum damages"),
    Defect((0, 8, 2), "a buffer overflow in parallel HNSW index builds (CVE-2026-3172)"),
)
"""The newest first."""
SAFE_IVFFLAT = DEFECTS[0].mended_in


def missing_fixes(installed: str) -> str:
    """One sentence that names what that release lacks and which one brings it; empty when it lacks nothing."""
    lacking = [defect for defect in DEFECTS if version_tuple(installed) < defect.mended_in]
    if not lacking:
        return ""
    fixes = ", ".join(f"{_words(defect.mended_in)} mends {defect.what}" for defect in lacking)
    return f"pgvector {installed} has known defects: {fixes}."


def how_to_update(connection: psycopg.Connection) -> str:
    """What an administrator does about it."""
    wanted = _words(SAFE_IVFFLAT)
    if on_embedded_server(connection):
        return f"It is part of cbirdb's embedded server, which brings {wanted} as soon as there is a package that does."
    return f"Install pgvector {wanted} or newer on the server, then run: ALTER EXTENSION vector UPDATE;"


def on_embedded_server(connection: psycopg.Connection) -> bool:
    """Whether the connection leads to an embedded server, whose socket lies beside its data or in a folder of its name."""
    folder = Path(connection.info.host)
    if not folder.is_absolute():
        return False
    return (folder.parent / "pgdata").is_dir() or re.fullmatch(r"cbirdb-[0-9a-f]{12}", folder.name) is not None


def why_no_ivfflat(connection: psycopg.Connection, encoder: StoredEncoder, *, allowed: bool) -> InputError | None:
    """Why no IVFFlat index may be built for that encoder on this server; None where it may.

    :param allowed: the user takes the risk of a shared server's release.
    """
    installed = extension_version(connection)
    if installed is None or version_tuple(installed) >= SAFE_IVFFLAT:
        return None
    defect = f"pgvector {installed} has {DEFECTS[0].what}, which {_words(SAFE_IVFFLAT)} mends"
    if not declares_dimensions(connection, encoder):
        return InputError(
            f"{defect}, and {SCHEMA}.{encoder.table} does not declare that its vectors have {encoder.dim} dimensions.",
            hint="Encode into a new database, or update pgvector.",
        )
    if not (allowed or on_embedded_server(connection)):
        return InputError(
            f"{defect}.", hint="Update it, or take another --method, or --allow-ivfflat where every owner is trusted."
        )
    return None


def refuse_unsafe_ivfflat(
    connection: psycopg.Connection, encoder: StoredEncoder, method: str, progress: Progress, *, allowed: bool
) -> None:
    """Let a build go on unless it is one of IVFFlat's that this server is not fit for.

    :raises InputError: where it is.
    """
    if method != "ivfflat":
        return
    if refusal := why_no_ivfflat(connection, encoder, allowed=allowed):
        raise refusal
    installed = extension_version(connection) or ""
    if version_tuple(installed) < SAFE_IVFFLAT and not on_embedded_server(connection):
        progress.note(f"An IVFFlat index is built as --allow-ivfflat says. {missing_fixes(installed)}")


def declares_dimensions(connection: psycopg.Connection, encoder: StoredEncoder) -> bool:
    """Whether the indexed column is a plain one of pgvector's, declared with the encoder's dimensions."""
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
