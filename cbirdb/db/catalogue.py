"""Writes what is known about images: datasets, images, labels. Whole batches in a few statements each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from cbirdb.db.lock_waits import LockWaits
from cbirdb.errors import InputError
from cbirdb.records import FileFacts


@dataclass(frozen=True, slots=True)
class PatientRow:
    """What is stored about a patient."""

    pseudonym: str
    sex: str | None


@dataclass(frozen=True, slots=True)
class StudyRow:
    """What is stored about a study."""

    study_uid: str
    study_date: date | None
    age_years: int | None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What is to be stored about one image; ``facts`` is None when the file was not looked at."""

    source: str
    split: str | None
    modality: str | None
    anatomic_region: str | None
    labels: Mapping[str, int]
    facts: FileFacts | None
    view: str | None = None
    patient: PatientRow | None = None
    study: StudyRow | None = None


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What the database already has about one image."""

    image_id: int
    row: ImageRow


def ensure_dataset(connection: psycopg.Connection, name: str, reader: str, root: str | None, *, moved: bool) -> int:
    """The dataset's id; makes the dataset when there is none of that name.

    :param moved: the dataset's folder lies elsewhere now.
    :raises InputError: when the name belongs to a dataset in another folder, or of another kind.
    """
    row = connection.execute(
        "SELECT dataset_id, stored_reader, stored_root FROM cbir_internal.store_dataset(%s, %s, %s, %s)",
        [name, reader, root, moved],
    ).fetchone()
    if row is None:
        raise InputError(f"The dataset '{name}' has just been removed by someone else.", hint="Try again.")
    dataset_id, stored_reader, stored_root = row
    if stored_reader != reader:
        raise InputError(
            f"The dataset '{name}' exists and was ingested as {stored_reader}.", hint="Give this one another --name."
        )
    if root is not None and stored_root != root:
        raise InputError(
            f"The dataset '{name}' exists and lies in {stored_root}.",
            hint="Give this one another --name, or --moved if it is the same dataset in a new place.",
        )
    return int(dataset_id)


def stored_images(connection: psycopg.Connection, dataset_id: int, sources: Sequence[str]) -> dict[str, StoredImage]:
    """The images of a dataset that are already there, by source."""
    found = connection.execute(
        "SELECT source, image_id, split, modality, anatomic_region, sha256, width, height, file_bytes, file_modified_ns,"
        " damage, view, pseudonym, sex, study_uid, study_date, age_years, labels FROM cbir_internal.stored_images(%s, %s)",
        [dataset_id, list(sources)],
    )
    images = {}
    for source, image_id, split, modality, region, sha256, *rest in found:
        width, height, size, modified_ns, damage, view, pseudonym, sex, study_uid, study_date, age_years, labels = rest
        facts = FileFacts(bytes(sha256), width, height, size, modified_ns, damage) if sha256 is not None else None
        patient = PatientRow(pseudonym, sex) if pseudonym is not None else None
        study = StudyRow(study_uid, study_date, age_years) if study_uid is not None else None
        row = ImageRow(source, split, modality, region, labels, facts, view, patient, study)
        images[source] = StoredImage(image_id, row)
    return images


def sources_by_name(connection: psycopg.Connection, dataset_id: int) -> dict[str, str]:
    """The source of each image of a dataset by its file's name, whatever folder it lies in."""
    found = connection.execute("SELECT cbir_internal.image_sources(%s)", [dataset_id])
    return {source.rpartition("/")[2]: source for (source,) in found}


def drop_dataset(connection: psycopg.Connection, name: str) -> None:
    """Remove a dataset; its images, their labels, embeddings and failures, and runs that it took part in, go too."""
    with connection.transaction():
        # Not only the results of its own images: what is left of such a run would be figures of another one.
        connection.execute("DELETE FROM cbir.search_run WHERE %s = ANY(datasets)", [name])
        connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [name])


