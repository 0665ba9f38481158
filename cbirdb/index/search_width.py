"""Find the narrowest searches through an index that find enough, by bisection: wider searches find more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cbirdb.index.methods import IndexMethod


@dataclass(frozen=True, slots=True)
class Verdict:
    """Judge one width: whether it passes, or at least would do where none passes."""

    passed: bool
    tolerable: bool = False


Look = Callable[[IndexMethod], tuple[Verdict, Verdict]]
"""Measures a method; judges its searches for ten and for a hundred."""


@dataclass(slots=True)
class _Bracket:
    """Hold two positions, between which the narrowest width that reaches something lies."""

    below: int
    """The widest that is known to fall short."""
    reached: int
    """The narrowest that is known to reach it; beyond the last where none is."""

    def note(self, position: int, *, reached: bool) -> None:
        """Take what a measurement says."""
        if reached:
            self.reached = min(self.reached, position)
        else:
            self.below = max(self.below, position)


class WidthBisection:
    """Bisect widths for the narrowest that passes.

    It begins with a first guess and moves on by 1, 2, 4, ... widths until the answer lies between two that were
    measured; then it halves what is between them. So a good guess costs two or three measurements, and wide searches, which
    take long, are measured only where narrow ones fail (exponential search: Bentley and Yao, 1976).

    If no width passes, the answer is the narrowest, from the first guess on, that is tolerable, else the widest.
    """

    def __init__(self, widths: Sequence[int], first: int) -> None:
        """Begin at a width.

        :param widths: narrowest first.
        :param first: one of them.
        """
        self._widths = widths
        self._position = widths.index(first)
        self._passing = _Bracket(-1, len(widths))
        self._tolerable = _Bracket(self._position - 1, len(widths))
        self._stride = 1
        self.done = False

    @property
    def width(self) -> int:
        """Return the width to measure, or the answer."""
        return self._widths[self._position]

    @property
    def passed(self) -> bool:
        """Return whether ``width`` is known to pass."""
        return self._position == self._passing.reached

    def tell(self, verdict: Verdict) -> None:
        """Take the verdict on ``width``, and move on."""
        if self.done:
            return
        self._passing.note(self._position, reached=verdict.passed)
        self._tolerable.note(self._position, reached=verdict.passed or verdict.tolerable)
        nothing_passes = self._passing.below == len(self._widths) - 1
        self._move(self._tolerable if nothing_passes else self._passing)

    def _move(self, bracket: _Bracket) -> None:
        last = len(self._widths) - 1
        if bracket.reached - bracket.below <= 1:
            self._position, self.done = min(bracket.reached, last), True
        elif bracket.reached > last:
            self._position = min(bracket.below + self._stride, last)
        elif bracket.below < 0:
            self._position = max(bracket.reached - self._stride, 0)
        else:
            self._position = (bracket.below + bracket.reached) // 2
        self._stride *= 2


@dataclass(frozen=True, slots=True)
class NarrowestSearch:
    """Hold a method with the narrowest searches that were found."""

    method: IndexMethod
    passed: bool
    """Say whether both widths passed."""


def narrowest_search(method: IndexMethod, look: Look, *, only_wider: bool = False) -> NarrowestSearch:
    """Bisect the widths of a method's searches for ten and for a hundred together: every look serves both.

    :param method: with the widths to begin with.
    :param only_wider: look at none that is narrower.
    """
    ten, hundred = (
        WidthBisection([step for step in steps if step >= first or not only_wider], first)
        for steps, first in zip(method.steps(), method.widths, strict=True)
    )
    seen: dict[IndexMethod, tuple[Verdict, Verdict]] = {}
    while not (ten.done and hundred.done):
        tried = method.with_widths(ten.width, hundred.width)
        if tried not in seen:
            seen[tried] = look(tried)
        others_done = hundred.done, ten.done
        for bisection, width, verdict, other_done in zip(
            (ten, hundred), tried.widths, seen[tried], others_done, strict=True
        ):
            # A method may hold one width to the other. What passes with a wider search than was asked for proves nothing
            # until the other stands still; what fails with it fails with a narrower one, too.
            held = width > bisection.width
            if not held or other_done or not (verdict.passed or verdict.tolerable):
                bisection.tell(verdict)
    return NarrowestSearch(method.with_widths(ten.width, hundred.width), ten.passed and hundred.passed)


def next_wider(method: IndexMethod, *, ten_passed: bool, hundred_passed: bool) -> IndexMethod | None:
    """Return the method with the next wider search for what did not pass; None: there is none wider."""
    widths = [
        width if passed else next((step for step in steps if step > width), width)
        for passed, width, steps in zip((ten_passed, hundred_passed), method.widths, method.steps(), strict=True)
    ]
    return None if tuple(widths) == method.widths else method.with_widths(*widths)
