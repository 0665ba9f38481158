"""Search a database for similar images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cbirdb.api.arguments import FilterArguments, QueryArguments, SearchArguments, only, refuse_others
from cbirdb.api.loading import Loading
from cbirdb.api.rows import Rows, SimilarImage
from cbirdb.errors import OptionError
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    import psycopg
    from numpy.typing import ArrayLike

    from cbirdb.encoders.base import Encoder
    from cbirdb.search.similar_images import Filters, Mode, QueryImage


class Searching(Loading):
    """Add ``search`` and ``contact_sheet`` to a connection."""

    def search(
        self,
        *,
        encoder: str,
        image: str | os.PathLike[str] | None = None,
        vector: ArrayLike | None = None,
        k: int = 10,
        same_patient: bool = False,
        mode: Mode = "auto",
        purpose: str | None = None,
        accept_damaged: bool = False,
        weights: str | os.PathLike[str] | None = None,
        allow_other_weights: bool = False,
        device: str = "auto",
        progress: Progress = SILENT,
        **chosen: Unpack[SearchArguments],
    ) -> Rows[SimilarImage]:
        """Find the images most similar to a file, to an image of the database, or to a vector: exactly one of these.

        Return k images, or all that pass the filters, or raise an error.

        :param image: a picture that need not be in the database.
        :param vector: an embedding of this encoder, shape (dim,); its length does not matter.
        :param same_patient: do not leave out the query's own patient; for an image of the database.
        :param mode: ``auto``, ``exact`` or ``approximate``.
        :param purpose: why you search, for the audit of searches.
        :param allow_other_weights: with an image file, accept weights of which ``encode`` made vectors with this argument.
        :param chosen: an image of the database, by the fields of :class:`~cbirdb.api.QueryArguments` (``image_id``,
            ``sop_uid``, ``frame``, ...); conditions on the results, by those of :class:`~cbirdb.api.FilterArguments`
            (``modality``, ``label``, ``study_from``, ...).
        :raises InputError: when the query or a filter means nothing, or the vector has another dimension or is not finite.
        """
        from cbirdb.db.known_encoders import stored_encoder
        from cbirdb.search import similar_images as verb

        given = dict(chosen)
        refuse_others("search", given, SearchArguments)
        query = verb.QueryImage(**only(QueryArguments, given))
        if (image is not None) + (vector is not None) + (query.image_id is not None) + query.has_uid != 1:
            raise OptionError("A search takes exactly one of image, image_id, UIDs and vector.")
        if query.frame is not None and (query.frame < 1 or not (query.has_uid or image is not None)):
            raise OptionError("A frame is a number from 1, of an image that a UID names or of a file.")
        filters = _filters(given)
        how: dict[str, Any] = {"k": k, "filters": filters, "mode": mode, "purpose": purpose}
        with self._in_use() as connection:
            if image is not None and allow_other_weights:
                encoder = self._identified_name(connection, encoder, weights, device)
            stored = stored_encoder(connection, encoder)
            if image is not None:
                model = self._encoder(connection, encoder, weights, device, progress)
                on_damage = verb.damage_handler(progress, accept_damaged=accept_damaged)
                found = verb.search_by_file(
                    connection, stored, model, Path(image), frame=query.frame or 1, on_damage=on_damage, **how
                )
            elif vector is not None:
                found = verb.search_by_vector(connection, stored, vector, **how)
            else:
                query = self._as_stored(connection, query)
                found = verb.search_by_image(connection, stored, query, same_patient=same_patient, **how)
        return Rows.of(SimilarImage, found)

    def contact_sheet(
        self,
        path: str | os.PathLike[str],
        found: Rows[SimilarImage],
        *,
        title: str,
        image: str | os.PathLike[str] | None = None,
        hide_burned_in: bool = False,
        allow_roots: Iterable[str | os.PathLike[str]] = (),
        path_map: str | os.PathLike[str] | None = None,
        font: str | os.PathLike[str] | None = None,
        **chosen: Unpack[QueryArguments],
    ) -> list[str]:
        """Draw one picture of a query and of what a search found for it.

        :param path: the PNG file; an older sheet is replaced.
        :param image: the query, as it was given to :meth:`search`; or its id or UIDs, as ``chosen``.
        :param hide_burned_in: leave out pictures that may show a patient's name: those whose BurnedInAnnotation is not NO.
        :param font: a TrueType or OpenType file with the letters of the labels; None: Latin letters only.
        :returns: names of datasets whose pictures are left out, because nobody allowed their folders to be read here.
        """
        from cbirdb.search import similar_images as verb
        from cbirdb.search.contact_sheet import write_contact_sheet
        from cbirdb.search.sheet_font import SheetFont

        query = verb.QueryImage(**chosen)
        if query.given() == (image is not None):
            raise OptionError("A contact sheet takes either an image file, or an image of the database.")
        allowed = self._allowed_roots(allow_roots, path_map)
        rows = found.to_dicts()
        with self._in_use() as connection:
            tile, labels = (
                verb.file_tile(Path(image), query.frame or 1)
                if image is not None
                else verb.query_tile(
                    connection, allowed, self._as_stored(connection, query), hide_burned_in=hide_burned_in
                )
            )
            tiles = verb.result_tiles(connection, allowed, rows, labels, hide_burned_in=hide_burned_in)
            write_contact_sheet(Path(path), tile, tiles, title=title, font=SheetFont(Path(font) if font else None))
            return verb.refused_datasets(connection, allowed, rows)

    def _as_stored(self, connection: psycopg.Connection, query: QueryImage) -> QueryImage:
        """Hash the UIDs of a query, where the database has hashes of them and this machine the key."""
        from cbirdb.datasets.dicom.privacy import hash_uid
        from cbirdb.pseudonyms import Pseudonyms
        from cbirdb.search.similar_images import stored_uids

        if not query.has_uid or not self.settings.pseudonym_key.exists():
            return query
        pseudonyms = Pseudonyms.from_file(self.settings.pseudonym_key, create=False)
        return stored_uids(connection, query, partial(hash_uid, pseudonyms=pseudonyms))

    def _identified_name(
        self, connection: psycopg.Connection, name: str, weights: str | os.PathLike[str] | None, device: str
    ) -> str:
        """Return the encoder's name, which other weights than its own extend."""
        from cbirdb.encode.load import identified_name, machine_options

        options = machine_options(self.settings, weights, device, allow_other_weights=True)
        return identified_name(connection, name, options)

    def _encoder(
        self,
        connection: psycopg.Connection,
        name: str,
        weights: str | os.PathLike[str] | None,
        device: str,
        progress: Progress,
    ) -> Encoder:
        """Return an encoder that is ready to run; loaded once, for all searches."""
        from cbirdb.encode.load import load_encoders, machine_options

        options = machine_options(self.settings, weights, device)
        if (name, options) not in self._encoders:
            (self._encoders[name, options],) = load_encoders(connection, [name], options, progress=progress)
        return self._encoders[name, options]


def _filters(given: dict[str, Any]) -> Filters:
    from cbirdb.search.similar_images import Filters

    filters = only(FilterArguments, given)
    first, last = filters.get("study_from"), filters.get("study_to")
    if first is not None and last is not None and first > last:
        raise OptionError(f"study_from ({first}) lies after study_to ({last}).")
    if filters.get("image_ids") is not None:
        filters["image_ids"] = tuple(filters["image_ids"])
    return Filters(**filters)
