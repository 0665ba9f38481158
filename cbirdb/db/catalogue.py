"""Stores the facts about images: datasets, images, labels. Writes whole batches in a few statements."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from cbirdb.db.embeddings import check_datasets
from cbirdb.db.lock_waits import LockWaits
from cbirdb.errors import InputError
from cbirdb.records import DicomFacts, FileFacts, FrameFacts, OnConflict

DICOM_COLUMNS = tuple(item.name for item in fields(DicomFacts) if item.name not in ("accession", "frames"))
"""Fields of ``DicomFacts`` that are columns of ``cbir.image``."""


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
    accession: str | None = None


ImageKey: TypeAlias = tuple[str, int]
"""Source and frame (from 0), which identify an image within its dataset."""


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
    frame: int = 0
    sop_uid: str | None = None
    series_uid: str | None = None
    dicom: DicomFacts | None = None

    @property
    def key(self) -> ImageKey:
        """Return source and frame."""
        return self.source, self.frame


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


def stored_images(
    connection: psycopg.Connection, dataset_id: int, sources: Sequence[str]
) -> dict[ImageKey, StoredImage]:
    """Return the stored images of a dataset that have one of these sources, by source and frame."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    found: Iterable[Any] = cursor.execute(
        "SELECT * FROM cbir_internal.stored_images(%s, %s)", [dataset_id, list(sources)]
    )
    return {(row.source, row.frame): StoredImage(row.image_id, _stored_row(row)) for row in found}


def _stored_row(row: Any) -> ImageRow:
    facts = None
    if row.file_modified_ns is not None:
        facts = FileFacts(
            sha256=bytes(row.sha256) if row.sha256 is not None else None,
            width=row.width,
            height=row.height,
            file_bytes=row.file_bytes,
            modified_ns=row.file_modified_ns,
            damage=row.damage,
            pixel_sha256=bytes(row.pixel_sha256) if row.pixel_sha256 is not None else None,
        )
    dicom = None
    if row.sop_class_uid is not None:
        stored: dict[str, Any] = {name: _immutable(getattr(row, name)) for name in DICOM_COLUMNS}
        dicom = DicomFacts(**stored, accession=row.accession)
    study = None
    if row.study_uid is not None:
        study = StudyRow(row.study_uid, row.study_date, row.age_years, row.accession)
    return ImageRow(
        row.source, row.split, row.modality, row.anatomic_region, row.labels, facts, row.view,
        PatientRow(row.pseudonym, row.sex) if row.pseudonym is not None else None,
        study, row.frame, row.sop_uid, row.series_uid, dicom,
    )  # fmt: skip


def _immutable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def sources_by_name(connection: psycopg.Connection, dataset_id: int) -> dict[str, str]:
    """Map the file name of each image of a dataset, without its folder, to the image's source."""
    found = connection.execute("SELECT cbir_internal.image_sources(%s)", [dataset_id])
    return {source.rpartition("/")[2]: source for (source,) in found}


def drop_dataset(connection: psycopg.Connection, name: str) -> None:
    """Remove a dataset with its images, their labels, embeddings and failures, and the runs that included it."""
    with connection.transaction():
        # Delete whole runs: without this dataset's images, their figures would be those of another run.
        connection.execute("DELETE FROM cbir.search_run WHERE %s = ANY(datasets)", [name])
        connection.execute("DELETE FROM cbir.probe_run WHERE %s = ANY(datasets)", [name])
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


def merged_pseudonyms(connection: psycopg.Connection, dataset: str, pseudonyms: Iterable[str]) -> dict[str, str]:
    """Return by the pseudonyms of merged patients those under which their images are stored.

    The answer stays true until the transaction ends, because no merge of this dataset's patients can happen before.
    """
    with LockWaits(connection).naming_blockers():
        found = connection.execute(
            "SELECT pseudonym, into_pseudonym FROM cbir_internal.merged_pseudonym(%s, %s::text[])",
            [dataset, list(pseudonyms)],
        )
    return dict(found.fetchall())


def datasets_of_key(connection: psycopg.Connection, fingerprint: str, dataset: str | None) -> list[str]:
    """Return the datasets in which a patient's own number may be looked up with a key: the given one, or all.

    :raises InputError: when the key is not this database's, or there is no such dataset.
    """
    if dataset is not None:
        check_datasets(connection, [dataset])
    if has_pseudonym_key(connection):
        check_pseudonym_key(connection, fingerprint)
    if dataset is not None:
        return [dataset]
    return [name for (name,) in connection.execute("SELECT name FROM cbir.dataset ORDER BY name")]


