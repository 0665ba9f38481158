"""Stores the nearest neighbours of every query once; every metric is then a view over them.

Queries are of one split, neighbours from another; which images take part and which neighbours are relevant, the
protocol says. Neighbours are found exactly or through the encoder's vector index: ``find_neighbours.py``.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psycopg
from psycopg.pq import TransactionStatus

import cbirdb
from cbirdb.db.embeddings import StoredEncoder, check_datasets
from cbirdb.db.errors import translated_errors
from cbirdb.db.evaluation import neighbours, selection
from cbirdb.db.evaluation.runs import Definition, count_without_relevant, held_run
from cbirdb.db.evaluation.selection import Counts, Selection
from cbirdb.db.index_builds import IndexBuild, audit_words, current_build, refuse_rival, server_versions
from cbirdb.errors import InputError, OptionError
from cbirdb.evaluate.exact_search import MEMORY_MB
from cbirdb.evaluate.find_neighbours import RECALL_AT, Connect, FoundByIndex, Resources, find_neighbours, measure_recall
from cbirdb.index import Floor
from cbirdb.limits import LARGEST_K
from cbirdb.parallel.machine import machine_cpus
from cbirdb.progress import SILENT, Progress

Protocol = Literal["paper", "any-label"]
PROTOCOLS: Mapping[Protocol, str] = {
    "paper": (
        "Images with exactly one positive label (and no uncertain one, except of MIMIC-CXR; CheXpert without Support"
        " Devices). Relevant: the same label. CheXpert's valid.csv is test; a tenth of the training patients of"
        " CheXpert and NIH ChestX-ray14, drawn by the split seed, is val."
    ),
    "any-label": (
        "Images with at least one positive label (CheXpert without Support Devices). Relevant: shares one. By class:"
        " over the queries that carry the class, the share of neighbours that carry it. Splits as under 'paper'."
    ),
}
"""What each protocol counts, in words; stored with each run, defined by cbir_internal.protocol_image."""
EXACT_UP_TO = 30_000_000_000_000
"""``auto`` compares with every image up to so many multiplications (queries x images x dimensions). Two processors do them in
some six minutes; as many walks through an index of that size (IVFFlat, k = 100) were measured to take as long."""

Mode = Literal["auto", "exact", "approximate"]


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """What a run rests on."""

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
        """The row that the command line prints."""
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


def evaluate(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    *,
    connect: Connect,
    datasets: Sequence[str] = (),
    query_split: str = "test",
    index_split: str = "train",
    k: int = 100,
    mode: Mode = "auto",
    seed: int = 0,
    protocol: Protocol = "paper",
    split_seed: int = 0,
    same_patient: bool = True,
    floor: Floor | None = None,
    workers: int | None = None,
    device: str = "auto",
    memory_mb: int = MEMORY_MB,
    progress: Progress = SILENT,
) -> EvaluationSummary:
    """Run a protocol and store its neighbours.

    :param connection: in autocommit mode and in no transaction (else ValueError): what is stored is committed on the way.
    :param connect: opens further connections: two that hold the run, and those that scans and walks run on.
    :param datasets: names; empty: all.
    :param seed: of the sample of queries on which an approximate search's recall is measured.
    :param protocol: a key of ``PROTOCOLS``.
    :param split_seed: of splits that are drawn.
    :param same_patient: whether a query may retrieve images of its own patient.
    :param floor: what an index must reach for approximate results to count as final.
    :param workers: connections at a time; None: one per processor.
    :param device: auto, cuda, cuda:N or cpu: where an exact search at scale multiplies.
    :param memory_mb: what such a search keeps in memory for its queries.
    :raises InputError: when there is nothing to evaluate, or no index for an approximate search.
    """
    _check_arguments(connection, k)
    with translated_errors():
        check_datasets(connection, datasets)
        task = Selection(encoder, tuple(datasets), query_split, index_split, protocol, split_seed, same_patient)
        counts = _counted(connection, task)
        build = current_build(connection, encoder)
        exact = _is_exact(connection, mode, counts, build, encoder)
        resources = Resources(connect, workers or machine_cpus(), device, memory_mb)
        definition = Definition(
            task, PROTOCOLS[protocol], selection.dataset_names(connection, task), k, None if exact else build, seed,
            _versions(connection, encoder))  # fmt: skip
        with held_run(connect, definition, counts) as run:
            queries = selection.query_ids(connection, task)
            search = neighbours.Search(task, run.run_id, k, counts.indexed, definition.build, counts.fingerprint)
            find_neighbours(connection, search, queries, run.stored, resources, progress)
            found = None if exact else measure_recall(connection, search, queries, seed, resources)
            short = selection.count_short(connection, task, run.run_id, k)
            not_final = _why_not_final(build, found, floor or Floor(), encoder) if found and build else None
            _check_unchanged(connection, connect, task, counts)
            _close_run(connection, run.run_id, found, short, not_final)
    return EvaluationSummary(
        run.run_id, encoder.name, "exact" if exact else "approximate", k, len(queries), counts.indexed,
        found.mean if found else 1.0, short, counts.left_out, counts.not_encoded,
        count_without_relevant(connection, run.run_id),
        audit_words(build.audit) if found and build else None, not_final, len(run.stored), run.outdated)  # fmt: skip


def _check_arguments(connection: psycopg.Connection, k: int) -> None:
    if not 1 <= k <= LARGEST_K:
        raise OptionError(f"-k must lie between 1 and {LARGEST_K:,}, not {k}.")
    if not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE:
        # What removes the run on another connection, when something fails, would wait for its rows.
        raise ValueError("evaluate needs a connection in autocommit mode, outside a transaction")


def _check_unchanged(connection: psycopg.Connection, connect: Connect, task: Selection, before: Counts) -> None:
    """Between two transactions of the search, and within one, others may have changed what takes part.

    Counting that takes about as long as the statistics of what was found, which are taken meanwhile.
    """
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        analysed = meanwhile.submit(_analyse, connect)
        if selection.count_selection(connection, task).fingerprint != before.fingerprint:
            raise selection.ChangedError
        analysed.result()


def _versions(connection: psycopg.Connection, encoder: StoredEncoder) -> dict[str, str | None]:
    return {
        **server_versions(connection),
        "cbirdb": cbirdb.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "weights_sha256": encoder.weights_sha256,
        "preprocessing_sha256": encoder.preprocessing_sha256,
    }


def _why_not_final(build: IndexBuild, found: FoundByIndex, floor: Floor, encoder: StoredEncoder) -> str | None:
    """What keeps an approximate run from being relied on, and what to do; None: nothing."""
    rebuild = f"Run: cbirdb index build -e {encoder.name}"
    if build.audit is None:
        return f"The index has not been audited. Run: cbirdb index audit -e {encoder.name}"
    near, far = build.audit["recall_at_10"], build.audit["recall_at_100"]
    if missed := floor.missed_by({10: near["mean"], 100: far["mean"]}, near["zeros"], build.audit["sample"]):
        return f"The index's audit: {missed}. {rebuild}"
    if missed := floor.missed_by({RECALL_AT: found.mean}, found.zeros, found.queries):
        return f"Of the queries of this run: {missed}. {rebuild}, or evaluate with --mode exact"
    return None


def _counted(connection: psycopg.Connection, task: Selection) -> Counts:
    """What takes part; of both splits something must."""
    counts = selection.count_selection(connection, task)
    for split, number in ((task.query_split, counts.queries), (task.index_split, counts.indexed)):
        if number == 0:
            raise InputError(
                f"Split '{split}' has no image with exactly one label and an embedding of '{task.encoder.name}'.",
                hint=f"Ingest labelled images with that split, then run: cbirdb encode -e {task.encoder.name}",
            )
    return counts


def _is_exact(
    connection: psycopg.Connection, mode: Mode, counts: Counts, build: IndexBuild | None, encoder: StoredEncoder
) -> bool:
    if mode == "approximate" and build is None:
        raise InputError(
            f"The encoder '{encoder.name}' has no vector index to search approximately.",
            hint=f"Run: cbirdb index build -e {encoder.name}",
        )
    multiplications = counts.queries * counts.indexed * encoder.dim
    if mode == "exact" or build is None or (mode == "auto" and multiplications <= EXACT_UP_TO):
        return True
    refuse_rival(connection, build)
    return False


def _close_run(
    connection: psycopg.Connection, run_id: int, found: FoundByIndex | None, short: int, not_final: str | None
) -> None:
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
                found.zeros if found else None, short, not_final, run_id,
            ],
        )  # fmt: skip
    if closed.rowcount != 1:
        raise InputError(f"Run {run_id} was removed by somebody else while it was computed.", hint="Run it again.")


def _analyse(connect: Connect) -> None:
    """ANALYZE the results, so that the metric views are planned well at once."""
    with connect() as connection:
        connection.execute("ANALYZE cbir.search_result (run_id, query_image_id, label_id, relevant_count)")
        with connection.transaction():
            # Of the arrays only their length is planned by: for that a tenth of the usual sample will do.
            connection.execute("SET LOCAL default_statistics_target = 10")
            connection.execute("ANALYZE cbir.search_result (neighbour_ids)")
