"""Plans searches through a vector index, as ``cbir_internal.index_walk`` says."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.rows import one_row


class Built(Protocol):
    """The recorded or planned properties of an index."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the method's build parameters."""

    @property
    def search_settings(self) -> dict[str, int]:
        """Return the settings for a search."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The extent and the settings of a search through an index."""

    nearest_first: sql.SQL
    """ORDER BY expression over a row ``e`` and a query ``q`` that each have an embedding."""
    candidates: int
    """Rows to visit."""
    kept: int
    """Rows that pass the filter and are compared by cosine distance."""
    settings: dict[str, str]


def index_walk(
    connection: psycopg.Connection,
    method: str,
    built: Built,
    *,
    rows: int,
    dim: int,
    k: int,
    share: float = 1.0,
) -> Walk:
    """Return the walk for ``k`` neighbours.

    :param rows: rows in the index.
    :param share: share of the rows that pass the filter; 1: all.
    """
    scan = connection.execute(
        "SELECT nearest_first, candidates, kept, jsonb_object(settings) FROM cbir_internal.index_walk(%s, %s, %s, %s, %s, %s, %s)",
        [method, Jsonb(built.parameters), Jsonb(built.search_settings), rows, dim, k, share],
    )
    nearest_first, candidates, kept, settings = one_row(scan)
    return Walk(sql.SQL(nearest_first), candidates, kept, settings)


def apply_settings(connection: psycopg.Connection, settings: dict[str, str]) -> None:
    """Apply settings to this transaction only, since a pooler may hand the session on.

    pgvector's schema must be on the search path.
    """
    # Using the type loads pgvector; before that, the server does not know its settings.
    connection.execute("SELECT '[1]'::vector, cbir_internal.swap_settings(%s)", [[*chain(*settings.items())]])
