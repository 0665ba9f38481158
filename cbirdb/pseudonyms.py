"""Replaces patients' ids by pseudonyms that only the holder of a key can link to them.

A pseudonym is the HMAC-SHA256 (RFC 2104) of dataset and id. With one key, the same id gives the same pseudonym at every
ingest. Without the key, nobody can find an id by trying all of them. The key lies in a file, never in the database.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from cbirdb.errors import InputError

KEY_BYTES = 32
PSEUDONYM_BYTES = 16
LONGEST_FILE = 1000
"""Bytes to read from a file that should hold a key."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""All rights of the group and of everybody."""


class Pseudonyms:
    """Makes pseudonyms with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_file(cls, path: Path, *, create: bool) -> Pseudonyms:
        """Read the key from a file.

        :param create: create a missing file, readable by its owner alone.
        :raises InputError: when the file is missing, cannot be read or written, holds no key, or is open to others.
        """
        if not create and not path.exists():
            raise InputError(
                f"There is no pseudonym key {path}, and this database's pseudonyms need theirs.",
                hint="Name the file with that key: --pseudonym-key FILE.",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if create and not path.exists():
                _make(path)
            with path.open("rb") as file:
                key = _key(path, file.read(LONGEST_FILE))
                _check_mode(path, os.fstat(file.fileno()))
                return cls(key)
        except OSError as error:
            raise InputError(
                f"The pseudonym key {path} cannot be read or written: {error.strerror}.",
                hint="Name another file with --pseudonym-key.",
            ) from error

    def of(self, dataset: str, patient: str) -> str:
        """Return the pseudonym of a patient, 32 hexadecimal digits."""
        return self._digest(f"{dataset}\0{patient}").hex()

    def of_dicom(self, patient: str, issuer: str = "") -> str:
        """Return the pseudonym of a patient of DICOM files, the same in all datasets.

        :param issuer: whoever gave the id: two hospitals number their patients alike.
        """
        return self.keyed("DICOM patient", f"{issuer}\0{patient}".encode())[:PSEUDONYM_BYTES].hex()

    def forms(self, dataset: str, patient: str, issuer: str = "") -> tuple[str, ...]:
        """Return the pseudonyms that a patient's own number may have in a dataset: the dataset's own, and DICOM's.

        :param issuer: whoever gave the number; only DICOM files say it.
        """
        of_dicom = self.of_dicom(patient, issuer)
        return (of_dicom,) if issuer else (self.of(dataset, patient), of_dicom)

    def keyed(self, purpose: str, value: bytes) -> bytes:
        """Return 32 bytes that only the holder of the key can link to the value, other ones for each purpose."""
        # No dataset's name begins with NUL, so that nothing here equals a patient's pseudonym.
        return hmac.digest(self._key, f"\0{purpose}\0".encode() + value, hashlib.sha256)

    @property
    def fingerprint(self) -> str:
        """Return a digest that tells keys apart without revealing them."""
        return self._digest("fingerprint of this key").hex()

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), hashlib.sha256)[:PSEUDONYM_BYTES]


def _make(path: Path) -> None:
    """Write a new key, or keep the one that another process has just written."""
    # The file appears whole or not at all, since another process may read it at any moment.
    descriptor, written = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # readable by its owner alone
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        with suppress(FileExistsError):
            os.link(written, path)
    finally:
        Path(written).unlink()


def _check_mode(path: Path, facts: os.stat_result) -> None:
    """Refuse the user's own key file if others may use it, as ssh does.

    A file of another user is taken as it is: secrets that Docker and Kubernetes mount belong to root and are readable
    by all in the container, who cannot change that.
    """
    if facts.st_uid == os.geteuid() and stat.S_IMODE(facts.st_mode) & OTHERS:
        raise InputError(
            f"Others than its owner may read or change the pseudonym key {path}, which links pseudonyms to patients.",
            hint=f"Run: chmod 600 {path}",
        )


def _key(path: Path, content: bytes) -> bytes:
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InputError(
            f"{path} is not a pseudonym key.", hint=f"A key file holds {2 * KEY_BYTES} hexadecimal digits."
        )
    return key
