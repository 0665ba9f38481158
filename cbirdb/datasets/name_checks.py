"""Turns items that the database cannot store into failures, so that one damaged name does not end a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cbirdb.datasets.base import Source
from cbirdb.errors import InputError
from cbirdb.names import printable, problem_of_line, problem_of_name
from cbirdb.records import DatasetItem, Failure, ImageRecord


def replace_unstorable(source: Source) -> Source:
    """Return the source with every unstorable item replaced by a failure.

    :raises InputError: when the name of a dataset or of the folder cannot be stored.
    """
    for name in source.datasets:
        if problem := problem_of_line(name):
            shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in printable(name))
            raise InputError(f"'{shown}' cannot name a dataset: {problem[1]}.", hint="Give it another --name.")
    root = source.stored_root or source.root
    if root is not None and (problem := problem_of_name(str(root))):
        raise InputError(
            f"The name of the folder {printable(str(root))} cannot be stored: {problem[1]}.",
            hint="Rename it, or create a link with another name.",
        )
    return replace(source, items=map(_replace_unstorable, source.items), lists=tuple(map(printable, source.lists)))


def _replace_unstorable(item: DatasetItem) -> DatasetItem:
    if isinstance(item, Failure):
        return replace(item, source=printable(item.source))
    if isinstance(item, ImageRecord):
        for field, text in _texts(item):
            if problem := problem_of_name(text):
                reason, detail = problem
                return Failure(printable(item.source), reason, f"{detail} in its {field}", item.dataset)
    return item


def _texts(record: ImageRecord) -> Iterator[tuple[str, str]]:
    yield "name", record.source
    for label in record.labels:
        yield "label", label
    if record.patient is not None:
        yield "patient", record.patient.key
    if record.study is not None:
        yield "study", record.study.key
    yield "modality", record.modality or ""
    yield "anatomic region", record.anatomic_region or ""
    yield "view", record.view or ""
