"""Define the methods of vector indexes, one class each. ``cbirdb index`` makes indexes; neither Alembic nor ``sql/`` owns
them.

How to search through one, ``sql/index/index_walk.sql`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from psycopg import sql

from cbirdb.errors import OptionError
from cbirdb.records import Precision


@dataclass(frozen=True, slots=True)
class Growth:
    """Say how many times as long things take with more rows."""

    build: float
    search: float
    """For the same recall, as far as that can be foreseen."""


class IndexMethod(Protocol):
    """Say how to build an index of one kind, and what every search through it sets."""

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what it is built with; recorded."""

    @property
    def search_settings(self) -> dict[str, int]:
        """Return what searches start from, as ``cbir_internal.index_walk`` reads it; recorded."""

    def for_rows(self, rows: int) -> IndexMethod:
        """Decide for so many rows what was left open."""

    @property
    def widths(self) -> tuple[int, int]:
        """Return how wide to search for ten and for a hundred neighbours, or to begin with where the latter is left to the
        rule.
        """

    def with_widths(self, ten: int, hundred: int) -> IndexMethod:
        """Replace both widths by these, or by wider ones; a search for a hundred is no narrower than one for ten."""

    def steps(self) -> tuple[list[int], list[int]]:
        """Return widths worth trying for ten and for a hundred, its own among them, narrowest first."""

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Estimate the bytes that the build needs to be fast."""

    def growth(self, rows: int, more: int) -> Growth:
        """Foresee the growth from one number of rows to a larger one; decide for each what was left open."""

    def create_statement(self, table: sql.Identifier, index: str, dim: int, precision: Precision) -> sql.Composed:
        """Return the CREATE INDEX."""


def _check(*bounds: tuple[int, int, int, str]) -> None:
    for value, low, high, what in bounds:
        if not low <= value <= high:
            raise OptionError(f"--{what} must lie between {low} and {high}, not {value}.")


def _check_deeper(ten: int, hundred: int) -> None:
    if 0 < hundred < ten:
        raise OptionError(f"--at-100 must be at least what is set for ten, that is {ten}, or 0, not {hundred}.")


def _cosine_operators(precision: Precision) -> sql.SQL:
    return sql.SQL("halfvec_cosine_ops" if precision == "half" else "vector_cosine_ops")


@dataclass(frozen=True, slots=True)
class Hnsw:
    """Build a hierarchical navigable small world graph (Malkov and Yashunin, TPAMI 2020), as pgvector builds it."""

    m: int = 16
    """Neighbours per element and layer."""
    ef_construction: int = 128
    """Candidates kept while an element is inserted."""
    ef_search: int = 100
    """Candidates kept during a search for ten; pgvector returns at most this many rows per step."""
    at_100: int = 0
    """The same for a hundred; 0: as ``cbir_internal.index_walk`` widens it."""

    name = "hnsw"

    def __post_init__(self) -> None:
        _check(
            (self.m, 2, 100, "m"),
            (self.ef_construction, 4, 1000, "ef-construction"),
            (self.ef_search, 1, 1000, "ef-search"),
            (self.at_100, 0, 1000, "at-100"),
        )
        _check_deeper(self.ef_search, self.at_100)
        if self.ef_construction < 2 * self.m:
            raise OptionError(f"--ef-construction must be at least twice --m, that is {2 * self.m}.")

    @property
    def parameters(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction}

    @property
    def search_settings(self) -> dict[str, int]:
        return _settings("hnsw.ef_search", self.ef_search, self.at_100)

    def for_rows(self, rows: int) -> Hnsw:
        return self

    @property
    def widths(self) -> tuple[int, int]:
        return self.ef_search, self.at_100 or max(100, self.ef_search)

    def with_widths(self, ten: int, hundred: int) -> Hnsw:
        # A graph has corners that it hardly reaches, too few for a sample of searches for ten to show them; what a
        # hundred need does. So the two lie no further apart than cbir_internal.index_walk sets them.
        return replace(self, ef_search=max(ten, hundred - 180), at_100=max(ten, hundred))

    def steps(self) -> tuple[list[int], list[int]]:
        ten, hundred = self.widths
        return _steps(40, 1000, ten), _steps(100, 1000, hundred)

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Estimate the bytes of the graph while it is built.

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
    """Build HNSW over the signs of the components, by Hamming distance; rank what it finds again by cosine distance.

    The index is many times smaller. What a sign loses, only an audit can tell: it depends on the encoder.
    """

    m: int = 16
    ef_construction: int = 128
    rerank: int = 200
    """Candidates whose cosine distance is computed in a search for ten."""
    at_100: int = 0
    """The same for a hundred; 0: as ``cbir_internal.index_walk`` widens it."""

    name = "bit-hnsw"

    def __post_init__(self) -> None:
        Hnsw(self.m, self.ef_construction)  # the same bounds
        _check((self.rerank, 10, 10_000, "rerank"), (self.at_100, 0, 10_000, "at-100"))
        _check_deeper(self.rerank, self.at_100)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"m": self.m, "ef_construction": self.ef_construction}

    @property
    def search_settings(self) -> dict[str, int]:
        return _settings("rerank", self.rerank, self.at_100)

    def for_rows(self, rows: int) -> BitHnsw:
        return self

    @property
    def widths(self) -> tuple[int, int]:
        return self.rerank, self.at_100 or min(10_000, 4 * self.rerank)

    def with_widths(self, ten: int, hundred: int) -> BitHnsw:
        # As for HNSW.
        return replace(self, rerank=max(ten, round(hundred / 10**0.75)), at_100=max(ten, hundred))

    def steps(self) -> tuple[list[int], list[int]]:
        ten, hundred = self.widths
        return _steps(100, 2000, ten), _steps(400, 10_000, hundred)

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Estimate the bytes of the graph, as of HNSW, with one bit per component."""
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
    """Build lists around k-means centres, of which the nearest are read; as pgvector builds it."""

    lists: int = 0
    """0: as many as the square root of the rows, or a multiple of it."""
    probes: int = 10
    """Lists read in a search for ten."""
    at_100: int = 0
    """The same for a hundred; 0: as ``cbir_internal.index_walk`` widens it."""
    lists_per_root: float = 1.0
    """Lists per square root of the rows, where lists is 0."""

    name = "ivfflat"

    def __post_init__(self) -> None:
        _check((self.lists, 0, 32768, "lists"), (self.probes, 1, 32768, "probes"), (self.at_100, 0, 32768, "at-100"))
        _check_deeper(self.probes, self.at_100)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"lists": self.lists}

    @property
    def search_settings(self) -> dict[str, int]:
        return _settings("ivfflat.probes", self.probes, self.at_100)

    def for_rows(self, rows: int) -> IvfFlat:
        return replace(self, lists=self.lists or min(32768, max(1, round(self.lists_per_root * math.sqrt(rows)))))

    @property
    def widths(self) -> tuple[int, int]:
        return self.probes, self.at_100 or self.probes

    def with_widths(self, ten: int, hundred: int) -> IvfFlat:
        return replace(self, probes=ten, at_100=max(ten, hundred))

    def steps(self) -> tuple[list[int], list[int]]:
        ten, hundred = self.widths
        # To read an eighth of all lists takes about as long as to compare exactly.
        most = max(1, min(self.lists, max(64, self.lists // 8)))
        return _steps(1, most, ten), _steps(1, most, hundred)

    def memory_estimate(self, rows: int, dim: int, precision: Precision) -> int:
        """Estimate the bytes of k-means: 50 sampled vectors for each list, in single precision, with its bounds per list."""
        sampled = _ivfflat_sample(rows, self.lists)
        return sampled * (8 + 4 * dim) + 4 * self.lists * (self.lists + sampled + 2 * dim)

    def growth(self, rows: int, more: int) -> Growth:
        """Count comparisons: a build compares every row with every list's centre, and those of k-means' sample in each of its
        rounds; a search compares with the centres, then within the lists probed.

        As many lists must be probed as before: what was measured, where there are as many per root of the rows.
        """
        few, many = self.for_rows(rows).lists, self.for_rows(more).lists
        build = _ivfflat_comparisons(more, many) / _ivfflat_comparisons(rows, few)
        search = (many + self.probes * more / many) / (few + self.probes * rows / few)
        return Growth(build, search)

    def create_statement(self, table: sql.Identifier, index: str, dim: int, precision: Precision) -> sql.Composed:
        return sql.SQL("CREATE INDEX {} ON {} USING ivfflat (embedding {}) WITH (lists = {})").format(
            sql.Identifier(index), table, _cosine_operators(precision), sql.Literal(self.lists)
        )


def _settings(name: str, ten: int, hundred: int) -> dict[str, int]:
    return {name: ten} | ({"at_100": hundred} if hundred else {})


def _steps(first: int, last: int, own: int) -> list[int]:
    """Return ``first``, then ever half as much again, until ``last``; and ``own``."""
    steps = {own, last}
    value = first
    while value < last:
        steps.add(value)
        value = max(value + 1, value * 3 // 2)
    return sorted(steps)


def _ivfflat_sample(rows: int, lists: int) -> int:
    """Return how many rows pgvector's k-means looks at."""
    return min(rows, max(10_000, 50 * lists))


def _ivfflat_comparisons(rows: int, lists: int) -> float:
    """Count the comparisons with centres while lists are built."""
    return lists * (KMEANS_ROUNDS * _ivfflat_sample(rows, lists) + rows)


KMEANS_ROUNDS = 10
"""Over its sample, in comparisons of the later assignment of all rows, which several processes share. Fitted: 8.5 s for 50,000
x 768 with 447 lists, 494 s for 1.6 million with 2,530; it foresees the times of 12,500 to 50,000 rows, too."""


def _graph_growth(rows: int, more: int) -> Growth:
    """Foresee growth: an element is inserted in logarithmic time; a search must keep more candidates to find as much among
    more rows.
    """
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
"""Methods by name. A new one is a class above, a name here, and a branch of ``cbir_internal.index_walk``."""
DEFAULT_METHOD = "hnsw"
