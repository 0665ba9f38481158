"""Draw train, val and test from the content of images whose dataset gives no split: the same everywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cbirdb.errors import OptionError
from cbirdb.records import Split


@dataclass(frozen=True, slots=True)
class SplitShares:
    """Hold the percentages of train, val and test for images whose split comes from their content."""

    train: int = 80
    val: int = 10
    test: int = 10

    @classmethod
    def parse(cls, text: str) -> SplitShares:
        """Parse shares such as ``80/10/10``.

        :raises OptionError: when it is not three percentages that make 100.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(re.fullmatch(r"\s*[0-9]{1,3}\s*", part) for part in parts):
            raise OptionError(f"'{text}' is not a split.", hint="Give train/val/test in percent, such as 80/10/10.")
        train, val, test = (int(part) for part in parts)
        if train + val + test != 100:
            raise OptionError(f"The split {text} makes {train + val + test} percent, not 100.")
        return cls(train, val, test)

    def of(self, sha256: bytes) -> Split:
        """Return the split of a file's content: the same on every machine and in every order."""
        position = int.from_bytes(sha256[:8], "big") * 100 / 2**64
        if position < self.test:
            return "test"
        return "val" if position < self.test + self.val else "train"
