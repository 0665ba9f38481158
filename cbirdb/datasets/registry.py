"""Lists the dataset readers. A new one is one file in this folder and one line here."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from cbirdb.datasets.base import DatasetReader, ReadOptions, Source
from cbirdb.datasets.chexpert import ChexpertReader
from cbirdb.datasets.dicom import DicomReader
from cbirdb.datasets.folder import FolderReader
from cbirdb.datasets.mimic_cxr import MimicCxrReader
from cbirdb.datasets.name_checks import replace_unstorable
from cbirdb.datasets.nih14 import Nih14Reader
from cbirdb.datasets.paper_csv import PaperCsvReader
from cbirdb.datasets.radimagenet import RadImageNetReader
from cbirdb.errors import InputError, OptionError, UnknownNameError

READERS: dict[str, DatasetReader] = {
    reader.name: reader
    for reader in (
        RadImageNetReader(),
        Nih14Reader(),
        MimicCxrReader(),
        ChexpertReader(),
        FolderReader(),
        PaperCsvReader(),
        DicomReader(),
    )
}


def get_reader(name: str) -> DatasetReader:
    """Return the reader of that name.

    :raises UnknownNameError: with the nearest known name.
    """
    try:
        return READERS[name]
    except KeyError:
        raise UnknownNameError("dataset reader", name, list(READERS)) from None


def open_dataset(name: str, path: Path, options: ReadOptions) -> Source:
    """Open the dataset at a path with a reader.

    :raises UnknownNameError: when there is no such reader.
    :raises OptionError: when an option is given that the reader does not use.
    :raises InputError: when the path does not hold such a dataset (the message names one that it does hold), or a name
        of it cannot be stored.
    """
    reader = get_reader(name)
    for option in fields(options):
        if "for_every_reader" in option.metadata:
            continue
        if option.name not in reader.takes and getattr(options, option.name) != option.default:
            users = ", ".join(other.name for other in READERS.values() if option.name in other.takes)
            raise OptionError(
                f"The reader '{name}' does not use --{option.name.replace('_', '-')}.",
                hint=f"Omit it; it is for {users}.",
            )
    if path.is_dir() and not reader.recognises(path):
        other = next((other for other in READERS.values() if other is not reader and other.recognises(path)), None)
        if other is not None:
            # A folder of DICOM files may have a patient's name.
            shown = "PATH" if "dicom" in (reader.name, other.name) else str(path)
            raise InputError(
                f"{'This folder' if shown == 'PATH' else shown} holds {other.title}, not {reader.title}.",
                hint=f"Run: cbirdb ingest {other.name} {shown}",
            )
    return replace_unstorable(reader.open(path, options))
