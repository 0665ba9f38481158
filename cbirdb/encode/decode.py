"""Turns files into the encoders' inputs, batch by batch, in worker processes.

Each image is read and decoded once for any number of encoders, and prepared once for all encoders that share a
preprocessing. Workers write into shared memory, and encoders read there, so no pixels are copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.db.embeddings import PendingImage
from cbirdb.encoders.base import Encoder, Preprocessing
from cbirdb.errors import PixelError
from cbirdb.limits import IMAGE_TIMEOUT_S, MAX_PIXELS
from cbirdb.parallel.machine import machine_cpus, machine_memory
from cbirdb.parallel.shared_memory import SharedMemory
from cbirdb.parallel.worker_pool import (
    WorkerDiedError,
    WorkerPool,
    WorkerTimeoutError,
    as_pixel_error,
    preload_modules,
)
from cbirdb.pixels import OnDamage, ReadPicture, read_picture, refuse
from cbirdb.pixels.rendering import Rendering
from cbirdb.records import FrameFacts

SLOTS = 3
"""Batches in memory: one being encoded, the others being decoded."""
MEMORY_SHARE = 8
"""Inputs of all batches in memory take at most this fraction of the memory that this process may use ..."""
MEMORY_LIMIT = 768 << 20
"""... and at most this many bytes: a batch of 64 pictures of 518 x 518 fits, of SAM's 21. More of these were slower."""
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of reading files."""

    workers: int | None = None
    """Processes that decode. None: one per core."""
    timeout_s: float = IMAGE_TIMEOUT_S
    """Seconds that one image may take."""
    max_pixels: int = MAX_PIXELS
    accept_damaged: bool = False
    """Accept every image with a decoder's report of damage, not only those that the catalogue marks as damaged."""
    allowed: AllowedRoots = field(default_factory=AllowedRoots)
    """Folders from which files may be read."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """One encoder's share of a batch."""

    images: list[PendingImage]
    pixels: NDArray[np.float32]
    """Shape (len(images), *input_shape)."""
    failures: list[tuple[PendingImage, PixelError]]
    damage: dict[int, str]
    """Decoders' reports on accepted images, by image id."""
    read: dict[int, FrameFacts]
    """Hashes and sizes of DICOM frames, by image id."""

    @property
    def concerned(self) -> list[int]:
        """Return the ids of all images, those that failed among them."""
        return [image.image_id for image in (*self.images, *(image for image, _ in self.failures))]

    def steps(self, size: int) -> Iterator[tuple[int, Inputs]]:
        """Yield parts of at most ``size`` images, each with the place of its first one; the first with all failures."""
        for start in range(0, max(1, len(self.images)), size):
            images = self.images[start : start + size]
            ids = {image.image_id for image in images}
            step = Inputs(
                images,
                self.pixels[start : start + size],
                self.failures if start == 0 else [],
                {image_id: report for image_id, report in self.damage.items() if image_id in ids},
                {image_id: facts for image_id, facts in self.read.items() if image_id in ids},
            )
            if step.concerned:
                yield start, step


@dataclass(frozen=True, slots=True)
class _Layout:
    """Place of the inputs of one preprocessing within a slot."""

    preprocess: Preprocessing
    rendering: Rendering
    """How DICOM is shown to its encoders."""
    offset: int
    rows: int
    shape: tuple[int, ...]

    def array(self, memory: SharedMemory, slot_offset: int) -> NDArray[np.float32]:
        """Return all rows, shape (rows, *shape)."""
        whole: NDArray[np.float32] = np.ndarray(
            (self.rows, *self.shape), np.float32, memory.buffer, slot_offset + self.offset
        )
        return whole


_Task = tuple[PendingImage, int, int, int, bool]
"""The image, number of the slot, row in it, wanted preprocessings (a bit each), and True if the image may be damaged."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The result of a file that holds a picture."""

    errors: dict[int, PixelError]
    """Errors of preprocessings, by their numbers."""
    damage: str | None
    """The decoder's report of damage."""
    read: FrameFacts | None
    """Hashes and size of a DICOM frame."""


_Outcome: TypeAlias = PixelError | _Prepared
"""The error if there is no picture, else the result."""


