"""Bring a dataset's files into the catalogue: classify its items, write them batch by batch, resolve old failures.

Every batch is one transaction, so a run that is killed loses at most the batch in flight; run again, it goes on
where it was, because what is there already and has not changed is neither read nor written again.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import psycopg

from cbirdb.allowed_roots import remember
from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.registry import open_dataset
from cbirdb.db import catalogue
from cbirdb.db.connection import server_time
from cbirdb.db.errors import translated_errors
from cbirdb.ingest.classify import Classifier
from cbirdb.ingest.inspect_files import look_pool, looks
from cbirdb.ingest.paths import NotedPaths, check_root, stored_root
from cbirdb.ingest.patients import MakePseudonyms, Patients
from cbirdb.ingest.resolve import resolve
from cbirdb.ingest.split_shares import SplitShares
from cbirdb.ingest.stored import DatasetIds, StoredImages
from cbirdb.ingest.summary import IngestSummary
from cbirdb.ingest.write import BatchWriter
from cbirdb.limits import MAX_PIXELS
from cbirdb.progress import SILENT, Progress

BATCH_WITH_FILES = 256
BATCH_WITHOUT_FILES = 5000


def ingest(
    connection: psycopg.Connection,
    reader_name: str,
    path: Path,
    *,
    options: ReadOptions | None = None,
    shares: SplitShares | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    accept_damaged: bool = False,
    recheck: bool = False,
    moved: bool = False,
    dry_run: bool = False,
    pseudonyms: MakePseudonyms | None = None,
    home: Path | None = None,
    path_map: Path | None = None,
    progress: Progress = SILENT,
) -> IngestSummary:
    """Bring a dataset into the catalogue. Idempotent.

    :param reader_name: name in ``datasets.registry.READERS``.
    :param limit: look at no more than this many items.
    :param max_pixels: an image with more is a failure.
    :param accept_damaged: take images of which a decoder reports damage, and record what it reports.
    :param recheck: read and decode files again that have not changed.
    :param moved: the dataset's folder lies elsewhere than at the last time.
    :param dry_run: read everything, write nothing that lasts.
    :param pseudonyms: gives those of patients; asked only for datasets that tell patients apart.
    :param home: where this machine remembers that the dataset's folder may be read; None: nowhere.
    :param path_map: file that says where the files of opaque names lie, for readers that give them.
    :raises InputError: when the path does not hold such a dataset.
    """
    summary, options = IngestSummary(), options or ReadOptions()
    classifier = Classifier(summary)
    patients = Patients(connection, pseudonyms)
    # A dry run does everything and takes it back, so that what it says is what would happen.
    whole = connection.transaction(force_rollback=True) if dry_run else nullcontext()
    with translated_errors(), whole:
        began = server_time(connection)
        source = _open(connection, reader_name, path, options, patients, path_map)
        datasets = DatasetIds(connection, summary, reader=reader_name, root=stored_root(source), moved=moved)
        datasets.open(source.datasets)
        if not dry_run:
            _remember(home, source, progress)
        size = BATCH_WITH_FILES if source.root is not None else BATCH_WITHOUT_FILES
        with (
            NotedPaths(source, None if dry_run else path_map) as paths,
            look_pool(max_pixels, accept_damaged=accept_damaged) as pool,
            progress.task("ingesting", total=min(source.total, limit or source.total), unit="images") as task,
        ):
            stored = StoredImages(connection, names_tell_images=source.names_tell_images)
            writer = BatchWriter(connection, datasets, stored, patients, shares or SplitShares(), paths, summary)
            inspect = partial(looks, pool=pool, root=source.root, allowed=options.allowed, recheck=recheck)
            items = islice(source.items, limit)
            while batch := list(islice(items, size)):
                writer.write(classifier.classify(batch), inspect)
                task.advance(len(batch))
        if limit is None:
            resolve(connection, source, summary, classifier.unread_lists, began)
    return summary


def _open(
    connection: psycopg.Connection,
    reader_name: str,
    path: Path,
    options: ReadOptions,
    patients: Patients,
    path_map: Path | None,
) -> Source:
    """Open the dataset, with what the database adds to the user's options; refuse a folder of a hidden dataset."""
    options = replace(options, pseudonyms=patients.checked_pseudonyms, body_parts=catalogue.body_parts(connection))
    source = open_dataset(reader_name, path, options)
    if source.tells_patients:
        patients.checked_pseudonyms()
    check_root(connection, source, path_map)
    return source


def _remember(home: Path | None, source: Source, progress: Progress) -> None:
    """Remember on this machine that the dataset's folder may be read."""
    if home is None or source.root is None:
        return
    try:
        remember(home, source.root, stored_root(source))
    except OSError as error:
        progress.note(
            f"This machine cannot remember that the folder may be read ({error.strerror}), so later commands need"
            " --allow-root or CBIRDB_ALLOW_ROOT."
        )
