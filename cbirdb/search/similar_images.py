"""Find images similar to an image of the database, to a file or to a vector, through ``cbir.similar_images``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psycopg
from numpy.typing import ArrayLike, NDArray
from pgvector import Vector
from psycopg.rows import dict_row

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.db.embeddings import StoredEncoder, check_datasets
from cbirdb.db.errors import translated_errors
from cbirdb.db.extension import add_extension_to_search_path
from cbirdb.encode.load import check_same_encoder
from cbirdb.encoders.base import Encoder
from cbirdb.errors import InputError, PixelError, UnknownNameError
from cbirdb.pixels import OnDamage, read_picture, refuse
from cbirdb.pixels.rendering import Rendering
from cbirdb.progress import Progress
from cbirdb.search.contact_sheet import Tile
from cbirdb.vectors.normalize import l2_normalize, unusable_reason

Mode = Literal["auto", "exact", "approximate"]


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on retrieved images. None lets everything pass. A label also matches the labels below it."""

    dataset: str | None = None
    modality: str | None = None
    anatomic_region: str | None = None
    label: str | None = None
    split: str | None = None
    study_from: date | None = None
    study_to: date | None = None
    image_ids: tuple[int, ...] | None = None
    laterality: str | None = None
    view: str | None = None
    image_type: str | None = None
    """One of the image type's values, such as ORIGINAL or LOCALIZER."""
    manufacturer: str | None = None
    body_part: str | None = None
    """Code of the body part, as DICOM has it."""


@dataclass(frozen=True, slots=True)
class QueryImage:
    """An image of the database: by its id, or by UIDs, and the number of its frame where the file has several."""

    image_id: int | None = None
    sop_uid: str | None = None
    series_uid: str | None = None
    study_uid: str | None = None
    frame: int | None = None
    """From 1."""

    @property
    def has_uid(self) -> bool:
        """Return True if a UID names the image."""
        return any(uid is not None for uid in (self.sop_uid, self.series_uid, self.study_uid))

    def given(self) -> bool:
        """Return True if anything names an image."""
        return self.image_id is not None or self.has_uid


NO_FILTERS = Filters()
LARGEST_ID = 2**63 - 1
COLUMNS = (
    "rank", "image_id", "distance", "similarity", "labels", "dataset", "modality", "anatomic_region",
    "study_uid", "sop_uid", "source", "mode", "complete",
)  # fmt: skip


def search_by_image(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    query: QueryImage,
    *,
    k: int = 10,
    filters: Filters = NO_FILTERS,
    same_patient: bool = False,
    mode: Mode = "auto",
    purpose: str | None = None,
) -> list[dict[str, Any]]:
    """Return the k images most similar to one of the database, without itself and (by default) its patient's others.

    :param purpose: reason of the search, for the audit. None: the setting ``cbir.purpose``, if it is set.
    :raises InputError: when there is no such image, or several, or it has no embedding of this encoder.
    """
    if query.image_id is not None and not 0 < query.image_id <= LARGEST_ID:
        raise InputError(
            f"There is no image {query.image_id}.", hint="Image ids are positive; cbir.image_overview lists them."
        )
    return _rows(
        connection,
        f"{_QUERY_IMAGE}, same_patient => %(same_patient)s",
        {
            "encoder": encoder.name,
            **{f"query_{name}": value for name, value in asdict(query).items()},
            "k": k,
            "same_patient": same_patient,
            "mode": mode,
        },
        filters,
        purpose,
    )


_QUERY_IMAGE = (
    "image_id => %(query_image_id)s::bigint, sop_uid => %(query_sop_uid)s, series_uid => %(query_series_uid)s,"
    " study_uid => %(query_study_uid)s, frame => %(query_frame)s::integer"
)


def search_by_file(
    connection: psycopg.Connection,
    stored: StoredEncoder,
    encoder: Encoder,
    path: Path,
    *,
    frame: int = 1,
    k: int = 10,
    filters: Filters = NO_FILTERS,
    mode: Mode = "auto",
    purpose: str | None = None,
    on_damage: OnDamage = refuse,
) -> list[dict[str, Any]]:
    """Return the k images most similar to a picture in a file. A DICOM file is shown as the encoder wants it.

    :param frame: number of the frame of a DICOM file, from 1.
    :param on_damage: called with each report on a damaged picture.
    :raises InputError: when the file is not a picture, or has one grey value and thus no embedding.
    :raises EncoderError: when the encoder differs from the one that made the stored embeddings.
    """
    check_same_encoder(stored, encoder)
    try:
        rendering = Rendering.parse(encoder.spec.rendering)
        picture = read_picture(path, frame=frame - 1, rendering=rendering, on_damage=on_damage).picture
    except PixelError as error:
        raise InputError(f"The query {path} cannot be used: {error.reason} ({error.message}).") from error
    raw = encoder.encode(encoder.preprocess(picture)[None])
    embedding, usable = l2_normalize(raw)
    if not usable[0]:
        raise InputError(f"The query {path} has no direction: its embedding is a {unusable_reason(raw[0])}.")
    return _rows_near(connection, stored, embedding[0], k, filters, mode, purpose)


