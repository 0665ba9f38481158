"""Tune the width of a search, on simulated indexes that find enough from some width on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbirdb.index import Floor
from cbirdb.index.audit import Measured, Recall
from cbirdb.index.methods import BitHnsw, Hnsw, IndexMethod, IvfFlat
from cbirdb.index.tune import FIRST_QUERIES, QUERIES, _tuned

STEPS = IvfFlat(lists=100, probes=1).steps()[0]
NEVER = 10**6
GOOD, POOR = Recall(1.0, 1.0, 0), Recall(0.9, 0.5, 9)
"""Recalls above and below every floor here."""


def test_the_scale_is_the_one_that_these_tests_count_on() -> None:
    assert STEPS == [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 64]


@dataclass
class MadeUp:
    """Simulate an index whose searches for 10 and for 100 neighbours find enough from these widths on."""

    ten: int
    hundred: int
    ten_of_all: int = 0
    """The same of searches for ten with all queries, where that is more."""
    ten_short: Recall = POOR
    """Return the recall of a narrower search for ten."""
    looks: list[tuple[int, int, int]] = field(default_factory=list)
    """Widths and number of queries of every measurement."""

    def look(self, method: IndexMethod, queries: int) -> Measured:
        assert len(self.looks) < 200, "it never ends"
        ten, hundred = method.widths
        self.looks.append((ten, hundred, queries))
        needed = max(self.ten, self.ten_of_all) if queries == QUERIES else self.ten
        return Measured(
            sample=queries,
            self_retrieval=1.0,
            recall_at_10=GOOD if ten >= needed else self.ten_short,
            recall_at_100=GOOD if hundred >= self.hundred else POOR,
            p50_ms=1.0,
            p95_ms=1.0,
            answered_exactly=0,
        )

    def tuned(self, method: IndexMethod) -> tuple[int, int]:
        return _tuned(method, self.look, Floor()).widths


def first(enough: int, steps: Iterable[int] = STEPS) -> int:
    """Return the narrowest step that is at least ``enough``, else the widest."""
    return next((step for step in steps if step >= enough), STEPS[-1])


@given(
    begin=st.tuples(st.sampled_from(STEPS), st.sampled_from(STEPS)),
    ten=st.integers(1, 70),
    hundred=st.integers(1, 70),
)
@example(begin=(1, 64), ten=70, hundred=1)
@example(begin=(64, 64), ten=1, hundred=70)
def test_wherever_it_begins_both_widths_are_the_narrowest_that_pass(
    begin: tuple[int, int], ten: int, hundred: int
) -> None:
    method = IvfFlat(lists=100, probes=min(begin), at_100=max(begin))
    assert MadeUp(ten, hundred).tuned(method) == (first(ten), max(first(ten), first(hundred)))


def test_ten_and_a_hundred_are_tuned_apart() -> None:
    assert MadeUp(4, 42).tuned(IvfFlat(lists=100, probes=13, at_100=13)) == (4, 42)


def test_searches_for_ten_are_tuned_below_the_width_they_were_held_to() -> None:
    """HNSW searches for ten no more than 180 narrower than for a hundred: at (40, 1000) it really searches with 820."""
    index = MadeUp(ten=150, hundred=100)
    ten, hundred = index.tuned(Hnsw(ef_search=40, at_100=1000))
    assert 150 <= ten < 400
    assert hundred < 400
    assert [look for look in index.looks if look[2] == QUERIES] == [(ten, hundred, QUERIES)], (
        "all queries had to mend it"
    )


def test_searches_for_a_hundred_are_tuned_below_the_width_they_were_held_to() -> None:
    """Searches for ten go to the end of the scale and back, meanwhile as wide as those for a hundred or wider."""
    index = MadeUp(ten=NEVER, hundred=19, ten_short=Recall(0.996, 0.5, 0))
    assert index.tuned(IvfFlat(lists=100, probes=9, at_100=64)) == (9, 19)


def test_all_queries_confirm_what_some_of_them_found() -> None:
    index = MadeUp(ten=4, hundred=9)
    assert index.tuned(IvfFlat(lists=100, probes=4, at_100=9)) == (4, 9)
    assert index.looks[-1] == (4, 9, QUERIES)
    assert {queries for _, _, queries in index.looks[:-1]} == {FIRST_QUERIES}


def test_what_fails_with_all_queries_is_widened_and_looked_at_again() -> None:
    index = MadeUp(ten=4, hundred=28, ten_of_all=9)
    assert index.tuned(IvfFlat(lists=100, probes=4, at_100=28)) == (9, 28)
    assert [look for look in index.looks if look[2] == QUERIES] == [
        (4, 28, QUERIES),
        (6, 28, QUERIES),
        (9, 28, QUERIES),
    ]


def test_what_fails_with_all_queries_at_every_width_ends_at_the_widest() -> None:
    assert MadeUp(ten=4, hundred=4, ten_of_all=NEVER).tuned(IvfFlat(lists=100, probes=4, at_100=4)) == (64, 64)


@pytest.mark.parametrize(("begin", "expected"), [(1, 1), (9, 9)])
def test_where_the_worst_queries_fail_at_every_width_the_mean_decides_and_nothing_is_confirmed(
    begin: int, expected: int
) -> None:
    index = MadeUp(ten=NEVER, hundred=19, ten_short=Recall(0.996, 0.5, 0))
    assert index.tuned(IvfFlat(lists=100, probes=begin, at_100=19)) == (expected, 19)
    assert {queries for _, _, queries in index.looks} == {FIRST_QUERIES}


def test_queries_that_find_nothing_are_not_made_up_for_by_the_mean() -> None:
    index = MadeUp(ten=NEVER, hundred=1, ten_short=Recall(0.999, 1.0, 1))
    assert index.tuned(IvfFlat(lists=100, probes=1, at_100=1)) == (64, 64)


def test_memory_of_bit_hnsw_counts_one_bit_per_component() -> None:
    neighbours = 16 * (2 * 16 + 16 / 15) + 16
    for dim, size in ((8, 1), (9, 2), (512, 64)):
        assert BitHnsw(m=16).memory_estimate(1000, dim, "half") == int(1000 * (180 + 8 + size + neighbours))


def test_memory_of_kmeans_is_that_of_its_sample_and_its_bounds() -> None:
    # 2 lists take 10,000 sampled vectors of 3 numbers; a vector takes 8 bytes more, a bound takes 4 bytes.
    assert IvfFlat(lists=2).memory_estimate(50_000, 3, "half") == 10_000 * (8 + 4 * 3) + 4 * 2 * (2 + 10_000 + 2 * 3)
