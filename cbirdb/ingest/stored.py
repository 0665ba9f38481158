"""Find which images of a batch are in the catalogue already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import psycopg

from cbirdb.db import catalogue
from cbirdb.db.catalogue import ImageKey, StoredImage
from cbirdb.ingest.summary import IngestSummary
from cbirdb.records import ImageRecord


class DatasetIds:
    """Give datasets' ids; make a dataset when it is first asked for."""

    def __init__(
        self, connection: psycopg.Connection, summary: IngestSummary, *, reader: str, root: str | None, moved: bool
    ) -> None:
        self._connection = connection
        self._ids = summary.datasets
        self._reader, self._root, self._moved = reader, root, moved

    def id_of(self, name: str) -> int:
        """Return the dataset's id.

        :raises InputError: when the name belongs to another folder.
        """
        if name not in self._ids:
            self._ids[name] = catalogue.ensure_dataset(
                self._connection, name, self._reader, self._root, moved=self._moved
            )
        return self._ids[name]

    def open(self, names: Iterable[str]) -> None:
        """Make datasets, so that a name that belongs to another folder is refused before anything is read."""
        with self._connection.transaction():
            for name in names:
                self.id_of(name)


class StoredImages:
    """Match records with stored images: by source, or by file name where the layout's names tell images apart."""

    def __init__(self, connection: psycopg.Connection, *, names_tell_images: bool) -> None:
        self._connection = connection
        self._names_tell_images = names_tell_images
        self._sources: dict[int, dict[str, str]] = {}
        """By dataset: the stored source of each file name."""

    def match(
        self, dataset_id: int, records: Sequence[ImageRecord]
    ) -> tuple[Sequence[ImageRecord], Mapping[ImageKey, StoredImage]]:
        """Return the records, and what is stored of them by their sources and frames.

        An image that lay in another folder, or came without its file, is found by its name where names tell images. A
        record without a file then takes the source that is stored.
        """
        if not self._names_tell_images:
            return records, catalogue.stored_images(self._connection, dataset_id, [r.source for r in records])
        if dataset_id not in self._sources:
            self._sources[dataset_id] = catalogue.sources_by_name(self._connection, dataset_id)
        before = {
            record.source: self._sources[dataset_id].get(record.source.rpartition("/")[2], record.source)
            for record in records
        }
        records = [replace(r, source=before[r.source]) if r.path is None else r for r in records]
        found = catalogue.stored_images(self._connection, dataset_id, [*before, *before.values()])
        stored = {
            (r.source, r.frame): found.get((r.source, r.frame)) or found.get((before.get(r.source, ""), r.frame))
            for r in records
        }
        return records, {key: image for key, image in stored.items() if image is not None}
