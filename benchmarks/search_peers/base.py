"""What a peer of the search benchmark must be able to do: one class, five members."""

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
    """What every peer is built with."""

    folder: Path
    """Empty, of the peer's own; for those that keep files."""
    dim: int
    threads: int
    """That a build may use."""
    m: int
    """Neighbours per element of a graph, where the peer lets one say."""
    ef_construction: int
    """Candidates kept while an element is inserted in a graph, where the peer lets one say."""
    server: Settings
    """Which PostgreSQL."""
    method: str
    """Of the index of ``cbirdb``: a name, or auto."""


@dataclass
class Built:
    """What a build took."""

    load_s: float
    """Until the vectors are in; 0 where that is one step with the index."""
    index_s: float
    parameters: str
    note: str = ""
    size_bytes: int | None = None
    """Of data and index, in memory or on disk, where that can be had."""
    details: dict[str, Any] = field(default_factory=dict)


class Peer(ABC):
    """One way to store vectors and find the nearest by cosine distance."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """in process | embedded | server"""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of the ``bench`` extra."""
    default: ClassVar[dict[str, int] | None] = None
    """The setting of whoever sets nothing, where it is in the sweep; marked in what is printed."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def build(self, ids: Ids, vectors: Vectors) -> Built:
        """Load the vectors, build the index and wait until it is there."""

    @abstractmethod
    def settings(self, k: int) -> list[dict[str, int]]:
        """Search settings to sweep when asked for k, from fast to thorough; an empty dict where there is none to set."""

    @abstractmethod
    def use(self, setting: dict[str, int]) -> None:
        """Take a setting for the searches that follow; not part of their time."""

    @abstractmethod
    def search(self, query: np.ndarray, k: int) -> Ids | list[int]:
        """Ids of the k nearest to a vector of shape (dim,). All that a caller has to do is part of its time."""

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back what is not a file in the peer's folder."""


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def widths(k: int) -> list[int]:
    """Candidates that a graph search keeps: the sweep of every HNSW here, so that their curves have the same points."""
    return [40, 80, 120, 200, 300, 450, 700] if k < 100 else [100, 150, 200, 300, 450, 700, 1000]
