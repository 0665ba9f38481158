"""Mark failures of earlier runs that this run has shown to be over."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import psycopg

from cbirdb.datasets.base import Source
from cbirdb.db.failures import resolve_failures, resolve_gone, resolve_gone_lists
from cbirdb.ingest.summary import IngestSummary
from cbirdb.names import printable


def resolve(
    connection: psycopg.Connection,
    source: Source,
    summary: IngestSummary,
    unread_lists: Collection[str],
    began: datetime,
) -> None:
    """Mark failures of lists that were read now, and of files, rows and lists that are gone, after a whole run.

    :param unread_lists: those that could not be read; who knows what they name?
    :param began: when the run did: what failed since then is not gone.
    """
    mended = [name for name in source.lists if name not in unread_lists]
    if mended:
        resolve_failures(connection, "ingest", None, mended)
    if source.list_folder is not None:
        resolve_gone_lists(connection, printable(str(source.list_folder)), began)
    whole = bool(source.datasets) or source.list_folder is not None
    if whole and not unread_lists:
        resolve_gone(connection, summary.datasets.values(), began)
