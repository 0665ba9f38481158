"""Fit a linear probe to an encoder's frozen embeddings, and store its predictions; every figure is then a view over them.

The paper's protocol says which images take part: those with exactly one label. The probe is fitted to train, C is chosen
on val, and test is predicted once.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import psycopg

from cbirdb.classify.logistic import MAX_ITERATIONS, Candidate, Fitted, choose, require_library
from cbirdb.classify.options import LinearOptions
from cbirdb.db.embeddings import StoredEncoder, check_datasets
from cbirdb.db.errors import translated_errors
from cbirdb.db.evaluation import probes
from cbirdb.db.evaluation.selection import ChangedError
from cbirdb.db.index_builds import server_versions
from cbirdb.db.rights import require_insert
from cbirdb.errors import InputError
from cbirdb.progress import SILENT, Progress
from cbirdb.records import SPLITS, Split
from cbirdb.version import __version__


@dataclass(frozen=True, slots=True)
class LinearSummary:
    """Say what a linear probe rests on, and how C was chosen."""

    probe_id: int
    members: probes.Members
    candidates: Sequence[Candidate]
    chosen: Candidate
    unknown_classes: Sequence[str]
    """Classes of val or test images that no train image has."""
    unknown_images: int
    """Test images of these classes: they count as wrong."""
    not_final: str | None
    """Why its figures are not to be relied on; None: they may be."""


def classify_linear(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    options: LinearOptions | None = None,
    *,
    progress: Progress = SILENT,
) -> LinearSummary:
    """Fit, choose, predict and store.

    :param connection: in autocommit mode and in no transaction.
    :raises InputError: when scikit-learn is missing, a split is empty, or its images cannot be told apart by a probe.
    :raises ChangedError: when images, labels or embeddings change while it works.
    """
    options = options or LinearOptions()
    require_library()
    with translated_errors():
        require_insert(connection, "probe_run")
        check_datasets(connection, options.datasets)
        with ExitStack() as files:
            # One transaction for all reading, none while it fits: that may take long.
            with connection.transaction():
                probes.prepare_reading(connection)
                members = _select(connection, encoder, options)
                images = {split: probes.read_labels(connection, split) for split in SPLITS}
                unknown = _check_classes(connection, images)
                with progress.task("reading", total=sum(map(members.of, SPLITS)), unit="embeddings") as task:
                    vectors = {
                        split: files.enter_context(
                            probes.vectors_in_file(connection, encoder, split, members.of(split), task)
                        )
                        for split in SPLITS
                    }
            fitted = choose(
                vectors["train"], images["train"].labels, vectors["val"], images["val"].labels,
                grid=options.grid, criterion=options.criterion, progress=progress,
            )  # fmt: skip
            probabilities = fitted.model.predict_proba(vectors["test"])
            predicted = fitted.model.predict(vectors["test"])
        not_final = _why_not_final(fitted)
        classes, counts = np.unique(images["train"].labels, return_counts=True)
        with connection.transaction():
            probe_id = probes.store_probe(
                connection, _columns(connection, encoder, options, members, fitted, not_final),
                list(zip(classes.tolist(), counts.tolist(), strict=True)), images["test"], predicted, probabilities,
            )  # fmt: skip
            # Last, so that it sees what others have committed meanwhile.
            if _members(connection, encoder, options).fingerprint != members.fingerprint:
                raise ChangedError
        for table in ("probe_prediction", "probe_class"):
            connection.execute(f"ANALYZE cbir.{table}".encode())
    unknown_images = int(np.isin(images["test"].labels, classes, invert=True).sum())
    return LinearSummary(probe_id, members, fitted.candidates, fitted.chosen, unknown, unknown_images, not_final)


def _members(connection: psycopg.Connection, encoder: StoredEncoder, options: LinearOptions) -> probes.Members:
    return probes.select_members(connection, encoder, options.datasets, options.split_seed, options.same_patient)


def _select(connection: psycopg.Connection, encoder: StoredEncoder, options: LinearOptions) -> probes.Members:
    """Select the images.

    :raises InputError: when one of the splits is empty.
    """
    members = _members(connection, encoder, options)
    for split in SPLITS:
        if members.of(split) == 0:
            raise InputError(
                f"Split '{split}' has no image with exactly one label and an embedding of '{encoder.name}'.",
                hint=_how_to_fill(split, encoder, options),
            )
    return members


def _how_to_fill(split: Split, encoder: StoredEncoder, options: LinearOptions) -> str:
    hint = f"Ingest labelled images with that split, then run: cbirdb encode -e {encoder.name}"
    if split != "test" and not options.same_patient:
        hint += ". Or omit --exclude-patient"
    return hint


def _check_classes(connection: psycopg.Connection, images: dict[Split, probes.LabelledImages]) -> list[str]:
    """Return the names of classes that val or test images have, and no train image.

    :raises InputError: when train has one class, or val or test has none of its classes.
    """
    known = np.unique(images["train"].labels)
    if len(known) < 2:
        (name,) = probes.label_names(connection, known.tolist())
        raise InputError(
            f"All train images have the class '{name}', and a linear probe needs two classes.",
            hint="Ingest images of other classes with the split train, or take other datasets with --dataset.",
        )
    unknown = set()
    for split in SPLITS[1:]:
        others = np.setdiff1d(images[split].labels, known)
        if len(others) == len(np.unique(images[split].labels)):
            raise InputError(
                f"No {split} image has a class that a train image has.",
                hint="Ingest images of the same classes with each split.",
            )
        unknown |= set(others.tolist())
    return probes.label_names(connection, sorted(unknown))


def _why_not_final(fitted: Fitted) -> str | None:
    """Say why the figures may not be relied on; None: they may."""
    slow = [f"{candidate.c:g}" for candidate in fitted.candidates if not candidate.converged]
    if slow:
        return (
            f"The fit did not converge within {MAX_ITERATIONS:,} iterations for C = {', '.join(slow)}."
            " Leave these out with --grid."
        )
    return None


def _columns(
    connection: psycopg.Connection,
    encoder: StoredEncoder,
    options: LinearOptions,
    members: probes.Members,
    fitted: Fitted,
    not_final: str | None,
) -> dict[str, object]:
    """Return the row of ``cbir.probe_run``."""
    return {
        "encoder_id": encoder.encoder_id,
        "datasets": list(members.datasets),
        "split_seed": options.split_seed,
        "same_patient": options.same_patient,
        "criterion": options.criterion,
        "c": fitted.chosen.c,
        "candidates": [candidate.row() for candidate in fitted.candidates],
        "train_images": members.train,
        "val_images": members.val,
        "test_images": members.test,
        "left_out": members.left_out,
        "not_encoded": members.not_encoded,
        "shared_patient_images": members.shared,
        "not_final": not_final,
        "fingerprint": members.fingerprint,
        "versions": {
            **server_versions(connection),
            "cbirdb": __version__,
            "python": platform.python_version(),
            **{library: version(library) for library in ("numpy", "scipy", "scikit-learn")},
            "weights_sha256": encoder.weights_sha256,
            "preprocessing_sha256": encoder.preprocessing_sha256,
        },
    }
