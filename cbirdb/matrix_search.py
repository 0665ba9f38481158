"""Exact search for many queries at once: a blocked matrix product finds candidates, SQL measures and stores them.

A scan on the server compares one query at a time; here a pass over the vectors, streamed by binary COPY, serves as many
queries as memory allows. Products in single precision may turn round what lies within rounding: so somewhat more than k
are kept, and the server measures those again and orders them as its own exact search does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.listed_neighbours import most_barred, read_part
from cbirdb.db.neighbours import Search
from cbirdb.db.read_embeddings import Block
from cbirdb.exact_neighbours import exact_neighbours
from cbirdb.progress import Progress

MARGIN = 16
"""Neighbours kept beyond k."""
MEMORY_MB = 1024
BYTES_PER_MB = 1_000_000
Lists = dict[int, NDArray[np.int64]]
"""For each query the ids of its nearest images, by single-precision products."""


def matrix_search(
    connection: psycopg.Connection,
    search: Search,
    queries: Sequence[int],
    *,
    device: str,
    memory_mb: int = MEMORY_MB,
    progress: Progress,
) -> Iterator[Lists]:
    """The nearest images of all queries, those of one pass at a time.

    :param connection: in a transaction in which ``search`` is prepared.
    :param queries: image ids.
    :param device: auto, cuda, cuda:N or cpu.
    :param memory_mb: what queries and their lists may take together; fewer passes with more.
    """
    encoder = search.task.encoder
    wanted = search.k + MARGIN + most_barred(connection, same_patient=search.task.same_patient)
    # Vectors in single precision and their unit vectors; lists are held three times while they are merged.
    per_query = 8 * encoder.dim + 3 * 20 * wanted
    size = max(1, memory_mb * BYTES_PER_MB // per_query)
    starts = [*range(0, len(queries), size), len(queries)]
    passes = len(starts) - 1
    with progress.task(f"comparing for {encoder.name}", total=search.indexed * passes, unit="vectors") as task:
        for start, end in pairwise(starts):
            asked = list(read_part(connection, encoder, "query", queries[start:end]))
            ids, vectors = (np.concatenate(parts) for parts in zip(*asked, strict=True))

            def blocks() -> Iterator[Block]:
                for block in _one_ahead(read_part(connection, encoder, "candidate")):
                    yield block
                    task.advance(len(block[0]))

            nearest = exact_neighbours(vectors, blocks(), wanted, device=device)
            yield dict(zip(ids.tolist(), nearest.ids, strict=True))


def _one_ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same blocks; while one is worked on, the next is received."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
