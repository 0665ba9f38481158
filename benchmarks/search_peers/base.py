"""Defines a peer of the search benchmark: one class, five members."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cbirdb.config import Settings

Ids = np.ndarray
"""Integers, shape (n,)."""
Vectors = np.ndarray
"""Unit vectors in single precision, shape (n, dim)."""


@dataclass(frozen=True)
class Options:
    """Options of every peer's build."""

    folder: Path
    """Empty folder of the peer's own, for those that keep files."""
    dim: int
    threads: int
    """Most threads of a build."""
    m: int
    """Neighbours per element of a graph, if the peer accepts it."""
    ef_construction: int
    """Candidates kept while an element is inserted in a graph, if the peer accepts it."""
    server: Settings
    """PostgreSQL server."""
    method: str
    """Method of the index of ``cbirdb``: a name, or auto."""


@dataclass
class Built:
    """Cost and properties of a build."""

    load_s: float
    """Seconds until the vectors are loaded; 0 if loading and indexing are one step."""
    index_s: float
    parameters: str
    note: str = ""
    size_bytes: int | None = None
    """Bytes of data and index, in memory or on disk, if available."""
    details: dict[str, Any] = field(default_factory=dict)


class Peer(ABC):
    """A way to store vectors and find the nearest by cosine distance."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """in process | embedded | server"""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of the ``bench`` extra."""
    default: ClassVar[dict[str, int] | None] = None
    """The default setting, if it is in the sweep; printed with a mark."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def build(self, ids: Ids, vectors: Vectors) -> Built:
        """Load the vectors, build the index and wait until it is ready."""

    @abstractmethod
    def settings(self, k: int) -> list[dict[str, int]]:
        """Return search settings to sweep for k, from fast to thorough; one empty dict if nothing can be set."""

    @abstractmethod
    def use(self, setting: dict[str, int]) -> None:
        """Apply a setting to the following searches; not part of their time."""

    @abstractmethod
    def search(self, query: np.ndarray, k: int) -> Ids | list[int]:
        """Return the ids of the k nearest to a vector of shape (dim,). All work of a caller is part of its time."""

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release everything but files in the peer's folder."""


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def search_widths(k: int) -> list[int]:
    """Return the numbers of candidates of a graph search: one sweep for every HNSW here, so that curves share their
    points.
    """
    return [40, 80, 120, 200, 300, 450, 700] if k < 100 else [100, 150, 200, 300, 450, 700, 1000]
