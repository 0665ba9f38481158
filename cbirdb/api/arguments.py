"""Define the arguments that several methods share, or that concern one kind of files."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import date
from typing import Any, TypedDict, get_type_hints

from cbirdb.records import DateOption, PathOption, UidOption


class DicomArguments(TypedDict, total=False):
    """Arguments of :meth:`cbirdb.Database.ingest` for DICOM files."""

    labels: str | os.PathLike[str] | None
    """CSV file with labels of UIDs or accession numbers."""
    frames: str
    """``every`` (the default), ``first``, ``middle`` or ``every:N``."""
    uids: UidOption
    """Store UIDs (``keep``, the default), or keyed hashes of them (``hash``)."""
    dates: DateOption
    """Store study dates (``keep``, the default), ``shift`` them by some days per patient, or ``drop`` them."""
    paths: PathOption
    """Name files by keyed hashes of their paths (``opaque``, the default), or by the paths (``keep``)."""


class QueryArguments(TypedDict, total=False):
    """Arguments that name an image of the database: its id, or UIDs, of which any may stand alone if it names one image."""

    image_id: int | None
    sop_uid: str | None
    series_uid: str | None
    study_uid: str | None
    frame: int | None
    """Number of the frame, from 1, of a file with several."""


class FilterArguments(TypedDict, total=False):
    """Arguments that restrict the images that a search may return. None restricts nothing."""

    dataset: str | None
    modality: str | None
    anatomic_region: str | None
    label: str | None
    """This label or one below it."""
    split: str | None
    study_from: date | None
    study_to: date | None
    image_ids: Collection[int] | None
    """Only these images."""
    laterality: str | None
    view: str | None
    image_type: str | None
    """One of the image type's values, such as ORIGINAL or LOCALIZER."""
    manufacturer: str | None
    body_part: str | None
    """Code that DICOM files have."""


class SearchArguments(QueryArguments, FilterArguments, total=False):
    """Arguments of :meth:`cbirdb.Database.search`: where it starts, and what it may return."""


def only(names: type, given: dict[str, Any]) -> dict[str, Any]:
    """Return those of the given arguments that a class of arguments has."""
    return {name: value for name, value in given.items() if name in get_type_hints(names)}


def refuse_others(method: str, given: dict[str, Any], *known: type) -> None:
    """Refuse arguments that none of these classes has, as Python does.

    :raises TypeError: naming the first one.
    """
    for name in given:
        if not any(name in get_type_hints(names) for names in known):
            raise TypeError(f"{method}() got an unexpected keyword argument '{name}'")
