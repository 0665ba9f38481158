"""Find and store the neighbours of a run's queries: by scans or through an index on several connections at a time, or
by matrix products on one.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import psycopg

from cbirdb.db.evaluation.neighbours import Search
from cbirdb.db.evaluation.runs import keep_transaction_open
from cbirdb.evaluate.exact_search import MatrixSearch
from cbirdb.progress import Progress, Task

SCAN_UP_TO = 5_000_000
"""Pairs of query and image that an exact search compares by scans on the server; beyond it, by matrix products."""
QUERIES_PER_BATCH = 256
EXACT_PER_BATCH = 32
"""Queries per statement if each is a scan."""
COMMIT_FACTOR = 20
"""A transaction lasts this many times as long as its preparation took: little is lost when a process is killed, and
little is done twice."""
RECALL_QUERIES = 200
RECALL_AT = 10

Connect = Callable[[], psycopg.Connection]


@dataclass(frozen=True, slots=True)
class Resources:
    """Name what a search may use."""

    connect: Connect
    workers: int
    """Connections at a time."""
    device: str
    """auto, cuda, cuda:N or cpu: where matrix products are computed."""
    memory_mb: int
    """Memory that queries and their lists may take then."""


@dataclass(frozen=True, slots=True)
class FoundByIndex:
    """Recall of an approximate run, over a sample of its queries."""

    mean: float
    queries_without_hit: int
    """Queries for which none of the true nearest was found."""
    queries: int


def find_neighbours(
    connection: psycopg.Connection,
    search: Search,
    queries: Sequence[int],
    stored: Collection[int],
    resources: Resources,
    progress: Progress,
) -> None:
    """Search exactly for many pairs by matrix products, else on the server alone.

    :param connection: what products are computed from; a server's process that has read the tables reads them faster
        again than a new one, which meets shared memory page by page.
    :param queries: image ids.
    :param stored: those of them that have been searched for.
    """
    by_matrix = search.build is None and len(queries) * search.indexed > SCAN_UP_TO
    left = [query for query in queries if query not in stored]
    if not left:
        return
    name = search.task.encoder.name
    if by_matrix:
        with progress.task(f"comparing for {name}", total=None, unit="vectors") as task:
            _by_products(connection, search, left, resources, task)
        return
    with progress.task(f"searching for {name}", total=len(left) + len(stored), unit="queries") as task:
        task.advance(len(stored))
        for done in _in_parallel(search, left, resources):
            task.advance(done)


def measure_recall(
    connection: psycopg.Connection, search: Search, queries: Sequence[int], seed: int, resources: Resources
) -> FoundByIndex:
    """Measure the share of the true nearest neighbours that the index found, over a sample of the queries."""
    sample = sorted(random.Random(seed).sample(list(queries), min(len(queries), RECALL_QUERIES)))  # noqa: S311
    nearest = replace(search, k=min(RECALL_AT, search.k))
    shares, queries_without_hit = 0.0, 0
    with connection.transaction():
        nearest.prepare(connection)
        products = MatrixSearch(connection, nearest, device=resources.device, memory_mb=resources.memory_mb)
        for found in products.find(sample, lambda _: None):
            mean, none = nearest.recall(connection, found)
            shares += mean * len(found.queries)
            queries_without_hit += none
    return FoundByIndex(shares / len(sample), queries_without_hit, len(sample))


def _by_products(
    connection: psycopg.Connection, search: Search, queries: Sequence[int], resources: Resources, task: Task
) -> None:
    """Search by matrix products, a transaction for each pass over the vectors: its temporary tables live in it, wherever a
    pooler takes the next.
    """
    done, first = 0, 0

    def count(vectors: int) -> None:
        nonlocal done
        done += vectors
        # Passes that go deeper for some queries come on top.
        task.update(done=done, total=search.indexed * max(passes, -(-done // search.indexed)))

    while first < len(queries):
        with connection.transaction():
            keep_transaction_open(connection)
            search.prepare(connection)
            products = MatrixSearch(connection, search, device=resources.device, memory_mb=resources.memory_mb)
            size = products.queries_per_pass()
            passes = -(-len(queries) // size)
            for found in products.find(queries[first : first + size], count):
                search.store_found(connection, found)
        first += size


def _in_parallel(search: Search, queries: Sequence[int], resources: Resources) -> Iterator[int]:
    """Run all queries, a share of the batches on each of several connections; yield numbers of finished ones."""
    size = EXACT_PER_BATCH if search.build is None else QUERIES_PER_BATCH
    batches = [queries[start : start + size] for start in range(0, len(queries), size)]
    workers = max(1, min(resources.workers, len(batches)))
    shares = [batches[start::workers] for start in range(workers)]
    finished: list[int] = []
    stop = threading.Event()

    def work(share: Sequence[Sequence[int]]) -> None:
        left = deque(share)
        with resources.connect() as connection:
            while left and not stop.is_set():
                # The temporary tables live in the transaction, wherever a pooler takes the next one.
                with connection.transaction():
                    began = time.monotonic()
                    search.prepare(connection)
                    preparing = time.monotonic() - began
                    until = time.monotonic() + COMMIT_FACTOR * preparing
                    while left and not stop.is_set():
                        batch = left.popleft()
                        search.store(connection, batch)
                        finished.append(len(batch))
                        if time.monotonic() > until:
                            break

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            pending = {pool.submit(work, share) for share in shares}
            reported = 0
            while pending:
                done, pending = wait(pending, timeout=0.3, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                now = len(finished)
                yield sum(finished[reported:now])
                reported = now
        finally:
            # When one has failed, or the user has had enough, the others end after the batch in hand.
            stop.set()
