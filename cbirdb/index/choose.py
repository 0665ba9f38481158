"""Choose an index (``--method auto``): build each method on a sample, search with several settings, take the cheapest that
passes.

No method is best everywhere: it depends on the number of vectors, their dimension and how they lie. A sample says what
recall a method can reach, but it builds and searches in other proportions than the whole table: so both times are
carried over to all rows, and the cheapest is what takes the least time to build and to serve a number of searches.
What was measured is stored with the index that is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Any

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from cbirdb.db.embeddings import StoredEncoder, count_embeddings
from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.db.known_defects import ivfflat_refusal
from cbirdb.db.rows import one_value
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError, OptionError
from cbirdb.index.audit import HUNDRED, TEN, Floor, Measured, Truth, find_truth, measure, rounded_down, walk_search
from cbirdb.index.methods import BitHnsw, Hnsw, IndexMethod, IvfFlat
from cbirdb.index.search_width import Verdict, narrowest_search
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
    """Set what a search setting must reach to be taken: more than the floor, which must hold for other queries, too."""

    recall_at_10: float
    """Mean."""
    p1_at_10: float
    """First percentile of recall at 10."""
    recall_at_100: float
    """Mean."""
    share_without_hit: float
    """Largest share of queries for which none of the 10 nearest is found."""

    @classmethod
    def above(cls, floor: Floor) -> Aim:
        """Aim at what queries need that are not stored, and at no more than ten times the floor's misses for the worst
        hundredth.
        """
        recall = floor.for_unseen().recall
        return cls(recall, max(0.0, 1 - 10 * (1 - floor.recall)), recall, floor.share_without_hit / 2)

    def met_by(self, measured: Measured) -> bool:
        """Return whether searches of both depths find enough."""
        return self.met_at_10(measured) and self.met_at_100(measured)

    def missed_by(self, measured: Measured) -> str:
        """Say what falls short of it, each figure beside the aim; empty: nothing."""
        missed = [
            f"{what} is {rounded_down(found)}, below {aim:g}"
            for what, found, aim in (
                (f"recall at {TEN}", measured.recall_at_10.mean, self.recall_at_10),
                ("its first percentile", measured.recall_at_10.p1, self.p1_at_10),
                (f"recall at {HUNDRED}", measured.recall_at_100.mean, self.recall_at_100),
            )
            if found < aim
        ]
        without_hit = measured.recall_at_10.queries_without_hit
        if without_hit > self.share_without_hit * measured.sample:
            missed.append(f"{without_hit} of {measured.sample} find none, above {self.share_without_hit:g}")
        return ", ".join(missed)

    def met_at_10(self, measured: Measured) -> bool:
        """Return whether searches for ten find enough."""
        found = measured.recall_at_10
        return (
            found.mean >= self.recall_at_10
            and found.p1 >= self.p1_at_10
            and found.queries_without_hit <= self.share_without_hit * measured.sample
        )

    def met_at_100(self, measured: Measured) -> bool:
        """Return whether searches for a hundred find enough."""
        return measured.recall_at_100.mean >= self.recall_at_100

    def json(self) -> dict[str, float]:
        """Return what is stored with a build."""
        return {
            "near": self.recall_at_10,
            "near_p1": self.p1_at_10,
            "far": self.recall_at_100,
            "zeros": self.share_without_hit,
        }


@dataclass(frozen=True, slots=True)
class Whole:
    """Estimate what an index over the whole table takes."""

    build_seconds: float
    memory_bytes: int
    p50_ms: float
    fits: bool
    """True if the server may use that memory for a build."""

    def cost(self, searches: int) -> float:
        """Return the seconds to build it and to search so often."""
        return self.build_seconds + searches * self.p50_ms / 1000


@dataclass(frozen=True, slots=True)
class Trial:
    """Record one method with one search setting, on the sample."""

    method: IndexMethod
    build_seconds: float
    index_bytes: int
    measured: Measured
    passed: bool
    """True if it met the aim."""
    whole: Whole
    cost: float
    """Of the whole, in seconds."""

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints, and that is stored."""
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
    """Record what was taken, and everything that was tried."""

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
        """Return the one to build."""
        return self.methods[0]

    def json(self, failed: Sequence[IndexMethod] = ()) -> dict[str, Any]:
        """Return what is stored with the build.

        :param failed: methods that were built before and did not reach on the whole table what they did on the sample.
        """
        trials = [trial.row() | {"chosen": trial is self.chosen} for trial in self.trials]
        return {
            "rows": self.rows,
            "whole_rows": self.whole_rows,
            "searches": self.searches,
            "seed": self.seed,
            "aim": self.aim.json(),
            "trials": trials,
            "failed_on_all": [method.name for method in failed],
        }


