"""``--method auto``: builds each method on a sample, searches with several settings, and takes the cheapest that passes.

No method is best everywhere: it depends on the number of vectors, their dimension and how they lie. A sample says what
recall a method can reach, but it builds and searches in other proportions than the whole table: so both times are
carried over to all rows, and the cheapest is what takes the least time to build and to serve a number of searches.
What was measured is stored with the index that is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import monotonic
from typing import Any

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder, count_embeddings
from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import see_extension
from cbirdb.db.known_defects import ivfflat_refusal
from cbirdb.db.rows import one_value
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError, OptionError
from cbirdb.index.audit import FAR, NEAR, Floor, Measured, Truth, find_truth, measure, rounded_down, walk_search
from cbirdb.index.methods import BitHnsw, Hnsw, IndexMethod, IvfFlat
from cbirdb.progress import SILENT, Progress

DEFAULT_ROWS = 50_000
DEFAULT_SEARCHES = 100_000
QUERIES = 300
CANDIDATES: tuple[IndexMethod, ...] = (
    IvfFlat(probes=2),
    IvfFlat(probes=2, lists_per_root=2.0),
    Hnsw(ef_search=40),
    BitHnsw(rerank=100),
)
"""Each with the narrowest search that is tried. The quickest to build come first: what they cost, others need not exceed."""
SAMPLE = "index_sample"
IDLE_SEARCHES = 50


@dataclass(frozen=True, slots=True)
class Aim:
    """What a search setting must reach to be taken: more than the floor, which must hold for other queries, too."""

    near: float
    """Mean recall at 10."""
    near_p1: float
    """First percentile of recall at 10."""
    far: float
    """Mean recall at 100."""
    zeros: float
    """Largest share of queries for which none of the 10 nearest is found."""

    @classmethod
    def above(cls, floor: Floor) -> Aim:
        """What queries need that are not stored, and no more than ten times the floor's misses for the worst hundredth."""
        recall = floor.for_unseen().recall
        return cls(recall, max(0.0, 1 - 10 * (1 - floor.recall)), recall, floor.zeros / 2)

    def met_by(self, measured: Measured) -> bool:
        return self.near_met_by(measured) and self.far_met_by(measured)

    def missed_by(self, measured: Measured) -> str:
        """What falls short of it, each figure beside the aim; empty: nothing."""
        missed = [
            f"{what} is {rounded_down(found)}, below {aim:g}"
            for what, found, aim in (
                (f"recall at {NEAR}", measured.near.mean, self.near),
                ("its first percentile", measured.near.p1, self.near_p1),
                (f"recall at {FAR}", measured.far.mean, self.far),
            )
            if found < aim
        ]
        if measured.near.zeros > self.zeros * measured.sample:
            missed.append(f"{measured.near.zeros} of {measured.sample} find none, above {self.zeros:g}")
        return ", ".join(missed)

    def near_met_by(self, measured: Measured) -> bool:
        """Whether searches for ten find enough."""
        near = measured.near
        return near.mean >= self.near and near.p1 >= self.near_p1 and near.zeros <= self.zeros * measured.sample

    def far_met_by(self, measured: Measured) -> bool:
        """Whether searches for a hundred find enough."""
        return measured.far.mean >= self.far


@dataclass(frozen=True, slots=True)
class Whole:
    """What an index over the whole table is expected to take."""

    build_seconds: float
    memory_bytes: int
    p50_ms: float
    fits: bool
    """Whether the server may use that memory for a build."""

    def cost(self, searches: int) -> float:
        """Seconds to build it and to search so often."""
        return self.build_seconds + searches * self.p50_ms / 1000


