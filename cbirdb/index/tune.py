"""Settles how to search through an index that is built: as narrow as recall allows, for ten and for a hundred each.

The sample that a method was chosen on is smaller than the table, which may need a wider search, or a narrower one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.errors import translated_errors
from cbirdb.db.index_builds import IndexBuild, refuse_rival
from cbirdb.db.schema_name import SCHEMA
from cbirdb.index.audit import Floor, Measured, Recall, Truth, find_truth, measure, walk_search
from cbirdb.index.choose import Aim, wider_where_short
from cbirdb.index.methods import IndexMethod
from cbirdb.progress import SILENT, Progress

QUERIES = 1000
FIRST_QUERIES = 300
"""With so many of them widths are sought; all of them confirm what was found."""


def settle_search(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    build: IndexBuild,
    method: IndexMethod,
    *,
    seed: int = 0,
    floor: Floor | None = None,
    progress: Progress = SILENT,
) -> IndexBuild:
    """Find the narrowest searches of the whole table that meet the aim above the floor, and record them.

    It begins where the sample left off. Where no width meets the aim with the first queries, the narrowest whose mean
    recall does is recorded, or the widest; where only all queries together miss it, the widest. The queries are others
    than those of an audit with the same seed, so that the audit does not measure what it was fitted to.

    :param method: what was built, with the widths to begin with.
    :raises NoIndexError: when searches might take another index.
    """
    floor = floor or Floor()
    table = sql.Identifier(SCHEMA, encoder.table)
    with (
        translated_errors(),
        progress.task(f"settling how to search {encoder.name}", total=None, unit="settings") as task,
        connection.transaction(),
    ):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        refuse_rival(connection, build)
        truth = find_truth(connection, table, encoder, sample=QUERIES, seed=(seed + 1) % 2**63)

        def look(tried: IndexMethod, queries: int) -> Measured:
            task.advance(1)
            return measure(walk_search(connection, table, encoder, tried, build.rows_indexed), _first(truth, queries))

        settings = _settled(method, look, floor).search_settings
    # Not in that transaction: who drops the index meanwhile has this row, and waits for the table that it has read.
    with translated_errors():
        connection.execute(
            "UPDATE cbir.index_build SET search_settings = %s WHERE index_build_id = %s AND dropped_at IS NULL",
            [Jsonb(settings), build.index_build_id],
        )
    return replace(build, search_settings=settings)


class _Dial:
    """How wide to search at one depth, turned until it stands at the narrowest width that passes."""

    def __init__(self, steps: Sequence[int], width: int) -> None:
        self._steps = steps
        self._at = steps.index(width)
        self._passed: int | None = None
        self._enough: int | None = None
        self._widening = False
        self.settled = False

    @property
    def width(self) -> int:
        return self._steps[self._at]

    @property
    def passed(self) -> bool:
        """Whether it stands where it passed."""
        return self._at == self._passed

    def turn(self, passed: bool, enough: bool) -> None:
        """To the next width to look at, or to where it stays.

        :param passed: whether the width at which it stands meets the aim.
        :param enough: whether at least its mean does.
        """
        if self.settled:
            return
        if enough and (self._enough is None or self._at < self._enough):
            self._enough = self._at
        if passed:
            self._passed = self._at
            self.settled = self._widening or self._at == 0
            if not self.settled:
                self._at -= 1
        elif self._passed is not None:
            self._at, self.settled = self._passed, True
        elif self._at + 1 < len(self._steps):
            self._at, self._widening = self._at + 1, True
        else:
            self._at, self.settled = self._at if self._enough is None else self._enough, True


def _settled(method: IndexMethod, look: Callable[[IndexMethod, int], Measured], floor: Floor) -> IndexMethod:
    aim, unseen = Aim.above(floor), floor.for_unseen()
    near, far = (_Dial(steps, width) for steps, width in zip(method.steps(), method.widths, strict=True))

    def enough(recall: Recall, zeros: float) -> bool:
        return recall.mean >= unseen.recall and recall.zeros <= zeros

    while not (near.settled and far.settled):
        tried = method.with_widths(near.width, far.width)
        measured = look(tried, FIRST_QUERIES)
        # A method may hold one width to the other; what passes with a wider search than asked for says nothing.
        own = tried.widths[0] == near.width, tried.widths[1] == far.width
        near_enough = enough(measured.near, unseen.zeros * measured.sample)
        near.turn(own[0] and aim.near_met_by(measured), own[0] and near_enough)
        far.turn(own[1] and aim.far_met_by(measured), own[1] and aim.far_met_by(measured))
    method = method.with_widths(near.width, far.width)
    while near.passed and far.passed:
        # What passes with some of the queries may fail with all of them, narrowly.
        wider = wider_where_short(method, aim, look(method, QUERIES))
        if wider is None:
            break
        method = wider
    return method


def _first(truth: Truth, queries: int) -> Truth:
    return Truth(truth.ids[:queries], truth.vectors[:queries], truth.nearest[:queries], truth.distances[:queries])
