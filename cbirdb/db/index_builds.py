"""Reads the records of vector indexes that were built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.extension import extension_version
from cbirdb.db.rows import one_value
from cbirdb.errors import InputError


class NoIndexError(InputError):
    """Raised when the encoder has no vector index, or none that searches are sure to use."""


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """A row of ``cbir.index_build`` that is in use."""

    index_build_id: int
    encoder: str
    index_name: str
    method: str
    parameters: dict[str, Any]
    search_settings: dict[str, Any]
    rows_indexed: int
    index_bytes: int
    memory_estimate_bytes: int | None
    build_seconds: float
    built_at: Any
    choice: dict[str, Any] | None
    audit: dict[str, Any] | None

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints."""
        return {
            "encoder": self.encoder,
            "build": self.index_build_id,
            "method": self.method,
            "parameters": _words(self.parameters),
            "search": _words(self.search_settings),
            "rows": self.rows_indexed,
            "index_mb": round(self.index_bytes / 2**20, 1),
            "memory_estimate_mb": round((self.memory_estimate_bytes or 0) / 2**20, 1),
            "seconds": round(self.build_seconds, 2),
            "built_at": self.built_at,
            "audit": describe_audit(self.audit),
        }


def describe_audit(audit: dict[str, Any] | None) -> str:
    """Describe an audit in one line, to show beside results that came through the index."""
    if audit is None:
        return "not audited"
    at_10, at_100 = audit["recall_at_10"], audit["recall_at_100"]
    return (
        f"{'passed' if audit['passed'] else 'FAILED'}: of {audit['sample']:,} stored vectors"
        f" {audit['self_retrieval']:.2%} find themselves; recall at 10 {at_10['mean']:.4f} (first percentile"
        f" {at_10['p1']:.2f}, {at_10['zeros']} without any), at 100 {at_100['mean']:.4f}"
    )


def _words(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def current_build(connection: psycopg.Connection, encoder: StoredEncoder) -> IndexBuild | None:
    """Return the build in use, or None."""
    row = connection.execute(
        """
        SELECT b.index_build_id, %s, b.index_name, b.method, b.parameters, b.search_settings, b.rows_indexed,
               b.index_bytes, b.memory_estimate_bytes, b.build_seconds, b.built_at, b.choice, b.audit
        FROM cbir.index_build AS b
        WHERE b.encoder_id = %s AND b.dropped_at IS NULL AND to_regclass('cbir.' || quote_ident(b.index_name)) IS NOT NULL
        ORDER BY b.index_build_id DESC LIMIT 1
        """,
        [encoder.name, encoder.encoder_id],
    ).fetchone()
    return IndexBuild(*row) if row else None


def leftover_indexes(connection: psycopg.Connection, encoder: StoredEncoder) -> list[str]:
    """Return the encoder's unused indexes that cbirdb built, left by killed builds and drops."""
    return [stray.index_name for stray in stray_indexes(connection, encoder.encoder_id) if stray.ours]


@dataclass(frozen=True, slots=True)
class StrayIndex:
    """A vector index of an embedding table that is unused, or is in use and invalid."""

    encoder: str
    index_name: str
    in_use: bool
    ours: bool
    """True if cbirdb built it and another replaced it, or if a rebuild of cbirdb's index was interrupted."""
    valid: bool


def stray_indexes(connection: psycopg.Connection, encoder_id: int | None = None) -> list[StrayIndex]:
    """Return the superfluous or invalid vector indexes of one encoder or of all."""
    return [StrayIndex(*row) for row in connection.execute(_STRAYS, {"encoder_id": encoder_id})]


# REINDEX CONCURRENTLY adds _ccnew and _ccold to the name, and cuts a name that grows too long.
_STRAYS = """
SELECT e.name, c.relname, used.found, built.found AND NOT used.found, x.indisvalid
FROM cbir.encoder AS e
INNER JOIN pg_index AS x ON x.indrelid = to_regclass('cbir.' || quote_ident(e.table_name))
INNER JOIN pg_class AS c ON c.oid = x.indexrelid
INNER JOIN pg_am AS a ON a.oid = c.relam AND a.amname IN ('hnsw', 'ivfflat')
CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM cbir.index_build AS b
    WHERE b.encoder_id = e.encoder_id AND b.index_name = c.relname AND b.dropped_at IS NULL
) AS found) AS used
CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM cbir.index_build AS b
    WHERE b.encoder_id = e.encoder_id AND (
        b.index_name = c.relname
        OR (NOT x.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'
            AND starts_with(b.index_name, regexp_replace(c.relname, '_cc(new|old)[0-9]*$', '')))
    )
) AS found) AS built
WHERE (e.encoder_id = %(encoder_id)s OR %(encoder_id)s::bigint IS NULL) AND NOT (used.found AND x.indisvalid)
ORDER BY e.name, c.relname
"""


def refuse_rival(connection: psycopg.Connection, build: IndexBuild) -> None:
    """Refuse a search through the index if the planner may choose another index.

    :raises NoIndexError: naming the other index.
    """
    query = "SELECT cbir_internal.rival_index(to_regclass('cbir.' || quote_ident(%s)))"
    if rival := one_value(connection.execute(query, [build.index_name])):
        raise NoIndexError(
            f"The encoder '{build.encoder}' has a second index of the same kind, {rival}, so no search uses either.",
            hint=f"Run: cbirdb index build -e {build.encoder}. If cbirdb did not build that one, drop it.",
        )


def server_versions(connection: psycopg.Connection) -> dict[str, str]:
    """Return PostgreSQL's and pgvector's versions, which are recorded with every result."""
    version = one_value(connection.execute("SELECT current_setting('server_version')"))
    return {"postgresql": version, "pgvector": extension_version(connection) or ""}