@dataclass(frozen=True, slots=True)
class Trial:
    """One method with one search setting, on the sample."""

    method: IndexMethod
    build_seconds: float
    index_bytes: int
    measured: Measured
    passed: bool
    """Whether it met the aim."""
    whole: Whole
    cost: float
    """Of the whole, in seconds."""

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
            "whole_build_s": round(self.whole.build_seconds, 1),
            "whole_memory_mb": round(self.whole.memory_bytes / 2**20, 1),
            "whole_fits": self.whole.fits,
            "whole_p50_ms": round(self.whole.p50_ms, 3),
            "cost_s": round(self.cost, 1),
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What was taken, and everything that was tried."""

    methods: list[IndexMethod]
    """To be fitted to the whole table: the one to build, then what else passed, the cheapest first."""
    trials: list[Trial]
    chosen: Trial
    rows: int
    whole_rows: int
    searches: int
    seed: int
    aim: Aim

    @property
    def method(self) -> IndexMethod:
        """The one to build."""
        return self.methods[0]

    def json(self, failed: Sequence[IndexMethod] = ()) -> dict[str, Any]:
        """What is stored with the build.

        :param failed: methods that were built before and did not reach on the whole table what they did on the sample.
        """
        trials = [trial.row() | {"chosen": trial is self.chosen} for trial in self.trials]
        return {
            "rows": self.rows,
            "whole_rows": self.whole_rows,
            "searches": self.searches,
            "seed": self.seed,
            "aim": asdict(self.aim),
            "trials": trials,
            "failed_on_all": [method.name for method in failed],
        }


@dataclass(frozen=True, slots=True)
class _Task:
    """What all trials of one choice share."""

    encoder: StoredEncoder
    truth: Truth
    aim: Aim
    rows: int
    whole_rows: int
    memory: int
    """Bytes that the server may use for a build."""
    searches: int
    idle_ms: float
    """What a search takes where there is nothing to search; it does not grow."""

    def whole(self, candidate: IndexMethod, method: IndexMethod, build_seconds: float, p50_ms: float) -> Whole:
        """Carry over what was measured on the sample.

        :param candidate: with what is left open to the number of rows.
        :param method: the same with the search setting that was measured.
        """
        growth = _with_search(candidate, method).growth(self.rows, self.whole_rows)
        fitted = candidate.for_rows(self.whole_rows)
        memory = fitted.memory_estimate(self.whole_rows, self.encoder.dim, self.encoder.precision)
        grown_ms = self.idle_ms + max(0.0, p50_ms - self.idle_ms) * growth.search
        return Whole(build_seconds * growth.build, memory, grown_ms, memory <= self.memory)


def choose_method(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    *,
    rows: int = DEFAULT_ROWS,
    seed: int = 0,
    floor: Floor | None = None,
    searches: int = DEFAULT_SEARCHES,
    allow_ivfflat: bool = False,
    progress: Progress = SILENT,
) -> Choice:
    """Try every method on a sample of the encoder's vectors, or on all when there are no more.

    Of those that meet the aim above the floor, and whose build is expected to fit the server's memory, the one is taken
    that needs the least time to build and to search so often; if none does, the one that finds most.

    :param rows: size of the sample.
    :param searches: that the index is to serve before it is built again.
    :param allow_ivfflat: try it even on a shared server whose pgvector has a defect in its builds.
    :raises InputError: when there are no embeddings.
    """
    for value, what in ((rows, "sample"), (searches, "searches")):
        if value < 1:
            raise OptionError(f"--{what} must be at least 1, not {value}.")
    aim = Aim.above(floor or Floor())
    tried: list[tuple[IndexMethod, Trial]] = []
    with (
        translated_errors(),
        progress.task(f"choosing an index for {encoder.name}", total=None, unit="methods") as bar,
        connection.transaction(),
    ):
        see_extension(connection)
        candidates = _candidates(connection, encoder, progress, allow_ivfflat=allow_ivfflat)
        whole_rows = count_embeddings(connection, encoder)
        taken = _draw(connection, encoder, rows, seed)
        truth = find_truth(connection, sql.Identifier(SAMPLE), encoder, sample=QUERIES, seed=seed)
        idle_ms = _idle_ms(connection, encoder)
        task = _Task(encoder, truth, aim, taken, max(taken, whole_rows), _build_memory(connection), searches, idle_ms)
        for number, candidate in enumerate(candidates, start=1):
            # Nothing is gained by searching wider where that already costs more than what has passed.
            limit = min((trial.cost for _, trial in tried if _may_be_taken(trial)), default=None)
            tried += [(candidate, trial) for trial in _try(connection, candidate, task, limit)]
            bar.update(done=number, total=len(candidates))
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("pg_temp", SAMPLE)))
    best_first = ranked(tried)
    methods = [_with_search(candidate, trial.method) for candidate, trial in best_first]
    trials = [trial for _, trial in tried]
    return Choice(methods, trials, best_first[0][1], taken, task.whole_rows, searches, seed, aim)


def _candidates(
    connection: psycopg.Connection, encoder: StoredEncoder, progress: Progress, *, allow_ivfflat: bool
) -> list[IndexMethod]:
    """What may be tried on this server."""
    refusal = ivfflat_refusal(connection, encoder, allowed=allow_ivfflat)
    if refusal is None:
        return list(CANDIDATES)
    progress.note(f"IVFFlat is not tried: {refusal}")
    return [candidate for candidate in CANDIDATES if not isinstance(candidate, IvfFlat)]


def ranked(tried: list[tuple[IndexMethod, Trial]]) -> list[tuple[IndexMethod, Trial]]:
    """What may be built, best first; never empty."""
    passed = [pair for pair in tried if pair[1].passed]
    # What does not fit is better than nothing: the build says how to give it the memory.
    ranked = sorted(passed, key=lambda pair: (not pair[1].whole.fits, pair[1].cost))
    return ranked or [max(tried, key=lambda pair: pair[1].measured.near.mean + pair[1].measured.far.mean)]


def _may_be_taken(trial: Trial) -> bool:
    return trial.passed and trial.whole.fits


def _with_search(candidate: IndexMethod, method: IndexMethod) -> IndexMethod:
    """With the search setting of the one, and open again what the other leaves to the number of rows."""
    return candidate.with_widths(*method.widths)


def _idle_ms(connection: psycopg.Connection, encoder: StoredEncoder) -> float:
    """The median time of a search of an empty table, as the client sees it."""
    name = f"{SAMPLE}_empty"
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(
            sql.Identifier(name), sql.Identifier("pg_temp", SAMPLE)
        )
    )
    search = walk_search(connection, sql.Identifier("pg_temp", name), encoder, Hnsw(), 1)
    query = Vector(np.ones(encoder.dim, np.float32)).to_text()
    times = []
    for _ in range(IDLE_SEARCHES):
        started = monotonic()
        search(query, NEAR)
        times.append(1000 * (monotonic() - started))
    return median(times)


def wider_where_short(method: IndexMethod, aim: Aim, measured: Measured) -> IndexMethod | None:
    """The next wider search for ten, for a hundred, or for both, as what was found falls short; None: none is wider."""
    met = aim.near_met_by(measured), aim.far_met_by(measured)
    widths = [
        width if enough else next((step for step in steps if step > width), width)
        for enough, width, steps in zip(met, method.widths, method.steps(), strict=True)
    ]
    return None if tuple(widths) == method.widths else method.with_widths(*widths)


def _build_memory(connection: psycopg.Connection) -> int:
    return int(one_value(connection.execute("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))")))


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


def _try(connection: psycopg.Connection, candidate: IndexMethod, task: _Task, limit: float | None) -> Iterator[Trial]:
    """Build one method's index, and search with ever wider settings until one passes or costs more than the limit."""
    fitted = candidate.for_rows(task.rows)
    name = f"{SAMPLE}_idx"
    table = sql.Identifier("pg_temp", SAMPLE)
    started = monotonic()
    connection.execute(fitted.create_statement(table, name, task.encoder.dim, task.encoder.precision))
    seconds = monotonic() - started
    index = sql.Identifier("pg_temp", name)
    size = int(one_value(connection.execute("SELECT pg_relation_size(%s::regclass)", [index.as_string(connection)])))
    # Both widths are named, so that the search for a hundred begins narrow, too, and not as wide as the rule makes it.
    method: IndexMethod | None = fitted.with_widths(*fitted.widths)
    while method is not None:
        measured = measure(walk_search(connection, table, task.encoder, method, task.rows), task.truth)
        whole = task.whole(candidate, method, seconds, measured.p50_ms)
        trial = Trial(
            method, seconds, size, measured, task.aim.met_by(measured), whole,
            whole.cost(task.searches),
        )  # fmt: skip
        yield trial
        if trial.passed or (limit is not None and trial.cost > limit):
            break
        method = wider_where_short(method, task.aim, measured)
    connection.execute(sql.SQL("DROP INDEX {}").format(index))
