"""Images on a circle and in ties, stored and evaluated, and an independent NumPy oracle of the paper's protocol."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from hypothesis import strategies as st

from cbirdb.db.copy import copy_embeddings
from cbirdb.db.embeddings import register_encoder
from cbirdb.evaluate import EvaluationOptions, EvaluationSummary, evaluate

DIM = 8


@dataclass(frozen=True)
class Case:
    """One image: its vector, split, labels with their values, and what it is grouped by."""

    vector: tuple[float, ...]
    split: str
    labels: dict[str, int] = field(default_factory=dict)
    dataset: str = "one"
    modality: str | None = "XR"
    region: str | None = "chest"

    @property
    def only_label(self) -> str | None:
        """The paper's selection: exactly one positive label and no uncertain one."""
        positive = [name for name, value in self.labels.items() if value == 1]
        return positive[0] if len(positive) == 1 and -1 not in self.labels.values() else None


def store(connection: psycopg.Connection, cases: Sequence[Case]) -> list[int]:
    """Put the cases in place of whatever is there; returns the images' ids, which rise with their order."""
    connection.execute(
        "DROP TABLE IF EXISTS cbir.embedding_toy; DELETE FROM cbir.search_run; DELETE FROM cbir.dataset;"
        " DELETE FROM cbir.label; DELETE FROM cbir.encoder"
    )
    for name in {case.dataset for case in cases}:
        connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES (%s, 'test')", [name])
    for name in {name for case in cases for name in case.labels}:
        connection.execute("INSERT INTO cbir.label (name) VALUES (%s)", [name])
    ids = []
    for number, case in enumerate(cases):
        row = connection.execute(
            "INSERT INTO cbir.image (dataset_id, source, split, modality, anatomic_region)"
            " SELECT dataset_id, %s, %s, %s, %s FROM cbir.dataset WHERE name = %s RETURNING image_id",
            [str(number), case.split, case.modality, case.region, case.dataset],
        ).fetchone()
        assert row is not None
        ids.append(int(row[0]))
        for name, value in case.labels.items():
            connection.execute(
                "INSERT INTO cbir.image_label SELECT %s, label_id, %s FROM cbir.label WHERE name = %s",
                [ids[-1], value, name],
            )
    vectors = np.array([case.vector for case in cases], dtype=np.float32)
    stored = register_encoder(connection, "toy", dim=vectors.shape[1], precision="single", spec={}, provenance={})
    copy_embeddings(connection, stored.table, np.array(ids), vectors, "single")
    return ids


def run(connection: psycopg.Connection, k: int, **options: Any) -> EvaluationSummary:
    row = connection.execute("SELECT vector_dims(embedding) FROM cbir.embedding_toy LIMIT 1").fetchone()
    assert row is not None
    stored = register_encoder(connection, "toy", dim=row[0], precision="single", spec={}, provenance={})
    return evaluate(
        connection, stored, EvaluationOptions(k=k, mode="exact", workers=1, **options),
        connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True),
    )  # fmt: skip


def second_encoder(
    connection: psycopg.Connection, ids: Sequence[int], vectors: Sequence[tuple[float, float]], **options: Any
) -> None:
    """Encoder 'other' with vectors of its own, evaluated as ``run`` does."""
    stored = register_encoder(connection, "other", dim=2, precision="single", spec={}, provenance={})
    copy_embeddings(connection, stored.table, np.array(ids), np.array(vectors, dtype=np.float32), "single")
    evaluate(
        connection, stored, EvaluationOptions(k=4, mode="exact", workers=1, **options),
        connect=lambda: psycopg.connect(connection.info.dsn, autocommit=True),
    )  # fmt: skip


def on_circle(degrees: float) -> tuple[float, float]:
    return float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))