def has_pseudonym_key(connection: psycopg.Connection) -> bool:
    """Whether this database's patients have pseudonyms that were made with some key."""
    return connection.execute("SELECT cbir_internal.note_pseudonym_key()").fetchone() != (None,)


def check_pseudonym_key(connection: psycopg.Connection, fingerprint: str) -> None:
    """Note with which key this database's pseudonyms are made, or check that it is this one.

    :raises InputError: when they were made with another.
    """
    # Two first ingests at once: the later one waits, and then sees the key of the other.
    with LockWaits(connection).naming_blockers():
        row = connection.execute("SELECT cbir_internal.note_pseudonym_key(%s)", [fingerprint]).fetchone()
    if row is None or row[0] != fingerprint:
        raise InputError(
            "The patients of this database got their pseudonyms with another key, so that the same patient would appear"
            " as two.",
            hint="Name the file with that key: --pseudonym-key FILE.",
        )


def known_hashes(connection: psycopg.Connection, hashes: Iterable[bytes]) -> set[bytes]:
    """Which of these files' contents are in the database already, in any dataset."""
    found = connection.execute("SELECT cbir_internal.known_hashes(%s)", [list(hashes)])
    return {bytes(row[0]) for row in found}


def store_images(
    connection: psycopg.Connection, dataset_id: int, new: Iterable[ImageRow], changed: Mapping[int, ImageRow]
) -> dict[str, int]:
    """Add images, and bring others up to date, with their patients, studies and labels.

    Embeddings of a file that has changed go.

    :param changed: by the ids of the images.
    :returns: the ids of those that were added, by source; another process may have been faster with some.
    """
    records = [_record(row) for row in new] + [{"image_id": key} | _record(row) for key, row in changed.items()]
    if not records:
        return {}
    found = connection.execute(
        "SELECT source, image_id FROM cbir_internal.store_images(%s, %s)", [dataset_id, Jsonb(records)]
    ).fetchall()
    return dict(found)


def _record(row: ImageRow) -> dict[str, Any]:
    """The fields of ``cbir.image_record``, as JSON has them."""
    record: dict[str, Any] = {
        "source": row.source, "split": row.split, "modality": row.modality, "anatomic_region": row.anatomic_region,
        "view": row.view, "labels": row.labels,
    }  # fmt: skip
    if (facts := row.facts) is not None:
        record |= {
            "sha256": f"\\x{facts.sha256.hex()}", "width": facts.width, "height": facts.height,
            "file_bytes": facts.file_bytes, "file_modified_ns": facts.modified_ns, "damage": facts.damage,
        }  # fmt: skip
    if row.patient is not None:
        record |= {"pseudonym": row.patient.pseudonym, "sex": row.patient.sex}
    if (study := row.study) is not None:
        day = study.study_date.isoformat() if study.study_date else None
        record |= {"study_uid": study.study_uid, "study_date": day, "age_years": study.age_years}
    return record


def record_damage(connection: psycopg.Connection, damage: Mapping[int, tuple[bytes | None, str]]) -> None:
    """Record what a decoder reported of images that were stored before.

    :param damage: by image id, the hash of what was read, and the report.
    """
    hashes, reports = zip(*damage.values(), strict=True)
    connection.execute("SELECT cbir_internal.record_damage(%s, %s, %s)", [list(damage), list(hashes), list(reports)])


def lock_images(
    connection: psycopg.Connection,
    dataset_ids: Collection[int],
    image_ids: Sequence[int],
    sha256: Sequence[bytes | None] | None = None,
) -> set[int]:
    """Those of the images that are still in the catalogue; they cannot be changed or removed before this transaction ends.

    :param dataset_ids: of the datasets that the images are in.
    :param sha256: of the content that each image had when it was read; leaves out those that have another now.
    """
    found = connection.execute(
        "SELECT cbir_internal.lock_images(%s::bigint[], %s::bigint[], %s::bytea[])",
        [list(dataset_ids), list(image_ids), list(sha256) if sha256 is not None else None],
    )
    return {row[0] for row in found}
