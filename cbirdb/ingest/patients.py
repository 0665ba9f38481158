"""Replace patients' ids by pseudonyms, under the one key that a database goes with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import psycopg

from cbirdb.db import catalogue
from cbirdb.db.catalogue import PatientRow, StudyRow
from cbirdb.errors import InputError
from cbirdb.pseudonyms import Pseudonyms
from cbirdb.records import ImageRecord, Patient


class MakePseudonyms(Protocol):
    """Give patients' pseudonyms; ``create``: with a new key, where there is none yet."""

    def __call__(self, *, create: bool) -> Pseudonyms: ...


class Patients:
    """Give patients as they are stored. The key is read when the first patient comes."""

    def __init__(self, connection: psycopg.Connection, make_pseudonyms: MakePseudonyms | None) -> None:
        self._connection = connection
        self._make = make_pseudonyms
        self._pseudonyms: Pseudonyms | None = None
        self._merged: dict[str, str] = {}
        """By the pseudonyms of merged patients of the dataset at hand: those under which they are stored."""

    def checked_pseudonyms(self) -> Pseudonyms:
        """Return the pseudonyms of this database's key.

        :raises InputError: when there is no key, or another than the database's.
        """
        if self._pseudonyms is None:
            if self._make is None:
                raise InputError("This dataset tells patients apart: a key for their pseudonyms is needed.")
            known = catalogue.has_pseudonym_key(self._connection)
            self._pseudonyms = self._make(create=not known)
            catalogue.check_pseudonym_key(self._connection, self._pseudonyms.fingerprint)
        return self._pseudonyms

    def pseudonym(self, dataset: str, number: str) -> str:
        """Return the pseudonym of a dataset's patient."""
        return self.checked_pseudonyms().of(dataset, number)

    def look_merged_up(self, records: Sequence[ImageRecord]) -> None:
        """Ask which patients of one dataset's records have been merged; the transaction must last until they are stored."""
        known = {self.pseudonym_of(r.patient, r.dataset) for r in records if r.patient is not None}
        self._merged = catalogue.merged_pseudonyms(self._connection, records[0].dataset, known) if known else {}

    def rows_of(self, record: ImageRecord) -> tuple[PatientRow | None, StudyRow | None]:
        """Return patient and study as they are stored: by pseudonym."""
        patient: PatientRow | None = None
        owner = ""
        if record.patient is not None:
            pseudonym = self.pseudonym_of(record.patient, record.dataset)
            # A study keeps its key: two patients number their studies alike.
            owner = f"{pseudonym}/"
            if pseudonym in self._merged:
                # Two records of one person may differ in sex; that of the patient who stayed counts.
                patient = PatientRow(self._merged[pseudonym], None)
            else:
                patient = PatientRow(pseudonym, record.patient.sex)
        if (study := record.study) is None:
            return patient, None
        if record.dicom is not None:
            # A study instance UID is unique without its patient.
            return patient, StudyRow(study.key, study.day, study.age_years, record.dicom.accession)
        return patient, StudyRow(f"{owner}{study.key}", study.day, study.age_years)

    def pseudonym_of(self, patient: Patient, dataset: str) -> str:
        """Return the pseudonym that a patient has, or would have, in a dataset."""
        return patient.pseudonym or self.pseudonym(dataset, patient.key)
