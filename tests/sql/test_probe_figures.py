"""Test the views of linear probes: an example worked by hand, and equality with scikit-learn and with NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cbirdb.metrics.classification import OF_CLASS, OF_PROBE, Answers, Ranking
from tests.support.probes import Answer, stored_probe
from tests.support.stored_pictures import Picture, fill, unit

IMAGES = 12


@pytest.fixture
def labels(connection: psycopg.Connection) -> dict[str, int]:
    """Store twelve test images with ids from 1, and the labels A to D; return the labels' ids."""
    pictures = [Picture(labels=("ABCD"[n % 4],), split="test") for n in range(IMAGES)]
    assert sorted(fill(connection, unit(IMAGES), pictures)) == list(range(1, IMAGES + 1))
    return {name: label for label, name in connection.execute("SELECT label_id, name FROM cbir.label")}


def by_class(connection: psycopg.Connection, probe: int) -> dict[str, tuple[float | None, ...]]:
    found = connection.execute(
        "SELECT class, precision, recall, f1, auc, queries, predictions FROM cbir.probe_by_class WHERE probe_id = %s",
        [probe],
    )
    return {row[0]: row[1:] for row in found}


def summary(connection: psycopg.Connection, probe: int) -> tuple[float | None, ...]:
    row = connection.execute(
        "SELECT accuracy, balanced_accuracy, macro_f1, macro_auc, queries, classes, classes_without_train_images"
        " FROM cbir.probe_summary WHERE probe_id = %s",
        [probe],
    ).fetchone()
    assert row is not None
    return row


# Classes A and B can be predicted, C has no train image, D no image at all (but can be predicted, never is).
#
#   image 1 (A): A .9  B .1    predicted A       precision  A 1/2 (1 of images 1 and 4), B 1/2, C and D none
#   image 2 (A): A .4  B .6    predicted B       recall     A 1/2, B 1, C 0, D none
#   image 3 (B): A .4  B .6    predicted B       F1 = 2 hits / (predictions + images): A 2/4, B 2/3, C 0
#   image 4 (C): A .7  B .3    predicted A
#
#   accuracy 2/4; balanced (1/2 + 1 + 0) / 3 = 1/2; macro F1 (1/2 + 2/3 + 0) / 3 = 7/18
#   area of A: .9 beats .4 and .7, .4 ties with .4 and loses to .7: 2.5 of 4
#   area of B: .6 beats .1 and .3, and ties with .6: 2.5 of 3; macro (5/8 + 5/6) / 2 = 35/48
def test_figures_of_the_example_worked_by_hand(connection: psycopg.Connection, labels: dict[str, int]) -> None:
    a, b, c, d = (labels[name] for name in "ABCD")
    probe = stored_probe(
        connection, "toy", ["one"], [a, b, d],
        [
            Answer(1, a, a, (0.9, 0.1, 0.0)), Answer(2, a, b, (0.4, 0.6, 0.0)), Answer(3, b, b, (0.4, 0.6, 0.0)),
            Answer(4, c, a, (0.7, 0.3, 0.0)),
        ],
    )  # fmt: skip
    assert by_class(connection, probe) == {
        "A": (1 / 2, 1 / 2, 1 / 2, 5 / 8, 2, 2),
        "B": (1 / 2, 1, pytest.approx(2 / 3), pytest.approx(5 / 6), 1, 2),
        "C": (None, 0, 0, None, 1, 0),
        "D": (None, None, None, None, 0, 0),
    }
    assert summary(connection, probe) == (1 / 2, 1 / 2, pytest.approx(7 / 18), pytest.approx(35 / 48), 4, 3, 1)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[Answer]]:
    """Draw the number of classes that can be predicted, and answers with probabilities in many ties.

    Classes are 1 to 4; images may have one that cannot be predicted.
    """
    classes = draw(st.integers(2, 4))
    probability = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    count = draw(st.integers(1, IMAGES))
    return classes, [
        Answer(
            image, draw(st.integers(1, 4)), draw(st.integers(1, classes)), tuple(draw(probability) for _ in range(classes))
        )
        for image in range(1, count + 1)
    ]  # fmt: skip


def same(found: float | None, expected: float) -> bool:
    """Compare a value of SQL, where NULL stands for NaN."""
    return math.isnan(expected) if found is None else math.isclose(found, expected, abs_tol=1e-12)


