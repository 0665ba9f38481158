"""Normalise embeddings: a row gets unit length or is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cbirdb.errors import InputError
from cbirdb.vectors.normalize import l2_normalize, unusable_reason


def test_row_is_divided_by_its_euclidean_length() -> None:
    # |(3, 4)| = 5 and |(0, -2)| = 2.
    scaled, usable = l2_normalize(np.array([[3.0, 4.0], [0.0, -2.0]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0.0, -1.0]], rtol=1e-7)
    assert scaled.dtype == np.float32
    assert usable.tolist() == [True, True]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([np.nan, 1.0], "not a number"),
        ([np.nan, np.inf], "not a number"),
        ([np.inf, 1.0], "infinite"),
        ([1.0, -np.inf], "infinite"),
        ([0.0, -0.0], "zero vector"),
    ],
)
def test_unusable_row_is_zeroed_with_its_reason_and_other_rows_are_normalised(bad: list[float], reason: str) -> None:
    rows = np.array([[3.0, 4.0], bad, [1.0, 0.0]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled, usable = l2_normalize(rows)
    assert usable.tolist() == [True, False, True]
    np.testing.assert_array_equal(scaled[1], [0.0, 0.0])
    np.testing.assert_allclose(scaled[[0, 2]], [[0.6, 0.8], [1.0, 0.0]], rtol=1e-7)
    assert unusable_reason(rows[1]) == reason


def test_finite_row_whose_length_overflows_is_out_of_range() -> None:
    rows = np.full((1, 2), 1e200)
    _, usable = l2_normalize(rows)
    assert usable.tolist() == [False]
    assert unusable_reason(rows[0]) == "norm out of range"


@pytest.mark.parametrize("magnitude", [3e38, 1e20, 1e-20, 1e-40], ids=str)
def test_values_whose_squares_leave_the_range_of_single_precision_are_normalised(magnitude: float) -> None:
    scaled, usable = l2_normalize(np.array([[magnitude, -magnitude]], dtype=np.float32))
    assert usable.tolist() == [True]
    np.testing.assert_allclose(scaled, [[np.sqrt(0.5), -np.sqrt(0.5)]], rtol=1e-4)


def test_half_precision_row_is_normalised_even_if_its_squares_overflow_half_precision() -> None:
    # The sum of squares, 2048 * 60000 ** 2, is far above the largest half, 65504.
    scaled, usable = l2_normalize(np.full((1, 2048), 60000, dtype=np.float16))
    assert usable.all()
    np.testing.assert_allclose(scaled, np.full((1, 2048), 2048**-0.5), rtol=1e-6)


def test_input_is_left_unchanged() -> None:
    rows = np.array([[3.0, 4.0]], dtype=np.float64)
    l2_normalize(rows)
    np.testing.assert_array_equal(rows, [[3.0, 4.0]])


def test_no_rows_give_no_rows() -> None:
    scaled, usable = l2_normalize(np.empty((0, 5), dtype=np.float32))
    assert scaled.shape == (0, 5)
    assert usable.shape == (0,)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), ()], ids=str)
def test_array_that_is_not_two_dimensional_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(n, dim\)") as refused:
        l2_normalize(np.ones(shape, dtype=np.float32))
    assert str(shape) in str(refused.value)


@given(
    arrays(
        st.sampled_from([np.float16, np.float32]),
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements={"allow_nan": True, "allow_infinity": True},
    )
)
def test_every_finite_nonzero_row_gets_unit_length_and_every_other_row_is_refused(rows: np.ndarray) -> None:
    scaled, usable = l2_normalize(rows)
    np.testing.assert_allclose(np.linalg.norm(scaled[usable].astype(np.float64), axis=1), 1.0, atol=1e-5)
    assert not scaled[~usable].any()
    for row, is_usable in zip(rows, usable, strict=True):
        assert is_usable == (bool(np.isfinite(row).all()) and bool(row.any()))
        if not is_usable:
            assert unusable_reason(row) != "norm out of range"


def test_double_precision_row_of_tiny_values_gets_unit_length_or_is_refused() -> None:
    scaled, usable = l2_normalize(np.array([[2e-162, 2e-162]]))
    assert not usable[0] or np.linalg.norm(scaled[0]) == pytest.approx(1, abs=1e-3)
