"""Counts a run's failures for its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cbirdb.records import Failure

EXAMPLES = 3


@dataclass(slots=True, kw_only=True)
class FailureTally:
    """Counts failures by reason and keeps the first few as examples."""

    failed: int = 0
    failure_reasons: Counter[str] = field(default_factory=Counter)
    first_failures: list[str] = field(default_factory=list)

    def count_failures(self, failures: Sequence[Failure]) -> None:
        """Add failures that have been recorded."""
        self.failed += len(failures)
        self.failure_reasons.update(failure.reason for failure in failures)
        room = EXAMPLES - len(self.first_failures)
        self.first_failures += [f"{f.source}: {f.reason} ({f.detail})" for f in failures[: max(0, room)]]

    def describe_failures(self, action: str, stage: str) -> list[str]:
        """Return lines that summarise the failures for a person; none if nothing failed.

        :param action: a participle that completes "12 could not be ...", such as "read".
        :param stage: the value of ``cbir.failure.stage``.
        """
        if not self.failed:
            return []
        causes = ", ".join(f"{count:,} {reason}" for reason, count in self.failure_reasons.most_common())
        return [
            f"{self.failed:,} could not be {action} ({causes}). For example:",
            *(f"  {example}" for example in self.first_failures),
            f"List all: cbirdb failures --stage {stage}",
        ]
