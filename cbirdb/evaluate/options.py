"""Say what an evaluation compares, by which protocol, and with what means."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cbirdb.errors import OptionError
from cbirdb.evaluate.exact_search import MEMORY_MB
from cbirdb.index import Floor
from cbirdb.limits import LARGEST_K

Protocol = Literal["paper", "any-label"]
Mode = Literal["auto", "exact", "approximate"]
PROTOCOLS: Mapping[Protocol, str] = {
    "paper": (
        "Images with exactly one positive label (and no uncertain one, except of MIMIC-CXR; CheXpert without Support"
        " Devices). Relevant: the same label. CheXpert's valid.csv is test; a tenth of the training patients of"
        " CheXpert and NIH ChestX-ray14, drawn by the split seed, is val."
    ),
    "any-label": (
        "Images with at least one positive label (CheXpert without Support Devices). Relevant: shares one. By class:"
        " over the queries that carry the class, the share of neighbours that carry it. Splits as under 'paper'."
    ),
}
"""Each protocol in words; stored with each run, defined by cbir_internal.protocol_image."""
MODES: tuple[Mode, ...] = ("auto", "exact", "approximate")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """Choose what an evaluation does; the defaults are the paper's.

    :raises OptionError: when a value is none that there is.
    """

    datasets: str | Sequence[str] = ()
    """A name or several; empty: all."""
    query_split: str = "test"
    index_split: str = "train"
    k: int = 100
    """Neighbours kept per query."""
    mode: Mode = "auto"
    protocol: Protocol = "paper"
    same_patient: bool = True
    """Let a query retrieve images of its own patient."""
    seed: int = 0
    """Draws the sample of queries on which an approximate search's recall is measured."""
    split_seed: int = 0
    """Draws the splits that a dataset does not give."""
    floor: Floor = field(default_factory=Floor)
    """Floor that an index must reach for approximate results to count as final."""
    workers: int | None = None
    """Connections at a time; None: one per processor."""
    device: str = "auto"
    """Device of an exact search at scale: auto, cuda, cuda:N or cpu."""
    memory_mb: int = MEMORY_MB
    """Memory in MB that such a search uses for its queries."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= LARGEST_K:
            raise OptionError(f"-k must lie between 1 and {LARGEST_K:,}, not {self.k}.")
        object.__setattr__(
            self, "datasets", (self.datasets,) if isinstance(self.datasets, str) else tuple(self.datasets)
        )
        _check("--query-split", self.query_split, SPLITS)
        _check("--index-split", self.index_split, SPLITS)
        _check("--mode", self.mode, MODES)
        _check("--protocol", self.protocol, PROTOCOLS)


def _check(option: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise OptionError(f"'{value}' is none of {option}'s values: {', '.join(known)}.")