def known_hashes(connection: psycopg.Connection, hashes: Iterable[bytes]) -> set[bytes]:
    """Return the hashes whose files are already in the database, in any dataset."""
    found = connection.execute("SELECT cbir_internal.known_hashes(%s)", [list(hashes)])
    return {bytes(row[0]) for row in found}


def store_images(
    connection: psycopg.Connection, dataset_id: int, new: Iterable[ImageRow], changed: Mapping[int, ImageRow]
) -> dict[ImageKey, int]:
    """Add new images and update changed ones, with their patients, studies, series and labels.

    Embeddings of a changed file are deleted.

    :param changed: rows by the ids of the images.
    :returns: the ids of the added images, by source and frame. Another process may have added some first.
    """
    records = [_record(row) for row in new] + [{"image_id": key} | _record(row) for key, row in changed.items()]
    if not records:
        return {}
    found = connection.execute(
        "SELECT source, frame, image_id FROM cbir_internal.store_images(%s, %s)", [dataset_id, Jsonb(records)]
    ).fetchall()
    return {(source, frame): image_id for source, frame, image_id in found}


def _record(row: ImageRow) -> dict[str, Any]:
    """Return the fields of ``cbir.image_record`` as JSON."""
    record: dict[str, Any] = {
        "source": row.source, "split": row.split, "modality": row.modality, "anatomic_region": row.anatomic_region,
        "view": row.view, "labels": row.labels, "frame": row.frame, "sop_uid": row.sop_uid,
        "series_uid": row.series_uid,
    }  # fmt: skip
    if (facts := row.facts) is not None:
        record |= {
            "sha256": _hex(facts.sha256), "width": facts.width, "height": facts.height,
            "file_bytes": facts.file_bytes, "file_modified_ns": facts.modified_ns, "damage": facts.damage,
            "pixel_sha256": _hex(facts.pixel_sha256),
        }  # fmt: skip
    if row.patient is not None:
        record |= {"pseudonym": row.patient.pseudonym, "sex": row.patient.sex}
    if (study := row.study) is not None:
        day = study.study_date.isoformat() if study.study_date else None
        record |= {
            "study_uid": study.study_uid, "study_date": day, "age_years": study.age_years, "accession": study.accession,
        }  # fmt: skip
    if row.dicom is not None:
        record |= {name: getattr(row.dicom, name) for name in DICOM_COLUMNS}
    return record


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else f"\\x{digest.hex()}"


def check_folder(connection: psycopg.Connection, folder: str, overlapping: Sequence[str]) -> None:
    """Refuse a folder that belongs to a dataset which the acting role may not see. The server learns no path.

    :param overlapping: opaque names of folders that are this one, hold it or lie in it.
    :raises psycopg.errors.InsufficientPrivilege: when it does.
    """
    path = PurePosixPath(folder)
    hashes = [hashlib.sha256(os.fsencode(above)).hexdigest() for above in (path, *path.parents)]
    connection.execute("SELECT cbir_internal.check_folder(%s::text[], %s::text[])", [hashes, list(overlapping)])


def body_parts(connection: psycopg.Connection) -> dict[str, str]:
    """Return the words for codes of body parts that users have added."""
    return dict(connection.execute("SELECT code, anatomic_region FROM cbir_internal.body_parts()").fetchall())


def settle_pixels(
    connection: psycopg.Connection, read: Mapping[int, FrameFacts], on_conflict: OnConflict
) -> dict[int, str]:
    """Record pixels of DICOM frames that were read for the first time, and settle equal SOP instance UIDs.

    :param read: by image id.
    :returns: by image id: own, copy, kept, replaced, skipped, or overtaken by one that replaces it. Images that another
        process has read are absent, unless they are copies.
    """
    values = list(read.values())
    found = connection.execute(
        "SELECT image_id, outcome FROM cbir_internal.settle_pixels(%s, %s, %s, %s, %s, %s)",
        [
            list(read),
            [item.sha256 for item in values],
            [item.pixel_sha256 for item in values],
            [item.width for item in values],
            [item.height for item in values],
            on_conflict,
        ],
    )
    return dict(found.fetchall())


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
