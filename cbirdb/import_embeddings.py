"""The paper's published embeddings -> embedding tables.

The authors' HDF5 files hold one HDF5 dataset per image, named by the image's ``filepath`` in their CSV files (its
slashes make groups), float32 and already L2-normalised. They are read as a stream, in batches of one COPY each.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cbirdb.db.connection import translated_errors
from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import StoredEncoder, check_datasets, find_encoder, register_encoder
from cbirdb.db.erasure import erased_sources
from cbirdb.db.failures import record_failures, resolve_failures
from cbirdb.errors import InputError
from cbirdb.progress import SILENT, Progress
from cbirdb.records import Failure, Precision
from cbirdb.tally import FailureTally
from cbirdb.vectors import UNIT_NORM_TOLERANCE, l2_normalize, why_unusable

log = logging.getLogger(__name__)

BATCH = 4096


@dataclass(slots=True)
class ImportSummary(FailureTally):
    """What happened to the vectors of the files, and which images are still without one."""

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
    first_unknown: list[str] = field(default_factory=list)
    first_missing: list[str] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """The row that the command line prints."""
        return {
            "encoder": self.encoder,
            "added": self.added,
            "already_there": self.already_there,
            "normalised": self.normalised,
            "unknown": self.unknown,
            "missing": self.missing,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True)
class _Vector:
    name: str
    value: NDArray[np.floating] | None
    problem: str | None = None


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
    opened = [_open(path) for path in files]
    try:
        with translated_errors():
            check_datasets(connection, datasets)
            dim = _first_dim(opened)
            if spec is not None and spec["dim"] not in (dim, None) and find_encoder(connection, encoder) is None:
                raise InputError(
                    f"The vectors have {dim} dimensions, the encoder '{encoder}' makes {spec['dim']}.",
                    hint="Check that the files belong to this encoder, or use another name.",
                )
            _check_names(connection, opened, datasets)
            stored = register_encoder(
                connection, encoder, dim=dim, precision=precision,
                spec=spec or {"name": encoder, "family": "imported", "dim": dim}, provenance={"source": "imported"},
            )  # fmt: skip
            run = _Import(connection, stored, datasets)
            total = sum(_count(file) for file in opened)
            with progress.task(f"importing {encoder}", total=total, unit="vectors") as task:
                for file in opened:
                    for batch in _batches(_vectors(file, stored.dim)):
                        run.batch(batch)
                        task.advance(len(batch))
            run.count_missing()
    except BROKEN_HDF5 as error:
        raise InputError(
            f"A file is damaged inside: {error}.", hint="Fetch it again; what was loaded is kept."
        ) from error
    finally:
        for file in opened:
            file.close()
    return run.summary


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.", hint="Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file.", hint="Give the authors' .h5 files.") from error


def _first_dim(files: Sequence[h5py.File]) -> int:
    nodes = (node for file in files for _, node in _nodes(file) if node is not None and node.size > 0)
    sizes = Counter(int(node.size) for node in islice(nodes, 100))
    if sizes:
        return sizes.most_common(1)[0][0]
    raise InputError("There is no vector in these files.", hint="Give the authors' .h5 files.")


def _check_names(connection: psycopg.Connection, files: Sequence[h5py.File], datasets: Sequence[str]) -> None:
    """:raises InputError: when a name of the files is that of images in several datasets."""
    twice = connection.execute(
        "SELECT i.source FROM cbir.image AS i JOIN cbir.dataset AS d USING (dataset_id)"
        " WHERE i.frame = 0 AND (%(names)s::text[] IS NULL OR d.name = ANY(%(names)s))"
        " GROUP BY i.source HAVING count(*) > 1",
        {"names": list(datasets) or None},
    )
    if any(isinstance(file.get(name), h5py.Dataset) for (name,) in twice for file in files):
        raise InputError(
            "Several datasets have images of the same name.", hint="Say which one is meant with --dataset."
        )


BROKEN_HDF5 = (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError)
"""What h5py raises on damaged files and on links that lead nowhere."""


def _nodes(group: h5py.Group, prefix: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Path and HDF5 dataset of every leaf below a group, in the order of the file; None for what is no dataset."""
    above = (*above, h5py.h5o.get_info(group.id).addr)
    for name in group:
        path = f"{prefix}{name}"
        try:
            node = group[name]
            is_group = isinstance(node, h5py.Group)
            goes_round = is_group and h5py.h5o.get_info(node.id).addr in above
        except BROKEN_HDF5:
            yield path, None
            continue
        if is_group and not goes_round:
            yield from _nodes(node, f"{path}/", above)
        else:
            yield path, node if isinstance(node, h5py.Dataset) and node.shape is not None else None


def _count(file: h5py.File) -> int:
    """Number of leaves."""
    return sum(1 for _ in _nodes(file))


def _vectors(file: h5py.File, dim: int) -> Iterator[_Vector]:
    for name, node in _nodes(file):
        try:
            if node is None:
                yield _Vector(name, None, "is no array")
            elif node.size != dim or node.dtype.kind not in "fiu":
                yield _Vector(name, None, f"has the shape {tuple(node.shape)} of {node.dtype}, not {dim} numbers")
            else:
                yield _Vector(name, np.asarray(node[()]).reshape(dim))
        except BROKEN_HDF5 as error:
            yield _Vector(name, None, f"cannot be read: {error}")