def damage_handler(progress: Progress, *, accept_damaged: bool) -> OnDamage:
    """Refuse a damaged query, or say that it is damaged."""
    if not accept_damaged:
        return refuse
    return lambda report: progress.note(f"The query is damaged: {report.message}.")


def search_by_vector(
    connection: psycopg.Connection,
    stored: StoredEncoder,
    vector: ArrayLike,
    *,
    k: int = 10,
    filters: Filters = NO_FILTERS,
    mode: Mode = "auto",
    purpose: str | None = None,
) -> list[dict[str, Any]]:
    """Find the k images most similar to a vector.

    :param vector: shape (dim,), as the encoder makes it; its length does not matter.
    :raises InputError: when it has another shape, is not of finite numbers, or has no direction.
    """
    try:
        with np.errstate(over="ignore"):
            raw = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError("The query vector is not an array of numbers.") from error
    if raw.shape != (stored.dim,):
        raise InputError(
            f"The query vector has the shape {raw.shape}, vectors of '{stored.name}' have the shape ({stored.dim},)."
        )
    embedding, usable = l2_normalize(raw[None])
    if not usable[0]:
        raise InputError(f"The query vector has no direction: it is {unusable_reason(raw)}.")
    return _rows_near(connection, stored, embedding[0], k, filters, mode, purpose)


def _rows_near(
    connection: psycopg.Connection,
    stored: StoredEncoder,
    embedding: NDArray[np.float32],
    k: int,
    filters: Filters,
    mode: Mode,
    purpose: str | None,
) -> list[dict[str, Any]]:
    """Search by a unit vector."""
    return _rows(
        connection,
        "query => %(query)s::vector",
        {"encoder": stored.name, "query": Vector(embedding).to_text(), "k": k, "mode": mode},
        filters,
        purpose,
    )


def _rows(
    connection: psycopg.Connection, start: str, values: Mapping[str, Any], filters: Filters, purpose: str | None
) -> list[dict[str, Any]]:
    given = {**asdict(filters), "image_ids": None if filters.image_ids is None else list(filters.image_ids)}
    casts = {"image_ids": "::bigint[]"}
    arguments = ", ".join(f"{name} => %({name})s{casts.get(name, '')}" for name in given)
    query = f"SELECT * FROM cbir.similar_images(%(encoder)s, {start}, k => %(k)s, mode => %(mode)s, {arguments})"  # noqa: S608
    with translated_errors():
        try:
            with connection.transaction():
                add_extension_to_search_path(connection)
                if purpose is not None:
                    connection.execute("SELECT set_config('cbir.purpose', %s, true)", [purpose])
                cursor = connection.cursor(row_factory=dict_row)
                found = cursor.execute(query.encode(), {**values, **given}).fetchall()
        except _BAD_INPUT as error:
            _check_filters(connection, filters)
            raise _input_error(error) from error
    return [{name: row[name] for name in COLUMNS} for row in found]


_BAD_INPUT = (
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.NoDataFound,
    psycopg.errors.UndefinedObject,
    psycopg.errors.CardinalityViolation,
)
"""Errors that ``sql/search`` raises about its arguments."""


def _input_error(error: psycopg.Error) -> InputError:
    message = error.diag.message_primary or str(error)
    return InputError(f"{message[0].upper()}{message[1:]}.", hint=error.diag.message_hint)


def _check_filters(connection: psycopg.Connection, filters: Filters) -> None:
    """Name the misspelt filter and the nearest existing name; the server's ``cbir_internal.check_filter`` only lists the names.

    :raises UnknownNameError: when a filter's value does not exist.
    """
    if filters.dataset is not None:
        check_datasets(connection, [filters.dataset])
    for kind, name in (
        ("modality", filters.modality),
        ("anatomic region", filters.anatomic_region),
        ("label", filters.label),
        ("view", filters.view),
        ("image type", filters.image_type),
        ("manufacturer", filters.manufacturer),
        ("body part", filters.body_part),
    ):
        if name is not None:
            known = [
                row[0] for row in connection.execute("SELECT value FROM cbir.filter_value WHERE kind = %s", [kind])
            ]
            if name not in known:
                raise UnknownNameError(kind, name, known)


