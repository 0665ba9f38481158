"""Compare the similarity kernels with each other: NumPy, PyTorch and bfloat16."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from cbirdb.errors import InputError
from cbirdb.vectors import bfloat16_kernel, choose_kernel, kernels
from cbirdb.vectors.exact_knn import exact_neighbours
from cbirdb.vectors.kernels import Floats


def test_numpy_and_torch_kernels_find_the_same_pairs() -> None:
    import torch

    rng = np.random.default_rng(5)
    queries, *pieces = (
        part / np.linalg.norm(part, axis=1, keepdims=True)
        for part in (rng.normal(size=(n, 16)).astype(np.float32) for n in (30, 5, 200, 300))
    )
    both = kernels.NumpyKernel(queries), kernels.TorchKernel(queries, torch, "cpu")
    for piece, limit in zip(pieces, (np.inf, np.inf, 0.6), strict=True):
        (rows, columns, distances), other = (
            kernel.pairs_below(piece, np.full(30, limit, np.float32), 10) for kernel in both
        )
        np.testing.assert_array_equal((rows, columns), other[:2])
        np.testing.assert_allclose(distances, other[2], atol=1e-6)


def unit(vectors: np.ndarray) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rough(queries: Floats) -> bfloat16_kernel.Bfloat16Kernel:
    import torch

    return bfloat16_kernel.Bfloat16Kernel(queries, 1, torch)


def pairs_of(found: kernels.Pairs) -> set[tuple[int, int]]:
    return set(zip(found[0].tolist(), found[1].tolist(), strict=True))


@pytest.mark.parametrize("spread", [0.05, 0.5, 4.0])
@pytest.mark.parametrize("portion", [0.001, 0.02, 0.9])
def test_bfloat16_kernel_finds_the_same_pairs_as_single_precision(
    spread: float, portion: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16_kernel, "PAIR_COST", 0)
    rng = np.random.default_rng(4)
    centre = rng.normal(size=96)
    queries, vectors = (unit(centre + spread * rng.normal(size=(n, 96))) for n in (40, 3000))
    limit = np.quantile(1 - queries @ vectors.T, portion, axis=1).astype(np.float32)
    # Limits around the largest distance and above it, where products may be negative.
    limit[:3] = 0.9, 1.0, 1.3
    precise = kernels.NumpyKernel(queries).pairs_below(vectors, limit, 10)
    found = rough(queries).pairs_below(vectors, limit, 10)
    differing = pairs_of(found) ^ pairs_of(precise)
    products = queries.astype(float) @ vectors.astype(float).T
    # Sums in single precision differ in their last digits, so pairs at the limit itself may differ.
    assert all(abs(1 - products[pair] - limit[pair[0]]) < 1e-6 for pair in differing)
    np.testing.assert_allclose(found[2], 1 - products[found[:2]], atol=1e-6)


@pytest.mark.parametrize("shared", [0.0, 3.0])
@pytest.mark.parametrize("badly_rounded", ["nothing", "queries", "vectors", "both"])
def test_bfloat16_bound_is_at_least_the_true_product_and_close_to_it(shared: float, badly_rounded: str) -> None:
    dim = 64
    rng = np.random.default_rng(3)
    queries, vectors = unit(rng.normal(size=(20, dim))), unit(rng.normal(size=(500, dim)))
    if badly_rounded != "nothing":
        # A little less than half of what separates 0.125 from the next bfloat16, so that all of a product's errors add up; the
        # queries' centre is 0.
        largest = 0.125 * (1 + bfloat16_kernel.BFLOAT16_ROUNDING * 0.999)
        queries = np.full((2, dim), 0.125 if badly_rounded == "vectors" else largest) * [[1], [-1]]
        vectors[0] = 0.125 if badly_rounded == "queries" else largest
    along = unit(rng.normal(size=(1, dim)))
    queries, vectors = (((part + shared * along) / (1 + shared)).astype(np.float32) for part in (queries, vectors))
    kernel = rough(queries)
    rounded = (kernel._bounds(vectors).astype(np.int32) << 16).view(np.float32)
    # The bounds before their own rounding.
    bounds = kernel._rough_queries.double().numpy() @ kernel._rough[: len(vectors)].double().numpy().T
    np.testing.assert_allclose(rounded, bounds, rtol=bfloat16_kernel.BFLOAT16_ROUNDING, atol=bfloat16_kernel.SUMMING)
    wide, centre = queries.astype(float), queries.mean(axis=0).astype(float)
    true = wide @ vectors.astype(float).T - (wide @ centre)[:, None]
    assert not (bounds < true - bfloat16_kernel.SUMMING).any()
    # A bound far above would exclude no pair.
    lengths = np.linalg.norm(wide - centre, axis=1)[:, None] * np.linalg.norm(vectors - centre, axis=1)
    assert (bounds < true + 5 * bfloat16_kernel.BFLOAT16_ROUNDING * lengths + bfloat16_kernel.SUMMING).all()


@pytest.fixture
def numbers() -> Floats:
    rng = np.random.default_rng(6)
    drawn = rng.normal(size=50_000) * 10.0 ** rng.integers(-30, 1, size=50_000)
    return np.concatenate([drawn, [0.0, -0.0, 1.0, -1.0, 1e-42, -1e-42]]).astype(np.float32)


def test_lowest_bits_are_a_tight_lower_bound_of_rounded_numbers(numbers: Floats) -> None:
    import torch

    bits = torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy()
    assert (bits >= bfloat16_kernel._lowest_bits(numbers)).all()
    # Numbers that are 2 % smaller are excluded.
    positive = numbers[numbers > 1e-30]
    bits = torch.from_numpy(positive * np.float32(0.98)).bfloat16().view(torch.int16).numpy()
    assert (bits < bfloat16_kernel._lowest_bits(positive)).all()


def test_lengths_are_rounded_up_to_bfloat16(numbers: Floats) -> None:
    import torch

    lengths = np.abs(numbers[np.abs(numbers) > 1e-30])
    assert (torch.from_numpy(bfloat16_kernel._above(lengths)).bfloat16().float().numpy() >= lengths).all()


def test_bfloat16_kernel_waits_longer_after_each_try_that_excludes_too_few_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=32) + 1e-3 * rng.normal(size=(4000, 32)))
    kernel = rough(vectors[:50])
    limit = np.full(50, 1e-7, np.float32)
    tried: list[int] = []
    bounds = kernel._bounds
    monkeypatch.setattr(kernel, "_bounds", lambda *given: tried.append(1) or bounds(*given))
    found, tries = None, []
    for _ in range(6):
        found = kernel.pairs_below(vectors, limit, 5)
        tries.append(len(tried))
    assert tries == [1, 1, 2, 2, 2, 3], "after each try in vain it waits for one piece more"
    for _ in range(3):
        kernel.pairs_below(vectors, limit, 5)
    with monkeypatch.context() as patch:
        patch.setattr(bfloat16_kernel, "PAIR_COST", 0)
        kernel.pairs_below(vectors, limit, 5)
    assert len(tried) == 4
    kernel.pairs_below(vectors, limit, 5)
    kernel.pairs_below(vectors, limit, 5)
    kernel.pairs_below(vectors, limit, 5)
    assert len(tried) == 6, "after one try that was not in vain it waits for one piece again"
    assert pairs_of(found) == pairs_of(kernels.NumpyKernel(vectors[:50]).pairs_below(vectors, limit, 5))


def test_long_search_on_few_cpus_uses_bfloat16_and_finds_the_same_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    rng = np.random.default_rng(9)
    vectors, queries = (rng.normal(size=(n, 24)).astype(np.float32) for n in (9000, 301))
    monkeypatch.setattr(choose_kernel, "machine_cpus", lambda: 2)
    monkeypatch.setattr(choose_kernel, "QUERIES_PER_SHARE", 100)
    monkeypatch.setattr(choose_kernel, "ROUGH_QUERIES", 100)
    monkeypatch.setattr(choose_kernel, "is_bfloat16_fast", lambda *_: True)
    threads = torch.get_num_threads()
    inside: set[int] = set()
    bounds = bfloat16_kernel.Bfloat16Kernel._bounds

    def noting(self: bfloat16_kernel.Bfloat16Kernel, vectors: Floats) -> np.ndarray:
        inside.add(torch.get_num_threads())
        return bounds(self, vectors)

    monkeypatch.setattr(bfloat16_kernel.Bfloat16Kernel, "_bounds", noting)
    torch.set_num_threads(2)
    chosen, found = [], []
    for least in (1, 10**15):
        monkeypatch.setattr(choose_kernel, "ROUGH_FROM", least)
        chosen.append({type(one).__name__ for one in choose_kernel.choose_kernels(unit(queries), "cpu", len(vectors))})
        blocks = ((np.arange(at, at + 3000), vectors[at : at + 3000]) for at in range(0, 9000, 3000))
        found.append(exact_neighbours(queries, blocks, 30, device="cpu", expected=len(vectors)))
    assert chosen == [{"Bfloat16Kernel"}, {"NumpyKernel"}]
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_allclose(found[0].distances, found[1].distances, atol=1e-6)
    assert {type(one).__name__ for one in choose_kernel.choose_kernels(unit(queries), "cpu", 0)} == {"NumpyKernel"}
    assert inside == {1}, "each share multiplies with all processors"
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("device", "gpus", "processors", "vectors", "expected"),
    [
        ("auto", 0, 2, 10, "NumpyKernel"),
        ("auto", 0, 2, 10**9, "Bfloat16Kernel"),
        ("cpu", 0, 2, 10**9, "Bfloat16Kernel"),
        ("cpu", 1, 2, 10**9, "Bfloat16Kernel"),
        ("auto", 0, 8, 10**9, "TorchKernel cpu"),
        ("cpu", 1, 8, 10, "TorchKernel cpu"),
        ("auto", 1, 2, 10, "TorchKernel cuda"),
        ("auto", 1, 2, 10**9, "TorchKernel cuda"),
        ("cuda:1", 2, 2, 10, "TorchKernel cuda:1"),
    ],
)
def test_kernel_is_chosen_by_device_cpus_and_numbers_of_queries_and_vectors(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, processors: int, vectors: int, expected: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: gpus)))
    monkeypatch.setattr(choose_kernel, "machine_cpus", lambda: processors)
    monkeypatch.setattr(choose_kernel, "is_bfloat16_fast", lambda *_: True)
    monkeypatch.setattr(choose_kernel, "NumpyKernel", lambda *_: "NumpyKernel")
    monkeypatch.setattr(choose_kernel, "Bfloat16Kernel", lambda *_: "Bfloat16Kernel")
    monkeypatch.setattr(choose_kernel, "TorchKernel", lambda _, __, used: f"TorchKernel {used}")
    many = np.zeros((choose_kernel.ROUGH_QUERIES, 8), np.float32)
    assert set(choose_kernel.choose_kernels(many, device, vectors)) == {expected}
    if expected == "Bfloat16Kernel":
        assert set(choose_kernel.choose_kernels(many[1:], device, vectors)) == {"NumpyKernel"}
        monkeypatch.setattr(choose_kernel, "is_bfloat16_fast", lambda *_: False)
        assert set(choose_kernel.choose_kernels(many, device, vectors)) == {"NumpyKernel"}


def test_numpy_kernel_is_used_without_pytorch_and_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # its import is an error
    many = np.zeros((choose_kernel.ROUGH_QUERIES, 8), np.float32)
    assert {type(one).__name__ for one in choose_kernel.choose_kernels(many, "cpu", 10**9)} == {"NumpyKernel"}
    with pytest.raises(InputError, match="GPU needs PyTorch, which could not be loaded"):
        choose_kernel.choose_kernels(many, "cuda", 10**9)


@pytest.mark.parametrize(("rough_seconds", "is_fast"), [(0.4, True), (0.6, False)])
def test_bfloat16_counts_as_fast_only_if_it_is_twice_as_fast(
    monkeypatch: pytest.MonkeyPatch, rough_seconds: float, is_fast: bool
) -> None:
    import torch

    def times() -> Iterator[float]:
        # Products in single precision and in bfloat16 take turns; other work delays the first ones.
        for turn in range(1 + bfloat16_kernel.TIMED):
            delay = 5.0 if turn < 2 else 0.0
            yield from (0.0, 1.0 + delay, 0.0, rough_seconds + delay)

    clock = times()
    monkeypatch.setattr(bfloat16_kernel, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert bfloat16_kernel.is_bfloat16_fast(torch, 16) is is_fast
