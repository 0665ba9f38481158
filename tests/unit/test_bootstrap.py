"""Compare confidence intervals and paired tests with SciPy and with examples worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cbirdb.metrics.bootstrap import Cells, bootstrap, holm, interval, sign_flip_p
from cbirdb.metrics.confidence import _interval


def one_each(values: np.ndarray, groups: np.ndarray | None = None) -> Cells:
    """Make every query a cluster of its own."""
    group = np.zeros(len(values), dtype=np.int64) if groups is None else groups
    return Cells(np.arange(len(values)), group, values.astype(float), np.ones(len(values)))


def test_micro_and_macro_means_equal_an_example_worked_by_hand() -> None:
    # Patient 0: class 0 values 1 and 0, class 1 value 1. Patient 1: class 0 value 1.
    cells = Cells(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1.0, 1.0, 1.0]), np.array([2.0, 1.0, 1.0]))
    assert cells.micro() == pytest.approx(3 / 4)
    assert cells.macro() == pytest.approx((2 / 3 + 1) / 2)
    # Patient 1 drawn twice: only class 0 is left.
    assert cells.micro(np.array([0.0, 2.0])) == pytest.approx(1.0)
    assert cells.macro(np.array([0.0, 2.0])) == pytest.approx(1.0)
    # Patient 0 twice.
    assert cells.macro(np.array([2.0, 0.0])) == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("macro", [False, True])
def test_resamples_are_the_means_of_their_draws(macro: bool) -> None:
    # Some 4 of 5 clusters hold several classes, and some cells come in two parts.
    rng = np.random.default_rng(13)
    cluster, group = rng.integers(0, 50, 400), rng.integers(0, 7, 400)
    number = rng.integers(1, 4, 400).astype(float)
    figures = rng.random((400, 3)) * number[:, None]
    got = bootstrap(Cells(cluster, group, figures, number), macro=macro, resamples=20, seed=14)
    assert got.shape == (20, 3)
    for figure in range(3):
        cells = Cells(cluster, group, figures[:, figure], number)
        draws = np.random.default_rng(14)
        wanted = []
        for _ in range(20):
            weights = np.bincount(draws.integers(0, 50, 50), minlength=50).astype(float)
            wanted.append(cells.macro(weights) if macro else cells.micro(weights))
        assert got[:, figure] == pytest.approx(wanted, rel=1e-12)
        assert (got[:, figure] == bootstrap(cells, macro=macro, resamples=20, seed=14)).all()


def test_interval_without_clusters_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).beta(2, 1, 300)
    low, high = interval(bootstrap(one_each(values), macro=False, resamples=20_000, seed=2))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=3).confidence_interval
    spread = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.03 * spread)
    assert high == pytest.approx(theirs.high, abs=0.03 * spread)


def test_macro_interval_agrees_with_scipy_if_each_patient_has_one_query_per_class() -> None:
    # Clusters that each hold one query of either class: macro is the mean of cluster means, which SciPy can do.
    rng = np.random.default_rng(4)
    first, second = rng.random(200), rng.random(200) ** 2
    cells = Cells(
        np.concatenate([np.arange(200)] * 2), np.repeat([0, 1], 200), np.concatenate([first, second]), np.ones(400)
    )
    low, high = interval(bootstrap(cells, macro=True, resamples=20_000, seed=5))
    theirs = stats.bootstrap(
        ((first + second) / 2,), np.mean, n_resamples=20_000, method="percentile", rng=6
    ).confidence_interval
    spread = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * spread)


def test_equal_queries_of_one_patient_widen_the_interval() -> None:
    # Fifty patients with twenty equal queries each are worth fifty values, not a thousand.
    values = np.random.default_rng(7).random(50)
    clustered = Cells(np.arange(50), np.zeros(50, dtype=np.int64), values * 20, np.full(50, 20.0))
    independent = one_each(np.repeat(values, 20))

    def width(cells: Cells) -> float:
        low, high = interval(bootstrap(cells, macro=False, resamples=4_000, seed=8))
        return high - low

    assert width(clustered) / width(independent) == pytest.approx(20**0.5, rel=0.1)


def test_interval_covers_the_true_mean_in_about_95_percent_of_samples() -> None:
    rng = np.random.default_rng(9)
    covered = 0
    for trial in range(200):
        values = rng.normal(0.6, 0.2, 80)
        low, high = interval(bootstrap(one_each(values), macro=False, resamples=500, seed=trial))
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_exact_p_equals_scipys(shift: float) -> None:
    differences = np.random.default_rng(10).normal(shift, 1, 12)
    ours = sign_flip_p(one_each(differences), macro=False, resamples=10_000, seed=0)
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_sampled_p_agrees_with_scipy() -> None:
    differences = np.random.default_rng(11).normal(0.15, 1, 200)
    ours = sign_flip_p(one_each(differences), macro=False, resamples=20_000, seed=1)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=2
    ).pvalue
    assert ours == pytest.approx(theirs, rel=0.15)


def test_macro_p_equals_an_example_worked_by_hand() -> None:
    # Two patients, two classes. Patient 0: class 0 +1 (of two queries in the class); patient 1: class 0 -1, class 1 +1.
    # macro difference = (0/2 + 1/1) / 2 = 0.5; shares of the patients: 0.25 and -0.25 + 0.5 = 0.25.
    # Arrangements: 0.5, 0, 0, -0.5: half of them are as far out.
    cells = Cells(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1.0, -1.0, 1.0]), np.ones(3))
    assert sign_flip_p(cells, macro=True, resamples=100, seed=0) == 0.5


def test_equal_systems_have_a_p_of_one() -> None:
    assert sign_flip_p(one_each(np.zeros(40)), macro=False, resamples=100, seed=0) == 1.0


def test_holm_correction_equals_an_example_worked_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_false_alarms_after_holm_stay_near_5_percent() -> None:
    rng = np.random.default_rng(12)
    alarms = sum(min(holm(list(rng.random(10)))) < 0.05 for _ in range(2_000))
    assert alarms / 2_000 < 0.065


@pytest.mark.parametrize("mean", ["micro", "macro"])
def test_interval_needs_at_least_two_patients(mean: str) -> None:
    two = one_each(np.array([0.0, 1.0]))
    assert _interval(two, mean, 200, 1) == pytest.approx((0, 1))
    assert _interval(one_each(np.array([1.0])), mean, 200, 1) == (None, None)
