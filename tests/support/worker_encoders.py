"""Real encoders of a few numbers whose preprocessing crashes, hangs or keeps a log, in the worker processes that run it.

Workers import this by its name. A picture says with its first pixel what becomes of it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encode import decode
from cbirdb.encoders.base import Encoder, Preprocessing, Provenance
from cbirdb.encoders.golden import golden_picture
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.pixels import ReadPicture
from tests.support.worker_functions import abort, append, segfault

MARKS: dict[str, tuple[int, int, int]] = {
    "abort": (255, 0, 0),
    "segfault": (0, 255, 0),
    "sleep": (0, 0, 255),
    "leave": (255, 255, 0),
    "refuse": (255, 0, 255),
    "refuse in binary": (128, 0, 255),
    "other shape": (0, 255, 255),
    "no memory": (255, 128, 0),
}
SIDE = 4


def quarters(image: Image.Image, side: int = SIDE) -> NDArray[np.float32]:
    """Mean grey values of side x side fields."""
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX), dtype=np.float32)


class Quarters:
    """Preprocessing that obeys the marks of pictures, and logs what worker processes read and prepare."""

    def __init__(self, *, obeys: Sequence[str] = (), log: Path | None = None, name: str = "", side: int = SIDE) -> None:
        self._obeys = {MARKS[mark]: mark for mark in obeys}
        self._log = log
        self._name = name
        self._side = side
        self._owner = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._log is not None and os.getpid() != self._owner:
            _log_reading(self._log)

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        found = quarters(image, self._side)
        mark = self._obeys.get(image.convert("RGB").getpixel((0, 0)))
        if mark is not None:
            return DEEDS[mark](found)
        if self._log is not None and os.getpid() != self._owner:
            append((str(self._log), f"prepared{self._name}"))
        return found


def _log_reading(log: Path) -> None:
    """From now on, write each file that this process reads into the log, too."""
    read_picture = decode.read_picture
    if getattr(read_picture, "logs", False):
        return

    def logged(path: Path, **options: Any) -> ReadPicture:
        append((str(log), f"read:{path.name}"))
        return read_picture(path, **options)

    logged.logs = True
    decode.read_picture = logged


def _sleep(found: NDArray[np.float32]) -> NDArray[np.float32]:
    time.sleep(600)
    return found


def _refuse(_: NDArray[np.float32], message: str = "it is not to my taste") -> NDArray[np.float32]:
    raise ValueError(message)


def _no_memory(_: NDArray[np.float32]) -> NDArray[np.float32]:
    raise MemoryError


DEEDS: dict[str, Callable[[NDArray[np.float32]], Any]] = {
    "abort": abort,
    "segfault": segfault,
    "sleep": _sleep,
    "leave": lambda _: os._exit(5),
    "refuse": _refuse,
    "refuse in binary": lambda found: _refuse(found, "a\0b\udc80c"),
    "other shape": lambda found: found[1:],
    "no memory": _no_memory,
}


class Projection(Encoder):
    """Fields of a picture, times a matrix that the encoder's name determines."""

    batch_size = 8

    def __init__(
        self,
        name: str = "projection",
        *,
        preprocess: Preprocessing | None = None,
        side: int = SIDE,
        dim: int = 6,
        seed: str | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """:param seed: makes other numbers of the same picture."""
        self.spec = EncoderSpec(
            name=name, family="test", dim=dim, embedding="projection", preprocessing="fields", licence="Apache-2.0",
            training_scheme="none", citation="",
        )  # fmt: skip
        self.provenance = provenance or Provenance(
            weights_sha256=hashlib.sha256(name.encode()).hexdigest(),
            preprocessing_sha256=hashlib.sha256(str(side).encode()).hexdigest(),
        )
        self.preprocess = preprocess or Quarters(side=side)
        self.input_shape = (side, side)
        self.batches: list[int] = []
        digest = hashlib.sha256((seed or name).encode()).digest()
        self._matrix = np.random.default_rng(digest[0]).normal(size=(side * side, dim)).astype(np.float32)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        # One by one: a product of matrices rounds a row in a way that depends on the rows beside it.
        rows = [row.reshape(-1).astype(np.float64) @ self._matrix for row in batch]
        return np.array(rows, np.float32).reshape(len(batch), self.dim)


class Flat(Encoder):
    """Gives back the very memory that it was given: allowed, and the shortest of all encoders."""

    batch_size = 2

    def __init__(self) -> None:
        self.spec = EncoderSpec(
            name="flat", family="test", dim=SIDE * SIDE, embedding="fields", preprocessing="fields",
            licence="Apache-2.0", training_scheme="none", citation="",
        )  # fmt: skip
        self.provenance = Provenance(weights_sha256=None, preprocessing_sha256="f" * 64)
        self.preprocess = quarters
        self.input_shape = (SIDE, SIDE)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return batch.reshape(len(batch), -1)


class Failing(Projection):
    """Breaks down after some batches, as a GPU may."""

    def __init__(self, good_batches: int) -> None:
        super().__init__("failing")
        self._left = good_batches + 1  # the golden picture is a batch, too

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._left == 0:
            raise RuntimeError("the device is gone")
        self._left -= 1
        return super().encode(batch)


class Slow(Projection):
    """Takes its time, so that something may happen meanwhile."""

    def __init__(self, name: str = "slow", *, seconds: float) -> None:
        super().__init__(name)
        self._seconds = seconds
        self.golden = super().encode(self.preprocess(golden_picture())[None])[0]

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self._seconds)
        return super().encode(batch)
