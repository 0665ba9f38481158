"""Reads DICOM files as hospitals have them: a file, a folder of any depth, a DICOMDIR or zips. Headers only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from cbirdb.datasets.base import ReadOptions, Source
from cbirdb.datasets.dicom.find import Found, find_files
from cbirdb.datasets.dicom.frames import FrameChoice
from cbirdb.datasets.dicom.labels import Labels
from cbirdb.datasets.dicom.privacy import DATE_CHOICES, PATH_CHOICES, UID_CHOICES, Privacy
from cbirdb.datasets.dicom.read_file import Archive, Outcome, Task, read_file
from cbirdb.datasets.dicom.records import Settings
from cbirdb.errors import InputError, OptionError
from cbirdb.limits import IMAGE_TIMEOUT_S
from cbirdb.parallel.machine import machine_cpus
from cbirdb.parallel.worker_pool import WorkerDiedError, WorkerPool, WorkerTimeoutError, as_pixel_error
from cbirdb.records import DatasetItem, Failure, ImageRecord, Missing

AHEAD = 64
"""Files for each process that are asked for before their turn."""
MANY_FRAMES = 256
"""Frames of a file after which no files are asked for before their turn, since their records wait in memory."""
LOOKED_AT = 32
"""Files of a folder that tell whether it holds DICOM."""
Pool: TypeAlias = "WorkerPool[Task, Outcome]"


class DicomReader:
    """Reads DICOM in worker processes, one record per frame."""

    name = "dicom"
    title = "DICOM files"
    summary = "DICOM: a file, a folder, a DICOMDIR or zips; found by content, headers only, pseudonymised"
    takes = frozenset({"name", "frames", "uids", "dates", "paths", "labels"})

    def recognises(self, path: Path) -> bool:
        """Return True if the folder has a DICOMDIR, or one of its first files has the mark of DICOM."""
        if (path / "DICOMDIR").is_file():
            return True
        try:
            with os.scandir(path) as entries:
                files = islice((entry for entry in entries if entry.is_file(follow_symlinks=False)), LOOKED_AT)
                return any(_is_marked(Path(entry)) for entry in files)
        except OSError:
            return False

    def open(self, path: Path, options: ReadOptions) -> Source:
        if options.pseudonyms is None:
            raise InputError("DICOM names patients: a key for their pseudonyms is needed.")
        for option, value, choices in (
            ("uids", options.uids, UID_CHOICES),
            ("dates", options.dates, DATE_CHOICES),
            ("paths", options.paths, PATH_CHOICES),
        ):
            if value not in choices:
                raise OptionError(f"'{value}' is no value of --{option}.", hint=f"Give one of {', '.join(choices)}.")
        privacy = Privacy(options.pseudonyms(), options.uids, options.dates, options.paths)
        frames = FrameChoice.of(options.frames)
        labels = Labels.read(options.labels, privacy) if options.labels is not None else None
        found = find_files(path, options.allowed)
        if not found.count and not found.problems and not found.not_there:
            raise InputError("There are no files in this folder.", hint="Give one that holds DICOM files.")
        settings = Settings(found.root, options.name or self.name, privacy, frames, dict(options.body_parts))
        return Source(
            datasets=(settings.dataset,),
            root=found.root,
            total=found.count + len(found.problems) + len(found.not_there),
            items=_items(found, settings, labels),
            tells_patients=True,
            stored_root=privacy.root(found.root),
        )


def _is_marked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _items(found: Found, settings: Settings, labels: Labels | None) -> Iterator[DatasetItem]:
    """Yield all items, in the order of the files' names."""
    for problem in found.problems:
        yield Failure(settings.privacy.source(problem.name), problem.reason, problem.detail, settings.dataset)
    for name in found.not_there:
        yield Missing(settings.privacy.source(name), "not on disk")
    workers = max(1, min(machine_cpus(), found.count))
    with WorkerPool(
        partial(read_file, settings=settings),
        workers=workers,
        timeout_s=IMAGE_TIMEOUT_S,
        preload=[read_file.__module__],
    ) as pool:
        for item in _in_order(pool, map(Task, found), AHEAD * workers, settings):
            yield labels.labelled(item) if labels is not None and isinstance(item, ImageRecord) else item
    if labels is not None:
        yield from labels.unmatched()


def _in_order(pool: Pool, tasks: Iterable[Task], ahead: int, settings: Settings) -> Iterator[DatasetItem]:
    """Yield the items of files in the order of the files; only so many results wait in memory.

    :param ahead: files that are asked for before their turn, once files turn out to have few frames.
    """
    room = fewest = max(1, ahead // AHEAD)
    waiting: deque[tuple[Task, Future[Outcome]]] = deque()
    rest = iter(tasks)
    while True:
        for task in islice(rest, max(0, room - len(waiting))):
            waiting.append((task, pool.submit(task)))
        if not waiting:
            return
        task, future = waiting.popleft()
        outcome = _outcome(task, future, settings)
        if isinstance(outcome, Archive):
            members = (Task(task.name, member) for member in range(outcome.members))
            yield from _in_order(pool, members, ahead, settings)
        else:
            room = min(ahead, 2 * room) if len(outcome) <= MANY_FRAMES else fewest
            yield from outcome


def _outcome(task: Task, future: Future[Outcome], settings: Settings) -> Outcome:
    try:
        return future.result()
    except (WorkerDiedError, WorkerTimeoutError) as error:
        problem = as_pixel_error(error)
        member = None if task.member is None else f"#{task.member}"  # only the process knew its name
        source = settings.privacy.source(task.name, member)
        path = settings.root / os.fsdecode(task.name)
        return [Failure(source, problem.reason, problem.message, settings.dataset, path=path, member=member)]
