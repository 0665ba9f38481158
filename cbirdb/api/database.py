"""Connect to a database of images, and call cbirdb's verbs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbirdb.api.rows import PrecisionRow, Record, Rows
from cbirdb.api.searching import Searching
from cbirdb.config import Settings
from cbirdb.errors import InputError, UnknownNameError
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    import numpy as np
    import psycopg
    from numpy.typing import NDArray

    from cbirdb.encoders.base import Encoder, LoadOptions
    from cbirdb.evaluate import EvaluationOptions, EvaluationSummary


def connect(dsn: str | None = None, *, home: str | os.PathLike[str] | None = None) -> Database:
    """Connect to a database of images; start the embedded server and make its schema where no server is named.

    :param dsn: connection string; None: ``CBIRDB_DSN``, else libpq's variables, else the embedded server.
    :param home: folder of the embedded server, of fetched weights and of the pseudonyms' key; None: ``CBIRDB_HOME``, else
        the user's data folder.
    :raises DatabaseError: when there is no server, or it refuses.
    :raises SchemaError: only when a method needs the schema: on somebody's server, :meth:`Database.upgrade` makes it.
    """
    dsn = os.environ.get("CBIRDB_DSN") or None if dsn is None else dsn
    home = os.environ.get("CBIRDB_HOME") or None if home is None else home
    database = Database(Settings(dsn=dsn, home=Path(home) if home is not None else None))
    database.open()
    return database


class Database(Searching):
    """Call cbirdb's verbs on one database. A context manager, which closes it.

    A Database is for one thread: a second call that begins before the first has ended raises InputError. Other threads
    connect for themselves. Every method may be interrupted (Ctrl-C); what was committed is kept, and the same call goes on
    from there. Methods that take long tell a ``progress`` how far they are.
    """

    def __init__(
        self, settings: Settings, *, when_opened: Callable[[psycopg.Connection], None] = lambda _connection: None
    ) -> None:
        super().__init__(settings, when_opened=when_opened)
        self._encoders: dict[tuple[str, LoadOptions], Encoder] = {}

    def upgrade(self, *, progress: Progress = SILENT) -> None:
        """Create or update schema ``cbir``. Safe to repeat; what else stands in the database is left alone."""
        from cbirdb.db.lock_waits import LockWaits
        from cbirdb.db.schema.migrate import upgrade, upgrade_own

        with self._one_at_a_time():
            connection = self._connect()
            (upgrade_own if self.settings.embedded else upgrade)(connection, LockWaits(connection, progress.note))
            self._has_schema = False  # looked at again at the next call

    def evaluate(
        self, encoder: str, options: EvaluationOptions | None = None, *, progress: Progress = SILENT, **values: Any
    ) -> EvaluationSummary:
        """Retrieve for every query of a split, by the paper's protocol or another, and store what was found.

        :param values: the fields of :class:`EvaluationOptions`, such as ``k`` or ``mode``, in place of ``options``.
        :raises InputError: when there is nothing to evaluate, or no index for an approximate search.
        """
        from cbirdb.db.known_encoders import stored_encoder
        from cbirdb.evaluate import EvaluationOptions, evaluate

        if options is not None and values:
            raise TypeError("evaluate takes options or their values, not both")
        options = options or EvaluationOptions(**values)
        with self._in_use() as connection:
            stored = stored_encoder(connection, encoder)
            return evaluate(connection, stored, options, connect=self._further_connection, progress=progress)

    def metrics(
        self,
        encoder: str | None = None,
        *,
        by: str = "run",
        cutoffs: Sequence[int] = (1, 3, 5, 10),
        run: int | None = None,
        confidence: bool = False,
        resamples: int = 2000,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> Rows[PrecisionRow]:
        """Return precision at N of finished evaluations.

        :param encoder: name; None: all.
        :param by: ``run``, or what queries are grouped by: ``class``, ``dataset``, ``modality``, ``anatomic-region``.
        :param cutoffs: the N.
        :param run: its id; None: each encoder's latest.
        :param confidence: add 95 % intervals, bootstrapped by patient with so many ``resamples``, drawn by ``seed``.
        :raises InputError: when there is no such run, or a cutoff lies beyond its k.
        """
        from cbirdb.metrics import metrics
        from cbirdb.metrics.precision import GROUPS

        if by not in GROUPS:
            raise UnknownNameError("grouping", by, list(GROUPS))
        with self._in_use() as connection:
            found = metrics(connection, by=by, cutoffs=cutoffs, encoder=encoder, run=run)
            if confidence:
                from cbirdb.metrics.confidence import add_intervals

                found = add_intervals(connection, found, by=by, resamples=resamples, seed=seed, progress=progress)
        group = None if by == "run" else by.replace("-", "_")
        return Rows.of(PrecisionRow, ({"group": group and row[group]} | row for row in found))

    def analyse(
        self, by: str, *, encoder: str | None = None, cutoffs: Sequence[int] = (1, 3, 5, 10), run: int | None = None
    ) -> Rows[Record]:
        """Return what the neighbours of finished evaluations say beyond precision.

        :param by: ``index-size``: precision with random parts of the index; ``anatomy``: how often neighbours share the
            anatomy and the finding.
        """
        from cbirdb.metrics.analyses import ANALYSES, analyse

        if by not in ANALYSES:
            raise UnknownNameError("analysis", by, list(ANALYSES))
        with self._in_use() as connection:
            found = analyse(connection, by, cutoffs=cutoffs, encoder=encoder, run=run)
        return Rows((Record(row) for row in found), found[0] if found else ())

    def embeddings(self, encoder: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Iterate over all stored embeddings of an encoder, in batches of bounded size and in no particular order.

        They are those of one moment, whoever adds to them meanwhile. The iterator has a connection of its own, so the
        Database may be used while it runs.

        :returns: image ids, shape (n,), and their vectors of length 1, shape (n, dim).
        """
        from cbirdb.db.known_encoders import stored_encoder
        from cbirdb.db.read_embeddings import iterate_embeddings

        with self._in_use() as connection:
            stored = stored_encoder(connection, encoder)
        return iterate_embeddings(self._further_connection, stored)

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows[Record]:
        """Run one SQL statement and return its rows; none where it returns none.

        :param query: with a placeholder for each value: ``%s`` or ``%(name)s``.
        :raises InputError: when two columns have the same name.
        :raises DatabaseError: when the server refuses it.
        """
        with self._in_use() as connection:
            cursor = connection.execute(query.encode(), params)
            if cursor.description is None:
                return Rows((), ())
            names = [column.name for column in cursor.description]
            if len(set(names)) < len(names):
                raise InputError("Two columns of this query have the same name.", hint="Name them apart with AS.")
            return Rows((Record(dict(zip(names, row, strict=True))) for row in cursor), names)