# Four indexed images on a circle, and the queries around them:
#
#   index    a1 (A) 0 deg    b1 (B) 10 deg    a2 (A) 20 deg    b2 (B) 90 deg
#   q1 (A)  1 deg: a1 A, b1 B, a2 A, b2 B       q3 (B) 80 deg: b2 B, a2 A, b1 B, a1 A
#   q2 (A) 12 deg: b1 B, a2 A, a1 A, b2 B       q4 (C)  5 deg: no indexed image of class C: no precision (0/0)
#
# Each class has two indexed images, so from N = 2 on only the first n = min(N, 2) = 2 neighbours count.
#
#   N = 1: q1 1, q2 0, q3 1        micro = 2/3, its deviation over (1, 0, 1) = sqrt(1/3)
#          class A (1, 0): mean 1/2, deviation sqrt(1/2); class B (1): mean 1, no deviation
#          macro = (1/2 + 1) / 2 = 3/4, its deviation = that of class A alone
#   N > 1: q1 1/2, q2 1/2, q3 1/2  micro = macro = 1/2, no spread
HAND = [
    *(Case(on_circle(at), "train", {name: 1}) for at, name in ((0, "A"), (10, "B"), (20, "A"), (90, "B"))),
    *(Case(on_circle(at), "test", {name: 1}) for at, name in ((1, "A"), (12, "A"), (80, "B"), (5, "C"))),
]


Metrics = dict[tuple[str, int], tuple[Any, ...]]


def oracle(cases: Sequence[Case], k: int, by: str) -> Metrics:
    """P@N as the paper's authors define it, query by query; distances are exact in binary floats."""
    indexed = [(n, case) for n, case in enumerate(cases) if case.split == "train" and case.only_label]
    precision: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for query in (case for case in cases if case.split == "test" and case.only_label):
        relevant = sum(case.only_label == query.only_label for _, case in indexed)
        if relevant == 0:
            continue
        distance = {n: 1 - float(np.dot(np.array(case.vector), np.array(query.vector))) for n, case in indexed}
        nearest = sorted(indexed, key=lambda pair: (distance[pair[0]], pair[0]))[:k]
        hits = [case.only_label == query.only_label for _, case in nearest]
        group = {
            "run": "all", "class": str(query.only_label), "dataset": query.dataset,
            "modality": query.modality or "(none)", "region": query.region or "(none)",
        }[by]  # fmt: skip
        for n in range(1, k + 1):
            first = min(n, relevant)
            precision[group, n][str(query.only_label)].append(sum(hits[:first]) / first)
    return {key: _summary(classes) for key, classes in precision.items()}


def _summary(classes: dict[str, list[float]]) -> tuple[Any, ...]:
    values = [value for of_class in classes.values() for value in of_class]
    spreads = [np.std(of_class, ddof=1) for of_class in classes.values() if len(of_class) > 1]
    return (
        np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None,
        np.mean([np.mean(of_class) for of_class in classes.values()]), np.mean(spreads) if spreads else None,
        len(values), len(classes),
    )  # fmt: skip


@st.composite
def collections(draw: st.DrawFn) -> list[Case]:
    """Few images in many ties: vectors of four halves, whose dot products are exact."""

    def vector() -> tuple[float, ...]:
        row = np.zeros(DIM)
        row[draw(st.permutations(range(DIM)))[:4]] = draw(
            st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)
        )
        return tuple(row)

    labels = st.one_of(
        st.sampled_from("ABC").map(lambda name: {name: 1}),
        st.dictionaries(st.sampled_from("ABC"), st.sampled_from([1, 1, 0, -1]), max_size=3),
    )
    cases = [
        Case(
            vector(), draw(st.sampled_from(["train", "train", "test", "test", "val"])), draw(labels),
            draw(st.sampled_from(["one", "two"])), draw(st.sampled_from(["XR", "CT", None])),
            draw(st.sampled_from(["chest", None])),
        )
        for _ in range(draw(st.integers(2, 14)))
    ]  # fmt: skip
    # At least one query and one indexed image, or there is nothing to evaluate.
    return [Case(vector(), "test", {"A": 1}), *cases, Case(vector(), "train", {"B": 1})]
