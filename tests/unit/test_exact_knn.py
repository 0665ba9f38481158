"""Compare exact search in blocks with a comparison of all vectors at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbirdb.vectors import choose_kernel
from cbirdb.vectors.exact_knn import exact_neighbours


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    queries=st.integers(1, 5),
    k=st.integers(1, 50),
    block=st.integers(1, 41),
    seed=st.integers(0, 9),
)
def test_search_in_blocks_finds_the_same_neighbours_as_one_comparison_of_all(
    rows: int, queries: int, k: int, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(rows, 6)) * rng.uniform(0.1, 9, size=(rows, 1))).astype(np.float32)
    asked = rng.normal(size=(queries, 6)).astype(np.float32)
    ids = rng.permutation(1000)[:rows].astype(np.int64)
    found = exact_neighbours(
        asked, ((ids[at : at + block], vectors[at : at + block]) for at in range(0, rows, block)), k
    )
    wide, unit = vectors.astype(float), asked.astype(float)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = 1 - unit @ wide.T
    order = np.argsort(distances, axis=1)[:, : min(k, rows)]
    assert found.ids.shape == found.distances.shape == order.shape
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, order, axis=1), atol=1e-5)
    column = {image_id: n for n, image_id in enumerate(ids)}
    for row, listed in enumerate(found.ids):
        assert len(set(listed)) == len(listed)
        np.testing.assert_allclose(distances[row, [column[i] for i in listed]], found.distances[row], atol=1e-5)


def test_equal_distances_are_ordered_by_id() -> None:
    vectors = np.ones((6, 3), np.float32)
    found = exact_neighbours(vectors[:1], [(np.array([9, 4, 7, 1, 8, 2]), vectors)], 6)
    assert found.ids.tolist() == [[1, 2, 4, 7, 8, 9]]
    assert found.distances[0] == pytest.approx(0, abs=1e-6)


def test_hundreds_of_equal_distances_still_give_exactly_k_nearest_neighbours() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 400, axis=0)
    found = exact_neighbours(np.eye(3, dtype=np.float32), [(np.arange(1200), vectors)], 7)
    assert (found.ids // 400 == np.arange(3)[:, None]).all()
    assert found.distances == pytest.approx(np.zeros((3, 7)), abs=1e-6)


def test_queries_in_shares_find_the_same_neighbours_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    vectors, queries = (rng.normal(size=(n, 12)).astype(np.float32) for n in (5000, 301))
    found = []
    monkeypatch.setattr(choose_kernel, "_torch_may_pay", lambda _: False)
    for processors in (1, 3):
        monkeypatch.setattr(choose_kernel, "machine_cpus", lambda processors=processors: processors)
        monkeypatch.setattr(choose_kernel, "QUERIES_PER_SHARE", 100)
        blocks = ((np.arange(at, at + 1000), vectors[at : at + 1000]) for at in range(0, 5000, 1000))
        found.append(exact_neighbours(queries, blocks, 30, device="cpu"))
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_allclose(found[0].distances, found[1].distances, atol=1e-6)


def test_error_in_one_share_of_the_queries_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_kernel, "_torch_may_pay", lambda _: False)
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="mismatch"):
        exact_neighbours(vectors, [(np.arange(4), np.ones((4, 3), np.float32))], 2, device="cpu")
