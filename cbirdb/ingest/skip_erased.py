"""Filter erased patients' images out of incoming records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import psycopg

from cbirdb.db.erasure import erased_datasets, erased_sources
from cbirdb.records import Failure, ImageRecord, Patient

Pseudonym = Callable[[Patient, str], str]
"""Returns the pseudonym that a patient has, or would have, in the dataset of this name."""


def without_erased(
    connection: psycopg.Connection, records: Sequence[ImageRecord], pseudonym: Pseudonym
) -> list[ImageRecord]:
    """Return one dataset's records without those of patients erased under this dataset's name or another."""
    if not records:
        return []
    dataset = records[0].dataset
    erased = erased_sources(
        connection,
        dataset,
        [record.source for record in records],
        [pseudonym(record.patient, dataset) if record.patient else None for record in records],
    )
    erased |= _erased_under_other_names(connection, records, pseudonym)
    return [record for record in records if record.source not in erased]


def _erased_under_other_names(
    connection: psycopg.Connection, records: Sequence[ImageRecord], pseudonym: Pseudonym
) -> set[str]:
    """Return sources of these images that another dataset's erasure took, as if this were that dataset."""
    known = {record.source: record.patient for record in records if record.patient}
    if not known:
        return set()
    return {
        source
        for name in erased_datasets(connection)
        if name != records[0].dataset
        for source in erased_sources(
            connection, name, list(known), [pseudonym(patient, name) for patient in known.values()], both=True
        )
    }


def without_erased_files(connection: psycopg.Connection, failures: Sequence[Failure]) -> list[Failure]:
    """Leave out unreadable rows of erased patients' files: no table is to name them again."""
    of_datasets: dict[str, list[str]] = defaultdict(list)
    for failure in failures:
        if failure.dataset is not None:
            of_datasets[failure.dataset].append(failure.source)
    erased = {
        (dataset, source)
        for dataset, sources in of_datasets.items()
        for source in erased_sources(connection, dataset, sources, [None] * len(sources))
    }
    return [failure for failure in failures if (failure.dataset, failure.source) not in erased]
