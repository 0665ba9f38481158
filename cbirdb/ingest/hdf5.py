"""Read vectors from HDF5 files as the paper's authors publish them.

One HDF5 dataset per image, named by its path: slashes make groups. h5py's objects cost several times what HDF5 itself
does, and there are 1.6 million of them: this goes through its low-level interface.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5f, h5g, h5i, h5o, h5s, h5t
from numpy.typing import NDArray

from cbirdb.errors import InputError

log = logging.getLogger(__name__)

BROKEN_HDF5 = (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError)
"""Errors that h5py raises on damaged files and on links that lead nowhere."""
NUMBERS = (h5t.FLOAT, h5t.INTEGER)
SMALLEST_CACHE = 4 << 20
"""Bytes of HDF5's cache of a file's structure, by its own account; it takes some ten times as much of the machine."""
LARGEST_CACHE = 128 << 20
"""HDF5 takes no more."""
BYTES_BEYOND_NAME = 24
"""Most bytes that a group's list of names takes per name, beyond its letters."""


@contextmanager
def reading() -> Iterator[None]:
    """Translate errors of what is read from files, and of nothing else.

    :raises InputError: when a file is damaged where no single vector can be blamed.
    """
    try:
        yield
    except BROKEN_HDF5 as error:
        raise InputError(
            f"A file is damaged inside: {error}.", hint="Fetch it again; what was loaded is kept."
        ) from error


@dataclass(frozen=True, slots=True)
class Leaf:
    """Name what is no group in a file, and say whether it is an array. Not held open: that makes HDF5 slow."""

    path: bytes
    is_array: bool

    @property
    def name(self) -> str:
        """Return the path as text."""
        return self.path.decode("utf-8", "surrogateescape")


def open_file(path: Path) -> h5py.File:
    """Open a file for reading.

    :raises InputError: when there is no such file, or it is not HDF5.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.", hint="Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file.", hint="Give the authors' .h5 files.") from error
    _limit_cache(file.id, SMALLEST_CACHE)
    return file


def _limit_cache(file: h5f.FileID, size: int) -> None:
    """Let the file's cache take this many bytes: HDF5 itself would let it grow to 32 MiB, whatever is in the file."""
    cache = file.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = size
    file.set_mdc_config(cache)


def _fit_cache(group: h5g.GroupID, names: Sequence[bytes]) -> None:
    """Make room for a group's list of names: where it does not fit, it is read anew for each array of the group."""
    needed = min(LARGEST_CACHE, SMALLEST_CACHE + sum(map(len, names)) + BYTES_BEYOND_NAME * len(names))
    file = h5i.get_file_id(group)
    if file.get_mdc_config().max_size < needed:
        _limit_cache(file, needed)


def first_dim(paths: Sequence[Path]) -> int:
    """Return the dimension that most of the first arrays have.

    :raises InputError: when there is none.
    """
    sizes = Counter(islice((size for path in paths for size in _sizes(path) if size > 0), 100))
    if sizes:
        return sizes.most_common(1)[0][0]
    raise InputError("There is no vector in these files.", hint="Give the authors' .h5 files.")


def _sizes(path: Path) -> Iterator[int]:
    with open_file(path) as file:
        yield from (_size(h5d.open(file.id, leaf.path)) for leaf in leaves(file) if leaf.is_array)


def leaves(file: h5py.File) -> Iterator[Leaf]:
    """Yield every leaf, in the order of the file. Memory grows with the largest group's number of names."""
    yield from _below(file.id, b"", ())


def _below(group: h5g.GroupID, prefix: bytes, above: tuple[object, ...]) -> Iterator[Leaf]:
    above = (*above, h5o.get_info(group).addr)
    names: list[bytes] = []
    group.links.iterate(names.append)
    _fit_cache(group, names)
    for name in names:
        path = prefix + name
        kind, goes_down = None, False
        try:
            found = h5o.get_info(group, name)
            kind = found.type
            # A link back up would go round for ever.
            goes_down = kind == h5o.TYPE_GROUP and found.addr not in above
        except BROKEN_HDF5:
            log.debug("%r leads nowhere", path)
        if goes_down:
            yield from _below(h5g.open(group, name), path + b"/", above)
            continue
        yield Leaf(path, kind == h5o.TYPE_DATASET)


def count_leaves(path: Path) -> int:
    """Count the leaves of a file, from the names alone: a name is a group's when the next one lies below it."""
    number = 0
    previous = b""

    def visit(name: bytes) -> None:
        nonlocal number, previous
        number += not name.startswith(previous + b"/")
        previous = name

    with open_file(path) as file:
        file.id.links.visit(visit)
    return number


def read_vectors(file: h5py.File, batch: Sequence[Leaf], dim: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Read the arrays of a batch.

    :returns: shape (n, dim), and for each row that could not be read its position and why; such a row is zero.
    """
    vectors = np.zeros((len(batch), dim), dtype=np.float32)
    problems: dict[int, str] = {}
    for position, leaf in enumerate(batch):
        try:
            array = h5d.open(file.id, leaf.path) if leaf.is_array else None
            problem = _problem(array, dim)
            if problem is None and array is not None:
                array.read(h5s.ALL, h5s.ALL, vectors[position].reshape(array.shape), h5t.NATIVE_FLOAT)
        except BROKEN_HDF5 as error:
            problem = f"cannot be read: {error}"
        if problem is not None:
            problems[position] = problem
            vectors[position] = 0
    return vectors, problems


def _problem(array: h5d.DatasetID | None, dim: int) -> str | None:
    """Say why an array is no vector; None: it is one."""
    if array is None or array.get_space().get_simple_extent_type() == h5s.NULL:
        return "is no array"
    if _size(array) != dim or array.get_type().get_class() not in NUMBERS:
        return f"has the shape {array.shape} of {array.dtype}, not {dim} numbers"
    return None


def _size(array: h5d.DatasetID) -> int:
    return int(array.get_space().get_simple_extent_npoints())
