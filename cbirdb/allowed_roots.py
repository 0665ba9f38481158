"""Decides from which folders of this machine images may be read.

The database stores where files lie. Someone who may write to the database may not be allowed to open files of this
machine. So the operator names the folders: by the PATH of an ``ingest`` on this machine, by ``--allow-root`` or by
CBIRDB_ALLOW_ROOT. A file on this machine remembers the PATHs of ingests; the database never does.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filelock import FileLock

from cbirdb.errors import InputError, PixelError
from cbirdb.path_map import PathMap

FILE = "allowed-roots.json"
IN_ZIP = "!/"
"""Stands in a source between a zip and the name of its member."""


class ImageFile(NamedTuple):
    """The place of an image's bytes."""

    path: Path
    member: str | None = None
    """Name inside the zip that ``path`` is."""


@dataclass(frozen=True, slots=True)
class AllowedRoots:
    """Folders, by their real paths."""

    remembered: tuple[str, ...] | None = None
    """Folders of earlier ingests, those with opaque names as ``name:folder``. None: every folder that a caller of the
    Python functions names.
    """
    named: tuple[str, ...] = ()
    """Folders of ``--allow-root``. Symbolic links may lead there, too."""
    path_map: Path | None = None
    """File that says where folders and files of opaque names lie."""

    @classmethod
    def of_machine(cls, home: Path, named: Iterable[Path] = (), path_map: Path | None = None) -> AllowedRoots:
        """Read the folders remembered under ``home`` and add those that this command names.

        :raises InputError: when a named folder does not exist, or the file of remembered folders is damaged.
        """
        folders = [folder.expanduser() for folder in named]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"There is no folder {folder}.", hint="Check --allow-root and CBIRDB_ALLOW_ROOT.")
        return cls(_read(home / FILE), tuple(os.path.realpath(folder) for folder in folders), path_map)

    def allows(self, root: str) -> bool:
        """Return True if images of a dataset in this folder may be read.

        An ingest stores the real path of a dataset's folder. Any other path is a symbolic link, which may lead into the
        folder of another site.
        """
        folder = self.folder(root)
        if folder is None:
            return False
        if self.remembered is None:
            return True
        real = os.path.realpath(folder)
        if _inside(real, self.named):
            return True
        known = _inside(real, self.remembered) or _pair(root, real) in self.remembered
        return real == os.path.normpath(folder) and known

    def folder(self, root: str) -> str | None:
        """Return the folder that a dataset's stored root stands for; None if this machine does not know it."""
        if root.startswith("/"):
            return root
        paths = self._paths()
        known = paths.folder(root) if paths is not None else None
        return None if known is None else str(known)

    def check(self, dataset: str, root: str) -> None:
        """Refuse a dataset whose images may not be read here.

        :raises InputError: when its folder is not allowed.
        """
        if self.folder(root) is None:
            raise InputError(
                f"This machine does not know where the files of the dataset '{dataset}' lie.",
                hint="Ingest its folder again here, or name the path map of the machine that did: --path-map FILE",
            )
        if not self.allows(root):
            raise InputError(
                f"The folder of the dataset '{dataset}' is not allowed on this machine.",
                hint="Look at the folder (cbir.dataset_overview). Then allow it or a folder above it: --allow-root DIR.",
            )

    def file(self, root: str, source: str) -> ImageFile:
        """Return the place of an image of a dataset.

        :raises PixelError: when it lies outside of the dataset's folder, a symbolic link leads outside, or this machine
            does not know what an opaque name stands for.
        """
        if root.startswith("/"):
            return self._checked(root, source)
        paths = self._paths()
        known = paths.find(root, source) if paths is not None else None
        folder = self.folder(root)
        if known is None or folder is None:
            raise PixelError("path unknown", "the path map of this machine does not have it; ingest its folder again")
        path, member = known
        return ImageFile(self._checked(folder, os.path.relpath(path, folder)).path, member)

    def _checked(self, root: str, source: str) -> ImageFile:
        relative = PurePosixPath(source)
        if relative.is_absolute() or ".." in relative.parts:
            raise PixelError("outside of its folder", "the file's name leads out of the dataset's folder")
        path, member = Path(root, source), None
        if IN_ZIP in source and not path.exists():
            archive, member = source.split(IN_ZIP, 1)
            path = Path(root, archive)
        if not _inside(os.path.realpath(path), (_real_root(root), *self.named)):
            raise PixelError(
                "outside of its folder", "a symbolic link leads out of the dataset's folder; --allow-root allows it"
            )
        return ImageFile(path, member)

    def _paths(self) -> PathMap | None:
        if self.path_map is None or not self.path_map.exists():
            return None
        return _opened_map(self.path_map, os.getpid(), threading.get_ident())


@lru_cache(maxsize=8)
def _opened_map(path: Path, _process: int, _thread: int) -> PathMap:
    """Return the open path map; each process and each thread has its own."""
    return PathMap.open(path, read_only=True)


def remember(home: Path, root: Path, stored_root: str | None = None) -> None:
    """Remember that an operator has named this folder.

    :param stored_root: the opaque name under which the database has it. The folder may then be read under this name only:
        the server cannot tell whose folder a path is that another site writes as the folder of a dataset of its own.
    :raises OSError: when the file of remembered folders cannot be written.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / FILE
    with FileLock(home / f"{FILE}.lock", mode=0o600):
        known = _read(file)
        real = os.path.realpath(root)
        entry = real if stored_root is None or stored_root.startswith("/") else _pair(stored_root, real)
        if _inside(entry, known):
            return
        new = file.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump(sorted({*known, entry}), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)


def _read(file: Path) -> tuple[str, ...]:
    try:
        folders = json.loads(file.read_text())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise InputError(
            f"The file {file} cannot be read ({error}).", hint="Repair or remove it; the next ingest writes it again."
        ) from error
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise InputError(
            f"The file {file} is not a list of folders.", hint="Remove it; the next ingest writes it again."
        )
    return tuple(folders)


def _pair(stored_root: str, real: str) -> str:
    """Return the entry of a folder with an opaque name."""
    return f"{stored_root}:{real}"


def _inside(real: str, folders: Iterable[str]) -> bool:
    return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in folders)


@lru_cache(maxsize=1024)
def _real_root(root: str) -> str:
    return os.path.realpath(root)
