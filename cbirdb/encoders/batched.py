"""Splits inputs into batches that fit into memory, for encoders that run a network."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from cbirdb.encoders.base import Encoder
from cbirdb.errors import EncoderError

_log = logging.getLogger(__name__)

CPU_PIXELS = 8 * 224 * 224
"""Pixels per step on a CPU. More are no faster and only take more memory (eight of SAM's pictures take about 10 GB)."""


def cpu_batch_size(largest: int, input_shape: tuple[int, ...]) -> int:
    """Return the pictures per step on a CPU.

    :param input_shape: (channels, height, width).
    """
    return max(1, min(largest, CPU_PIXELS // prod(input_shape[1:])))


class BatchedEncoder(Encoder):
    """Runs a network batch by batch, and halves the batch that does not fit into memory."""

    largest_batch: int | None = None
    """Largest batch that fitted into memory after memory ran out; None before."""

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.submit(batch)()

    def submit(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Start to encode. On a GPU this returns before the result is computed.

        :raises EncoderError: when memory does not suffice for a single picture.
        """
        size = min(self.batch_size, self.largest_batch or self.batch_size)
        waiting: list[Callable[[], NDArray[np.float32]]] = []
        start = 0
        while start < len(batch):
            try:
                waiting.append(self._launch(batch[start : start + size]))
            except Exception as error:
                if not self._is_out_of_memory(error):
                    raise
                if min(size, len(batch) - start) == 1:
                    raise EncoderError(
                        f"There is not enough memory to run '{self.spec.name}' on a single picture.",
                        hint="Use --device cpu, or --dtype bfloat16, or a machine with more memory.",
                    ) from error
                size = self.largest_batch = min(size, len(batch) - start) // 2
                self._free_memory()
                _log.info("memory ran out; continuing with batches of %d", size)
            else:
                start += size
        return lambda: np.concatenate([wait() for wait in waiting])

    @abstractmethod
    def _launch(self, batch: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Start to encode one batch; return the function that waits for its embeddings."""

    @abstractmethod
    def _is_out_of_memory(self, error: BaseException) -> bool:
        """Return True if the network's library reports lack of memory so."""

    def _free_memory(self) -> None:
        """Return unused memory to others before the next attempt."""
