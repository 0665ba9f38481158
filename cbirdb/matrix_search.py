"""Exact search for many queries at once: a blocked matrix product finds candidates, SQL measures and stores them.

A scan on the server compares one query at a time; here a pass over the vectors, streamed by binary COPY, serves as many
queries as memory allows. Products in single precision may turn round what lies within rounding: so somewhat more than k
are kept, and the server measures those again and orders them as its own exact search does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.listed_neighbours import most_barred, read_part
from cbirdb.db.neighbours import Search
from cbirdb.db.read_embeddings import Block
from cbirdb.exact_neighbours import Neighbours, exact_neighbours
from cbirdb.progress import Progress, Task

MARGIN = 16
"""Neighbours kept beyond k."""
ROUNDING = 1e-5
"""Images whose distances differ by less may turn round when the server measures them; sums of 500 products in single
precision differ by 3e-7."""
MEMORY_MB = 1024
BYTES_PER_MB = 1_000_000
Lists = dict[int, NDArray[np.int64]]
"""For each query the ids of its nearest images, by single-precision products."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Some of the queries, whose nearest images one pass over the vectors finds."""

    queries: Sequence[int]
    longest: int
    """Images in the list of a query, at most."""
    search: Callable[[], Lists]


def matrix_search(
    connection: psycopg.Connection,
    search: Search,
    queries: Sequence[int],
    *,
    device: str,
    memory_mb: int = MEMORY_MB,
    progress: Progress,
) -> Iterator[Pass]:
    """The passes that find the nearest images of all queries; each is made when its ``search`` is called.

    :param connection: in a transaction in which ``search`` is prepared.
    :param queries: image ids.
    :param device: auto, cuda, cuda:N or cpu.
    :param memory_mb: what queries and their lists may take together; fewer passes with more.
    """
    barred = most_barred(connection, same_patient=search.task.same_patient)
    wanted = search.k + MARGIN + barred
    # Vectors in single precision and their unit vectors; lists are held three times while they are merged.
    per_query = 8 * search.task.encoder.dim + 3 * 20 * wanted
    size = max(1, memory_mb * BYTES_PER_MB // per_query)
    starts = [*range(0, len(queries), size), len(queries)]
    total = search.indexed * (len(starts) - 1)
    with progress.task(f"comparing for {search.task.encoder.name}", total=total, unit="vectors") as task:
        for start, end in pairwise(starts):
            asked = queries[start:end]
            yield Pass(asked, wanted, partial(_search, connection, search, asked, barred, device, task))


def _search(
    connection: psycopg.Connection, search: Search, queries: Sequence[int], barred: int, device: str, task: Task
) -> Lists:
    encoder = search.task.encoder
    asked = list(read_part(connection, encoder, "query", queries))
    ids, vectors = (np.concatenate(parts) for parts in zip(*asked, strict=True))

    def counted(blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            yield block
            task.advance(len(block[0]))

    # Closed whatever happens: its thread must not read on while the transaction is rolled back.
    with closing(_one_ahead(read_part(connection, encoder, "candidate"))) as blocks:
        nearest = exact_neighbours(vectors, counted(blocks), search.k + MARGIN + barred, device=device)
    return dict(zip(ids.tolist(), _to_measure(nearest, search.k + barred), strict=True))


def _to_measure(nearest: Neighbours, needed: int) -> list[NDArray[np.int64]]:
    """Of each list the images that may be among the ``needed`` nearest when they are measured again."""
    last = nearest.distances[:, :needed][:, -1:]
    counts = (nearest.distances <= last + ROUNDING).sum(axis=1)
    return [images[:count] for images, count in zip(nearest.ids, counts.tolist(), strict=True)]


def _one_ahead(blocks: Iterator[Block]) -> Generator[Block]:
    """The same blocks; while one is worked on, the next is received."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