class Decoder:
    """Turns images into batches of inputs; a context manager."""

    def __init__(self, encoders: Sequence[Encoder], batch_size: int, options: DecodeOptions) -> None:
        """Start the worker processes.

        :param batch_size: images in a batch; reduced if their inputs do not fit into memory.
        """
        self._options = options
        # Encoders with the same preprocessing (SAM and MedSAM) share its results.
        keys = [
            (encoder.provenance.preprocessing_sha256, encoder.input_shape, encoder.spec.rendering)
            for encoder in encoders
        ]
        distinct = dict(zip(keys, encoders, strict=True))
        self._layout_numbers = [list(distinct).index(key) for key in keys]
        sizes = [prod(encoder.input_shape) * 4 for encoder in distinct.values()]
        self.batch_size = max(1, min(batch_size, memory_budget() // (SLOTS * sum(sizes))))
        self._layouts: list[_Layout] = []
        offset = 0
        for encoder, size in zip(distinct.values(), sizes, strict=True):
            rendering = Rendering.parse(encoder.spec.rendering)
            self._layouts.append(_Layout(encoder.preprocess, rendering, offset, self.batch_size, encoder.input_shape))
            offset += -(-size * self.batch_size // ALIGNMENT) * ALIGNMENT
        self._slot_size = offset
        self._memory = SharedMemory(SLOTS * offset)
        prepare = _Prepare(self._memory, self._layouts, self._slot_size, options)
        self._pool: WorkerPool[_Task, _Outcome] = WorkerPool(
            prepare,
            workers=options.workers or machine_cpus(),
            timeout_s=options.timeout_s,
            preload=_modules(encoders),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        self._memory.close()

    def batches(self, images: Iterable[PendingImage]) -> Iterator[list[Inputs]]:
        """Yield for each batch of images the inputs of each encoder, in the encoders' order.

        Their memory is reused when the next batch is requested.
        """
        iterator = iter(images)
        free = deque(range(SLOTS))
        waiting: deque[tuple[int, list[PendingImage], list[Future[_Outcome]]]] = deque()
        while True:
            while free and (batch := list(islice(iterator, self.batch_size))):
                slot = free.popleft()
                waiting.append((slot, batch, [self._submit(image, slot, row) for row, image in enumerate(batch)]))
            if not waiting:
                return
            slot, batch, futures = waiting.popleft()
            outcomes = [_outcome(future) for future in futures]
            yield [self._inputs(number, slot, batch, outcomes) for number in range(len(self._layout_numbers))]
            free.append(slot)

    def _submit(self, image: PendingImage, slot: int, row: int) -> Future[_Outcome]:
        wanted = 0
        for number, layout in enumerate(self._layout_numbers):
            if image.missing[number]:
                wanted |= 1 << layout
        accepted = self._options.accept_damaged or image.damaged
        return self._pool.submit((image, slot, row, wanted, accepted))

    def _inputs(self, encoder: int, slot: int, batch: list[PendingImage], outcomes: list[_Outcome]) -> Inputs:
        rows: list[int] = []
        failures: list[tuple[PendingImage, PixelError]] = []
        damage: dict[int, str] = {}
        read: dict[int, FrameFacts] = {}
        for row, (image, outcome) in enumerate(zip(batch, outcomes, strict=True)):
            if image.missing[encoder]:
                error = outcome.errors.get(self._layout_numbers[encoder]) if isinstance(outcome, _Prepared) else outcome
                if error is None:
                    rows.append(row)
                    if isinstance(outcome, _Prepared) and outcome.damage is not None:
                        damage[image.image_id] = outcome.damage
                    if isinstance(outcome, _Prepared) and outcome.read is not None:
                        read[image.image_id] = outcome.read
                else:
                    failures.append((image, error))
        whole = self._layouts[self._layout_numbers[encoder]].array(self._memory, slot * self._slot_size)
        # A batch without gaps, the usual case, needs no copy.
        pixels = whole[: len(rows)] if rows == list(range(len(rows))) else whole[rows]
        return Inputs([batch[row] for row in rows], pixels, failures, damage, read)


class _Prepare:
    """Prepares one image in a worker."""

    def __init__(self, memory: SharedMemory, layouts: list[_Layout], slot_size: int, options: DecodeOptions) -> None:
        self._memory = memory
        self._layouts = layouts
        self._slot_size = slot_size
        self._options = options

    def __call__(self, task: _Task) -> _Outcome:
        image, slot, row, wanted, accepted = task
        reports: list[PixelError] = []
        errors: dict[int, PixelError] = {}
        pictures: dict[Rendering, ReadPicture] = {}
        for number, layout in enumerate(self._layouts):
            if not wanted & 1 << number:
                continue
            try:
                if layout.rendering not in pictures:
                    pictures[layout.rendering] = self._read(
                        image, layout.rendering, reports.append if accepted else refuse
                    )
            except PixelError as error:
                return error
            except MemoryError:
                return PixelError("too large", "there is not enough memory to decode it")
            try:
                pixels = layout.preprocess(pictures[layout.rendering].picture)
                if pixels.shape != layout.shape:
                    raise PixelError("preprocessing", f"the input has the shape {pixels.shape}, not {layout.shape}")
                layout.array(self._memory, slot * self._slot_size)[row] = pixels
            except PixelError as error:
                errors[number] = error
            # Libraries refuse extreme shapes (a strip one pixel high) with various errors.
            except Exception as error:  # noqa: BLE001
                errors[number] = PixelError("preprocessing", f"{type(error).__name__}: {error}")
        return _Prepared(errors, reports[0].message if reports else None, next(iter(pictures.values())).frame)

    def _read(self, image: PendingImage, rendering: Rendering, on_damage: OnDamage) -> ReadPicture:
        file = self._options.allowed.file(image.root, image.source)
        picture = read_picture(
            file.path,
            member=file.member,
            frame=image.frame,
            rendering=rendering,
            max_pixels=self._options.max_pixels,
            on_damage=on_damage,
        )
        if picture.frame is not None and image.sha256 not in (None, picture.frame.sha256):
            raise PixelError("file changed", "it is not the file that an earlier encode read; ingest its folder again")
        return picture


def _outcome(future: Future[_Outcome]) -> _Outcome:
    """Return the outcome of an image, also if its worker died or hung."""
    try:
        return future.result()
    except (WorkerDiedError, WorkerTimeoutError) as error:
        return as_pixel_error(error)


def preload_workers(encoders: Sequence[Encoder]) -> None:
    """Import the modules that workers will need once for all of them. Call it before the first worker starts."""
    preload_modules(_modules(encoders))


def _modules(encoders: Sequence[Encoder]) -> list[str]:
    return [__name__, *{type(encoder.preprocess).__module__ for encoder in encoders}]


def memory_budget() -> int:
    """Return the bytes that the inputs of all batches in memory may take."""
    return min(MEMORY_LIMIT, machine_memory() // MEMORY_SHARE)
