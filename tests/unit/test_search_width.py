"""Bisection of search widths: where it ends, what it measures on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbirdb.index.methods import Hnsw, IndexMethod, IvfFlat
from cbirdb.index.search_width import Verdict, WidthBisection, narrowest_search, next_wider

WIDTHS = [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 64]


def measured(
    bisection: WidthBisection, passes: Callable[[int], bool], tolerable: Callable[[int], bool] | None = None
) -> list[int]:
    """Bisect until it is done; return the widths that it measures."""
    seen: list[int] = []
    while not bisection.done:
        assert bisection.width not in seen, "it measures a width twice"
        seen.append(bisection.width)
        bisection.tell(Verdict(passes(bisection.width), (tolerable or passes)(bisection.width)))
    return seen


def test_worked_example_from_13_down_to_4() -> None:
    """13, 9 and 4 pass in strides of 1 and 2; a stride of 4 ends at 1, which fails; 2 and 3 lie between."""
    bisection = WidthBisection(WIDTHS, 13)
    assert measured(bisection, lambda width: width >= 4) == [13, 9, 4, 1, 2, 3]
    assert (bisection.width, bisection.passed) == (4, True)


def test_worked_example_from_3_up_to_13() -> None:
    """3, 4 and 9 fail in strides of 1 and 2; a stride of 4 ends at 42, which passes; of 13 to 28, 19 and then 13 pass."""
    bisection = WidthBisection(WIDTHS, 3)
    assert measured(bisection, lambda width: width >= 13) == [3, 4, 9, 42, 19, 13]
    assert (bisection.width, bisection.passed) == (13, True)


@pytest.mark.parametrize("first", WIDTHS)
def test_right_first_guess_costs_two_measurements(first: int) -> None:
    bisection = WidthBisection(WIDTHS, first)
    seen = measured(bisection, lambda width: width >= first)
    assert seen == [first, *WIDTHS[: WIDTHS.index(first)][-1:]]
    assert bisection.width == first


def test_nothing_passes_and_nothing_is_tolerable_ends_at_the_widest() -> None:
    bisection = WidthBisection(WIDTHS, 28)
    assert measured(bisection, lambda _: False) == [28, 42, 64]
    assert (bisection.width, bisection.passed) == (64, False)


def test_nothing_passes_ends_at_the_narrowest_tolerable_width_from_the_first_guess_on() -> None:
    bisection = WidthBisection(WIDTHS, 13)
    assert measured(bisection, lambda _: False, tolerable=lambda width: width >= 28) == [13, 19, 42, 64, 28]
    assert (bisection.width, bisection.passed) == (28, False)
    bisection = WidthBisection(WIDTHS, 13)
    measured(bisection, lambda _: False, tolerable=lambda _: True)
    assert (bisection.width, bisection.passed) == (13, False)


def test_tolerable_width_is_not_taken_where_a_wider_one_passes() -> None:
    bisection = WidthBisection(WIDTHS, 9)
    assert measured(bisection, lambda width: width >= 9, tolerable=lambda width: width >= 4) == [9, 6]
    assert (bisection.width, bisection.passed) == (9, True)


def test_verdicts_after_the_end_change_nothing() -> None:
    bisection = WidthBisection(WIDTHS, 1)
    bisection.tell(Verdict(passed=True))
    bisection.tell(Verdict(passed=False))
    assert (bisection.width, bisection.passed, bisection.done) == (1, True, True)


@given(
    widths=st.lists(st.integers(1, 10_000), min_size=1, max_size=60, unique=True).map(sorted),
    data=st.data(),
    enough=st.integers(0, 10_001),
    tolerable=st.integers(0, 10_001),
)
def test_bisection_ends_where_a_scan_of_all_widths_does(
    widths: list[int], data: st.DataObject, enough: int, tolerable: int
) -> None:
    first = data.draw(st.sampled_from(widths))
    tolerable = min(tolerable, enough)
    bisection = WidthBisection(widths, first)
    seen = measured(bisection, lambda width: width >= enough, lambda width: width >= tolerable)
    passing = [width for width in widths if width >= enough]
    usable = [width for width in widths if width >= max(tolerable, first)]
    assert bisection.width == (passing or usable or widths[-1:])[0]
    assert bisection.passed == bool(passing)
    assert len(seen) <= 3 * (1 + math.ceil(math.log2(len(widths) + 1)))


def scan(method: IndexMethod, needed: tuple[int, int]) -> tuple[int, ...]:
    """The narrowest of a method's widths that suffice, or its widest, as a scan of all finds them."""
    return tuple(
        next((step for step in steps if step >= enough), steps[-1])
        for steps, enough in zip(method.steps(), needed, strict=True)
    )


def look(needed: Sequence[int]) -> Callable[[IndexMethod], tuple[Verdict, Verdict]]:
    """Judge methods whose searches find enough from these widths on."""

    def judge(method: IndexMethod) -> tuple[Verdict, Verdict]:
        ten, hundred = (Verdict(width >= enough) for width, enough in zip(method.widths, needed, strict=True))
        return ten, hundred

    return judge


@given(begin=st.tuples(*2 * [st.sampled_from(WIDTHS)]), needed=st.tuples(*2 * [st.integers(1, 70)]))
def test_both_widths_end_at_the_narrowest_that_pass_wherever_they_begin(
    begin: tuple[int, int], needed: tuple[int, int]
) -> None:
    method = IvfFlat(lists=100, probes=min(begin), at_100=max(begin))
    found = narrowest_search(method, look(needed))
    ten, hundred = scan(method, needed)
    assert found.method.widths == (ten, max(ten, hundred))
    assert found.passed == (max(needed) <= 64)


@given(needed=st.tuples(st.integers(1, 1000), st.integers(1, 1000)))
def test_graph_ends_at_widths_that_pass(needed: tuple[int, int]) -> None:
    """HNSW holds the two together, at most 180 apart; so a width may be wider than needed, never too narrow."""
    found = narrowest_search(Hnsw(ef_search=40, at_100=1000), look(needed))
    assert all(width >= enough for width, enough in zip(found.method.widths, needed, strict=True))
    assert found.passed


def test_no_narrower_width_is_measured_where_only_wider_ones_are_asked_for() -> None:
    looked: list[int] = []

    def judge(method: IndexMethod) -> tuple[Verdict, Verdict]:
        looked.append(min(method.widths))
        return Verdict(passed=True), Verdict(passed=True)

    method = IvfFlat(lists=100, probes=4, at_100=4)
    assert narrowest_search(method, judge, only_wider=True).method == method
    assert looked == [4]


def test_next_wider_widens_only_what_did_not_pass() -> None:
    method = IvfFlat(lists=100, probes=4, at_100=28)
    assert next_wider(method, ten_passed=False, hundred_passed=True) == IvfFlat(lists=100, probes=6, at_100=28)
    assert next_wider(method, ten_passed=True, hundred_passed=False) == IvfFlat(lists=100, probes=4, at_100=42)
    assert next_wider(method, ten_passed=True, hundred_passed=True) is None
    assert next_wider(IvfFlat(lists=100, probes=64, at_100=64), ten_passed=False, hundred_passed=False) is None
