"""Stores the facts about images: datasets, images, labels. Writes whole batches in a few statements."""

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
    """The stored facts about a patient."""

    pseudonym: str
    sex: str | None


@dataclass(frozen=True, slots=True)
class StudyRow:
    """The stored facts about a study."""

    study_uid: str
    study_date: date | None
    age_years: int | None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """The facts to store about an image; ``facts`` is None if the file was not read."""

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
    """The facts that the database has about an image."""

    image_id: int
    row: ImageRow


def ensure_dataset(connection: psycopg.Connection, name: str, reader: str, root: str | None, *, moved: bool) -> int:
    """Return the dataset's id; create the dataset if its name is new.

    :param moved: the dataset's folder has moved.
    :raises InputError: when the name belongs to a dataset in another folder, or of another kind.
    """
    row = connection.execute(
        "SELECT dataset_id, stored_reader, stored_root FROM cbir_internal.store_dataset(%s, %s, %s, %s)",
        [name, reader, root, moved],
    ).fetchone()
    if row is None:
        raise InputError(f"Someone has just removed the dataset '{name}'.", hint="Try again.")
    dataset_id, stored_reader, stored_root = row
    if stored_reader != reader:
        raise InputError(
            f"The dataset '{name}' exists and was ingested by the reader {stored_reader}.",
            hint="Give the new dataset another --name.",
        )
    if root is not None and stored_root != root:
        raise InputError(
            f"The dataset '{name}' exists and lies in {stored_root}.",
            hint="Give the new dataset another --name. If it is the same dataset in a new place, add --moved.",
        )
    return int(dataset_id)


def stored_images(connection: psycopg.Connection, dataset_id: int, sources: Sequence[str]) -> dict[str, StoredImage]:
    """Return the stored ones among these images of a dataset, by source."""
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
    """Map the file name of each image of a dataset, without its folder, to the image's source."""
    found = connection.execute("SELECT cbir_internal.image_sources(%s)", [dataset_id])
    return {source.rpartition("/")[2]: source for (source,) in found}


def drop_dataset(connection: psycopg.Connection, name: str) -> None:
    """Remove a dataset with its images, their labels, embeddings and failures, and the runs that included it."""
    with connection.transaction():
        # Delete whole runs: without this dataset's images, their figures would be those of another run.
        connection.execute("DELETE FROM cbir.search_run WHERE %s = ANY(datasets)", [name])
        connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [name])


def has_pseudonym_key(connection: psycopg.Connection) -> bool:
    """Return True if this database's patients have pseudonyms made with a key."""
    return connection.execute("SELECT cbir_internal.note_pseudonym_key()").fetchone() != (None,)


def check_pseudonym_key(connection: psycopg.Connection, fingerprint: str) -> None:
    """Record the key of this database's pseudonyms, or check that it is this one.

    :raises InputError: when they were made with another key.
    """
    # Of two first ingests at once, the later one waits and then sees the other's key.
    with LockWaits(connection).naming_blockers():
        row = connection.execute("SELECT cbir_internal.note_pseudonym_key(%s)", [fingerprint]).fetchone()
    if row is None or row[0] != fingerprint:
        raise InputError(
            "This database's pseudonyms were made with another key. With this one, the same patient would appear as two.",
            hint="Name the file with that key: --pseudonym-key FILE.",
        )


def known_hashes(connection: psycopg.Connection, hashes: Iterable[bytes]) -> set[bytes]:
    """Return the hashes whose files are already in the database, in any dataset."""
    found = connection.execute("SELECT cbir_internal.known_hashes(%s)", [list(hashes)])
    return {bytes(row[0]) for row in found}


def store_images(
    connection: psycopg.Connection, dataset_id: int, new: Iterable[ImageRow], changed: Mapping[int, ImageRow]
) -> dict[str, int]:
    """Add new images and update changed ones, with their patients, studies and labels.

    Embeddings of a changed file are deleted.

    :param changed: rows by the ids of the images.
    :returns: the ids of the added images, by source. Another process may have added some first.
    """
    records = [_record(row) for row in new] + [{"image_id": key} | _record(row) for key, row in changed.items()]
    if not records:
        return {}
    found = connection.execute(
        "SELECT source, image_id FROM cbir_internal.store_images(%s, %s)", [dataset_id, Jsonb(records)]
    ).fetchall()
    return dict(found)


def _record(row: ImageRow) -> dict[str, Any]:
    """Return the fields of ``cbir.image_record`` as JSON."""
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
    """Record decoders' reports on images that were stored earlier.

    :param damage: by image id, the hash of the file that was read, and the report.
    """
    hashes, reports = zip(*damage.values(), strict=True)
    connection.execute("SELECT cbir_internal.record_damage(%s, %s, %s)", [list(damage), list(hashes), list(reports)])


def lock_images(
    connection: psycopg.Connection,
    dataset_ids: Collection[int],
    image_ids: Sequence[int],
    sha256: Sequence[bytes | None] | None = None,
) -> set[int]:
    """Lock the images that still exist until the end of this transaction; return their ids.

    :param dataset_ids: ids of the images' datasets.
    :param sha256: each image's hash when it was read; images with another hash now are omitted.
    """
    found = connection.execute(
        "SELECT cbir_internal.lock_images(%s::bigint[], %s::bigint[], %s::bytea[])",
        [list(dataset_ids), list(image_ids), list(sha256) if sha256 is not None else None],
    )
    return {row[0] for row in found}
