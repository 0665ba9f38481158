"""Notes where the files of opaque names lie, before the database has the names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from cbirdb.datasets.base import Source
from cbirdb.db import catalogue
from cbirdb.path_map import MappedFile, PathMap
from cbirdb.records import Failure, ImageRecord


def stored_root(source: Source) -> str | None:
    """Return the name under which the database has the dataset's folder."""
    if source.stored_root is not None:
        return source.stored_root
    return str(source.root) if source.root is not None else None


def check_root(connection: psycopg.Connection, source: Source, path_map: Path | None) -> None:
    """Refuse a folder that is, holds or lies in the folder of a dataset that the acting role may not see.

    The server compares paths. Of folders with opaque names, only the path map of this machine knows the paths.

    :raises psycopg.Error: when the server refuses the folder.
    """
    if source.root is None:
        return
    overlapping: list[str] = []
    if path_map is not None and path_map.exists():
        with PathMap.open(path_map, read_only=True) as paths:
            overlapping = paths.overlapping_roots(source.root)
    catalogue.check_folder(connection, os.path.realpath(source.root), overlapping)


class NotedPaths:
    """Writes the paths of opaque names into the path map. A context manager; idle where sources are paths."""

    def __init__(self, source: Source, path_map: Path | None) -> None:
        """Open the map.

        :param path_map: None: note nothing, as in a dry run.
        :raises InputError: when names are opaque and there is no path map, or it cannot be opened.
        """
        self._root, self._folder = source.stored_root, source.root
        self._map: PathMap | None = None
        if self._root is None or self._folder is None or self._root == str(self._folder) or path_map is None:
            return
        self._map = PathMap.open(path_map, create=True)
        self._map.add([], [(self._root, self._folder)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._map is not None:
            self._map.close()

    def note(self, items: Sequence[ImageRecord | Failure]) -> None:
        """Write the paths of images and of files that failed. They are on disk when this returns.

        :raises InputError: when the map cannot be written.
        """
        if self._map is None or self._root is None or self._folder is None:
            return
        files = {
            item.source: MappedFile(self._root, item.source, item.path.relative_to(self._folder), item.member)
            for item in items
            if item.path is not None
        }
        self._map.add(files.values())
