"""Patients' ids -> pseudonyms, which only the holder of a key can link to them.

HMAC-SHA256 (RFC 2104) of dataset and id: the same id gives the same pseudonym at every ingest with the same key, and
without the key nobody can find the id by trying all of them. The key lies in a file, never in the database.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from cbirdb.errors import InputError

KEY_BYTES = 32
PSEUDONYM_BYTES = 16
LONGEST_FILE = 1000
"""Bytes that are read of a file that should hold a key."""


class Pseudonyms:
    """Makes pseudonyms with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: Path, *, create: bool) -> Pseudonyms:
        """With the key of a file.

        :param create: make the file, readable by its owner alone, when it is not there.
        :raises InputError: when it is not there, cannot be read or made, or is no key.
        """
        if not create and not path.exists():
            raise InputError(
                f"There is no key of pseudonyms {path}, and this database's patients have theirs from one.",
                hint="Name the file with that key: --pseudonym-key FILE.",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if create and not path.exists():
                _make(path)
            with path.open("rb") as file:
                return cls(_key(path, file.read(LONGEST_FILE)))
        except OSError as error:
            raise InputError(
                f"The key of pseudonyms {path} cannot be read or made: {error.strerror}.",
                hint="Name another file with --pseudonym-key.",
            ) from error

    def of(self, dataset: str, patient: str) -> str:
        """The pseudonym of a patient, 32 hexadecimal digits."""
        return self._digest(f"{dataset}\0{patient}").hex()

    @property
    def fingerprint(self) -> str:
        """Tells one key from another without giving it away."""
        return self._digest("fingerprint of this key").hex()

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), hashlib.sha256)[:PSEUDONYM_BYTES]


def _make(path: Path) -> None:
    """Write a new key; where another process has just done so, leave that."""
    # Whole or not at all: a process beside this one may read it at any moment.
    descriptor, written = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # readable by its owner alone
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        with suppress(FileExistsError):
            os.link(written, path)
    finally:
        Path(written).unlink()


def _key(path: Path, content: bytes) -> bytes:
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InputError(
            f"{path} is not a key of pseudonyms.", hint=f"Such a file holds {2 * KEY_BYTES} hexadecimal digits."
        )
    return key
