"""Search exactly for many queries at once: a blocked matrix product finds what is near, the server decides near ties.

A scan on the server compares one query at a time; here a pass over the vectors, streamed by binary COPY, serves as many
queries as memory allows. Products and the server both sum in single precision, and where their sums could order two images
differently, the server measures those again: the lists are those of its own exact search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.evaluation.measure_pairs import measure_pairs, most_excluded, read_part
from cbirdb.db.evaluation.neighbours import Search
from cbirdb.db.evaluation.selection import ChangedError
from cbirdb.db.evaluation.store_neighbours import ImageFacts, NearestImages, number_label_sets, read_image_facts
from cbirdb.db.read_embeddings import Block
from cbirdb.vectors.exact_knn import exact_neighbours

MARGIN = 16
"""Neighbours kept beyond k."""
DEEPER = 16
"""By so much more are kept for queries that have too many images within rounding of the k-th, such as copies."""
ROUNDING = 5e-6
"""Images whose distances differ by less may turn round when the server measures them. Of 500,000 distances in 512
dimensions products and the server gave up to 7e-7 apart, and two may be so in opposite directions."""
MEMORY_MB = 1024
BYTES_PER_MB = 1_000_000
QUERIES_PER_BATCH = 2048
"""Lists that are put in order and stored at a time, so few that their memory need not be counted."""

Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Lists:
    """Hold the images that products say are near some queries, with all that is needed to rank them."""

    queries: ImageFacts
    images: ImageFacts
    ids: NDArray[np.int64]
    """Shape (queries, wanted)."""
    distances: NDArray[np.float32]


class MatrixSearch:
    """Search exactly within one transaction, in which ``search`` is prepared."""

    def __init__(
        self, connection: psycopg.Connection, search: Search, *, device: str, memory_mb: int = MEMORY_MB
    ) -> None:
        """Ask the server for what does not depend on the queries.

        :param device: auto, cuda, cuda:N or cpu.
        :param memory_mb: what queries and their lists may take together; fewer passes with more.
        """
        self._connection = connection
        self._search = search
        self._device = device
        self._memory = memory_mb * BYTES_PER_MB
        self._excluded = most_excluded(connection, same_patient=search.task.same_patient)
        self._overlaps = number_label_sets(connection)

    def queries_per_pass(self, margin: int | None = None) -> int:
        """Return how many queries one pass over the vectors serves."""
        # Vectors in single precision, their unit vectors, and another copy while these are put in order or rounded; lists are held
        # three times while they are merged.
        per_query = 12 * self._search.task.encoder.dim + 3 * 20 * self._wanted(margin)
        return max(1, self._memory // per_query)

    def find(self, queries: Sequence[int], count: Count, margin: int | None = None) -> Iterator[NearestImages]:
        """Yield the nearest images of all queries, some queries at a time, in no particular order.

        :param queries: image ids.
        :param count: told how many vectors have been compared since the last time.
        :param margin: neighbours kept beyond k; None: the usual.
        """
        unsure: list[int] = []
        size = self.queries_per_pass(margin)
        for start in range(0, len(queries), size):
            lists = self._lists(queries[start : start + size], self._wanted(margin), count)
            for first in range(0, len(lists.ids), QUERIES_PER_BATCH):
                found, left = self._rank(lists, slice(first, first + QUERIES_PER_BATCH))
                unsure += left
                yield found
        if unsure:
            yield from self.find(unsure, count, DEEPER * (MARGIN if margin is None else margin))

    def _wanted(self, margin: int | None) -> int:
        """Return how many images the list of a query holds."""
        return min(self._search.k + self._excluded + (MARGIN if margin is None else margin), self._search.indexed)

    def _lists(self, queries: Sequence[int], wanted: int, count: Count) -> _Lists:
        connection, encoder = self._connection, self._search.task.encoder
        asked = list(read_part(connection, encoder, "query", queries))
        if sum(len(block[0]) for block in asked) != len(queries):
            raise ChangedError
        ids, vectors = (np.concatenate(parts) for parts in zip(*asked, strict=True))
        del asked
        order = np.argsort(ids)
        ids, vectors = ids[order], vectors[order]
        compared = 0

        def counted(blocks: Iterator[Block]) -> Iterator[Block]:
            nonlocal compared
            for block in blocks:
                yield block
                compared += len(block[0])
                count(len(block[0]))

        # Closed whatever happens: a transaction cannot be rolled back while its server sends.
        with closing(read_part(connection, encoder, "candidate")) as blocks:
            nearest = exact_neighbours(
                vectors, counted(blocks), wanted, device=self._device, expected=self._search.indexed
            )
        if compared != self._search.indexed:
            raise ChangedError
        return _Lists(
            read_image_facts(connection, "query", ids),
            read_image_facts(connection, "candidate", np.unique(nearest.ids)),
            nearest.ids,
            nearest.distances,
        )

    def _rank(self, lists: _Lists, which: slice) -> tuple[NearestImages, list[int]]:
        """Return some of the lists as the server would order them, and the queries whose lists do not reach far enough."""
        queries, ids = lists.queries.ids[which], lists.ids[which]
        barred = self._is_excluded(lists, which)
        distances = np.where(barred, np.inf, lists.distances[which].astype(np.float64))
        # What may be found, in order, before what may not.
        order = np.argsort(barred, axis=1, kind="stable")
        ids, distances = np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)
        last = distances[:, : self._search.k][:, -1:] + ROUNDING
        # Beyond the end of a list that does not hold everything there may be more at the distance of its last image.
        sure = (last[:, 0] < lists.distances[which, -1]) | (ids.shape[1] >= self._search.indexed)
        ids, distances, last = ids[sure], distances[sure], last[sure]
        self._order_ties(queries[sure], ids, distances, last)
        k = self._search.k
        ids, distances = ids[:, :k], distances[:, :k]
        there = np.isfinite(distances)
        label_sets = lists.images.label_sets[lists.images.positions(ids)]
        is_relevant = self._overlaps[lists.queries.label_sets[which][sure][:, None], label_sets] & there
        found = NearestImages(
            queries[sure],
            ids,
            distances.astype(np.float32),
            np.cumsum(is_relevant, axis=1, dtype=np.int16),
            there.sum(axis=1),
        )
        return found, queries[~sure].tolist()

    def _is_excluded(self, lists: _Lists, which: slice) -> NDArray[np.bool_]:
        """Mark the query itself and, where that is the protocol, its patient's images."""
        ids = lists.ids[which]
        barred: NDArray[np.bool_] = ids == lists.queries.ids[which, None]
        if not self._search.task.same_patient:
            own = lists.queries.patients[which, None]
            barred |= (lists.images.patients[lists.images.positions(ids)] == own) & (own >= 0)
        return barred

    def _order_ties(
        self,
        queries: NDArray[np.int64],
        ids: NDArray[np.int64],
        distances: NDArray[np.float64],
        last: NDArray[np.float64],
    ) -> None:
        """Measure again what lies within rounding of its neighbour in the list, and order it as the server does: by
        distance, then by id. So are images within rounding of the query, that copies have the distance 0 of copies.
        """
        with np.errstate(invalid="ignore"):  # between images that are infinitely far
            close = np.diff(distances, axis=1, prepend=0) < ROUNDING
        close[:, :-1] |= close[:, 1:]
        rows, columns = np.nonzero(close & (distances <= last) & np.isfinite(distances))
        pairs = queries[rows], ids[rows, columns]
        distances[rows, columns] = measure_pairs(self._connection, self._search.task.encoder, *pairs)
        changed = np.unique(rows)
        order = np.lexsort((ids[changed], distances[changed]), axis=1)
        ids[changed] = np.take_along_axis(ids[changed], order, axis=1)
        distances[changed] = np.take_along_axis(distances[changed], order, axis=1)
