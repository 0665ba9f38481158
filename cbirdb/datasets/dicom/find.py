"""Finds the files below a path, whatever their names. Holds a name in about as many bytes as it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.dicom.files import opened
from cbirdb.datasets.dicom.header import read_directory
from cbirdb.errors import InputError, PixelError


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or folder that cannot be read, and the reason."""

    name: bytes
    reason: str
    detail: str


@dataclass(slots=True)
class Found:
    """Names of files below a folder, in a stable order, and what could not be listed."""

    root: Path
    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    not_there: list[bytes] = field(default_factory=list)
    """Files that a DICOMDIR names and that do not exist."""
    _folders: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Each folder, and the names of its files between NULs: a string each would take 50 bytes more."""

    def add(self, folder: bytes, names: list[bytes]) -> None:
        """Add files of a folder."""
        if names:
            self._folders.append((folder, b"\0".join(sorted(names))))
            self.count += len(names)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the files' paths below the root."""
        for folder, names in self._folders:
            for name in names.split(b"\0"):
                yield os.path.join(folder, name)  # noqa: PTH118


def find_files(path: Path, allowed: AllowedRoots) -> Found:
    """Find the files at a path: a file, all files of a folder, or those that a DICOMDIR names.

    :raises InputError: when there is nothing at this path, or the DICOMDIR cannot be read. The message does not name
        the path: it may hold the name of a patient.
    """
    try:
        path = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise InputError("There is no file or folder at this path.", hint="Check it.") from None
    if path.is_dir():
        return _walk(path, allowed)
    found = Found(path.parent)
    try:
        with opened(path) as (read_at, _):
            named = read_directory(read_at)
    except OSError as error:
        raise InputError(f"The file cannot be read: {error.strerror}.", hint="Check its permissions.") from None
    except PixelError as error:
        if path.name.upper() == "DICOMDIR":
            raise InputError(f"The DICOMDIR cannot be read: {error.message}.", hint="Give its folder.") from None
        named = None  # the file is read, and its damage reported, as any other's
    if named is None:
        found.add(b"", [os.fsencode(path.name)])
    else:
        _add_named(found, named, allowed)
    return found


def _walk(root: Path, allowed: AllowedRoots) -> Found:
    """List all files below a folder. A folder to which several links lead is listed below the first of them."""
    found = Found(root)
    folders = [b""]
    links: set[bytes] = set()
    followed: set[str] = set()
    while folders:
        folder = folders.pop()
        # Else a few folders that link to one another have more paths than anybody can read.
        if folder in links and (real := os.path.realpath(root / os.fsdecode(folder))) in followed:
            continue
        if folder in links:
            followed.add(real)
        names: list[bytes] = []
        below: list[bytes] = []
        try:
            with os.scandir(os.path.join(os.fsencode(root), folder)) as entries:  # noqa: PTH118
                for entry in entries:
                    name = os.path.join(folder, entry.name)  # noqa: PTH118
                    if not entry.is_symlink():
                        (below if entry.is_dir() else names).append(entry.name)
                    elif _may_follow(found, name, allowed):
                        (below if os.path.isdir(entry.path) else names).append(entry.name)  # noqa: PTH112
                        links.add(name)
        except OSError as error:
            found.problems.append(
                Problem(folder or b".", "unreadable", error.strerror or "the folder cannot be listed")
            )
        found.add(folder, names)
        folders.extend(os.path.join(folder, name) for name in sorted(below, reverse=True))  # noqa: PTH118
    return found


def _may_follow(found: Found, name: bytes, allowed: AllowedRoots) -> bool:
    """Return True if a symbolic link leads to something that may be read here and is none of its own parents."""
    path = found.root / os.fsdecode(name)
    try:
        allowed.file(str(found.root), os.fsdecode(name))
    except PixelError as error:
        found.problems.append(Problem(name, error.reason, error.message))
        return False
    real = os.path.realpath(path)
    return all(os.path.realpath(parent) != real for parent in path.parents if parent.is_relative_to(found.root))


def _add_named(found: Found, named: list[list[str]], allowed: AllowedRoots) -> None:
    """Add the files that a DICOMDIR names; none that lies elsewhere."""
    seen: set[bytes] = set()
    for parts in named:
        name = "/".join(parts)
        raw = name.encode("utf-8", "surrogateescape")
        if any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in parts):
            found.problems.append(Problem(raw, "outside of its folder", "the DICOMDIR names a file outside its folder"))
            continue
        # Unlike Path.is_file, this raises nothing for a name that is too long.
        path = next((path for path in _spellings(found.root, name) if os.path.isfile(path)), None)  # noqa: PTH113
        if path is None:
            found.not_there.append(raw)
            continue
        inside = os.fsencode(path.relative_to(found.root))
        if inside in seen:
            continue
        seen.add(inside)
        try:
            allowed.file(str(found.root), os.fsdecode(inside))
        except PixelError as error:
            found.problems.append(Problem(inside, error.reason, error.message))
            continue
        folder, _, last = inside.rpartition(b"/")
        found.add(folder, [last])


def _spellings(root: Path, name: str) -> Iterator[Path]:
    """Yield the paths that a name of a DICOMDIR may have: some systems show discs in small letters."""
    yield root / name
    yield root / name.lower()
