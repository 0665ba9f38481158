"""Counting what went wrong in a run, for its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cbirdb.records import Failure

EXAMPLES = 3


@dataclass(slots=True, kw_only=True)
class FailureTally:
    """How many failures, of which kinds, and the first few: what a summary says of them."""

    failed: int = 0
    failure_reasons: Counter[str] = field(default_factory=Counter)
    first_failures: list[str] = field(default_factory=list)

    def count_failures(self, failures: Sequence[Failure]) -> None:
        """Add failures that have been recorded."""
        self.failed += len(failures)
        self.failure_reasons.update(failure.reason for failure in failures)
        room = EXAMPLES - len(self.first_failures)
        self.first_failures += [f"{f.source}: {f.reason} ({f.detail})" for f in failures[: max(0, room)]]

    def describe_failures(self, what: str, stage: str) -> list[str]:
        """Lines for a person; none when nothing failed.

        :param what: completes "12 could not be ..." from its verb on.
        :param stage: as ``cbir.failure`` has it.
        """
        if not self.failed:
            return []
        causes = ", ".join(f"{count:,} {reason}" for reason, count in self.failure_reasons.most_common())
        return [
            f"{self.failed:,} could not be {what} ({causes}). For example:",
            *(f"  {example}" for example in self.first_failures),
            f"All of them: cbirdb failures --stage {stage}",
        ]
