"""Load the paper's published embeddings into embedding tables.

The authors' HDF5 files hold one HDF5 dataset per image, named by the image's ``filepath`` in their CSV files (its
slashes make groups), float32 and already L2-normalised. They are read as a stream, in batches of one COPY each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psycopg
from numpy.typing import NDArray

from cbirdb.db.catalogue import lock_images
from cbirdb.db.copy import add_embeddings
from cbirdb.db.embeddings import StoredEncoder, check_datasets, find_encoder, register_encoder
from cbirdb.db.erasure import erased_sources
from cbirdb.db.errors import translated_errors
from cbirdb.db.failures import has_unresolved, record_failures, resolve_failures
from cbirdb.db.rows import one_row
from cbirdb.errors import InputError
from cbirdb.failure_summary import EXAMPLES, FailureTally
from cbirdb.ingest.hdf5 import Leaf, count_leaves, first_dim, leaves, open_file, read_vectors, reading
from cbirdb.names import printable, problem_of_name
from cbirdb.progress import SILENT, Progress
from cbirdb.records import Failure, Precision
from cbirdb.vectors.normalize import UNIT_NORM_TOLERANCE, l2_normalize, row_norms, unusable_reason

log = logging.getLogger(__name__)

BATCH = 4096


@dataclass(slots=True)
class ImportSummary(FailureTally):
    """Count what happened to the vectors of the files, and the images that are still without one."""

    encoder: str
    added: int = 0
    already_there: int = 0
    """Vectors of images that have one already, which is kept."""
    normalised: int = 0
    """Vectors whose length was not 1: added, after being scaled to it."""
    unknown: int = 0
    """Names in the files that are no image of the database."""
    missing: int = 0
    """Images of the same datasets that have no vector, neither from these files nor from earlier."""
    erased: int = 0
    """Vectors of images whose patient has been erased: left out, and no failure names them."""
    gone: int = 0
    """Vectors of images that were removed while this ran."""
    first_unknown: list[str] = field(default_factory=list)
    first_missing: list[str] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """Return the row that the command line prints."""
        return {
            "encoder": self.encoder,
            "added": self.added,
            "already_there": self.already_there,
            "normalised": self.normalised,
            "unknown": self.unknown,
            "missing": self.missing,
            "failed": self.failed,
        }


def import_embeddings(
    connection: psycopg.Connection,
    encoder: str,
    files: Sequence[Path],
    *,
    spec: dict[str, Any] | None = None,
    datasets: Sequence[str] = (),
    precision: Precision | None = None,
    progress: Progress = SILENT,
) -> ImportSummary:
    """Load published vectors for images that are in the catalogue. Idempotent.

    :param encoder: its name; a new one is registered with the first vector's dimension.
    :param spec: what is known about the encoder, for a new one.
    :param datasets: look for the names in these datasets only; empty: in all.
    :raises InputError: when a file is not HDF5 or holds no vector, or the dimension is not the encoder's.
    """
    for path in files:
        open_file(path).close()
    # One file at a time: HDF5 keeps some hundred megabytes for each that is open.
    with translated_errors():
        check_datasets(connection, datasets)
        with reading():
            dim = first_dim(files)
            total = sum(map(count_leaves, files))
        if spec is not None and spec["dim"] not in (dim, None) and find_encoder(connection, encoder) is None:
            raise InputError(
                f"The vectors have {dim} dimensions, the encoder '{encoder}' makes {spec['dim']}.",
                hint="Check that the files belong to this encoder, or use another name.",
            )
        _check_names(connection, files, datasets)
        stored = register_encoder(
            connection, encoder, dim=dim, precision=precision,
            spec=spec or {"name": encoder, "family": "imported", "dim": dim}, provenance={"source": "imported"},
        )  # fmt: skip
        run = _Import(connection, stored, datasets)
        with progress.task(f"importing {encoder}", total=total, unit="vectors") as task:
            for path in files:
                run.file(path, task.advance)
        run.count_missing()
    return run.summary


def _check_names(connection: psycopg.Connection, files: Sequence[Path], datasets: Sequence[str]) -> None:
    """Refuse files with a name that images of several datasets have.

    :raises InputError: when there is one.
    """
    twice = connection.execute("SELECT cbir_internal.repeated_sources(%s)", [list(datasets) or None]).fetchall()
    for path in files if twice else ():
        with reading(), open_file(path) as file:
            if any(isinstance(file.get(name), h5py.Dataset) for (name,) in twice):
                raise InputError(
                    "Several datasets have images of the same name.", hint="Say which one is meant with --dataset."
                )


def _next(stream: Iterator[Leaf]) -> list[Leaf]:
    with reading():
        return list(islice(stream, BATCH))


class _Import:
    """Match names to images, check vectors, and load them."""

    def __init__(self, connection: psycopg.Connection, stored: StoredEncoder, datasets: Sequence[str]) -> None:
        self.summary = ImportSummary(stored.name)
        self._connection = connection
        self._stored = stored
        ids = connection.execute(
            "SELECT dataset_id, dataset FROM cbir.dataset_overview WHERE %s::text[] IS NULL OR dataset = ANY(%s)",
            [list(datasets) or None, list(datasets)],
        ).fetchall()
        self._dataset_ids = [dataset_id for dataset_id, _ in ids]
        self._datasets = [name for _, name in ids]
        self._touched: dict[str, int] = {}
        self._may_resolve = has_unresolved(connection, "import-embeddings", stored.name)

    def file(self, path: Path, advance: Callable[[int], None]) -> None:
        """Load one file.

        :param advance: is told the number of vectors of each batch that is in the database.
        """
        with open_file(path) as file:
            stream = leaves(file)
            while batch := _next(stream):
                self._batch(file, batch)
                advance(len(batch))

    def _batch(self, file: h5py.File, batch: Sequence[Leaf]) -> None:
        """Load one batch in one transaction. What is there already is not read again."""
        names = [leaf.name for leaf in batch if problem_of_name(leaf.name) is None]
        images = self._images(names)
        erased = self._erased([name for name in names if name not in images])
        self.summary.erased += len(erased)
        failures: list[Failure] = []
        known: list[Leaf] = []
        for leaf in batch:
            if leaf.name in erased:
                continue
            if leaf.name in images:
                known.append(leaf)
                continue
            self.summary.unknown += 1
            if len(self.summary.first_unknown) < EXAMPLES:
                self.summary.first_unknown.append(printable(leaf.name))
            failures.append(Failure(printable(leaf.name), "unknown image", "no image of the database has this name"))
        there = self._already_there([images[leaf.name][0] for leaf in known])
        new = [leaf for leaf in known if images[leaf.name][0] not in there]
        vectors, problems = read_vectors(file, new, self._stored.dim)
        failures += [
            Failure(new[position].name, "wrong vector", problem, images[new[position].name][1])
            for position, problem in problems.items()
        ]
        self.summary.already_there += len(there)
        readable = [position for position in range(len(new)) if position not in problems]
        self._load([new[position].name for position in readable], vectors[readable], images, failures, batch)

    def _images(self, names: Sequence[str]) -> dict[str, tuple[int, str, int]]:
        """Return image id, dataset and dataset id by name.

        :raises InputError: when two datasets have an image of the same name.
        """
        found = self._connection.execute(
            "SELECT source, image_id, dataset, dataset_id FROM cbir_internal.images_by_source(%s::bigint[], %s)",
            [self._dataset_ids, list(names)],
        ).fetchall()
        images = {source: (image_id, dataset, dataset_id) for source, image_id, dataset, dataset_id in found}
        if len(images) < len(found):
            raise InputError(
                "Several datasets have images of the same name.", hint="Say which one is meant with --dataset."
            )
        self._touched.update({dataset: dataset_id for _, dataset, dataset_id in images.values()})
        return images

    def _erased(self, names: Sequence[str]) -> set[str]:
        """Return the names of no image that were those of erased patients' images in one of the datasets."""
        unknown = [None] * len(names)
        return {
            name for dataset in self._datasets for name in erased_sources(self._connection, dataset, names, unknown)
        }

    def _load(
        self,
        names: Sequence[str],
        vectors: NDArray[np.float32],
        images: Mapping[str, tuple[int, str, int]],
        failures: list[Failure],
        batch: Sequence[Leaf],
    ) -> None:
        # What is unit length already is stored to the bit as it was published.
        odd = np.flatnonzero(~(np.abs(row_norms(vectors) - 1) <= UNIT_NORM_TOLERANCE))
        scaled, has_direction = l2_normalize(vectors[odd])
        without = odd[~has_direction]
        failures += [
            Failure(names[row], "no direction", f"the vector is {unusable_reason(vectors[row])}", images[names[row]][1])
            for row in without.tolist()
        ]
        vectors[odd] = scaled
        usable = np.ones(len(vectors), dtype=bool)
        usable[without] = False
        ids = np.array([images[name][0] for name in names], dtype=np.int64)
        with self._connection.transaction():
            gone = self._gone([images[name] for name in {*names, *(f.source for f in failures)} if name in images])
            failures = [f for f in failures if f.source not in images or images[f.source][0] not in gone]
            usable &= ~np.isin(ids, list(gone))
            ids = ids[usable]
            added = add_embeddings(self._connection, self._stored, ids, vectors[usable])
            record_failures(
                self._connection, "import-embeddings", failures,
                dataset_ids=self._touched, encoder_id=self._stored.encoder_id,
            )  # fmt: skip
            if self._may_resolve:
                there = {leaf.name for leaf in batch if leaf.name in images and images[leaf.name][0] not in gone}
                self._resolve(there - {f.source for f in failures}, images)
        self.summary.count_failures([failure for failure in failures if failure.dataset is not None])
        self.summary.gone += len(gone)
        self.summary.added += added
        self.summary.already_there += len(ids) - added  # another process was faster
        self.summary.normalised += int((has_direction & usable[odd]).sum())

    def _gone(self, images: Collection[tuple[int, str, int]]) -> set[int]:
        """Return ids of those that others have erased or dropped since they were looked up; the rest stay while this is
        written.
        """
        ids = [image_id for image_id, _, _ in images]
        return set(ids) - lock_images(self._connection, {dataset_id for *_, dataset_id in images}, ids)

    def _resolve(self, good: Collection[str], images: Mapping[str, tuple[int, str, int]]) -> None:
        """Resolve what failed in an earlier import: as an image's vector, or as a name that was unknown then."""
        for dataset_id in {None, *(images[name][2] for name in good)}:
            resolve_failures(
                self._connection, "import-embeddings", dataset_id,
                [name for name in good if dataset_id in (None, images[name][2])], encoder_id=self._stored.encoder_id,
            )  # fmt: skip

    def _already_there(self, image_ids: Sequence[int]) -> set[int]:
        """Return images that have a vector, so that a repeated import goes past them quickly."""
        found = self._connection.execute(
            "SELECT cbir_internal.encoded_images(%s, %s::bigint[])", [self._stored.name, list(image_ids)]
        )
        return {row[0] for row in found}

    def count_missing(self) -> None:
        """Count images without a vector in the datasets that the files speak of."""
        unencoded = self._connection.execute(
            "SELECT images, examples FROM cbir_internal.unencoded_images(%s, %s::bigint[])",
            [self._stored.name, list(self._touched.values())],
        )
        self.summary.missing, self.summary.first_missing = one_row(unencoded)