def query_tile(
    connection: psycopg.Connection, allowed: AllowedRoots, query: QueryImage, *, hide_burned_in: bool = False
) -> tuple[Tile, tuple[str, ...]]:
    """Return the query of a contact sheet from the database, and its labels."""
    values = asdict(query)
    del values["frame"]
    found = connection.execute(
        "SELECT image_id, labels, source, root, frame FROM cbir.find_image(image_id => %(image_id)s::bigint,"
        " sop_uid => %(sop_uid)s, series_uid => %(series_uid)s, study_uid => %(study_uid)s) WHERE replaced_by IS NULL",
        values,
    ).fetchall()
    row = next((row for row in found if query.frame in (None, row[4])), None)
    if row is None:
        raise InputError("Someone has just removed the query image.")
    found_id, labels, source, root, frame = row
    caption = (f"image {found_id}", *(labels or ["no label"]))
    hidden = hide_burned_in and found_id not in _without_burned_in(connection, [found_id])
    return Tile(None if hidden else _picture(root, source, frame, allowed), caption, None), tuple(labels)


def file_tile(path: Path, frame: int) -> tuple[Tile, tuple[str, ...]]:
    """Return the query of a contact sheet from a file, which has no known labels."""
    # The search has already refused or accepted damage.
    return Tile(read_picture(path, frame=frame - 1, on_damage=lambda _: None).picture, (path.name,), None), ()


def result_tiles(
    connection: psycopg.Connection,
    allowed: AllowedRoots,
    rows: list[dict[str, Any]],
    query_labels: tuple[str, ...],
    *,
    hide_burned_in: bool = False,
) -> list[Tile]:
    """Return the results of a contact sheet: distance, labels, and a verdict if a label is the query's.

    :param hide_burned_in: leave out pictures that may show a patient's name: those whose BurnedInAnnotation is not NO.
    """
    roots: dict[str, str | None] = dict(
        connection.execute("SELECT dataset, root FROM cbir.dataset_overview").fetchall()
    )
    ids = [row["image_id"] for row in rows]
    frames: dict[int, int] = dict(
        connection.execute("SELECT image_id, frame FROM cbir.image_overview WHERE image_id = ANY(%s)", [ids]).fetchall()
    )
    shown = _without_burned_in(connection, ids) if hide_burned_in else set(ids)
    tiles = []
    for row in rows:
        caption = (f"distance {row['distance']:.4f}", *(row["labels"] or ["no label"]))
        verdict = bool(set(row["labels"]) & set(query_labels)) if query_labels else None
        picture = None
        if row["image_id"] in shown and row["image_id"] in frames:
            picture = _picture(roots[row["dataset"]], row["source"], frames[row["image_id"]], allowed)
        tiles.append(Tile(picture, caption, verdict))
    return tiles


def _without_burned_in(connection: psycopg.Connection, image_ids: list[int]) -> set[int]:
    """Return the images whose file says that no text is burned into the picture."""
    found = connection.execute(
        "SELECT image_id FROM cbir.image_overview WHERE image_id = ANY(%s) AND burned_in_annotation = 'NO'", [image_ids]
    )
    return {image_id for (image_id,) in found}


def stored_uids(connection: psycopg.Connection, query: QueryImage, hashed: Callable[[str], str]) -> QueryImage:
    """Return a query with its UIDs as they are stored: hashed, if an image has the hashes.

    The hashes are asked for first: a server that keeps only hashes shall not learn a UID, not even in its log.

    :param hashed: hashes a UID with the key of this database's pseudonyms.
    """
    uids = {name: value for name, value in asdict(query).items() if name.endswith("_uid") and value is not None}
    if not uids:
        return query
    hashes: dict[str, Any] = {name: hashed(value) for name, value in uids.items()}
    return replace(query, **hashes) if _has_image(connection, hashes) else query


def _has_image(connection: psycopg.Connection, uids: Mapping[str, str]) -> bool:
    """Return True if an image has all these UIDs."""
    values = {name: uids.get(name) for name in ("sop_uid", "series_uid", "study_uid")}
    found = connection.execute(
        "SELECT FROM cbir.find_image(sop_uid => %(sop_uid)s, series_uid => %(series_uid)s, study_uid => %(study_uid)s)"
        " LIMIT 1",
        values,
    )
    return found.fetchone() is not None


def refused_datasets(connection: psycopg.Connection, allowed: AllowedRoots, rows: list[dict[str, Any]]) -> list[str]:
    """Return the datasets among the results whose folders may not be read here, so that the sheet lacks their
    pictures.
    """
    names = sorted({row["dataset"] for row in rows})
    found = connection.execute(
        "SELECT dataset, root FROM cbir.dataset_overview WHERE dataset = ANY(%s) AND root IS NOT NULL ORDER BY dataset",
        [names],
    )
    return [name for name, root in found if not allowed.allows(root)]


def _picture(root: str | None, source: str, frame: int, allowed: AllowedRoots) -> Any:
    if root is None or not allowed.allows(root):
        return None
    try:
        file = allowed.file(root, source)
        return read_picture(file.path, member=file.member, frame=frame - 1).picture
    except PixelError:
        return None  # the sheet draws a crossed-out box
