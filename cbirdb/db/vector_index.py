"""Vector indexes: one method, one class. ``cbirdb index`` makes them; neither Alembic nor ``sql/`` owns them.

How to search through one, ``sql/1_functions/index_walk.sql`` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from psycopg import sql

from cbirdb.errors import InputError
from cbirdb.records import Precision


@dataclass(frozen=True, slots=True)
class Growth:
    """How many times as long things take with more rows."""

    build: float
    search: float
    """For the same recall, as far as that can be foreseen."""


class IndexMethod(Protocol):
    """How to build an index of one kind, and what every search through it sets."""

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What it is built with; recorded."""

    @property
    def search_settings(self) -> dict[str, int]:
        """What searches start from, as ``cbir.index_walk`` reads it; recorded."""

    def for_rows(self, rows: int) -> IndexMethod:
        """The same with what was left open decided for so many rows."""

    def wider(self) -> Iterator[IndexMethod]:
        """The same with ever wider, slower and better searches, beginning with its own."""

    def narrowest(self) -> IndexMethod:
        """The same with the narrowest search worth trying, no wider than its own."""

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Bytes that the build needs to be fast."""

    def growth(self, rows: int, more: int) -> Growth:
        """From one number of rows to a larger one; what was left open is decided for each."""

    def create_statement(self, table: sql.Identifier, index: str, dim: int, precision: Precision) -> sql.Composed:
        """The CREATE INDEX."""


def _check(*bounds: tuple[int, int, int, str]) -> None:
    for value, low, high, what in bounds:
        if not low <= value <= high:
            raise InputError(f"--{what} must lie between {low} and {high}, not {value}.")


def _cosine_operators(precision: Precision) -> sql.SQL:
    return sql.SQL("halfvec_cosine_ops" if precision == "half" else "vector_cosine_ops")


@dataclass(frozen=True, slots=True)
class Hnsw:
    """Hierarchical navigable small world graph (Malkov and Yashunin, TPAMI 2020), as pgvector builds it."""

    m: int = 16
    """Neighbours per element and layer."""
    ef_construction: int = 128
    """Candidates kept while an element is inserted."""
    ef_search: int = 100
    """Candidates kept during a search for ten; pgvector returns at most this many rows per step."""

    name = "hnsw"

    def __post_init__(self) -> None:
        _check(
            (self.m, 2, 100, "m"),
            (self.ef_construction, 4, 1000, "ef-construction"),
            (self.ef_search, 1, 1000, "ef-search"),
        )
        if self.ef_construction < 2 * self.m:
            raise InputError(f"--ef-construction must be at least twice --m, that is {2 * self.m}.")

    @property
    def parameters(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction}

    @property
    def search_settings(self) -> dict[str, int]:
        return {"hnsw.ef_search": self.ef_search}

    def for_rows(self, rows: int) -> Hnsw:
        return self

    def wider(self) -> Iterator[Hnsw]:
        for ef_search in _steps(self.ef_search, 1000):
            yield replace(self, ef_search=ef_search)

    def narrowest(self) -> Hnsw:
        return replace(self, ef_search=min(40, self.ef_search))

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Bytes of the graph while it is built.

        pgvector keeps per element a record, its vector, and per layer an array of neighbours of 16 bytes each:
        2 m in the lowest layer and m in each higher one, of which an element has 1 / (m - 1) on average. Checked
        against the tuple count at which pgvector itself says that the graph no longer fits.
        """
        return _graph_bytes(rows, self.m, 8 + dim * (2 if precision == "half" else 4))

    def growth(self, rows: int, more: int) -> Growth:
        return _graph_growth(rows, more)

    def create_statement(self, table: sql.Identifier, index: str, dim: int, precision: Precision) -> sql.Composed:
        return sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding {}) WITH (m = {}, ef_construction = {})").format(
            sql.Identifier(index),
            table,
            _cosine_operators(precision),
            sql.Literal(self.m),
            sql.Literal(self.ef_construction),
        )


