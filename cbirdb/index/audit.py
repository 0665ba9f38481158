"""Measure what a search through an index finds, of what there is to be found.

Mean recall hides what matters: a graph may be unable to reach small groups of images at all, and then every query of a
rare class fails. So an audit also says how low the worst queries are, how many found nothing that is right, and how
many stored vectors do not even find themselves.

A vector's own place in the answer tells nothing about the others, so recall counts the others only. Even so stored
vectors are easier than new ones, above all for graphs, which led to each of them when it was inserted; so tuning aims
beyond the floor (:meth:`Floor.for_unseen`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.index_builds import IndexBuild, NoIndexError, current_build, refuse_rival
from cbirdb.db.index_scan import Walk, apply_settings, index_walk
from cbirdb.db.read_embeddings import read_embeddings
from cbirdb.db.rows import first_value, one_value
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError, OptionError
from cbirdb.index.methods import IndexMethod
from cbirdb.progress import SILENT, Progress
from cbirdb.vectors.exact_knn import exact_neighbours

TEN, HUNDRED = 10, 100
"""The two depths at which recall is measured."""
TOLERANCE = 2e-6
"""Distances that differ by less are ties: the server sums in single precision, in another order than NumPy."""
DEFAULT_SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Floor:
    """Set what an index must reach for its answers to be relied on."""

    recall: float = 0.99
    """Mean recall, at both depths."""
    share_without_hit: float = 0.001
    """Largest share of queries for which none of the nearest is found."""

    def __post_init__(self) -> None:
        for value, option in ((self.recall, "--floor-recall"), (self.share_without_hit, "--max-share-without-hit")):
            if not 0 <= value <= 1:
                raise OptionError(f"{option} must lie between 0 and 1, not {value}.")

    def for_unseen(self) -> Floor:
        """Return what stored vectors must reach for vectors that are not stored to reach this floor.

        Measured on HNSW graphs, a vector that is not stored misses up to twice as many of its neighbours.
        """
        return replace(self, recall=(1 + self.recall) / 2)

    def missed_by(self, recalls: Mapping[int, float], without_hit: int, queries: int) -> str | None:
        """Say what falls short of it, each figure beside its floor; None: nothing.

        :param recalls: mean recall by depth.
        :param without_hit: queries for which none of the nearest was found.
        """
        missed = [
            f"recall at {depth} is {rounded_down(mean)}, below the floor of {self.recall:g}"
            for depth, mean in recalls.items()
            if mean < self.recall
        ]
        if without_hit > self.share_without_hit * queries:
            missed.append(
                f"{without_hit:,} of {queries:,} queries find none of their nearest, above the floor of"
                f" {self.share_without_hit:g} ({without_hit / queries:.2%} against {self.share_without_hit:.2%})"
            )
        return " and ".join(missed) or None


def rounded_down(share: float) -> str:
    """Print a share with four digits, so that what is below a floor is never shown as the floor."""
    return f"{math.floor(share * 10_000) / 10_000:g}"


@dataclass(frozen=True, slots=True)
class Recall:
    """Sum up, over queries, the share of the true nearest that was found; the query itself does not count."""

    mean: float
    p1: float
    """First percentile."""
    queries_without_hit: int
    """Queries for which none was found."""

    @classmethod
    def of(cls, shares: NDArray[np.float64]) -> Recall:
        """Sum up shares.

        :param shares: one per query, shape (n,).
        """
        p1 = float(np.percentile(shares, 1, method="lower"))
        return cls(float(shares.mean()), p1, int((shares == 0).sum()))

    def json(self) -> dict[str, float]:
        """Return what is stored."""
        return {"mean": self.mean, "p1": self.p1, "zeros": self.queries_without_hit}


@dataclass(frozen=True, slots=True)
class Measured:
    """Sum up what was found for a sample of stored vectors."""

    sample: int
    self_retrieval: float
    """Share of vectors that are among their own nearest."""
    recall_at_10: Recall
    recall_at_100: Recall
    p50_ms: float
    p95_ms: float
    """Of a search for ten others, as the client sees it."""
    answered_exactly: int
    """Searches that the index left short, so that they were answered exactly."""

    def below(self, floor: Floor) -> str | None:
        """Say why the index may not be relied on; None: it may."""
        means = {TEN: self.recall_at_10.mean, HUNDRED: self.recall_at_100.mean}
        return floor.missed_by(means, self.recall_at_10.queries_without_hit, self.sample)

    def json(self) -> dict[str, Any]:
        """Return what is stored of an audit."""
        return {
            "sample": self.sample,
            "self_retrieval": self.self_retrieval,
            "recall_at_10": self.recall_at_10.json(),
            "recall_at_100": self.recall_at_100.json(),
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "answered_exactly": self.answered_exactly,
        }

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints."""
        return {
            "sample": self.sample,
            "self_retrieval": self.self_retrieval,
            **{
                f"{name}_{depth}": value
                for depth, recall in ((TEN, self.recall_at_10), (HUNDRED, self.recall_at_100))
                for name, value in (
                    ("recall", recall.mean),
                    ("p1", recall.p1),
                    ("zeros", recall.queries_without_hit),
                )
            },
            "p50_ms": round(self.p50_ms, 3),
            "p95_ms": round(self.p95_ms, 3),
            "answered_exactly": self.answered_exactly,
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hold what one search found, nearest first."""

    ids: Sequence[int]
    distances: Sequence[float]
    exactly: bool = False


Floats = NDArray[np.float32]
Search = Callable[[str, int], SearchResult]
"""A query vector as text, and k."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Hold a sample of stored vectors, and how far their true nearest are."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    nearest: NDArray[np.int64]
    """The ``min(HUNDRED + 1, rows)`` nearest, nearest first, the vector itself among them; shape (n, k)."""
    distances: NDArray[np.float32]
    """Theirs; shape (n, k)."""


def find_truth(
    connection: psycopg.Connection, table: sql.Identifier, encoder: StoredEncoder, *, sample: int, seed: int
) -> Truth:
    """Draw stored vectors and find their true nearest, in one pass over the table.

    :raises InputError: when the table is empty, or the sample is.
    """
    if sample < 1:
        raise OptionError(f"--sample must be at least 1, not {sample}.")
    add_extension_to_search_path(connection)
    # As a search does it: its query is scaled to length 1 and rounded again to what is stored.
    drawn = sql.SQL(
        "SELECT image_id, l2_normalize(embedding::vector)::{kind} FROM {table}"
        " ORDER BY hashint8extended(image_id, {seed}), image_id LIMIT {sample}"
    ).format(
        kind=_kind(encoder),
        table=table,
        seed=sql.Literal(seed),
        sample=sql.Literal(sample),
    )
    blocks = list(read_embeddings(connection, drawn, encoder.dim, encoder.precision))
    if not blocks:
        raise InputError(
            f"There are no embeddings of '{encoder.name}' to measure with.",
            hint=f"Run: cbirdb encode -e {encoder.name}",
        )
    ids, vectors = (np.concatenate(part) for part in zip(*blocks, strict=True))
    everything = sql.SQL("SELECT image_id, embedding FROM {}").format(table)
    stored = read_embeddings(connection, everything, encoder.dim, encoder.precision)
    nearest = exact_neighbours(vectors, stored, HUNDRED + 1)
    return Truth(ids, vectors, nearest.ids, nearest.distances)


def measure(search: Search, truth: Truth) -> Measured:
    """Search for every vector of the sample, for ten and for a hundred others."""
    shares: dict[int, list[float]] = {TEN: [], HUNDRED: []}
    selves = exactly = 0
    times = []
    for row, (image_id, vector) in enumerate(zip(truth.ids, truth.vectors, strict=True)):
        query = Vector(vector).to_text()
        others = _others(image_id, truth.nearest[row], truth.distances[row])
        for depth in (TEN, HUNDRED):
            started = time.perf_counter()
            found = search(query, depth + 1)
            if depth == TEN:
                times.append(1000 * (time.perf_counter() - started))
                # Where more than these are the same, finding any of them is as good.
                last = found.distances[-1] if len(found.distances) > depth else np.inf
                selves += int(image_id) in found.ids or bool(last <= truth.distances[row, 0] + TOLERANCE)
            exactly += found.exactly
            shares[depth].append(_share_found(_others(image_id, found.ids, found.distances), others, depth))
    return Measured(
        len(truth.ids),
        selves / len(truth.ids),
        Recall.of(np.array(shares[TEN])),
        Recall.of(np.array(shares[HUNDRED])),
        float(np.percentile(times, 50)),
        float(np.percentile(times, 95)),
        exactly,
    )


def _others(image_id: int, ids: Sequence[int] | NDArray[np.int64], distances: Sequence[float] | Floats) -> Floats:
    """Leave out the distance of the image itself."""
    others: Floats = np.asarray(distances, np.float32)[np.asarray(ids) != image_id]
    return others


def _share_found(found: Floats, others: Floats, depth: int) -> float:
    """Return the share found of the ``depth`` nearest others, or of all when there are no more."""
    existing = min(depth, len(others))
    if existing == 0:
        return 1.0
    return float((found[:existing] <= others[existing - 1] + TOLERANCE).sum() / existing)


def audit_index(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    *,
    sample: int = DEFAULT_SAMPLE,
    seed: int = 0,
    floor: Floor | None = None,
    progress: Progress = SILENT,
) -> tuple[IndexBuild, Measured]:
    """Measure the index in use through ``cbir_internal.nearest_image``, as everybody searches, and store the result with it.

    :raises NoIndexError: when there is no index, or two that searches might take.
    """
    floor = floor or Floor()
    table = sql.Identifier(SCHEMA, encoder.table)
    with translated_errors():
        with progress.task(f"auditing {encoder.name}", total=None, unit="searches"), connection.transaction():
            # One state of the table for the truth and for all searches, whoever adds to it meanwhile. The lock comes
            # before that state: whoever is dropping the index has then either ended, or waits for the audit's end.
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table))
            build = _build_to_audit(connection, encoder)
            truth = find_truth(connection, table, encoder, sample=sample, seed=seed)
            measured = measure(_product_search(connection, encoder), truth)
        audit = measured.json() | {
            "seed": seed,
            "floor": {"recall": floor.recall, "zeros": floor.share_without_hit},
            "passed": measured.below(floor) is None,
        }
        recorded = connection.execute(
            """
            UPDATE cbir.index_build SET audit = %s || jsonb_build_object('audited_at', now())
            WHERE index_build_id = %s RETURNING audit
            """,
            [Jsonb(audit), build.index_build_id],
        )
    # The build's row may have been removed meanwhile.
    return replace(build, audit=first_value(recorded) or audit), measured