def check_with_sklearn(
    connection: psycopg.Connection, probe: int, label: np.ndarray, predicted: np.ndarray, scores: np.ndarray
) -> None:
    classes = scores.shape[1]
    shown = by_class(connection, probe)
    names = dict(connection.execute("SELECT label_id, name FROM cbir.label").fetchall())
    listed = sorted({*range(1, classes + 1), *label.tolist()})
    assert set(shown) == {names[each] for each in listed}
    expected = metrics.precision_recall_fscore_support(label, predicted, labels=listed, zero_division=np.nan)
    areas = []
    for place, each in enumerate(listed):
        own = label == each
        defined = each <= classes and own.any() and not own.all()
        area = metrics.roc_auc_score(own, scores[:, each - 1]) if defined else np.nan
        areas.append(area)
        precision, recall, f1, auc, queries, _ = shown[names[each]]
        assert same(precision, expected[0][place])
        assert same(recall, expected[1][place])
        assert same(f1, expected[2][place])
        assert same(auc, area)
        assert queries == expected[3][place]
    accuracy, balanced, macro_f1, macro_auc, queries, *_ = summary(connection, probe)
    assert queries == len(label)
    assert same(accuracy, metrics.accuracy_score(label, predicted))
    own_classes = np.unique(label)
    assert same(balanced, metrics.recall_score(label, predicted, labels=own_classes, average="macro"))
    assert same(macro_f1, metrics.f1_score(label, predicted, labels=own_classes, average="macro"))
    assert same(macro_auc, np.mean([area for area in areas if not math.isnan(area)] or [np.nan]))


def check_with_numpy(
    connection: psycopg.Connection, probe: int, label: np.ndarray, predicted: np.ndarray, scores: np.ndarray
) -> None:
    table = Answers(label - 1, predicted - 1, 4, tuple(map(Ranking.of, scores.T)))
    of_class, of_probe = table.figures(np.ones(len(label)))
    shown = by_class(connection, probe)
    for label_id, name in connection.execute("SELECT label_id, name FROM cbir.label").fetchall():
        values = shown.get(name, (None,) * 4)
        assert all(map(same, values[: len(OF_CLASS)], of_class[label_id - 1])), name
    assert all(map(same, summary(connection, probe)[: len(OF_PROBE)], of_probe))


@given(drawn=answers())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_figures_in_sql_equal_scikit_learn_and_numpy(
    connection: psycopg.Connection, labels: dict[str, int], drawn: tuple[int, list[Answer]]
) -> None:
    assert sorted(labels.values()) == [1, 2, 3, 4]
    classes, given_answers = drawn
    label, predicted = (np.array([getattr(a, name) for a in given_answers]) for name in ("label", "predicted"))
    scores = np.array([a.probabilities for a in given_answers])
    with connection.transaction(force_rollback=True):
        probe = stored_probe(connection, "toy", ["one"], range(1, classes + 1), given_answers)
        check_with_sklearn(connection, probe, label, predicted, scores)
        check_with_numpy(connection, probe, label, predicted, scores)


@given(weights=st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any))
@settings(max_examples=50, deadline=None)
def test_weighted_figures_equal_those_of_repeated_images(weights: Sequence[int]) -> None:
    """A resample that draws a patient twice counts his images twice."""
    rng = np.random.default_rng(2)
    label, predicted = rng.integers(0, 3, 6), rng.integers(0, 3, 6)
    scores = rng.choice([0.1, 0.5, 0.9], (6, 3))
    weighted = Answers(label, predicted, 3, tuple(map(Ranking.of, scores.T))).figures(np.array(weights, dtype=float))
    copies = np.repeat(np.arange(6), weights)
    repeated = Answers(label[copies], predicted[copies], 3, tuple(map(Ranking.of, scores[copies].T)))
    for found, expected in zip(weighted, repeated.figures(np.ones(len(copies))), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_condition_on_a_probe_reaches_its_predictions(connection: psycopg.Connection, labels: dict[str, int]) -> None:
    """Else each figure would read all probes."""
    a, b = labels["A"], labels["B"]
    for _ in range(3):
        stored_probe(connection, "toy", ["one"], [a, b], [Answer(1, a, a, (0.9, 0.1)), Answer(2, b, a, (0.8, 0.2))])
    connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_custom_plan")
    plan = connection.execute("EXPLAIN SELECT * FROM cbir.probe_summary WHERE probe_id = 2").fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "probe_id = 2" in text
    for line, after in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if "on probe_prediction" in line or "on probe_class" in line:
            assert "probe_id = 2" in line + after, text
