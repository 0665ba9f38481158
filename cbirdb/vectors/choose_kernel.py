"""Chooses the kernel that multiplies queries with vectors: on a GPU if PyTorch sees one, else on the CPU.

- Many processors: PyTorch, which multiplies, compares and selects on all of them.
- Few processors: NumPy, which compares and selects on one. Each processor handles its own share of the queries.
- Few processors and much to do: the same, with rough products in bfloat16 first, where processors do those several
  times as fast (Intel's AMX). Only pairs that may be near are then multiplied in single precision.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cbirdb.errors import InputError
from cbirdb.parallel.machine import machine_cpus
from cbirdb.vectors.bfloat16_kernel import Bfloat16Kernel, is_bfloat16_fast
from cbirdb.vectors.kernels import Floats, Kernel, NumpyKernel, TorchKernel

QUERIES_PER_SHARE = 128
"""Fewest queries of a share: with fewer, reading the vectors costs more than comparing them."""
MANY_PROCESSORS = 8
"""Number of processors from which PyTorch is worth its import, since it also compares and selects in parallel. Rough
products on shares were not measured there.
"""
GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files in /dev of the drivers of NVIDIA, AMD and WSL."""
ROUGH_FROM = 1_000_000_000_000
"""Multiplications (queries x vectors x dimensions) from which rough products save more than PyTorch's import takes."""
ROUGH_QUERIES = 4000
"""Fewest queries for rough products: with 2,000 and 3,000 the whole pass was hardly faster, with 5,000 by a third (on
two processors).
"""


def choose_kernels(queries: Floats, device: str, vectors: int) -> Sequence[Kernel]:
    """Return one kernel for all queries, or one for each processor's share of them.

    :param queries: unit vectors, shape (m, dim).
    :param device: auto, cuda, cuda:N or cpu.
    :param vectors: number of vectors to compare with; 0 if unknown.
    :raises InputError: when the device does not exist.
    """
    on_gpu = device.startswith("cuda")
    may_be_rough = len(queries) >= ROUGH_QUERIES and vectors * queries.size >= ROUGH_FROM
    if not (on_gpu or may_be_rough or _torch_may_pay(device)):
        return _shares(queries, NumpyKernel)
    try:
        import torch
    except (ImportError, OSError) as error:  # PyTorch or one of its libraries is missing
        if on_gpu:
            raise InputError(
                f"A GPU needs PyTorch, which could not be loaded: {error}.",
                hint="pip install 'cbirdb[encoders]', or --device cpu",
            ) from None
        return _shares(queries, NumpyKernel)
    gpus = torch.cuda.device_count()
    if on_gpu and int(device.partition(":")[2] or 0) >= gpus:
        raise InputError(
            f"There is no GPU '{device}': PyTorch sees {gpus}.", hint="Omit --device, or give --device cpu."
        )
    used = device if device != "auto" else "cuda" if gpus else "cpu"
    if used != "cpu" or machine_cpus() >= MANY_PROCESSORS:
        return [TorchKernel(queries, torch, used)]
    if may_be_rough and is_bfloat16_fast(torch, queries.shape[1]):
        return _shares(queries, lambda share, count: Bfloat16Kernel(share, count, torch))
    return _shares(queries, NumpyKernel)


@contextmanager
def one_thread_each(shares: Sequence[Kernel]) -> Iterator[None]:
    """Limit NumPy and PyTorch to one thread per product while several products run at a time."""
    if len(shares) == 1:
        yield
        return
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        if torch:
            torch.set_num_threads(1)  # new threads inherit this number
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def _shares(queries: Floats, make: Callable[[Floats, int], Kernel]) -> Sequence[Kernel]:
    count = max(1, min(machine_cpus(), len(queries) // QUERIES_PER_SHARE))
    return [make(share, count) for share in np.array_split(queries, count)]


def _torch_may_pay(device: str) -> bool:
    """Return True if PyTorch may be faster than NumPy: with a GPU, or on many processors. Its import takes seconds."""
    may_be_gpu = device == "auto" and (
        "torch" in sys.modules or any(any(Path("/dev").glob(name)) for name in GPU_FILES)
    )
    return may_be_gpu or machine_cpus() >= MANY_PROCESSORS
