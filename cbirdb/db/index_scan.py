"""How to search through a vector index, as ``cbir_internal.index_walk`` says."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.rows import one_row


class Built(Protocol):
    """What is recorded of an index, or will be."""

    @property
    def parameters(self) -> dict[str, Any]: ...
    @property
    def search_settings(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Walk:
    """How far to walk, and what to set for it."""

    nearest_first: sql.SQL
    """To order by: of a row ``e`` and a query ``q`` that each have an embedding."""
    candidates: int
    """Rows to walk over."""
    kept: int
    """Of those that pass the filter, how many to compare by cosine distance."""
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
    """The walk for ``k`` neighbours.

    :param rows: in the index.
    :param share: of the rows, that may be found; 1: no row is left out.
    """
    scan = connection.execute(
        "SELECT nearest_first, candidates, kept, jsonb_object(settings) FROM cbir_internal.index_walk(%s, %s, %s, %s, %s, %s, %s)",
        [method, Jsonb(built.parameters), Jsonb(built.search_settings), rows, dim, k, share],
    )
    nearest_first, candidates, kept, settings = one_row(scan)
    return Walk(sql.SQL(nearest_first), candidates, kept, settings)


def apply_settings(connection: psycopg.Connection, settings: dict[str, str]) -> None:
    """For this transaction only: a pooler may hand the session on. pgvector's schema must be on the search path."""
    # A first use of the type loads pgvector, without which its settings are not known.
    connection.execute("SELECT '[1]'::vector, cbir_internal.swap_settings(%s)", [[*chain(*settings.items())]])
