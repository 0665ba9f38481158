"""Replaces what may name a person: UIDs, dates and paths as the user chooses, patients and accession numbers always.

``docs/privacy.md`` maps each choice to an option of PS3.15, Annex E.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from cbirdb.allowed_roots import IN_ZIP
from cbirdb.pseudonyms import Pseudonyms

UID_CHOICES = ("keep", "hash")
DATE_CHOICES = ("keep", "shift", "drop")
PATH_CHOICES = ("opaque", "keep")
LONGEST_SHIFT = 3653
"""Days by which dates are moved at most: ten years."""


def hash_uid(uid: str, pseudonyms: Pseudonyms) -> str:
    """Return the UID that stands for this one, the same for studies, series and instances.

    It has the form of PS3.5, section B.2: ``2.25.`` and the number of a UUID (RFC 9562, version 8).
    """
    number = int.from_bytes(pseudonyms.keyed("UID", uid.encode())[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    return f"2.25.{number & ~(0x3 << 62) | 2 << 62}"


@dataclass(frozen=True, slots=True)
class Privacy:
    """Makes the names under which a dataset is stored."""

    pseudonyms: Pseudonyms
    uids: str = "keep"
    dates: str = "keep"
    paths: str = "opaque"

    def uid(self, uid: str) -> str:
        """Return a UID as it is stored."""
        return hash_uid(uid, self.pseudonyms) if self.uids == "hash" else uid

    def day(self, day: date | None, owner: str) -> date | None:
        """Return a date as it is stored.

        :param owner: the patient's pseudonym, else the study: its dates all move by the same number of days.
        """
        if day is None or self.dates == "drop":
            return None
        if self.dates == "keep":
            return day
        number = int.from_bytes(self.pseudonyms.keyed("date shift", owner.encode()), "big")
        try:
            return day - timedelta(days=1 + number % LONGEST_SHIFT)  # never into the future
        except OverflowError:
            return None

    def accession(self, number: str) -> str | None:
        """Return the pseudonym of an accession number; None without one."""
        return self.pseudonyms.keyed("accession number", number.encode())[:16].hex() if number else None

    def root(self, root: Path) -> str:
        """Return the name of a folder as it is stored."""
        return str(root) if self.paths == "keep" else self._opaque("folder", os.fsencode(root))

    def source(self, name: bytes, member: str | None = None) -> str:
        """Return the name of a file as it is stored and shown.

        :param name: its path below the dataset's folder.
        :param member: name inside the zip that the file is.
        """
        if self.paths == "keep":
            return name.decode("utf-8", "backslashreplace") + (f"{IN_ZIP}{member}" if member is not None else "")
        # No path holds NUL, so a member of a zip never has the name of a file in a folder.
        inside = f"\0{member}".encode("utf-8", "surrogateescape") if member is not None else b""
        return self._opaque("path", name + inside)

    def _opaque(self, kind: str, value: bytes) -> str:
        return f"dicom-{self.pseudonyms.keyed(kind, value)[:16].hex()}"
