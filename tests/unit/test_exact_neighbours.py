"""The blocked matrix product against comparing everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbirdb.exact_neighbours import exact_neighbours


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    queries=st.integers(1, 5),
    k=st.integers(1, 50),
    block=st.integers(1, 41),
    seed=st.integers(0, 9),
)
def test_blocks_find_others_than_one_look_at_everything(rows: int, queries: int, k: int, block: int, seed: int) -> None:
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


def test_equal_distances_are_not_in_the_order_of_their_ids() -> None:
    vectors = np.ones((6, 3), np.float32)
    found = exact_neighbours(vectors[:1], [(np.array([9, 4, 7, 1, 8, 2]), vectors)], 6)
    assert found.ids.tolist() == [[1, 2, 4, 7, 8, 9]]
    assert found.distances[0] == pytest.approx(0, abs=1e-6)
