"""Writes what is known about images: datasets, images, labels. Whole batches in a few statements each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date

import psycopg
from psycopg import sql

from cbirdb.db.lock_waits import LockWaits
from cbirdb.db.schema_name import SCHEMA
from cbirdb.errors import InputError
from cbirdb.records import WHOLE, FileFacts, Shard


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
    connection.execute(
        "INSERT INTO cbir.dataset (name, reader, root) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING",
        [name, reader, root],
    )
    row = connection.execute("SELECT dataset_id, reader, root FROM cbir.dataset WHERE name = %s", [name]).fetchone()
    if row is None:
        raise InputError(f"The dataset '{name}' has just been removed by someone else.", hint="Try again.")
    dataset_id, stored_reader, stored_root = row
    if stored_reader != reader:
        raise InputError(
            f"The dataset '{name}' exists and was ingested as {stored_reader}.", hint="Give this one another --name."
        )
    if root is not None and stored_root != root:
        if stored_root is not None and not moved:
            raise InputError(
                f"The dataset '{name}' exists and lies in {stored_root}.",
                hint="Give this one another --name, or --moved if it is the same dataset in a new place.",
            )
        connection.execute("UPDATE cbir.dataset SET root = %s WHERE dataset_id = %s", [root, dataset_id])
    return int(dataset_id)


def stored_images(connection: psycopg.Connection, dataset_id: int, sources: Sequence[str]) -> dict[str, StoredImage]:
    """The images of a dataset that are already there, by source."""
    found = connection.execute(
        """
        SELECT i.source, i.image_id, i.split, i.modality, i.anatomic_region,
               i.sha256, i.width, i.height, i.file_bytes, i.file_modified_ns, i.damage,
               i.view, p.pseudonym, p.sex, s.study_uid, s.study_date, s.age_years,
               (SELECT coalesce(jsonb_object_agg(l.name, il.value), '{}')
                FROM cbir.image_label AS il JOIN cbir.label AS l USING (label_id) WHERE il.image_id = i.image_id)
        FROM cbir.image AS i
        LEFT JOIN cbir.patient AS p ON p.patient_id = i.patient_id
        LEFT JOIN cbir.study AS s ON s.study_id = i.study_id
        WHERE i.dataset_id = %s AND i.source = ANY(%s) AND i.frame = 0
        """,
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
    found = connection.execute(
        "SELECT source FROM cbir.image WHERE dataset_id = %s AND frame = 0 ORDER BY image_id", [dataset_id]
    )
    return {source.rpartition("/")[2]: source for (source,) in found}


def count_images(connection: psycopg.Connection, datasets: Sequence[str], shard: Shard = WHOLE) -> int:
    """Number of images of these datasets (of all when none is named) in this shard."""
    row = connection.execute(
        "SELECT count(*) FROM cbir.image AS i JOIN cbir.dataset AS d USING (dataset_id)"
        " WHERE (%s::text[] IS NULL OR d.name = ANY(%s)) AND mod(i.image_id, %s) = %s",
        [list(datasets) or None, list(datasets), shard.count, shard.index],
    ).fetchone()
    return int(row[0]) if row else 0


def drop_dataset(connection: psycopg.Connection, name: str) -> None:
    """Remove a dataset; its images, their labels, embeddings and failures, and runs that it took part in, go too."""
    with connection.transaction():
        # Not only the results of its own images: what is left of such a run would be figures of another one.
        connection.execute("DELETE FROM cbir.search_run WHERE %s = ANY(datasets)", [name])
        connection.execute("DELETE FROM cbir.dataset WHERE name = %s", [name])


def has_pseudonym_key(connection: psycopg.Connection) -> bool:
    """Whether this database's patients have pseudonyms that were made with some key."""
    return connection.execute("SELECT FROM cbir.pseudonym_key").fetchone() is not None


def check_pseudonym_key(connection: psycopg.Connection, fingerprint: str) -> None:
    """Note with which key this database's pseudonyms are made, or check that it is this one.

    :raises InputError: when they were made with another.
    """
    query = "SELECT fingerprint FROM cbir.pseudonym_key"
    row = connection.execute(query).fetchone()
    if row is None:
        with connection.transaction():
            # Two first ingests at once: the later one waits, and then sees the key of the other.
            with LockWaits(connection).naming_blockers():  # anybody can have taken it
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('cbirdb pseudonym key', 0))")
            connection.execute(
                "INSERT INTO cbir.pseudonym_key (fingerprint)"
                " SELECT %s WHERE NOT EXISTS (SELECT FROM cbir.pseudonym_key)",
                [fingerprint],
            )
            row = connection.execute(query).fetchone()
    if row is None or row[0] != fingerprint:
        raise InputError(
            "The patients of this database got their pseudonyms with another key, so that the same patient would appear"
            " as two.",
            hint="Name the file with that key: --pseudonym-key FILE.",
        )


