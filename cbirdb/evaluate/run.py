"""Store the nearest neighbours of every query once; every metric is then a view over them.

Queries are of one split, neighbours from another; the protocol says which images take part and which neighbours are
relevant. An evaluation is prepared, searched and closed. It searches exactly or through the encoder's vector index, as
``find_neighbours.py`` shows.
"""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg.pq import TransactionStatus

from cbirdb.db.embeddings import StoredEncoder, check_datasets
from cbirdb.db.errors import translated_errors
from cbirdb.db.evaluation import neighbours, selection
from cbirdb.db.evaluation.runs import Definition, HeldRun, count_without_relevant, held_run
from cbirdb.db.evaluation.selection import Counts, Selection
from cbirdb.db.index_builds import IndexBuild, current_build, describe_audit, refuse_rival, server_versions
from cbirdb.errors import InputError
from cbirdb.evaluate.find_neighbours import RECALL_AT, Connect, FoundByIndex, Resources, find_neighbours, measure_recall
from cbirdb.evaluate.options import PROTOCOLS, EvaluationOptions, Mode
from cbirdb.index import Floor
from cbirdb.parallel.machine import machine_cpus
from cbirdb.progress import SILENT, Progress
from cbirdb.version import __version__

EXACT_UP_TO = 30_000_000_000_000
"""``auto`` compares with every image up to so many multiplications (queries x images x dimensions). Two processors do them in
some six minutes; as many walks through an index of that size (IVFFlat, k = 100) were measured to take as long."""


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """Say what a run rests on."""

    run_id: int
    encoder: str
    mode: str
    k: int
    queries: int
    indexed: int
    ann_recall: float
    short_queries: int
    left_out: int
    """Images of the two splits that have no, or more than one, label."""
    not_encoded: int
    """Images of the selection that have no embedding of this encoder."""
    without_relevant: int
    """Queries whose label no indexed image carries: they have no precision."""
    index_audit: str | None
    """The audit of the index, in words; None: exact."""
    not_final: str | None
    """Why its figures are not to be relied on; None: they may be."""
    resumed: int
    """Queries that an earlier process, which died, had stored already."""
    outdated: bool
    """Such a process left something, but other images, labels or embeddings take part now: it was started over."""

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints."""
        return {
            "run": self.run_id,
            "encoder": self.encoder,
            "mode": self.mode,
            "k": self.k,
            "queries": self.queries,
            "indexed": self.indexed,
            "ann_recall": self.ann_recall,
            "short_queries": self.short_queries,
            "left_out": self.left_out,
            "not_encoded": self.not_encoded,
            "without_relevant": self.without_relevant,
            "index_audit": self.index_audit,
            "final": self.not_final is None,
            "not_final": self.not_final,
            "resumed": self.resumed,
        }


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Hold an evaluation that has been checked and counted, and may begin."""

    definition: Definition
    counts: Counts
    floor: Floor

    @property
    def task(self) -> Selection:
        return self.definition.task

    @property
    def build(self) -> IndexBuild | None:
        """Return the index that is searched through; None: the search is exact."""
        return self.definition.build


@dataclass(frozen=True, slots=True)
class _Searched:
    """Hold the outcome of a search whose neighbours are stored."""

    queries: int
    short: int
    """Queries that got too few neighbours although more exist."""
    found: FoundByIndex | None
    """Recall of the index; None: the search was exact."""
    not_final: str | None


def evaluate(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    options: EvaluationOptions | None = None,
    *,
    connect: Connect,
    progress: Progress = SILENT,
) -> EvaluationSummary:
    """Run a protocol and store its neighbours.

    :param connection: in autocommit mode and in no transaction (else ValueError): what is stored is committed on the way.
    :param connect: opens further connections: two that hold the run, and those that scans and walks run on.
    :raises InputError: when there is nothing to evaluate, or no index for an approximate search.
    """
    options = options or EvaluationOptions()
    _check_connection(connection)
    with translated_errors():
        prepared = _prepare(connection, encoder, options)
        resources = Resources(connect, options.workers or machine_cpus(), options.device, options.memory_mb)
        with held_run(connect, prepared.definition, prepared.counts) as run:
            searched = _search(connection, prepared, run, resources, progress)
            _check_unchanged(connection, connect, prepared.task, prepared.counts)
            _close(connection, run.run_id, searched)
    return _summary(prepared, searched, run, count_without_relevant(connection, run.run_id))


def _check_connection(connection: psycopg.Connection) -> None:
    if not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE:
        # What removes the run on another connection, when something fails, would wait for its rows.
        raise ValueError("evaluate needs a connection in autocommit mode, outside a transaction")


def _prepare(connection: psycopg.Connection, encoder: StoredEncoder, options: EvaluationOptions) -> _Prepared:
    """Count what takes part, and decide whether to search exactly or through the index."""
    check_datasets(connection, options.datasets)
    task = Selection(
        encoder, tuple(options.datasets), options.query_split, options.index_split, options.protocol, options.split_seed,
        options.same_patient,
    )  # fmt: skip
    counts = _count(connection, task)
    build = _index_to_use(connection, options.mode, counts, encoder)
    definition = Definition(
        task, PROTOCOLS[options.protocol], selection.dataset_names(connection, task), options.k, build, options.seed,
        _versions(connection, encoder),
    )  # fmt: skip
    return _Prepared(definition, counts, options.floor)


def _count(connection: psycopg.Connection, task: Selection) -> Counts:
    """Count what takes part.

    :raises InputError: when one of the splits is empty.
    """
    counts = selection.count_selection(connection, task)
    for split, number in ((task.query_split, counts.queries), (task.index_split, counts.indexed)):
        if number == 0:
            raise InputError(
                f"Split '{split}' has no image with exactly one label and an embedding of '{task.encoder.name}'.",
                hint=f"Ingest labelled images with that split, then run: cbirdb encode -e {task.encoder.name}",
            )
    return counts


