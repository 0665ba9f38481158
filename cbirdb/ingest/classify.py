"""Sort the items of a dataset: images to write, rows that are repeated, failures; the rest is counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cbirdb.ingest.summary import IngestSummary
from cbirdb.records import DatasetItem, Excluded, Failure, ImageRecord, Missing


def _by_dataset() -> dict[str, list[ImageRecord]]:
    return defaultdict(list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some items of a dataset, sorted by what is to be done with them."""

    records: dict[str, list[ImageRecord]] = field(default_factory=_by_dataset)
    """Images to write, by dataset."""
    repeated: dict[str, list[ImageRecord]] = field(default_factory=_by_dataset)
    """Rows of files that an earlier row named already, by dataset."""
    failures: list[Failure] = field(default_factory=list)


class Classifier:
    """Sort items and remember, over all batches, what the next ones and the end of the run need."""

    def __init__(self, summary: IngestSummary) -> None:
        self._summary = summary
        self._seen: set[int] = set()
        self.unread_lists: set[str] = set()
        """List files that could not be read."""

    def classify(self, items: Iterable[DatasetItem]) -> Batch:
        """Sort the items of a batch, and count those that need no more than that."""
        batch = Batch()
        for item in items:
            if isinstance(item, Excluded):
                self._summary.count_excluded(item.reason)
            elif isinstance(item, Missing):
                self._summary.count_missing(item.source, item.reason)
            elif isinstance(item, Failure):
                batch.failures.append(item)
                if item.dataset is None:
                    self.unread_lists.add(item.source)
            else:
                (batch.repeated if self._is_repeated(item) else batch.records)[item.dataset].append(item)
        return batch

    def _is_repeated(self, record: ImageRecord) -> bool:
        key = hash((record.dataset, record.source, record.frame))
        if key in self._seen:
            return True
        self._seen.add(key)
        return False
