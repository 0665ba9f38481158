"""Linear probes stored by plain SQL, and small catalogues to fit one to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg

from tests.support.stored_pictures import Picture, fill


@dataclass(frozen=True)
class Answer:
    """The answer of a probe for one image: its id, ids of its own and of the predicted label, a probability per class."""

    image: int
    label: int
    predicted: int
    probabilities: tuple[float, ...]


def stored_probe(
    connection: psycopg.Connection,
    encoder: str,
    datasets: Sequence[str],
    classes: Sequence[int],
    answers: Sequence[Answer],
    *,
    same_patient: bool = True,
) -> int:
    """Store a probe by plain SQL; return its id.

    :param classes: ids of the labels that it can predict, in the order of the probabilities.
    """
    row = connection.execute(
        "INSERT INTO cbir.probe_run (encoder_id, datasets, split_seed, same_patient, criterion, c, candidates, train_images,"
        " val_images, test_images, left_out, not_encoded, shared_patient_images, fingerprint, versions)"
        " SELECT encoder_id, %s, 0, %s, 'accuracy', 1, '[]', 9, 9, %s, 0, 0, 0, '', '{}' FROM cbir.encoder WHERE name = %s"
        " RETURNING probe_id",
        [list(datasets), same_patient, len(answers), encoder],
    ).fetchone()
    assert row is not None
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cbir.probe_class VALUES (%s, %s, %s, 1)",
            [(row[0], label, position) for position, label in enumerate(classes, start=1)],
        )
        cursor.executemany(
            "INSERT INTO cbir.probe_prediction VALUES (%s, %s, %s, %s, %s::double precision[])",
            [(row[0], answer.image, answer.label, answer.predicted, list(answer.probabilities)) for answer in answers],
        )
    return int(row[0])


def sure_answers(connection: psycopg.Connection, datasets: Sequence[str]) -> tuple[list[int], list[Answer]]:
    """Return the labels of the datasets' images, and answers that are right and sure for those in split test."""
    found = connection.execute(
        "SELECT i.image_id, min(il.label_id) FROM cbir.image AS i JOIN cbir.dataset AS d USING (dataset_id)"
        " JOIN cbir.image_label AS il USING (image_id) WHERE i.split = 'test' AND d.name = ANY(%s) GROUP BY 1 ORDER BY 1",
        [list(datasets)],
    ).fetchall()
    classes = sorted({label for _, label in found})
    return classes, [
        Answer(image, label, label, tuple(float(label == other) for other in classes)) for image, label in found
    ]


CLASSES = ("A", "B", "C")
SPLITS = ("train", "train", "train", "val", "test")
DIM = 6


def catalogue(connection: psycopg.Connection, images: int = 150, *, precision: str = "half") -> list[int]:
    """Store images around three directions, two of each patient, in three splits, with encoder ``toy``; return their ids.

    A patient's images are in one split.
    """
    rng = np.random.default_rng(5)
    pictures = [
        Picture(labels=(CLASSES[n // 2 % 3],), split=SPLITS[n // 6 % 5], patient=f"p{n // 2}") for n in range(images)
    ]
    vectors = rng.normal(size=(3, DIM))[np.arange(images) // 2 % 3] + 0.9 * rng.normal(size=(images, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return fill(connection, vectors.astype(np.float32), pictures, precision=precision)