def _index_to_use(
    connection: psycopg.Connection, mode: Mode, counts: Counts, encoder: StoredEncoder
) -> IndexBuild | None:
    """Return the index to search through; None: search exactly."""
    build = current_build(connection, encoder)
    if mode == "approximate" and build is None:
        raise InputError(
            f"The encoder '{encoder.name}' has no vector index to search approximately.",
            hint=f"Run: cbirdb index build -e {encoder.name}",
        )
    multiplications = counts.queries * counts.indexed * encoder.dim
    if mode == "exact" or build is None or (mode == "auto" and multiplications <= EXACT_UP_TO):
        return None
    refuse_rival(connection, build)
    return build


def _versions(connection: psycopg.Connection, encoder: StoredEncoder) -> dict[str, str | None]:
    return {
        **server_versions(connection),
        "cbirdb": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "weights_sha256": encoder.weights_sha256,
        "preprocessing_sha256": encoder.preprocessing_sha256,
    }


def _search(
    connection: psycopg.Connection, prepared: _Prepared, run: HeldRun, resources: Resources, progress: Progress
) -> _Searched:
    """Find and store the neighbours of the queries that have none yet, and measure what the index found of them."""
    task, definition = prepared.task, prepared.definition
    queries = selection.query_ids(connection, task)
    search = neighbours.Search(
        task, run.run_id, definition.k, prepared.counts.indexed, definition.build, prepared.counts.fingerprint
    )
    find_neighbours(connection, search, queries, run.stored, resources, progress)
    found = measure_recall(connection, search, queries, definition.seed, resources) if prepared.build else None
    short = selection.count_short(connection, task, run.run_id, definition.k)
    not_final = (
        _why_not_final(prepared.build, found, prepared.floor, task.encoder) if found and prepared.build else None
    )
    return _Searched(len(queries), short, found, not_final)


def _why_not_final(build: IndexBuild, found: FoundByIndex, floor: Floor, encoder: StoredEncoder) -> str | None:
    """Say why an approximate run may not be relied on, and what to do; None: it may."""
    rebuild = f"Run: cbirdb index build -e {encoder.name}"
    if build.audit is None:
        return f"The index has not been audited. Run: cbirdb index audit -e {encoder.name}"
    at_10, at_100 = build.audit["recall_at_10"], build.audit["recall_at_100"]
    if missed := floor.missed_by({10: at_10["mean"], 100: at_100["mean"]}, at_10["zeros"], build.audit["sample"]):
        return f"The index's audit: {missed}. {rebuild}"
    if missed := floor.missed_by({RECALL_AT: found.mean}, found.queries_without_hit, found.queries):
        return f"Of the queries of this run: {missed}. {rebuild}, or evaluate with --mode exact"
    return None


def _check_unchanged(connection: psycopg.Connection, connect: Connect, task: Selection, before: Counts) -> None:
    """Check that nobody changed what takes part between or within the transactions of the search.

    Run ANALYZE on the results concurrently; both take about equally long.
    """
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        analysed = meanwhile.submit(_analyse, connect)
        if selection.count_selection(connection, task).fingerprint != before.fingerprint:
            raise selection.ChangedError
        analysed.result()


def _analyse(connect: Connect) -> None:
    """ANALYZE the results, so that the metric views are planned well at once."""
    with connect() as connection:
        connection.execute("ANALYZE cbir.search_result (run_id, query_image_id, label_id, relevant_count)")
        with connection.transaction():
            # Of the arrays only their length is planned by: for that a tenth of the usual sample will do.
            connection.execute("SET LOCAL default_statistics_target = 10")
            connection.execute("ANALYZE cbir.search_result (neighbour_ids)")


def _close(connection: psycopg.Connection, run_id: int, searched: _Searched) -> None:
    """Mark the run as finished, with what it rests on."""
    found = searched.found
    with connection.transaction():
        closed = connection.execute(
            """
            UPDATE cbir.search_run AS r SET finished_at = now(), ann_recall = %s, ann_recall_at = %s,
                ann_recall_queries = %s, ann_zeros = %s, short_queries = %s, not_final = %s,
                index_audit = (SELECT b.audit FROM cbir.index_build AS b WHERE b.index_build_id = r.index_build_id)
            WHERE r.run_id = %s
            """,
            [
                found.mean if found else 1.0, RECALL_AT if found else None, found.queries if found else None,
                found.queries_without_hit if found else None, searched.short, searched.not_final, run_id,
            ],
        )  # fmt: skip
    if closed.rowcount != 1:
        raise InputError(f"Run {run_id} was removed by somebody else while it was computed.", hint="Run it again.")


def _summary(prepared: _Prepared, searched: _Searched, run: HeldRun, without_relevant: int) -> EvaluationSummary:
    build, counts, found = prepared.build, prepared.counts, searched.found
    return EvaluationSummary(
        run_id=run.run_id,
        encoder=prepared.task.encoder.name,
        mode="exact" if build is None else "approximate",
        k=prepared.definition.k,
        queries=searched.queries,
        indexed=counts.indexed,
        ann_recall=found.mean if found else 1.0,
        short_queries=searched.short,
        left_out=counts.left_out,
        not_encoded=counts.not_encoded,
        without_relevant=without_relevant,
        index_audit=describe_audit(build.audit) if build else None,
        not_final=searched.not_final,
        resumed=len(run.stored),
        outdated=run.outdated,
    )
