"""Connect to a database of images, and call cbirdb's verbs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cbirdb.api.rows import PrecisionRow, Record, Rows, SimilarImage
from cbirdb.api.session import Session
from cbirdb.config import Settings
from cbirdb.errors import InputError, OptionError, UnknownNameError
from cbirdb.limits import IMAGE_TIMEOUT_S, MAX_PIXELS
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    import numpy as np
    import psycopg
    from numpy.typing import ArrayLike, NDArray

    from cbirdb.allowed_roots import AllowedRoots
    from cbirdb.encode import EncodeSummary
    from cbirdb.encoders.base import DType, Encoder, LoadOptions
    from cbirdb.evaluate import EvaluationOptions, EvaluationSummary
    from cbirdb.ingest import IngestSummary
    from cbirdb.records import DateOption, OnConflict, PathOption, Precision, Shard, UidOption
    from cbirdb.search.similar_images import Mode, QueryImage


def connect(dsn: str | None = None, *, home: str | os.PathLike[str] | None = None) -> Database:
    """Connect to a database of images; start the embedded server and make its schema where no server is named.

    :param dsn: connection string; None: ``CBIRDB_DSN``, else libpq's variables, else the embedded server.
    :param home: folder of the embedded server, of fetched weights and of the pseudonyms' key; None: ``CBIRDB_HOME``, else
        the user's data folder.
    :raises DatabaseError: when there is no server, or it refuses.
    :raises SchemaError: only when a method needs the schema: on somebody's server, :meth:`Database.upgrade` makes it.
    """
    dsn = os.environ.get("CBIRDB_DSN") or None if dsn is None else dsn
    home = os.environ.get("CBIRDB_HOME") or None if home is None else home
    database = Database(Settings(dsn=dsn, home=Path(home) if home is not None else None))
    database.open()
    return database


class Database(Session):
    """Call cbirdb's verbs on one database. A context manager, which closes it.

    A Database is for one thread: a second call that begins before the first has ended raises InputError. Other threads
    connect for themselves. Every method may be interrupted (Ctrl-C); what was committed is kept, and the same call goes on
    from there. Methods that take long tell a ``progress`` how far they are.
    """

    def __init__(
        self, settings: Settings, *, when_opened: Callable[[psycopg.Connection], None] = lambda _connection: None
    ) -> None:
        super().__init__(settings, when_opened=when_opened)
        self._encoders: dict[tuple[str, LoadOptions], Encoder] = {}

    def upgrade(self, *, progress: Progress = SILENT) -> None:
        """Create or update schema ``cbir``. Safe to repeat; what else stands in the database is left alone."""
        from cbirdb.db.lock_waits import LockWaits
        from cbirdb.db.schema.migrate import upgrade, upgrade_own

        with self._one_at_a_time():
            connection = self._connect()
            (upgrade_own if self.settings.embedded else upgrade)(connection, LockWaits(connection, progress.note))
            self._has_schema = False  # looked at again at the next call

    def ingest(
        self,
        dataset: str,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        images: str | os.PathLike[str] | None = None,
        labels_only: bool = False,
        pseudonym_key: str | os.PathLike[str] | None = None,
        split: str = "80/10/10",
        modality: str | None = None,
        anatomic_region: str | None = None,
        label_pattern: str | None = None,
        labels: str | os.PathLike[str] | None = None,
        frames: str = "every",
        uids: UidOption = "keep",
        dates: DateOption = "keep",
        paths: PathOption = "opaque",
        path_map: str | os.PathLike[str] | None = None,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        allow_roots: Iterable[str | os.PathLike[str]] = (),
        accept_damaged: bool = False,
        recheck: bool = False,
        moved: bool = False,
        dry_run: bool = False,
        progress: Progress = SILENT,
    ) -> IngestSummary:
        """Bring the images and labels of a dataset into the catalogue. Idempotent.

        :param dataset: the layout of the files, one of ``cbirdb datasets list``.
        :param path: where they are; images of this folder may be read on this machine from now on.
        :param name: the dataset's name here; None: the folder's, or the CSV's column.
        :param images: folder that a CSV's file paths are relative to.
        :param labels_only: leave the images alone.
        :param pseudonym_key: key file of patients' pseudonyms; None: the one in ``home``, made if it is not there.
        :param split: percent of train/val/test, where the split comes from the content.
        :param label_pattern: regular expression with a group ``label``, applied to paths.
        :param labels: CSV file with labels of DICOM UIDs or accession numbers.
        :param frames: frames of DICOM files: ``every``, ``first``, ``middle`` or ``every:N``.
        :param uids: store DICOM UIDs (``keep``), or keyed hashes of them (``hash``).
        :param dates: store DICOM study dates (``keep``), ``shift`` them by some days per patient, or ``drop`` them.
        :param paths: name DICOM files by keyed hashes of their paths (``opaque``), or by the paths (``keep``).
        :param path_map: file that says where the files of opaque names lie; None: the one in ``home``.
        :param limit: look at no more than so many images.
        :param allow_roots: folders that symbolic links may lead to.
        :param accept_damaged: take images of which a decoder reports damage, and record it.
        :param recheck: read unchanged files again, too.
        :param moved: the dataset's folder lies elsewhere now.
        :param dry_run: write nothing.
        :raises InputError: when the path does not hold such a dataset.
        """
        from cbirdb.datasets.base import ReadOptions
        from cbirdb.ingest import ingest
        from cbirdb.ingest.split_shares import SplitShares
        from cbirdb.pseudonyms import Pseudonyms

        folder = Path(images) if images is not None else None
        if folder is not None and not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", hint="Check --images.")
        options = ReadOptions(
            name, folder, modality, anatomic_region, labels_only, label_pattern,
            self._allowed_roots(allow_roots, path_map), frames, uids, dates, paths,
            Path(labels) if labels is not None else None,
        )  # fmt: skip
        key = Path(pseudonym_key) if pseudonym_key is not None else self.settings.pseudonym_key
        shares = SplitShares.parse(split)
        with self._in_use() as connection:
            return ingest(
                connection, dataset, Path(path), options=options, shares=shares, limit=limit, max_pixels=max_pixels,
                accept_damaged=accept_damaged, recheck=recheck, moved=moved, dry_run=dry_run,
                pseudonyms=partial(Pseudonyms.from_file, key), home=self.settings.home_folder,
                path_map=self._path_map(path_map), progress=progress,
            )  # fmt: skip

    def encode(
        self,
        encoder: str | Sequence[str],
        *,
        datasets: str | Sequence[str] = (),
        device: str = "auto",
        dtype: DType | None = None,
        weights: str | os.PathLike[str] | None = None,
        precision: Precision | None = None,
        batch_size: int | None = None,
        limit: int | None = None,
        shard: Shard | None = None,
        workers: int | None = None,
        image_timeout_s: float = IMAGE_TIMEOUT_S,
        max_pixels: int = MAX_PIXELS,
        allow_roots: Iterable[str | os.PathLike[str]] = (),
        path_map: str | os.PathLike[str] | None = None,
        accept_damaged: bool = False,
        on_conflict: OnConflict = "keep",
        progress: Progress = SILENT,
    ) -> list[EncodeSummary]:
        """Compute the embeddings of all images that lack one, and load them.

        :param encoder: a name, or several: each image is then read once for all.
        :param datasets: a name or several; empty: all.
        :param dtype: numbers to compute in; None: as before, float32 for a new encoder.
        :param weights: folder with the weights; None: what ``encoders fetch`` brought, else the model hub's cache.
        :param precision: how a new encoder's vectors are stored; None: half.
        :param batch_size: images per step; None: what suits the encoder.
        :param limit: encode no more than so many images.
        :param shard: this process's share of the images; None: all.
        :param workers: processes that decode; None: one a core.
        :param path_map: file that says where the files of opaque names lie; None: the one in ``home``.
        :param on_conflict: what becomes of two DICOM frames with one SOP instance UID and other pixels: ``keep`` both,
            ``replace`` the older one, or ``skip`` the newer one.
        :returns: a summary for each encoder.
        :raises EncoderError: when libraries or weights cannot be had, or differ from those of the stored embeddings.
        """
        from cbirdb.encode import EncodeOptions, encode
        from cbirdb.encode.decode import DecodeOptions
        from cbirdb.encode.load import load_encoders, machine_options
        from cbirdb.records import WHOLE

        names = [encoder] if isinstance(encoder, str) else list(encoder)
        options = EncodeOptions(
            datasets=[datasets] if isinstance(datasets, str) else datasets, precision=precision, batch_size=batch_size, limit=limit, shard=shard or WHOLE,
            on_conflict=on_conflict,
            decode=DecodeOptions(
                workers, image_timeout_s, max_pixels,
                accept_damaged=accept_damaged, allowed=self._allowed_roots(allow_roots, path_map),
            ),
        )  # fmt: skip
        with self._in_use() as connection:
            self._encoders.clear()
            encoders = load_encoders(connection, names, machine_options(self.settings, weights, device), dtype=dtype)
            return encode(connection, encoders, options, connect=self._further_connection, progress=progress)

    def search(
        self,
        *,
        encoder: str,
        image: str | os.PathLike[str] | None = None,
        image_id: int | None = None,
        sop_uid: str | None = None,
        series_uid: str | None = None,
        study_uid: str | None = None,
        frame: int | None = None,
        vector: ArrayLike | None = None,
        k: int = 10,
        dataset: str | None = None,
        modality: str | None = None,
        anatomic_region: str | None = None,
        label: str | None = None,
        split: str | None = None,
        study_from: date | None = None,
        study_to: date | None = None,
        image_ids: Collection[int] | None = None,
        laterality: str | None = None,
        view: str | None = None,
        image_type: str | None = None,
        manufacturer: str | None = None,
        body_part: str | None = None,
        same_patient: bool = False,
        mode: Mode = "auto",
        purpose: str | None = None,
        accept_damaged: bool = False,
        weights: str | os.PathLike[str] | None = None,
        device: str = "auto",
        progress: Progress = SILENT,
    ) -> Rows[SimilarImage]:
        """Find the images most similar to a file, to an image of the database, or to a vector: exactly one of these.

        Return k images, or all that pass the filters, or raise an error.

        :param image: a picture that need not be in the database.
        :param sop_uid: SOP instance UID; it may be combined with the UIDs of series and study, and any of them may stand
            alone where it names one image.
        :param frame: number of the frame, from 1, of a file with several.
        :param image_type: one of the image type's values, such as ORIGINAL or LOCALIZER.
        :param body_part: the code that DICOM files have.
        :param vector: an embedding of this encoder, shape (dim,); its length does not matter.
        :param label: this label or one below it.
        :param image_ids: only these images.
        :param same_patient: do not leave out the query's own patient; for an image of the database.
        :param mode: ``auto``, ``exact`` or ``approximate``.
        :param purpose: why you search, for the audit of searches.
        :raises InputError: when the query or a filter means nothing, or the vector has another dimension or is not finite.
        """
        from cbirdb.db.known_encoders import stored_encoder
        from cbirdb.search import similar_images as verb

        query = verb.QueryImage(image_id, sop_uid, series_uid, study_uid, frame if image is None else None)
        by_uid = any(uid is not None for uid in (sop_uid, series_uid, study_uid))
        if sum((image is not None, image_id is not None, by_uid, vector is not None)) != 1:
            raise OptionError("A search takes exactly one of image, image_id, UIDs and vector.")
        if frame is not None and (frame < 1 or not (by_uid or image is not None)):
            raise OptionError("A frame is a number from 1, of an image that a UID names or of a file.")
        if study_from is not None and study_to is not None and study_from > study_to:
            raise OptionError(f"study_from ({study_from}) lies after study_to ({study_to}).")
        ids = None if image_ids is None else tuple(image_ids)
        filters = verb.Filters(
            dataset, modality, anatomic_region, label, split, study_from, study_to, ids, laterality, view, image_type,
            manufacturer, body_part,
        )  # fmt: skip
        how: dict[str, Any] = {"k": k, "filters": filters, "mode": mode, "purpose": purpose}
        with self._in_use() as connection:
            stored = stored_encoder(connection, encoder)
            if image is not None:
                model = self._encoder(connection, encoder, weights, device)
                on_damage = verb.damage_handler(progress, accept_damaged=accept_damaged)
                found = verb.search_by_file(
                    connection, stored, model, Path(image), frame=frame or 1, on_damage=on_damage, **how
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
        image_id: int | None = None,
        sop_uid: str | None = None,
        series_uid: str | None = None,
        study_uid: str | None = None,
        frame: int | None = None,
        hide_burned_in: bool = False,
        allow_roots: Iterable[str | os.PathLike[str]] = (),
        path_map: str | os.PathLike[str] | None = None,
        font: str | os.PathLike[str] | None = None,
    ) -> list[str]:
        """Draw one picture of a query and of what a search found for it.

        :param path: the PNG file; an older sheet is replaced.
        :param image: the query, as it was given to :meth:`search`.
        :param hide_burned_in: leave out pictures that may show a patient's name: those whose BurnedInAnnotation is not NO.
        :param font: a TrueType or OpenType file with the letters of the labels; None: Latin letters only.
        :returns: names of datasets whose pictures are left out, because nobody allowed their folders to be read here.
        """
        from cbirdb.search import similar_images as verb
        from cbirdb.search.contact_sheet import write_contact_sheet
        from cbirdb.search.sheet_font import SheetFont

        query = verb.QueryImage(image_id, sop_uid, series_uid, study_uid, frame)
        if query.given() == (image is not None):
            raise OptionError("A contact sheet takes either an image file, or an image of the database.")
        allowed = self._allowed_roots(allow_roots, path_map)
        rows = found.to_dicts()
        with self._in_use() as connection:
            tile, labels = (
                verb.file_tile(Path(image), frame or 1)
                if image is not None
                else verb.query_tile(
                    connection, allowed, self._as_stored(connection, query), hide_burned_in=hide_burned_in
                )
            )
            tiles = verb.result_tiles(connection, allowed, rows, labels, hide_burned_in=hide_burned_in)
            write_contact_sheet(Path(path), tile, tiles, title=title, font=SheetFont(Path(font) if font else None))
            return verb.refused_datasets(connection, allowed, rows)

    def evaluate(
        self, encoder: str, options: EvaluationOptions | None = None, *, progress: Progress = SILENT, **values: Any
    ) -> EvaluationSummary:
        """Retrieve for every query of a split, by the paper's protocol or another, and store what was found.

        :param values: the fields of :class:`EvaluationOptions`, such as ``k`` or ``mode``, in place of ``options``.
        :raises InputError: when there is nothing to evaluate, or no index for an approximate search.
        """
        from cbirdb.db.known_encoders import stored_encoder
        from cbirdb.evaluate import EvaluationOptions, evaluate

        if options is not None and values:
            raise TypeError("evaluate takes options or their values, not both")
        options = options or EvaluationOptions(**values)
        with self._in_use() as connection:
            stored = stored_encoder(connection, encoder)
            return evaluate(connection, stored, options, connect=self._further_connection, progress=progress)

    def metrics(
        self,
        encoder: str | None = None,
        *,
        by: str = "run",
        cutoffs: Sequence[int] = (1, 3, 5, 10),
        run: int | None = None,
        confidence: bool = False,
        resamples: int = 2000,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> Rows[PrecisionRow]:
        """Return precision at N of finished evaluations.

        :param encoder: name; None: all.
        :param by: ``run``, or what queries are grouped by: ``class``, ``dataset``, ``modality``, ``anatomic-region``.
        :param cutoffs: the N.
        :param run: its id; None: each encoder's latest.
        :param confidence: add 95 % intervals, bootstrapped by patient with so many ``resamples``, drawn by ``seed``.
        :raises InputError: when there is no such run, or a cutoff lies beyond its k.
        """
        from cbirdb.metrics import metrics
        from cbirdb.metrics.precision import GROUPS

        if by not in GROUPS:
            raise UnknownNameError("grouping", by, list(GROUPS))
        with self._in_use() as connection:
            found = metrics(connection, by=by, cutoffs=cutoffs, encoder=encoder, run=run)
            if confidence:
                from cbirdb.metrics.confidence import add_intervals

                found = add_intervals(connection, found, by=by, resamples=resamples, seed=seed, progress=progress)
        group = None if by == "run" else by.replace("-", "_")
        return Rows.of(PrecisionRow, ({"group": group and row[group]} | row for row in found))

    def analyse(
        self, by: str, *, encoder: str | None = None, cutoffs: Sequence[int] = (1, 3, 5, 10), run: int | None = None
    ) -> Rows[Record]:
        """Return what the neighbours of finished evaluations say beyond precision.

        :param by: ``index-size``: precision with random parts of the index; ``anatomy``: how often neighbours share the
            anatomy and the finding.
        """
        from cbirdb.metrics.analyses import ANALYSES, analyse

        if by not in ANALYSES:
            raise UnknownNameError("analysis", by, list(ANALYSES))
        with self._in_use() as connection:
            found = analyse(connection, by, cutoffs=cutoffs, encoder=encoder, run=run)
        return Rows((Record(row) for row in found), found[0] if found else ())

    def embeddings(self, encoder: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Iterate over all stored embeddings of an encoder, in batches of bounded size and in no particular order.

        They are those of one moment, whoever adds to them meanwhile. The iterator has a connection of its own, so the
        Database may be used while it runs.

        :returns: image ids, shape (n,), and their vectors of length 1, shape (n, dim).
        """
        from cbirdb.db.known_encoders import stored_encoder
        from cbirdb.db.read_embeddings import iterate_embeddings

        with self._in_use() as connection:
            stored = stored_encoder(connection, encoder)
        return iterate_embeddings(self._further_connection, stored)

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows[Record]:
        """Run one SQL statement and return its rows; none where it returns none.

        :param query: with a placeholder for each value: ``%s`` or ``%(name)s``.
        :raises InputError: when two columns have the same name.
        :raises DatabaseError: when the server refuses it.
        """
        with self._in_use() as connection:
            cursor = connection.execute(query.encode(), params)
            if cursor.description is None:
                return Rows((), ())
            names = [column.name for column in cursor.description]
            if len(set(names)) < len(names):
                raise InputError("Two columns of this query have the same name.", hint="Name them apart with AS.")
            return Rows((Record(dict(zip(names, row, strict=True))) for row in cursor), names)

    def _allowed_roots(
        self, named: Iterable[str | os.PathLike[str]], path_map: str | os.PathLike[str] | None = None
    ) -> AllowedRoots:
        """Return folders that images may be read from: those of ingests on this machine, and those that are named."""
        from cbirdb.allowed_roots import AllowedRoots

        return AllowedRoots.of_machine(
            self.settings.home_folder, [Path(folder) for folder in named], self._path_map(path_map)
        )

    def _as_stored(self, connection: psycopg.Connection, query: QueryImage) -> QueryImage:
        """Hash the UIDs of a query, where the database has hashes of them and this machine the key."""
        from cbirdb.datasets.dicom.privacy import hash_uid
        from cbirdb.pseudonyms import Pseudonyms
        from cbirdb.search.similar_images import stored_uids

        if not self.settings.pseudonym_key.exists():
            return query
        pseudonyms = Pseudonyms.from_file(self.settings.pseudonym_key, create=False)
        return stored_uids(connection, query, partial(hash_uid, pseudonyms=pseudonyms))

    def _path_map(self, named: str | os.PathLike[str] | None) -> Path:
        return Path(named) if named is not None else self.settings.path_map

    def _encoder(
        self, connection: psycopg.Connection, name: str, weights: str | os.PathLike[str] | None, device: str
    ) -> Encoder:
        """Return an encoder that is ready to run; loaded once, for all searches."""
        from cbirdb.encode.load import load_encoders, machine_options

        options = machine_options(self.settings, weights, device)
        if (name, options) not in self._encoders:
            (self._encoders[name, options],) = load_encoders(connection, [name], options)
        return self._encoders[name, options]