def _build_to_audit(connection: psycopg.Connection, encoder: StoredEncoder) -> IndexBuild:
    # Such a role sees no builds either, and would read that there is no index.
    if one_value(connection.execute("SELECT cbir_internal.rows_are_restricted()")):
        raise InputError(
            "Row-level security hides images from this role, so its searches do not use the index.",
            hint="Audit as the owner of schema 'cbir' or as a member of cbir_admin.",
        )
    build = current_build(connection, encoder)
    if build is None:
        raise NoIndexError(
            f"The encoder '{encoder.name}' has no vector index.",
            hint=f"Build one: cbirdb index build -e {encoder.name}",
        )
    refuse_rival(connection, build)
    return build


def _product_search(connection: psycopg.Connection, encoder: StoredEncoder) -> Search:
    statement = (
        "SELECT image_id, distance, mode_used = 'exact'"
        " FROM cbir_internal.nearest_image(%s, %s::vector, %s, mode => 'approximate') ORDER BY rank"
    )

    def search(query: str, k: int) -> SearchResult:
        rows = connection.execute(statement, [encoder.name, query, k]).fetchall()
        return SearchResult([row[0] for row in rows], [row[1] for row in rows], bool(rows and rows[0][2]))

    return search


def walk_search(
    connection: psycopg.Connection, table: sql.Identifier, encoder: StoredEncoder, method: IndexMethod, rows: int
) -> Search:
    """Search through an index as ``cbir_internal.nearest_image`` does without a filter, with settings that are not recorded."""
    walks: dict[int, tuple[sql.Composed, Walk]] = {}

    def prepare(k: int) -> tuple[sql.Composed, Walk]:
        walk = index_walk(connection, method.name, method, rows=rows, dim=encoder.dim, k=k)
        statement = sql.SQL(
            "SELECT c.image_id, c.embedding <=> c.asked AS distance FROM ("
            " SELECT e.image_id, e.embedding, q.embedding AS asked"
            " FROM {table} AS e, (SELECT %s::{kind} AS embedding) AS q ORDER BY {order} LIMIT {kept}"
            ") AS c ORDER BY distance, c.image_id LIMIT {k}"
        ).format(
            table=table,
            kind=_kind(encoder),
            order=walk.nearest_first,
            kept=sql.Literal(walk.kept),
            k=sql.Literal(k),
        )
        return statement, walk

    def search(query: str, k: int) -> SearchResult:
        statement, walk = walks[k] if k in walks else walks.setdefault(k, prepare(k))
        apply_settings(connection, walk.settings)
        found = connection.execute(statement, [query]).fetchall()
        return SearchResult([row[0] for row in found], [row[1] for row in found])

    return search


def _kind(encoder: StoredEncoder) -> sql.Composed:
    """Return the type of the encoder's vectors."""
    return sql.SQL("{}({})").format(
        sql.SQL("halfvec" if encoder.precision == "half" else "vector"), sql.Literal(encoder.dim)
    )
