"""Bring images into a database, and their embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cbirdb.api.arguments import DicomArguments, refuse_others
from cbirdb.api.session import Session
from cbirdb.errors import InputError
from cbirdb.limits import IMAGE_TIMEOUT_S, MAX_PIXELS
from cbirdb.progress import SILENT, Progress

if TYPE_CHECKING:
    from cbirdb.allowed_roots import AllowedRoots
    from cbirdb.encode import EncodeSummary
    from cbirdb.encoders.base import DType, Encoder, LoadOptions
    from cbirdb.ingest import IngestSummary
    from cbirdb.ingest.patients import MakePseudonyms
    from cbirdb.records import OnConflict, Precision, Shard


class Loading(Session):
    """Add ``ingest`` and ``encode`` to a connection."""

    _encoders: dict[tuple[str, LoadOptions], Encoder]
    """Loaded encoders, kept for all searches."""

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
        path_map: str | os.PathLike[str] | None = None,
        limit: int | None = None,
        max_pixels: int = MAX_PIXELS,
        allow_roots: Iterable[str | os.PathLike[str]] = (),
        accept_damaged: bool = False,
        recheck: bool = False,
        moved: bool = False,
        dry_run: bool = False,
        progress: Progress = SILENT,
        **dicom: Unpack[DicomArguments],
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
        :param path_map: file that says where the files of opaque names lie; None: the one in ``home``.
        :param limit: look at no more than so many images.
        :param allow_roots: folders that symbolic links may lead to.
        :param accept_damaged: take images of which a decoder reports damage, and record it.
        :param recheck: read unchanged files again, too.
        :param moved: the dataset's folder lies elsewhere now.
        :param dry_run: write nothing.
        :param dicom: for DICOM files, the fields of :class:`~cbirdb.api.DicomArguments`: frames, uids, dates, paths, labels.
        :raises InputError: when the path does not hold such a dataset.
        """
        from cbirdb.datasets.base import ReadOptions
        from cbirdb.ingest import ingest
        from cbirdb.ingest.split_shares import SplitShares

        options = ReadOptions(
            name, _folder(images), modality, anatomic_region, labels_only, label_pattern,
            self._allowed_roots(allow_roots, path_map), **_read_options(dicom),
        )  # fmt: skip
        shares = SplitShares.parse(split)
        with self._in_use() as connection:
            return ingest(
                connection, dataset, Path(path), options=options, shares=shares, limit=limit, max_pixels=max_pixels,
                accept_damaged=accept_damaged, recheck=recheck, moved=moved, dry_run=dry_run,
                pseudonyms=self._key(pseudonym_key), home=self.settings.home_folder,
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
        allow_other_weights: bool = False,
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
        :param allow_other_weights: accept other weights than the encoder's, as ``NAME@<8 digits of their SHA-256>``.
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
            where = machine_options(self.settings, weights, device, allow_other_weights=allow_other_weights)
            encoders = load_encoders(connection, names, where, dtype=dtype, progress=progress)
            return encode(connection, encoders, options, connect=self._further_connection, progress=progress)

    def _allowed_roots(
        self, named: Iterable[str | os.PathLike[str]], path_map: str | os.PathLike[str] | None = None
    ) -> AllowedRoots:
        """Return folders that images may be read from: those of ingests on this machine, and those that are named."""
        from cbirdb.allowed_roots import AllowedRoots

        return AllowedRoots.of_machine(
            self.settings.home_folder, [Path(folder) for folder in named], self._path_map(path_map)
        )

    def _key(self, named: str | os.PathLike[str] | None) -> MakePseudonyms:
        """Return what reads the key of pseudonyms when the first patient comes."""
        from cbirdb.pseudonyms import Pseudonyms

        return partial(Pseudonyms.from_file, Path(named) if named is not None else self.settings.pseudonym_key)

    def _path_map(self, named: str | os.PathLike[str] | None) -> Path:
        return Path(named) if named is not None else self.settings.path_map


def _folder(images: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of the images of a list.

    :raises InputError: when it does not exist.
    """
    folder = Path(images) if images is not None else None
    if folder is not None and not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", hint="Check --images.")
    return folder


def _read_options(dicom: DicomArguments) -> dict[str, Any]:
    refuse_others("ingest", dict(dicom), DicomArguments)
    options: dict[str, Any] = dict(dicom)
    if options.get("labels") is not None:
        options["labels"] = Path(options["labels"])
    return options
