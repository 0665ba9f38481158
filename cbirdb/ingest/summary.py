"""Count what happens to the items of a dataset while it is ingested."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cbirdb.failure_summary import EXAMPLES, FailureTally
from cbirdb.records import POSITIVE, ImageRecord


@dataclass(slots=True)
class IngestSummary(FailureTally):
    """Count what happened to the items of a dataset. ``added`` includes those whose content was there already."""

    datasets: dict[str, int] = field(default_factory=dict)
    """Names and ids of the datasets that were written to."""
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    missing: int = 0
    duplicate: int = 0
    damaged: int = 0
    """Images with a report of damage, taken all the same."""
    stored_failed: int = 0
    """Failures of images that are in the catalogue, and stay there."""
    excluded: int = 0
    excluded_reasons: Counter[str] = field(default_factory=Counter)
    first_missing: list[str] = field(default_factory=list)
    without_label: int = 0
    label_names: set[str] = field(default_factory=set)
    missing_reasons: Counter[str] = field(default_factory=Counter)
    selection: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Images by split, modality and label; those with several labels count for each."""

    def row(self) -> dict[str, object]:
        """Return the one row that the command line ends with."""
        return {
            "dataset": ", ".join(self.datasets),
            "added": self.added,
            "updated": self.updated,
            "unchanged": self.unchanged,
            "missing": self.missing,
            "duplicate": self.duplicate,
            "excluded": self.excluded,
            "failed": self.failed,
        }

    def count_excluded(self, reason: str, images: int = 1) -> None:
        """Count images that are left out on purpose."""
        if images:
            self.excluded += images
            self.excluded_reasons[reason] += images

    def count_missing(self, source: str, reason: str) -> None:
        """Count a file that a list names and that is not there."""
        self.missing += 1
        self.missing_reasons[reason] += 1
        if len(self.first_missing) < EXAMPLES:
            self.first_missing.append(source)

    def count_labels(self, record: ImageRecord, split: str | None) -> None:
        """Count an image for its split, modality and labels."""
        self.without_label += not record.labels
        self.label_names.update(record.labels)
        for label in [name for name, value in record.labels.items() if value == POSITIVE] or ["no positive label"]:
            self.selection[split or "none", record.modality or "none", label] += 1