def _batches(vectors: Iterator[_Vector]) -> Iterator[list[_Vector]]:
    batch: list[_Vector] = []
    for vector in vectors:
        batch.append(vector)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class _Import:
    """One run: matches names to images, checks vectors, and loads them."""

    def __init__(self, connection: psycopg.Connection, stored: StoredEncoder, datasets: Sequence[str]) -> None:
        self.summary = ImportSummary(stored.name)
        self._connection = connection
        self._stored = stored
        ids = connection.execute(
            "SELECT dataset_id, name FROM cbir.dataset WHERE %s::text[] IS NULL OR name = ANY(%s)",
            [list(datasets) or None, list(datasets)],
        ).fetchall()
        self._dataset_ids = [dataset_id for dataset_id, _ in ids]
        self._datasets = [name for _, name in ids]
        self._touched: dict[str, int] = {}

    def batch(self, batch: Sequence[_Vector]) -> None:
        """Load one batch in one transaction."""
        images = self._images([vector.name for vector in batch])
        erased = self._erased([vector.name for vector in batch if vector.name not in images])
        self.summary.erased += len(erased)
        failures: list[Failure] = []
        ids: list[int] = []
        rows: list[NDArray[np.floating]] = []
        names: list[str] = []
        for vector in batch:
            if vector.name in erased:
                continue
            if vector.name not in images:
                self.summary.unknown += 1
                if len(self.summary.first_unknown) < 3:
                    self.summary.first_unknown.append(vector.name)
                failures.append(Failure(vector.name, "unknown image", "no image of the database has this name"))
            elif vector.value is None:
                failures.append(Failure(vector.name, "wrong vector", vector.problem or "", images[vector.name][1]))
                self.summary.count_failures(failures[-1:])
            else:
                ids.append(images[vector.name][0])
                rows.append(vector.value)
                names.append(vector.name)
        self._load(names, ids, rows, images, failures)

    def _images(self, names: Sequence[str]) -> dict[str, tuple[int, str, int]]:
        """Image id, dataset and dataset id by name.

        :raises InputError: when two datasets have an image of the same name.
        """
        # The ids are listed, so that the index on (dataset_id, source) serves.
        found = self._connection.execute(
            "SELECT i.source, i.image_id, d.name, d.dataset_id"
            " FROM cbir.image AS i JOIN cbir.dataset AS d USING (dataset_id)"
            " WHERE i.dataset_id = ANY(%s) AND i.source = ANY(%s) AND i.frame = 0",
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
        """Names of no image, that were those of erased patients' images in one of the datasets."""
        unknown = [None] * len(names)
        return {
            name for dataset in self._datasets for name in erased_sources(self._connection, dataset, names, unknown)
        }

    def _load(
        self,
        names: list[str],
        ids: list[int],
        rows: list[NDArray[np.floating]],
        images: dict[str, tuple[int, str, int]],
        failures: list[Failure],
    ) -> None:
        with np.errstate(over="ignore"):  # what single precision cannot hold becomes a failure below
            raw = np.stack(rows).astype(np.float32) if rows else np.empty((0, self._stored.dim), np.float32)
        embeddings, usable = l2_normalize(raw)
        for name, row, is_usable in zip(names, raw, usable, strict=True):
            if not is_usable:
                failures.append(Failure(name, "no direction", f"the vector is {why_unusable(row)}", images[name][1]))
                self.summary.count_failures(failures[-1:])
        norms = np.linalg.norm(raw[usable].astype(np.float64), axis=1)
        already_unit = np.abs(norms - 1) <= UNIT_NORM_TOLERANCE
        # What is unit length already is stored to the bit as it was published.
        embeddings = np.where(already_unit[:, None], raw[usable], embeddings[usable])
        good = np.array(ids, dtype=np.int64)[usable] if ids else np.empty(0, np.int64)
        with self._connection.transaction():
            new = self._new_only(good)
            added = copy_embeddings(
                self._connection, self._stored.table, good[new], embeddings[new], self._stored.precision
            )
            record_failures(
                self._connection, "import-embeddings", failures,
                dataset_ids=self._touched, encoder_id=self._stored.encoder_id,
            )  # fmt: skip
            resolve_failures(self._connection, "import-embeddings", None, names, encoder_id=self._stored.encoder_id)
            good_names = [name for name, is_usable in zip(names, usable, strict=True) if is_usable]
            for dataset_id in {images[name][2] for name in good_names}:
                resolve_failures(
                    self._connection, "import-embeddings", dataset_id,
                    [name for name in good_names if images[name][2] == dataset_id], encoder_id=self._stored.encoder_id,
                )  # fmt: skip
        self.summary.added += added
        self.summary.already_there += len(good) - added
        self.summary.normalised += int((~already_unit & new).sum())

    def _new_only(self, image_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images have no vector yet, so that a repeated import goes past them quickly."""
        query = sql.SQL("SELECT image_id FROM cbir.{} WHERE image_id = ANY(%s)").format(
            sql.Identifier(self._stored.table)
        )
        there = {row[0] for row in self._connection.execute(query, [image_ids.tolist()])}
        return np.array([image_id not in there for image_id in image_ids.tolist()], dtype=bool)

    def count_missing(self) -> None:
        """Images of the datasets that the files speak of, which have no vector."""
        query = sql.SQL(
            "SELECT count(*), (array_agg(i.source ORDER BY i.image_id))[1:3] FROM cbir.image AS i"
            " WHERE i.dataset_id = ANY(%s)"
            " AND NOT EXISTS (SELECT FROM cbir.{} AS e WHERE e.image_id = i.image_id)"
        ).format(sql.Identifier(self._stored.table))
        row = self._connection.execute(query, [list(self._touched.values())]).fetchone()
        if row is not None:
            self.summary.missing, self.summary.first_missing = row[0], list(row[1] or [])
