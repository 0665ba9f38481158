"""Keeps, outside the database, which file an opaque source stands for.

A path may hold a patient's name, so the database has a keyed hash in its place. The map from one to the other is a
SQLite file that its owner alone may read. What ``add`` has returned from survives a crash of the process or the machine.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from cbirdb.errors import InputError

APPLICATION_ID = 0x63626972
"""Marks the file as a path map (``cbir``)."""
VERSION = 1
WAIT_S = 60.0
"""Seconds to wait for another process that writes."""
OWNER_ONLY = 0o600
_TABLES = f"""
CREATE TABLE folder (root TEXT PRIMARY KEY, path BLOB NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE file (
    root TEXT NOT NULL, source TEXT NOT NULL, path BLOB NOT NULL, member TEXT, PRIMARY KEY (root, source)
) WITHOUT ROWID, STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file, and the name under which the database has it."""

    root: str
    """Stored name of the dataset's folder."""
    source: str
    path: Path
    """Below the folder."""
    member: str | None = None
    """Name inside the zip that ``path`` is."""


class PathMap:
    """Reads and writes one path map; a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, create: bool = False, read_only: bool = False) -> PathMap:
        """Open a path map.

        :param create: make a missing one, with the folders above it.
        :param read_only: several machines may read one file, also from a folder where nobody may write.
        :raises InputError: when it is missing, open to others, damaged or no path map.
        """
        try:
            if create and not read_only:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ONLY))
            _check_mode(path)
        except FileNotFoundError:
            raise InputError(
                f"There is no path map {path}.", hint="Name it with --path-map, or ingest the folder again."
            ) from None
        except OSError as error:
            raise InputError(
                f"The path map {path} cannot be opened: {error.strerror}.", hint="Name another: --path-map FILE."
            ) from None
        with _said(path):
            connection = _connect(path, read_only=read_only)
            try:
                _prepare(path, connection, create=create and not read_only)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, files: Iterable[MappedFile], folders: Iterable[tuple[str, Path]] = ()) -> None:
        """Write files and stored names of folders; what was known by the same name is replaced. It is on disk then.

        :raises InputError: when it cannot be written.
        """
        rows = [(file.root, file.source, os.fsencode(file.path), file.member) for file in files]
        roots = [(root, os.fsencode(path)) for root, path in folders]
        with _said(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO folder VALUES (?, ?)", roots)
            # Rows that are the same are left alone, so that a second ingest of a folder writes nothing.
            self._connection.executemany(
                "INSERT INTO file VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET path = excluded.path,"
                " member = excluded.member WHERE (path, member) IS NOT (excluded.path, excluded.member)",
                rows,
            )

    def find(self, root: str, source: str) -> tuple[Path, str | None] | None:
        """Return a file's path and the name inside it, if it is a zip; None if the map does not know it.

        :raises InputError: when the map cannot be read.
        """
        with _said(self._path):
            found = self._connection.execute(
                "SELECT folder.path, file.path, member FROM file JOIN folder USING (root) WHERE root = ? AND source = ?",
                (root, source),
            ).fetchone()
        return None if found is None else (Path(os.fsdecode(found[0]), os.fsdecode(found[1])), found[2])

    def shown(self, root: str, source: str) -> str | None:
        """Return the path that a person may open, with the name inside a zip; None if the map does not know it.

        :raises InputError: when the map cannot be read.
        """
        found = self.find(root, source)
        if found is None:
            return None
        path, member = found
        return str(path) if member is None else f"{path}!/{member}"

    def sources(self, root: str) -> list[str]:
        """Return the names of all files of a folder that the map knows.

        :raises InputError: when the map cannot be read.
        """
        with _said(self._path):
            return [row[0] for row in self._connection.execute("SELECT source FROM file WHERE root = ?", (root,))]

    def folder(self, root: str) -> Path | None:
        """Return the folder of a stored name; None if the map does not know it.

        :raises InputError: when the map cannot be read.
        """
        with _said(self._path):
            found = self._connection.execute("SELECT path FROM folder WHERE root = ?", (root,)).fetchone()
        return None if found is None else Path(os.fsdecode(found[0]))

    def remove(self, root: str, sources: Iterable[str]) -> int:
        """Forget files; their bytes are overwritten. Return how many were known.

        :raises InputError: when it cannot be written.
        """
        with _said(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            before = self._connection.total_changes
            self._connection.executemany(
                "DELETE FROM file WHERE root = ? AND source = ?", ((root, source) for source in sources)
            )
            return self._connection.total_changes - before

    def overlapping_roots(self, path: Path) -> list[str]:
        """Return the stored names of the folders that are this one, hold it or lie in it.

        :raises InputError: when the map cannot be read.
        """
        wanted = os.path.realpath(path)
        with _said(self._path):
            rows = self._connection.execute("SELECT root, path FROM folder ORDER BY root").fetchall()
        return [root for root, folder in rows if _overlap(os.path.realpath(os.fsdecode(folder)), wanted)]


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath((one, other)) in {one, other}


def _check_mode(path: Path) -> None:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{path} is not a file.", hint="Name a path map: --path-map FILE.")
    if facts.st_mode & 0o007:
        raise InputError(
            f"Everybody on this machine may read the path map {path}, which may hold names of patients.",
            hint=f"Run: chmod 600 {path}",
        )
    if facts.st_mode & 0o020:
        raise InputError(
            f"Others than its owner may change the path map {path}, which says which files are read.",
            hint=f"Run: chmod g-w {path}",
        )


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "mode=rw"
    if read_only:
        # SQLite makes files beside the map to lock it, unless it is told that nobody changes it.
        mode = "mode=ro" if os.access(path.parent, os.W_OK) else "mode=ro&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path.absolute()))}?{mode}", timeout=WAIT_S, isolation_level=None, uri=True
    )
    if not read_only:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
    return connection


def _prepare(path: Path, connection: sqlite3.Connection, *, create: bool) -> None:
    """Check that the file is a path map; make an empty one into one."""

    def number(pragma: str) -> int:
        return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])

    if create and number("application_id") == 0 and number("schema_version") == 0:
        connection.execute("BEGIN IMMEDIATE")
        if number("application_id") == 0:  # else another process was faster
            for statement in _TABLES.strip().split(";\n"):
                connection.execute(statement)
        connection.execute("COMMIT")
    if number("application_id") != APPLICATION_ID:
        raise InputError(f"{path} is not a path map.", hint="Name another: --path-map FILE.")
    if number("user_version") != VERSION:
        raise InputError(f"The path map {path} is of another version of cbirdb.", hint="Upgrade cbirdb.")


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Translate SQLite's errors.

    :raises InputError: which names the file.
    """
    try:
        yield
    except sqlite3.Error as error:
        hints = {
            "SQLITE_FULL": "Make room on the disk; run the command again.",
            "SQLITE_NOTADB": "Name another: --path-map FILE.",
            "SQLITE_CORRUPT": "Remove it and ingest the folders again.",
            "SQLITE_BUSY": "Wait until the other command has ended.",
        }
        name = getattr(error, "sqlite_errorname", "")
        problem = "is not a path map" if name == "SQLITE_NOTADB" else f"cannot be read or written: {error}"
        raise InputError(f"The path map {path} {problem}.", hint=hints.get(name, "Check its permissions.")) from error