@dataclass(frozen=True, slots=True)
class BitHnsw:
    """HNSW over the signs of the components, by Hamming distance; what it finds is ranked again by cosine distance.

    The index is many times smaller. What a sign loses, only an audit can tell: it depends on the encoder.
    """

    m: int = 16
    ef_construction: int = 128
    rerank: int = 200
    """Candidates whose cosine distance is computed in a search for ten."""

    name = "bit-hnsw"

    def __post_init__(self) -> None:
        Hnsw(self.m, self.ef_construction)  # the same bounds
        _check((self.rerank, 10, 10_000, "rerank"))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction}

    @property
    def search_settings(self) -> dict[str, int]:
        return {"rerank": self.rerank}

    def for_rows(self, rows: int) -> BitHnsw:
        return self

    def wider(self) -> Iterator[BitHnsw]:
        for rerank in _steps(self.rerank, 2000):
            yield replace(self, rerank=rerank)

    def narrowest(self) -> BitHnsw:
        return replace(self, rerank=min(100, self.rerank))

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Bytes of the graph, as of HNSW, with one bit per component."""
        return _graph_bytes(rows, self.m, 8 + (dim + 7) // 8)

    def growth(self, rows: int, more: int) -> Growth:
        return _graph_growth(rows, more)

    def create_statement(self, table: sql.Identifier, index: str, dim: int, precision: Precision) -> sql.Composed:
        return sql.SQL(
            "CREATE INDEX {} ON {} USING hnsw ((binary_quantize(embedding)::bit({})) bit_hamming_ops)"
            " WITH (m = {}, ef_construction = {})"
        ).format(
            sql.Identifier(index),
            table,
            sql.Literal(dim),
            sql.Literal(self.m),
            sql.Literal(self.ef_construction),
        )


@dataclass(frozen=True, slots=True)
class IvfFlat:
    """Lists around k-means centres, of which the nearest are read; as pgvector builds it."""

    lists: int = 0
    """0: as many as the square root of the rows, or a multiple of it."""
    probes: int = 10
    """Lists read in a search for ten."""
    lists_per_root: float = 1.0
    """That multiple."""

    name = "ivfflat"

    def __post_init__(self) -> None:
        _check((self.lists, 0, 32768, "lists"), (self.probes, 1, 32768, "probes"))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"lists": self.lists}

    @property
    def search_settings(self) -> dict[str, int]:
        return {"ivfflat.probes": self.probes}

    def for_rows(self, rows: int) -> IvfFlat:
        return replace(self, lists=self.lists or min(32768, max(1, round(self.lists_per_root * math.sqrt(rows)))))

    def wider(self) -> Iterator[IvfFlat]:
        for probes in _steps(self.probes, max(self.probes, min(self.lists, max(64, 32 * self.probes)))):
            yield replace(self, probes=probes)

    def narrowest(self) -> IvfFlat:
        return replace(self, probes=1)

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Bytes of k-means: 50 sampled vectors for each list, in single precision, with its bounds per list."""
        sampled = min(rows, max(10_000, 50 * self.lists))
        return sampled * (8 + 4 * dim) + 4 * self.lists * (self.lists + sampled + 2 * dim)

    def growth(self, rows: int, more: int) -> Growth:
        """Every row is compared with every list's centre in a build; with the centres, then the lists probed, in a search.

        As many lists must be probed as before: what was measured, where there are as many per root of the rows.
        """
        few, many = self.for_rows(rows).lists, self.for_rows(more).lists
        build = (more * many) / (rows * few)
        search = (many + self.probes * more / many) / (few + self.probes * rows / few)
        return Growth(build, search)

    def create_statement(self, table: sql.Identifier, index: str, dim: int, precision: Precision) -> sql.Composed:
        return sql.SQL("CREATE INDEX {} ON {} USING ivfflat (embedding {}) WITH (lists = {})").format(
            sql.Identifier(index), table, _cosine_operators(precision), sql.Literal(self.lists)
        )


def _steps(first: int, last: int) -> Iterator[int]:
    """``first``, then ever half as much again, until ``last``."""
    value = first
    while value < last:
        yield value
        value = max(value + 1, value * 3 // 2)
    yield max(first, last)


def _graph_growth(rows: int, more: int) -> Growth:
    """An element is inserted in logarithmic time; a search must keep more candidates to find as much among more rows."""
    times = more / rows
    return Growth(times * math.log(max(3, more)) / math.log(max(3, rows)), times**GRAPH_SEARCH_POWER)


GRAPH_SEARCH_POWER = 2 / 3
"""Measured from 200,000 to 1.6 million rows: ef_search 100 to 400 and 0.99 to 4.0 ms, with no better recall."""


def _graph_bytes(rows: int, m: int, vector: int) -> int:
    neighbours = 16 * (2 * m + m / max(1, m - 1)) + 16
    return int(rows * (ELEMENT_BYTES + vector + neighbours))


ELEMENT_BYTES = 180
"""pgvector's record of one element with its lock and its allocator's overhead; measured, 178 at m = 16 and 179 at m = 32."""

METHODS: dict[str, type[Hnsw | BitHnsw | IvfFlat]] = {method.name: method for method in (Hnsw, BitHnsw, IvfFlat)}
"""Methods by name. A new one is a class above, a name here, and a branch of ``cbir.index_walk``."""
DEFAULT_METHOD = "hnsw"
