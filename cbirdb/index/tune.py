"""Tune how to search through an index that is built: as narrow as recall allows, for ten and for a hundred each.

The sample that a method was chosen on is smaller than the table, which may need a wider search, or a narrower one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import StoredEncoder
from cbirdb.db.errors import translated_errors
from cbirdb.db.index_builds import IndexBuild, refuse_rival
from cbirdb.db.schema_name import SCHEMA
from cbirdb.index.audit import Floor, Measured, Truth, find_truth, measure, walk_search
from cbirdb.index.choose import Aim
from cbirdb.index.methods import IndexMethod
from cbirdb.index.search_width import Verdict, narrowest_search, next_wider
from cbirdb.progress import SILENT, Progress

QUERIES = 1000
FIRST_QUERIES = 300
"""With so many of them widths are sought; all of them confirm what was found."""


def tune_search(
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

    Begin where the sample left off. If no width meets the aim with the first queries, record the narrowest with
    sufficient mean recall, else the widest; if only all queries together miss it, the widest. The queries are others than
    those of an audit with the same seed, so that the audit does not measure what it was fitted to.

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

        settings = _tuned(method, look, floor).search_settings
    # Not in that transaction: who drops the index meanwhile has this row, and waits for the table that it has read.
    with translated_errors():
        connection.execute(
            "UPDATE cbir.index_build SET search_settings = %s WHERE index_build_id = %s AND dropped_at IS NULL",
            [Jsonb(settings), build.index_build_id],
        )
    return replace(build, search_settings=settings)


def _tuned(method: IndexMethod, look: Callable[[IndexMethod, int], Measured], floor: Floor) -> IndexMethod:
    aim, unseen = Aim.above(floor), floor.for_unseen()

    def judge(tried: IndexMethod) -> tuple[Verdict, Verdict]:
        measured = look(tried, FIRST_QUERIES)
        found, allowed = measured.recall_at_10, unseen.share_without_hit * measured.sample
        tolerable = found.mean >= unseen.recall and found.queries_without_hit <= allowed
        return Verdict(aim.met_at_10(measured), tolerable), Verdict(aim.met_at_100(measured))

    narrowest = narrowest_search(method, judge)
    method = narrowest.method
    while narrowest.passed:
        # What passes with some of the queries may fail with all of them, narrowly.
        measured = look(method, QUERIES)
        wider = next_wider(method, ten_passed=aim.met_at_10(measured), hundred_passed=aim.met_at_100(measured))
        if wider is None:
            break
        method = wider
    return method


def _first(truth: Truth, queries: int) -> Truth:
    return Truth(truth.ids[:queries], truth.vectors[:queries], truth.nearest[:queries], truth.distances[:queries])
