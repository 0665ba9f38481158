"""Report each figure of an index that misses its floor or its aim."""

from __future__ import annotations

import pytest

from cbirdb.index import Aim, Floor
from cbirdb.index.audit import Measured, Recall


@pytest.mark.parametrize(
    ("recalls", "without_hit", "said"),
    [
        ({10: 0.99, 100: 1.0}, 1, None),
        ({10: 0.871, 100: 1.0}, 0, "recall at 10 is 0.871, below the floor of 0.99"),
        (
            {10: 0.9, 100: 0.5},
            0,
            "recall at 10 is 0.9, below the floor of 0.99 and recall at 100 is 0.5, below the floor of 0.99",
        ),
        ({10: 0.989999999}, 0, "recall at 10 is 0.9899, below the floor of 0.99"),
        (
            {10: 1.0},
            12,
            "12 of 1,000 queries find none of their nearest, above the floor of 0.001 (1.20% against 0.10%)",
        ),
    ],
)
def test_message_names_each_missed_figure_and_its_floor(
    recalls: dict[int, float], without_hit: int, said: str | None
) -> None:
    assert Floor().missed_by(recalls, without_hit, 1000) == said


def test_rejected_trial_names_each_missed_figure_and_its_aim() -> None:
    measured = Measured(300, 1, Recall(0.9, 0.5, 2), Recall(0.95, 0.5, 0), 1, 1, 0)
    assert Aim.above(Floor()).missed_by(measured) == (
        "recall at 10 is 0.9, below 0.995, its first percentile is 0.5, below 0.9, recall at 100 is 0.95, below 0.995, 2 of"
        " 300 find none, above 0.0005"
    )
