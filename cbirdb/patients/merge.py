"""Makes one patient of two who turned out to be one person.

A patient's own number never reaches the database: this module turns it into pseudonyms with the key that ingest used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from cbirdb.db.catalogue import datasets_of_key
from cbirdb.db.embeddings import check_datasets
from cbirdb.db.erasure import is_known, known_pseudonyms
from cbirdb.db.errors import translated_errors
from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.rights import require_function
from cbirdb.errors import InputError
from cbirdb.pseudonyms import Pseudonyms


class Pair(NamedTuple):
    """Pseudonyms of two patients: the one who goes, and the one who stays; with a dataset (None: every one)."""

    goes: str
    stays: str
    dataset: str | None


@dataclass(frozen=True, slots=True)
class Number:
    """A patient's own number, and who gave it, as DICOM files say it."""

    value: str
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """The rows that moved in one dataset."""

    dataset: str
    studies: int
    images: int


def find_pairs(
    connection: psycopg.Connection, goes: Number, stays: Number, pseudonyms: Pseudonyms, dataset: str | None
) -> list[Pair]:
    """Return the pseudonyms of two patients' own numbers, in every dataset that knows both or can.

    A number has one pseudonym per dataset, and another one that is the same in all datasets of DICOM.

    :raises InputError: when the key is not this database's, or no dataset knows the first patient.
    """
    with translated_errors():
        require_function(connection, _FUNCTION)
        names = datasets_of_key(connection, pseudonyms.fingerprint, dataset)
        pairs = [pair for name in names for pair in _pairs(pseudonyms, goes, stays, name)]
        pairs = _of_known_patients(connection, pairs)
        # Another dataset's patient may have the first number by chance. The second one tells that this is not the person.
        both = [pair for pair in pairs if is_known(connection, pair.stays, None)]
    if not both:
        which = "--into-id" if pairs else "--from-id"
        raise InputError(
            f"No dataset here has a patient with the number of {which}.",
            hint="Give the number as the dataset writes it, such as 'patient00001' in CheXpert. For DICOM add --issuer"
            " where the files name an issuer of patient ids.",
        )
    return both


def _of_known_patients(connection: psycopg.Connection, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs whose first patient is there; if there is none, those of whom the server can say what became."""
    found = connection.execute(
        "SELECT p.pseudonym, d.name FROM cbir.patient AS p INNER JOIN cbir.dataset AS d ON d.dataset_id = p.dataset_id"
        " WHERE p.pseudonym = ANY(%s)",
        [[pair.goes for pair in pairs]],
    ).fetchall()
    there = set(found) or set(known_pseudonyms(connection, [(pair.goes, str(pair.dataset)) for pair in pairs]))
    return [pair for pair in pairs if (pair.goes, pair.dataset) in there]


def _pairs(pseudonyms: Pseudonyms, goes: Number, stays: Number, dataset: str) -> list[Pair]:
    """Return the pairs of equal form; only DICOM's form has an issuer."""
    if goes.issuer or stays.issuer:
        first, second = (pseudonyms.of_dicom(number.value, number.issuer) for number in (goes, stays))
        return [Pair(first, second, dataset)]
    forms = zip(pseudonyms.forms(dataset, goes.value), pseudonyms.forms(dataset, stays.value), strict=True)
    return [Pair(first, second, dataset) for first, second in forms]


def foretell(connection: psycopg.Connection, pairs: Sequence[Pair]) -> list[Merged]:
    """Return what ``merge_patients`` would do, and refuse all that it would refuse; change nothing.

    :raises InputError: when a patient is unknown, was erased or merged, or is the other one.
    :raises DatabaseError: when this role may not merge patients.
    """
    with translated_errors():
        require_function(connection, _FUNCTION)
        check_datasets(connection, [pair.dataset for pair in pairs if pair.dataset is not None])
        with connection.transaction(force_rollback=True):
            return _merge(connection, pairs)


def merge_patients(connection: psycopg.Connection, pairs: Sequence[Pair]) -> list[Merged]:
    """Merge patients, all or none of the pairs, and wait for ingests of their datasets that are writing a batch.

    :raises InputError: when a patient is unknown, was erased or merged, or is the other one.
    """
    with translated_errors(), connection.transaction():
        return _merge(connection, pairs)


_FUNCTION = "cbir.merge_patients(text, text, text)"


def _merge(connection: psycopg.Connection, pairs: Sequence[Pair]) -> list[Merged]:
    merged: list[Merged] = []
    with LockWaits(connection).naming_blockers():
        for pair in pairs:
            found = connection.execute(
                "SELECT dataset_name, studies, images FROM cbir.merge_patients(%s, %s, %s)", pair
            ).fetchall()
            merged += [Merged(*row) for row in found]
    return merged