def known_hashes(connection: psycopg.Connection, hashes: Iterable[bytes]) -> set[bytes]:
    """Which of these files' contents are in the database already, in any dataset."""
    found = connection.execute("SELECT sha256 FROM cbir.image WHERE sha256 = ANY(%s)", [list(hashes)])
    return {bytes(row[0]) for row in found}


def insert_images(connection: psycopg.Connection, dataset_id: int, rows: Sequence[ImageRow]) -> dict[str, int]:
    """Add images; returns the ids of those that were not there yet, by source."""
    if not rows:
        return {}
    facts = [row.facts for row in rows]
    people = _write_people(connection, dataset_id, rows)
    found = connection.execute(
        """
        INSERT INTO cbir.image (
            dataset_id, source, split, modality, anatomic_region, sha256, width, height, file_bytes, file_modified_ns,
            damage, view, patient_id, study_id
        )
        SELECT %(dataset_id)s, new.*
        FROM unnest(
            %(source)s::text[], %(split)s::text[], %(modality)s::text[], %(region)s::text[], %(sha256)s::bytea[],
            %(width)s::int[], %(height)s::int[], %(file_bytes)s::bigint[], %(modified_ns)s::bigint[],
            %(damage)s::text[], %(view)s::text[], %(patient_id)s::bigint[], %(study_id)s::bigint[]
        ) AS new
        ON CONFLICT (dataset_id, source, frame) DO NOTHING
        RETURNING source, image_id
        """,
        {
            "dataset_id": dataset_id,
            "source": [row.source for row in rows],
            "split": [row.split for row in rows],
            "modality": [row.modality for row in rows],
            "region": [row.anatomic_region for row in rows],
            "sha256": [f.sha256 if f else None for f in facts],
            "width": [f.width if f else None for f in facts],
            "height": [f.height if f else None for f in facts],
            "file_bytes": [f.file_bytes if f else None for f in facts],
            "modified_ns": [f.modified_ns if f else None for f in facts],
            "damage": [f.damage if f else None for f in facts],
            "view": [row.view for row in rows],
            "patient_id": [patient_id for patient_id, _ in people],
            "study_id": [study_id for _, study_id in people],
        },
    )
    return dict(found.fetchall())


def _write_people(
    connection: psycopg.Connection, dataset_id: int, rows: Sequence[ImageRow]
) -> list[tuple[int | None, int | None]]:
    """Add the patients and studies of images, or bring them up to date; returns both ids for each image."""
    # Always in the same order: two ingests at once then wait for each other, and not both.
    ordered = sorted(rows, key=_by_people)
    patients = {row.patient.pseudonym: row.patient for row in ordered if row.patient is not None}
    patient_ids: dict[str, int] = {}
    if patients:
        found = connection.execute(
            """
            INSERT INTO cbir.patient AS old (dataset_id, pseudonym, sex)
            SELECT %s, new.* FROM unnest(%s::text[], %s::text[]) AS new
            ON CONFLICT (dataset_id, pseudonym) DO UPDATE SET sex = coalesce(excluded.sex, old.sex)
            RETURNING pseudonym, patient_id
            """,
            [dataset_id, list(patients), [patient.sex for patient in patients.values()]],
        )
        patient_ids = dict(found.fetchall())
    studies = {row.study.study_uid: row for row in ordered if row.study is not None}
    study_ids: dict[str, int] = {}
    if studies:
        of_studies = [(row.study, row.patient) for row in studies.values() if row.study is not None]
        found = connection.execute(
            """
            INSERT INTO cbir.study AS old (dataset_id, study_uid, patient_id, study_date, age_years)
            SELECT %s, new.* FROM unnest(%s::text[], %s::bigint[], %s::date[], %s::smallint[]) AS new
            ON CONFLICT (dataset_id, study_uid) DO UPDATE SET
                patient_id = excluded.patient_id, study_date = excluded.study_date, age_years = excluded.age_years
            RETURNING study_uid, study_id
            """,
            [
                dataset_id, [study.study_uid for study, _ in of_studies],
                [patient_ids[patient.pseudonym] if patient else None for _, patient in of_studies],
                [study.study_date for study, _ in of_studies], [study.age_years for study, _ in of_studies],
            ],
        )  # fmt: skip
        study_ids = dict(found.fetchall())
    return [
        (
            patient_ids[row.patient.pseudonym] if row.patient is not None else None,
            study_ids[row.study.study_uid] if row.study is not None else None,
        )
        for row in rows
    ]


