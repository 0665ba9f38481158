"""Erases patients from the database, with certificates, and keeps them from coming back.

A patient's own number never reaches the database: this module turns it into a pseudonym with the key that ingest used.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from cbirdb.db import erasure
from cbirdb.db.catalogue import datasets_of_key
from cbirdb.db.embeddings import check_datasets
from cbirdb.db.errors import translated_errors
from cbirdb.db.rights import require_function
from cbirdb.errors import InputError
from cbirdb.path_map import PathMap
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
    connection: psycopg.Connection, patient_id: str, pseudonyms: Pseudonyms, dataset: str | None, *, issuer: str = ""
) -> list[tuple[str, str | None]]:
    """Return the pseudonyms of a patient's own number, with their datasets.

    A number has one pseudonym per dataset, and another one that is the same in all datasets of DICOM.

    :param issuer: who gave the number, as DICOM files say it.
    :raises InputError: when the key is not this database's, or no dataset knows the patient.
    """
    with translated_errors():
        names = datasets_of_key(connection, pseudonyms.fingerprint, dataset)
        both = [(form, name) for name in names for form in pseudonyms.forms(name, patient_id, issuer)]
        known = erasure.known_pseudonyms(connection, both)
    if not known:
        raise InputError(
            "No dataset here has a patient with this number.",
            hint="Give the number as the dataset writes it, such as 'patient00001' in CheXpert. For DICOM add --issuer"
            " where the files name an issuer of patient ids.",
        )
    return [(pseudonym, name) for pseudonym, name in known]


def forget_paths(connection: psycopg.Connection, path_map: Path, certificates: Sequence[Certificate]) -> int:
    """Remove the paths of erased files from the path map of this machine; return how many it knew.

    :raises InputError: when the map cannot be written.
    """
    if not path_map.exists():
        return 0
    with translated_errors():
        found = connection.execute("SELECT dataset, root FROM cbir.dataset_overview WHERE root IS NOT NULL").fetchall()
    erased: dict[str, set[str]] = defaultdict(set)
    for certificate in certificates:
        erased[certificate["dataset"]].update(certificate["sources_sha256"])
    removed = 0
    with PathMap.open(path_map) as paths:
        for dataset, root in found:
            if dataset in erased:
                names = [name for name in paths.sources(root) if _hash(dataset, name) in erased[dataset]]
                removed += paths.remove(root, names)
    return removed


def _hash(dataset: str, source: str) -> str:
    """Return the hash of an erased file's name, as ``cbir.erasure_hash`` computes it."""
    return hashlib.sha256(f"{dataset}\0{source}".encode()).hexdigest()


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