@dataclass(frozen=True, slots=True)
class _Task:
    """Hold what all trials of one choice share."""

    encoder: StoredEncoder
    truth: Truth
    aim: Aim
    rows: int
    whole_rows: int
    memory: int
    """Bytes that the server may use for a build."""
    searches: int
    idle_ms: float
    """Time of a search of an empty table; it does not grow."""

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
        add_extension_to_search_path(connection)
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
    """Return what may be tried on this server."""
    refusal = ivfflat_refusal(connection, encoder, allowed=allow_ivfflat)
    if refusal is None:
        return list(CANDIDATES)
    progress.note(f"IVFFlat is not tried: {refusal}")
    return [candidate for candidate in CANDIDATES if not isinstance(candidate, IvfFlat)]


def ranked(tried: list[tuple[IndexMethod, Trial]]) -> list[tuple[IndexMethod, Trial]]:
    """Return what may be built, each candidate with its narrowest search that passed, best first; never empty."""
    narrowest: dict[IndexMethod, Trial] = {}
    for candidate, trial in sorted(tried, key=lambda pair: pair[1].method.widths):
        if trial.passed:
            narrowest.setdefault(candidate, trial)
    # What does not fit is better than nothing: the build says how to give it the memory.
    passed = sorted(narrowest.items(), key=lambda pair: (not pair[1].whole.fits, pair[1].cost))
    return passed or [max(tried, key=lambda pair: _found(pair[1]))]


def _found(trial: Trial) -> float:
    return trial.measured.recall_at_10.mean + trial.measured.recall_at_100.mean


def _may_be_taken(trial: Trial) -> bool:
    return trial.passed and trial.whole.fits


def _with_search(candidate: IndexMethod, method: IndexMethod) -> IndexMethod:
    """Take the search setting of the one, and leave open again what the other leaves to the number of rows."""
    return candidate.with_widths(*method.widths)


def _idle_ms(connection: psycopg.Connection, encoder: StoredEncoder) -> float:
    """Measure the median time of a search of an empty table, as the client sees it."""
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
        search(query, TEN)
        times.append(1000 * (monotonic() - started))
    return median(times)


def _build_memory(connection: psycopg.Connection) -> int:
    return int(one_value(connection.execute("SELECT pg_size_bytes(current_setting('maintenance_work_mem'))")))


def _draw(connection: psycopg.Connection, encoder: StoredEncoder, rows: int, seed: int) -> int:
    """Copy a sample into a temporary table; return how many rows it has."""
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


def _try(connection: psycopg.Connection, candidate: IndexMethod, task: _Task, limit: float | None) -> list[Trial]:
    """Build one method's index, and find the narrowest searches that pass, or that cost more than the limit."""
    fitted = candidate.for_rows(task.rows)
    name = f"{SAMPLE}_idx"
    table = sql.Identifier("pg_temp", SAMPLE)
    started = monotonic()
    connection.execute(fitted.create_statement(table, name, task.encoder.dim, task.encoder.precision))
    seconds = monotonic() - started
    index = sql.Identifier("pg_temp", name)
    size = int(one_value(connection.execute("SELECT pg_relation_size(%s::regclass)", [index.as_string(connection)])))
    trials: dict[IndexMethod, Trial] = {}

    def look(method: IndexMethod) -> tuple[Verdict, Verdict]:
        measured = measure(walk_search(connection, table, task.encoder, method, task.rows), task.truth)
        whole = task.whole(candidate, method, seconds, measured.p50_ms)
        trial = Trial(
            method, seconds, size, measured, task.aim.met_by(measured), whole,
            whole.cost(task.searches),
        )  # fmt: skip
        trials[method] = trial
        too_costly = limit is not None and trial.cost > limit
        return (
            Verdict(task.aim.met_at_10(measured) or too_costly),
            Verdict(task.aim.met_at_100(measured) or too_costly),
        )

    narrowest = narrowest_search(fitted, look, only_wider=True).method
    if narrowest not in trials:
        look(narrowest)
    connection.execute(sql.SQL("DROP INDEX {}").format(index))
    return list(trials.values())
