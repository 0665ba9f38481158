"""Tune the width of a search, on simulated indexes that find enough from some width on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbirdb.index import Floor
from cbirdb.index.audit import Measured, Recall
from cbirdb.index.methods import BitHnsw, Hnsw, IndexMethod, IvfFlat
from cbirdb.index.tune import FIRST_QUERIES, QUERIES, _Dial, _settled

STEPS = IvfFlat(lists=100, probes=1).steps()[0]
NEVER = 10**6
GOOD, POOR = Recall(1.0, 1.0, 0), Recall(0.9, 0.5, 9)
"""Recalls above and below every floor here."""


def turned(dial: _Dial, passes: Callable[[int], bool], enough: Callable[[int], bool] | None = None) -> list[int]:
    """Return the widths that are measured until the tuning ends."""
    seen = []
    while not dial.settled:
        assert len(seen) < 50, "it never settles"
        seen.append(dial.width)
        dial.turn(passes(dial.width), (enough or passes)(dial.width))
    return seen


def test_search_of_100_lists_has_these_twelve_widths() -> None:
    assert STEPS == [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 64]


def test_passing_width_is_narrowed_to_the_last_that_passes() -> None:
    dial = _Dial(STEPS, 13)
    assert turned(dial, lambda width: width >= 4) == [13, 9, 6, 4, 3]
    assert (dial.width, dial.passed) == (4, True)


def test_failing_width_is_widened_to_the_first_that_passes() -> None:
    dial = _Dial(STEPS, 3)
    assert turned(dial, lambda width: width >= 13) == [3, 4, 6, 9, 13]
    assert (dial.width, dial.passed) == (13, True)


def test_narrowest_width_that_passes_is_kept_at_once() -> None:
    dial = _Dial(STEPS, 1)
    assert turned(dial, lambda _: True) == [1]
    assert (dial.width, dial.passed) == (1, True)


def test_narrower_width_with_sufficient_mean_alone_is_rejected() -> None:
    dial = _Dial(STEPS, 9)
    assert turned(dial, lambda width: width >= 9, enough=lambda width: width >= 4) == [9, 6]
    assert (dial.width, dial.passed) == (9, True)


def test_widest_width_is_taken_as_failed_if_none_passes() -> None:
    dial = _Dial(STEPS, 28)
    assert turned(dial, lambda _: False) == [28, 42, 63, 64]
    assert (dial.width, dial.passed) == (64, False)


def test_if_no_width_passes_the_narrowest_with_sufficient_mean_is_taken() -> None:
    dial = _Dial(STEPS, 13)
    assert turned(dial, lambda _: False, enough=lambda width: width >= 28) == [13, 19, 28, 42, 63, 64]
    assert (dial.width, dial.passed) == (28, False)


def test_tuned_width_changes_no_more() -> None:
    dial = _Dial(STEPS, 1)
    dial.turn(passed=True, enough=True)
    dial.turn(passed=False, enough=False)
    assert (dial.width, dial.passed, dial.settled) == (1, True, True)


@dataclass
class MadeUp:
    """Simulate an index whose searches for 10 and for 100 neighbours find enough from these widths on."""

    near: int
    far: int
    near_of_all: int = 0
    """The width for 10 neighbours that suffices for all queries, if that is larger."""
    near_short: Recall = POOR
    """Recall of a narrower search for 10 neighbours."""
    looks: list[tuple[int, int, int]] = field(default_factory=list)
    """Widths and number of queries of every measurement."""

    def look(self, method: IndexMethod, queries: int) -> Measured:
        assert len(self.looks) < 200, "it never settles"
        ten, hundred = method.widths
        self.looks.append((ten, hundred, queries))
        needed = max(self.near, self.near_of_all) if queries == QUERIES else self.near
        return Measured(
            sample=queries,
            self_retrieval=1.0,
            near=GOOD if ten >= needed else self.near_short,
            far=GOOD if hundred >= self.far else POOR,
            p50_ms=1.0,
            p95_ms=1.0,
            answered_exactly=0,
        )

    def settle(self, method: IndexMethod) -> tuple[int, int]:
        return _settled(method, self.look, Floor()).widths


def first(enough: int, steps: Iterable[int] = STEPS) -> int:
    """Return the narrowest step that is at least ``enough``, else the widest."""
    return next((step for step in steps if step >= enough), STEPS[-1])


@given(
    begin=st.tuples(st.sampled_from(STEPS), st.sampled_from(STEPS)),
    near=st.integers(1, 70),
    far=st.integers(1, 70),
)
@example(begin=(1, 64), near=70, far=1)
@example(begin=(64, 64), near=1, far=70)
def test_tuning_finds_the_narrowest_widths_that_pass_from_any_start(
    begin: tuple[int, int], near: int, far: int
) -> None:
    method = IvfFlat(lists=100, probes=min(begin), at_100=max(begin))
    ten = first(near)
    assert MadeUp(near, far).settle(method) == (ten, max(ten, first(far)))


def test_widths_for_10_and_100_neighbours_are_tuned_separately() -> None:
    assert MadeUp(4, 42).settle(IvfFlat(lists=100, probes=13, at_100=13)) == (4, 42)


def test_width_for_10_passes_only_by_a_search_of_that_width() -> None:
    """HNSW searches for 10 at most 180 narrower than for 100: at (40, 1000) it really searches with 820."""
    index = MadeUp(near=150, far=100)
    ten, hundred = index.settle(Hnsw(ef_search=40, at_100=1000))
    assert 150 <= ten < 400
    assert hundred < 400
    assert [look for look in index.looks if look[2] == QUERIES] == [(ten, hundred, QUERIES)], (
        "all queries had to mend it"
    )


def test_width_for_100_passes_only_by_a_search_of_that_width() -> None:
    """The width for 10 goes to the end of the scale and back, and meanwhile widens the searches for 100."""
    index = MadeUp(near=NEVER, far=19, near_short=Recall(0.996, 0.5, 0))
    assert index.settle(IvfFlat(lists=100, probes=9, at_100=64)) == (9, 28)


def test_widths_found_with_the_first_queries_are_confirmed_with_all() -> None:
    index = MadeUp(near=4, far=9)
    assert index.settle(IvfFlat(lists=100, probes=4, at_100=9)) == (4, 9)
    assert index.looks[-1] == (4, 9, QUERIES)
    assert {queries for _, _, queries in index.looks[:-1]} == {FIRST_QUERIES}


def test_widths_that_fail_with_all_queries_are_widened_and_measured_again() -> None:
    index = MadeUp(near=4, far=28, near_of_all=9)
    assert index.settle(IvfFlat(lists=100, probes=4, at_100=28)) == (9, 28)
    assert [look for look in index.looks if look[2] == QUERIES] == [
        (4, 28, QUERIES),
        (6, 28, QUERIES),
        (9, 28, QUERIES),
    ]


def test_widest_widths_are_taken_if_none_passes_with_all_queries() -> None:
    assert MadeUp(near=4, far=4, near_of_all=NEVER).settle(IvfFlat(lists=100, probes=4, at_100=4)) == (64, 64)


@pytest.mark.parametrize(("begin", "expected"), [(1, 1), (9, 9)])
def test_mean_recall_decides_unconfirmed_if_the_worst_queries_fail_at_every_width(begin: int, expected: int) -> None:
    index = MadeUp(near=NEVER, far=19, near_short=Recall(0.996, 0.5, 0))
    assert index.settle(IvfFlat(lists=100, probes=begin, at_100=19)) == (expected, 19)
    assert {queries for _, _, queries in index.looks} == {FIRST_QUERIES}


def test_width_with_queries_without_a_hit_fails_despite_a_sufficient_mean() -> None:
    index = MadeUp(near=NEVER, far=1, near_short=Recall(0.999, 1.0, 1))
    assert index.settle(IvfFlat(lists=100, probes=1, at_100=1)) == (64, 64)


def test_memory_of_bit_hnsw_counts_one_bit_per_component() -> None:
    neighbours = 16 * (2 * 16 + 16 / 15) + 16
    for dim, size in ((8, 1), (9, 2), (512, 64)):
        assert BitHnsw(m=16).memory_estimate(1000, dim, "half") == int(1000 * (180 + 8 + size + neighbours))


def test_memory_of_kmeans_is_that_of_its_sample_and_its_bounds() -> None:
    # 2 lists take 10,000 sampled vectors of 3 numbers; a vector takes 8 bytes more, a bound takes 4 bytes.
    assert IvfFlat(lists=2).memory_estimate(50_000, 3, "half") == 10_000 * (8 + 4 * 3) + 4 * 2 * (2 + 10_000 + 2 * 3)
