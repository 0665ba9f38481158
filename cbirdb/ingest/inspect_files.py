"""Look once at each file that may have changed, in worker processes: take its hash and size, and decode it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.errors import PixelError
from cbirdb.limits import IMAGE_TIMEOUT_S, MAX_PIXELS
from cbirdb.parallel.machine import machine_cpus
from cbirdb.parallel.worker_pool import WorkerDiedError, WorkerPool, WorkerTimeoutError, as_pixel_error
from cbirdb.pixels import inspect_file, read_picture, refuse
from cbirdb.records import FileFacts, ImageRecord

if TYPE_CHECKING:
    from cbirdb.db.catalogue import ImageKey

Look: TypeAlias = FileFacts | PixelError | None
"""Outcome of a look at a file. An error is a value here, so that it reaches the batch it belongs to."""
LookPool: TypeAlias = "WorkerPool[Path | DicomFrame, Look]"


class DicomFrame(NamedTuple):
    """A frame of a DICOM file whose pixels are to be read."""

    path: Path
    member: str | None
    number: int
    """From 0."""


def look_pool(max_pixels: int, *, accept_damaged: bool = False) -> LookPool:
    """Start the worker processes; a context manager."""
    function = partial(look, max_pixels=max_pixels, accept_damaged=accept_damaged)
    return WorkerPool(function, workers=machine_cpus(), timeout_s=IMAGE_TIMEOUT_S, preload=[__name__])


def looks(
    records: Sequence[ImageRecord],
    known: Mapping[ImageKey, FileFacts | None],
    pool: LookPool,
    root: Path | None,
    allowed: AllowedRoots,
    *,
    recheck: bool = False,
) -> list[Look]:
    """Tell the facts of the records' files; read those whose size and time do not say that they have not changed.

    :param known: what is stored, by source and frame.
    :param root: the folder that no file may lie outside of.
    :param recheck: read all of them.
    """
    found: list[Look | Future[Look]] = []
    for record in records:
        facts = known.get((record.source, record.frame))
        try:
            if record.path is not None and root is not None:
                allowed.file(str(root), os.path.relpath(record.path, root))
        except PixelError as error:
            found.append(error)
            continue
        if record.dicom is not None and record.path is not None:
            now = _unread_facts(record, record.path, facts)
            # Only what encode has read is read again.
            again = recheck and facts is not None and facts.sha256 is not None and not isinstance(now, PixelError)
            found.append(pool.submit(DicomFrame(record.path, record.member, record.frame)) if again else now)
            continue
        same = not recheck and facts is not None and record.path is not None and _same_file(record.path, facts)
        found.append(facts if same or record.path is None else pool.submit(record.path))
    return [_outcome(one) if isinstance(one, Future) else one for one in found]


def look(file: Path | DicomFrame, max_pixels: int = MAX_PIXELS, *, accept_damaged: bool = False) -> Look:
    """Look at one file, in a worker process."""
    try:
        if isinstance(file, DicomFrame):
            return _look_at_frame(file, max_pixels, accept_damaged=accept_damaged)
        return inspect_file(file, max_pixels, accept_damaged=accept_damaged)
    except PixelError as error:
        return error
    except MemoryError:
        return PixelError("too large", "there is not enough memory to decode it")


def _look_at_frame(file: DicomFrame, max_pixels: int, *, accept_damaged: bool) -> FileFacts:
    """Read the pixels of a frame. Size and time are the file's, of a zip where it lies in one."""
    on_damage = (lambda _: None) if accept_damaged else refuse
    found = read_picture(file.path, member=file.member, frame=file.number, max_pixels=max_pixels, on_damage=on_damage)
    facts = found.frame
    if facts is None:
        raise PixelError("not an image", "the file was DICOM when its header was read")
    now = file.path.stat()
    return FileFacts(
        facts.sha256, facts.width, facts.height, now.st_size, now.st_mtime_ns, found.damage, facts.pixel_sha256
    )


def _unread_facts(record: ImageRecord, path: Path, known: FileFacts | None) -> Look:
    """Return a DICOM file's size and time. ``encode`` reads its pixels; what it found holds while both are the same."""
    try:
        now = path.stat()
    except OSError as error:
        return PixelError("file not found", f"{error.strerror or type(error).__name__}")
    if known is not None and (now.st_size, now.st_mtime_ns) == (known.file_bytes, known.modified_ns):
        return known
    return FileFacts(None, record.width, record.height, now.st_size, now.st_mtime_ns)


def _outcome(future: Future[Look]) -> Look:
    try:
        return future.result()
    except (WorkerDiedError, WorkerTimeoutError) as error:
        return as_pixel_error(error)


def _same_file(path: Path, facts: FileFacts) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (facts.file_bytes, facts.modified_ns)
