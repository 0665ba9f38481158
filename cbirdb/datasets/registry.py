"""The dataset readers. A new one is one file in this folder and one line here."""

from __future__ import annotations

from cbirdb.datasets.base import DatasetReader
from cbirdb.datasets.folder import FolderReader
from cbirdb.datasets.paper_csv import PaperCsvReader
from cbirdb.errors import UnknownNameError

READERS: dict[str, DatasetReader] = {reader.name: reader for reader in (FolderReader(), PaperCsvReader())}


def get_reader(name: str) -> DatasetReader:
    """The reader of that name.

    :raises UnknownNameError: with the nearest known name.
    """
    try:
        return READERS[name]
    except KeyError:
        raise UnknownNameError("dataset reader", name, list(READERS)) from None
