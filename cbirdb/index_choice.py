"""``--method auto``: builds each method on a sample, searches with several settings, and takes the cheapest that passes.

No method is best everywhere: it depends on the number of vectors, their dimension and how they lie. What was measured
is stored with the index that is built.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cbirdb.db.connection import see_extension, translated_errors
from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.tables import SCHEMA
from cbirdb.db.vector_index import BitHnsw, Hnsw, IndexMethod, IvfFlat
from cbirdb.errors import InputError
from cbirdb.index_audit import Floor, Measured, Truth, find_truth, measure, walk_search
from cbirdb.progress import SILENT, Progress

DEFAULT_ROWS = 50_000
QUERIES = 300
CANDIDATES: tuple[IndexMethod, ...] = (Hnsw(ef_search=40), BitHnsw(rerank=100), IvfFlat(probes=2))
"""Each with the narrowest search that is tried."""
SAMPLE = "index_sample"


@dataclass(frozen=True, slots=True)
class Trial:
    """One method with one search setting, on the sample."""

    method: IndexMethod
    build_seconds: float
    index_bytes: int
    measured: Measured
    passed: bool

    def row(self) -> dict[str, object]:
        """The row that the command line prints, and that is stored."""
        settings = {**self.method.parameters, **self.method.search_settings}
        return {
            "method": self.method.name,
            "settings": " ".join(f"{name}={value}" for name, value in settings.items()),
            "build_s": round(self.build_seconds, 3),
            "index_mb": round(self.index_bytes / 2**20, 2),
            **self.measured.row(),
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What was taken, and everything that was tried."""

    method: IndexMethod
    """To be fitted to the whole table."""
    trials: list[Trial]
    chosen: Trial
    rows: int
    seed: int

    def json(self) -> dict[str, Any]:
        """What is stored with the build."""
        trials = [trial.row() | {"chosen": trial is self.chosen} for trial in self.trials]
        return {"rows": self.rows, "seed": self.seed, "trials": trials}


def choose_method(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    *,
    rows: int = DEFAULT_ROWS,
    seed: int = 0,
    floor: Floor | None = None,
    progress: Progress = SILENT,
) -> Choice:
    """Try every method on a sample of the encoder's vectors, or on all when there are no more.

    Of those that pass the floor, the one with the fastest median search is taken; if none does, the one that finds most.

    :param rows: size of the sample.
    :raises InputError: when there are no embeddings.
    """
    if rows < 1:
        raise InputError(f"--sample must be at least 1, not {rows}.")
    floor = floor or Floor()
    trials: list[tuple[IndexMethod, Trial]] = []
    with (
        translated_errors(),
        progress.task(f"choosing an index for {encoder.name}", total=None, unit="methods") as task,
        connection.transaction(),
    ):
        see_extension(connection)
        taken = _draw(connection, encoder, rows, seed)
        truth = find_truth(connection, sql.Identifier(SAMPLE), encoder, sample=QUERIES, seed=seed)
        for number, candidate in enumerate(CANDIDATES, start=1):
            trials += [(candidate, trial) for trial in _try(connection, encoder, candidate, taken, truth, floor)]
            task.update(done=number, total=len(CANDIDATES))
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", SAMPLE)))
    passing = [pair for pair in trials if pair[1].passed]
    if passing:
        candidate, chosen = min(passing, key=lambda pair: pair[1].measured.p50_ms)
    else:
        candidate, chosen = max(trials, key=lambda pair: pair[1].measured.near.mean + pair[1].measured.far.mean)
    settings = chosen.method.search_settings
    method = next(wider for wider in candidate.for_rows(taken).wider() if wider.search_settings == settings)
    return Choice(_unfitted(method, candidate), [trial for _, trial in trials], chosen, taken, seed)


def _unfitted(method: IndexMethod, candidate: IndexMethod) -> IndexMethod:
    """With the search setting of the one, and open again what the other leaves to the number of rows."""
    return (
        IvfFlat(candidate.lists, method.probes)
        if isinstance(method, IvfFlat) and isinstance(candidate, IvfFlat)
        else method
    )


def _draw(connection: psycopg.Connection, encoder: StoredEncoder, rows: int, seed: int) -> int:
    """Copy a sample into a temporary table; returns how many rows it has."""
    names = {"sample": sql.Identifier("pg_temp", SAMPLE), "table": sql.Identifier(SCHEMA, encoder.table)}
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING STORAGE) ON COMMIT DROP").format(
            sql.Identifier(SAMPLE), names["table"]
        )
    )
    drawn = connection.execute(
        sql.SQL(
            "INSERT INTO {sample} SELECT image_id, embedding FROM {table}"
            " ORDER BY hashint8extended(image_id, {seed}), image_id LIMIT {rows}"
        ).format(**names, seed=sql.Literal(seed), rows=sql.Literal(rows))
    )
    connection.execute(sql.SQL("ANALYZE {sample}").format(**names))
    if drawn.rowcount == 0:
        raise InputError(
            f"There are no embeddings of '{encoder.name}' to index.", hint=f"Run: cbirdb encode -e {encoder.name}"
        )
    return drawn.rowcount


def _try(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    candidate: IndexMethod,
    rows: int,
    truth: Truth,
    floor: Floor,
) -> list[Trial]:
    """Build one method's index, and search with ever wider settings until one passes."""
    fitted = candidate.for_rows(rows)
    name = f"{SAMPLE}_idx"
    table = sql.Identifier("pg_temp", SAMPLE)
    started = time.monotonic()
    connection.execute(fitted.create_statement(table, name, encoder.dim, encoder.precision))
    seconds = time.monotonic() - started
    index = sql.Identifier("pg_temp", name)
    size = connection.execute("SELECT pg_relation_size(%s::regclass)", [index.as_string(connection)]).fetchone()
    trials = []
    for method in fitted.wider():
        measured = measure(walk_search(connection, table, encoder, method, rows), truth)
        trials.append(Trial(method, seconds, int(size[0]) if size else 0, measured, measured.passes(floor)))
        if trials[-1].passed:
            break
    connection.execute(sql.SQL("DROP INDEX {}").format(index))
    return trials
