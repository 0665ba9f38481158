"""Erases patients from the database, with certificates, and keeps them from coming back.

A patient's own number never reaches the database: this module turns it into a pseudonym with the key that ingest used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from cbirdb.db import erasure
from cbirdb.db.catalogue import check_pseudonym_key, has_pseudonym_key
from cbirdb.db.embeddings import check_datasets
from cbirdb.db.errors import translated_errors
from cbirdb.db.rights import require_function
from cbirdb.errors import InputError
from cbirdb.pseudonyms import Pseudonyms

Certificate = dict[str, Any]
"""A certificate as files hold it: certificate_id, dataset, pseudonym_sha256, erased_at, login, role, removed, to_run,
sources_sha256.
"""
HINT_PSEUDONYMS = "List pseudonyms from cbir.patient, or give the patient's own number: cbirdb erase --patient-id ID --pseudonym-key FILE"
CERTIFICATE_KEYS = {
    "certificate_id",
    "dataset",
    "pseudonym_sha256",
    "erased_at",
    "login",
    "role",
    "removed",
    "sources_sha256",
}


def find_pseudonyms(
    connection: psycopg.Connection, patient_id: str, pseudonyms: Pseudonyms, dataset: str | None
) -> list[tuple[str, str | None]]:
    """Return the pseudonyms of a patient's own number, with their datasets.

    :raises InputError: when the key is not this database's, or no dataset knows the patient.
    """
    with translated_errors():
        if dataset is not None:
            check_datasets(connection, [dataset])
        if has_pseudonym_key(connection):
            check_pseudonym_key(connection, pseudonyms.fingerprint)
        names = (
            [dataset]
            if dataset is not None
            else [row[0] for row in connection.execute("SELECT name FROM cbir.dataset ORDER BY name")]
        )
        known = erasure.known_pseudonyms(connection, [(pseudonyms.of(name, patient_id), name) for name in names])
    if not known:
        raise InputError(
            "No dataset here has a patient with this number.",
            hint="Give the number as the dataset writes it, such as 'patient00001' in CheXpert.",
        )
    return [(pseudonym, name) for pseudonym, name in known]


def check_people(connection: psycopg.Connection, people: Sequence[tuple[str, str | None]]) -> None:
    """Refuse early, before a confirmation, all that ``erase_patients`` would refuse.

    :raises InputError: when there is no such patient or dataset.
    :raises DatabaseError: when this role may not erase.
    """
    with translated_errors():
        require_function(connection, "cbir.erase_patient(text, text)")
        check_datasets(connection, [dataset for _, dataset in people if dataset is not None])
        for pseudonym, dataset in people:
            if not erasure.is_known(connection, pseudonym, dataset):
                where = f' in dataset "{dataset}"' if dataset is not None else ""
                raise InputError(f"There is no patient with this pseudonym{where}.", hint=HINT_PSEUDONYMS)


def check_reapply(connection: psycopg.Connection) -> None:
    """Check that this role may reapply erasures.

    :raises DatabaseError: when it may not.
    """
    with translated_errors():
        for function in ("cbir.restore_certificates(jsonb)", "cbir.reapply_erasures()"):
            require_function(connection, function)


def erase_patients(connection: psycopg.Connection, people: Sequence[tuple[str, str | None]]) -> list[Certificate]:
    """Erase patients in one transaction. Their vectors stay in indexes and files until ``repair`` has run.

    :param people: pseudonyms, each with its dataset (None: every dataset that knows it).
    :raises InputError: when there is no such patient.
    """
    with translated_errors():
        for _, dataset in people:
            if dataset is not None:
                check_datasets(connection, [dataset])
        try:
            return erasure.erase_patients(connection, people)
        except psycopg.errors.NoDataFound as error:
            message = error.diag.message_primary or "there is no such patient"
            raise InputError(f"{message[0].upper()}{message[1:]}.", hint=error.diag.message_hint) from error


def reapply_erasures(connection: psycopg.Connection, certificates: Sequence[Certificate] = ()) -> list[Certificate]:
    """Erase again, as ``erase_patients`` does, every patient who has a certificate (here or given) and is back."""
    with translated_errors():
        return erasure.reapply(connection, certificates)


def repair(connection: psycopg.Connection, certificates: Sequence[Certificate]) -> list[str]:
    """Rebuild the vector indexes that held erased vectors, and VACUUM; return the statements that this role may not
    run.
    """
    with translated_errors():
        return erasure.run_cleanup(connection, certificates)


def all_certificates(connection: psycopg.Connection) -> list[Certificate]:
    """Return every certificate of this database, in the order of the erasures."""
    with translated_errors():
        return erasure.all_certificates(connection)


def read_certificates(path: Path) -> list[Certificate]:
    """Read certificates from a file of ``write_certificates`` or ``cbirdb erase --list --format json``.

    :raises InputError: when the file has another content.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.", hint="Check --from-certificate.") from error
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} holds no certificates.", hint="Give a file that cbirdb erase --certificate wrote."
        ) from error
    if not isinstance(found, list) or not all(
        isinstance(item, Mapping) and set(item) >= CERTIFICATE_KEYS for item in found
    ):
        raise InputError(f"{path} holds no certificates.", hint="Give a file that cbirdb erase --certificate wrote.")
    return [dict(item) for item in found]


def check_target(path: Path) -> None:
    """Refuse a file that exists or cannot be written, before anything is erased.

    :raises InputError: naming the reason.
    """
    if path.exists():
        raise InputError(f"{path} exists.", hint="Name another file: certificates are never overwritten.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent}.", hint="Create it, or check --certificate.")
    try:
        path.touch(exist_ok=False)
        path.unlink()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}.", hint="Check --certificate; nothing was erased."
        ) from error


def write_certificates(path: Path, certificates: Sequence[Certificate]) -> None:
    """Write certificates into a new file."""
    with path.open("x") as file:
        json.dump(list(certificates), file, indent=2)
        file.write("\n")
