"""Vector indexes: one method, one class. ``cbirdb index`` makes them; neither Alembic nor ``sql/`` owns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from psycopg import sql

from cbirdb.db.tables import SCHEMA
from cbirdb.errors import InputError
from cbirdb.records import Precision


class IndexMethod(Protocol):
    """How to build an index of one kind, and how to search it."""

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What it is built with; recorded."""

    @property
    def search_settings(self) -> dict[str, Any]:
        """Settings of the server that every search through it uses; recorded."""

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Bytes that the build needs to be fast."""

    def create_statement(self, table: str, index: str, precision: Precision) -> sql.Composed:
        """The CREATE INDEX."""


@dataclass(frozen=True, slots=True)
class Hnsw:
    """Hierarchical navigable small world graph (Malkov and Yashunin, TPAMI 2020), as pgvector builds it."""

    m: int = 16
    """Neighbours per element and layer."""
    ef_construction: int = 128
    """Candidates kept while an element is inserted."""
    ef_search: int = 100
    """Candidates kept during a search; pgvector returns at most this many rows per step."""

    name = "hnsw"

    def __post_init__(self) -> None:
        for value, low, high, what in (
            (self.m, 2, 100, "m"),
            (self.ef_construction, 4, 1000, "ef-construction"),
            (self.ef_search, 1, 1000, "ef-search"),
        ):
            if not low <= value <= high:
                raise InputError(f"--{what} must lie between {low} and {high}, not {value}.")
        if self.ef_construction < 2 * self.m:
            raise InputError(f"--ef-construction must be at least twice --m, that is {2 * self.m}.")

    @property
    def parameters(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction}

    @property
    def search_settings(self) -> dict[str, Any]:
        return {"hnsw.ef_search": self.ef_search}

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Bytes of the graph while it is built.

        pgvector keeps per element a record, its vector, and per layer an array of neighbours of 16 bytes each:
        2 m in the lowest layer and m in each higher one, of which an element has 1 / (m - 1) on average. Checked
        against the tuple count at which pgvector itself says that the graph no longer fits.
        """
        vector = 8 + dim * (2 if precision == "half" else 4)
        neighbours = 16 * (2 * self.m + self.m / max(1, self.m - 1)) + 16
        return int(rows * (ELEMENT_BYTES + vector + neighbours))

    def create_statement(self, table: str, index: str, precision: Precision) -> sql.Composed:
        operators = "halfvec_cosine_ops" if precision == "half" else "vector_cosine_ops"
        return sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding {}) WITH (m = {}, ef_construction = {})").format(
            sql.Identifier(index),
            sql.Identifier(SCHEMA, table),
            sql.SQL(operators),
            sql.Literal(self.m),
            sql.Literal(self.ef_construction),
        )


ELEMENT_BYTES = 180
"""pgvector's record of one element with its lock and its allocator's overhead; measured, 178 at m = 16 and 179 at m = 32."""

METHODS: dict[str, type[Hnsw]] = {Hnsw.name: Hnsw}
"""Methods by name. A new one is a class above and a line here."""
DEFAULT_METHOD = "hnsw"