def _by_people(row: ImageRow) -> tuple[str, str]:
    return (row.patient.pseudonym if row.patient else "", row.study.study_uid if row.study else "")


def update_image(connection: psycopg.Connection, dataset_id: int, image_id: int, row: ImageRow) -> None:
    """Bring one image up to date with its dataset; its labels are written separately."""
    facts = row.facts
    ((patient_id, study_id),) = _write_people(connection, dataset_id, [row])
    connection.execute(
        """
        UPDATE cbir.image SET source = %s, split = %s, modality = %s, anatomic_region = %s,
            sha256 = %s, width = %s, height = %s, file_bytes = %s, file_modified_ns = %s, damage = %s,
            view = %s, patient_id = %s, study_id = %s
        WHERE image_id = %s
        """,
        [
            row.source, row.split, row.modality, row.anatomic_region,
            *(astuple(facts) if facts else [None] * 6),
            row.view, patient_id, study_id, image_id,
        ],
    )  # fmt: skip
    connection.execute("DELETE FROM cbir.image_label WHERE image_id = %s", [image_id])


def record_damage(connection: psycopg.Connection, damage: Mapping[int, tuple[bytes | None, str]]) -> None:
    """Record what a decoder reported of images that were stored before.

    :param damage: by image id, the hash of what was read, and the report.
    """
    hashes, reports = zip(*damage.values(), strict=True)
    with connection.transaction():
        # Locked in the order of their ids, as every other writer of several images does.
        connection.execute(
            "SELECT FROM cbir.image WHERE image_id = ANY(%s) ORDER BY image_id FOR NO KEY UPDATE", [list(damage)]
        )
        connection.execute(
            "UPDATE cbir.image AS i SET damage = new.damage"
            " FROM unnest(%s::bigint[], %s::bytea[], %s::text[]) AS new (image_id, sha256, damage)"
            " WHERE i.image_id = new.image_id AND i.sha256 IS NOT DISTINCT FROM new.sha256",
            [list(damage), list(hashes), list(reports)],
        )


def forget_embeddings(connection: psycopg.Connection, image_ids: Sequence[int]) -> None:
    """Remove the embeddings of images whose pixels have changed, under every encoder."""
    for (table,) in connection.execute("SELECT table_name FROM cbir.embedded_encoder()").fetchall():
        connection.execute(
            sql.SQL("DELETE FROM {} WHERE image_id = ANY(%s)").format(sql.Identifier(SCHEMA, table)), [list(image_ids)]
        )


@dataclass(slots=True)
class LabelWriter:
    """Adds labels to images; remembers the ids of label names that it has seen committed."""

    _ids: dict[str, int] = field(default_factory=dict)

    def write(self, connection: psycopg.Connection, labels: Mapping[int, Mapping[str, int]]) -> None:
        """``labels`` maps image ids to their labels' values."""
        names = sorted({name for values in labels.values() for name in values})
        ids = self._look_up(connection, names)
        rows = [(image_id, ids[name], value) for image_id, values in labels.items() for name, value in values.items()]
        if rows:
            image_ids, label_ids, values = zip(*rows, strict=True)
            connection.execute(
                "INSERT INTO cbir.image_label (image_id, label_id, value)"
                " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::smallint[])",
                [list(image_ids), list(label_ids), list(values)],
            )

    def _look_up(self, connection: psycopg.Connection, names: Sequence[str]) -> dict[str, int]:
        new = [name for name in names if name not in self._ids]
        if new:
            connection.execute(
                "INSERT INTO cbir.label (name) SELECT unnest(%s::text[]) ON CONFLICT (name) DO NOTHING", [new]
            )
            found = connection.execute("SELECT name, label_id FROM cbir.label WHERE name = ANY(%s)", [new])
            self._ids.update(found.fetchall())
        return self._ids
