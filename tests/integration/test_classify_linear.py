"""Test ``cbirdb classify --method linear``: the same as scikit-learn on the same images, stored, shown, and refused."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from cbirdb.classify import LinearOptions, classify_linear
from cbirdb.classify.logistic import MAX_ITERATIONS, TOLERANCE, figures
from cbirdb.db.embeddings import find_encoder
from cbirdb.db.evaluation import probes
from cbirdb.db.evaluation.selection import ChangedError
from cbirdb.metrics.bootstrap import Cells, bootstrap, interval
from cbirdb.metrics.probes import describe_probes, probe_figures
from cbirdb.progress import SILENT
from tests.conftest import Outcome
from tests.support.probes import DIM, catalogue

Cli = Callable[..., Outcome]
PROBE = ("classify", "-e", "toy", "--method", "linear")
GRID = (0.1, 10.0, 1000.0)


@pytest.fixture
def images(connection: psycopg.Connection) -> list[int]:
    """Store images of three classes in three splits."""
    return catalogue(connection)


def probed(connection: psycopg.Connection, **options: Any) -> int:
    stored = find_encoder(connection, "toy")
    assert stored is not None
    return classify_linear(connection, stored, LinearOptions(**{"grid": GRID} | options)).probe_id


def one(connection: psycopg.Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def arrays(connection: psycopg.Connection, split: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return vectors of length 1, label ids and image ids of a split, read without the code under test."""
    rows = connection.execute(
        "SELECT embedding::vector::real[], label_id, image_id FROM cbir.embedding_toy JOIN cbir.image USING (image_id)"
        " JOIN cbir.image_label USING (image_id) WHERE split = %s ORDER BY image_id",
        [split],
    ).fetchall()
    vectors = np.array([row[0] for row in rows], dtype=np.float32).astype(np.float64)
    return (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        np.array([r[1] for r in rows]),
        [r[2] for r in rows],
    )


@pytest.mark.parametrize("precision", ["half", "single"])
def test_probe_equals_scikit_learn_used_directly(connection: psycopg.Connection, precision: str) -> None:
    catalogue(connection, precision=precision)
    (train, train_labels, _), (val, val_labels, _), (test, test_labels, ids) = (
        arrays(connection, split) for split in ("train", "val", "test")
    )
    models = {c: LogisticRegression(C=c, tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(train, train_labels) for c in GRID}
    on_val = {c: balanced_accuracy_score(val_labels, model.predict(val)) for c, model in models.items()}
    best = max(GRID, key=lambda c: (on_val[c], -c))
    probe = probed(connection)
    row = connection.execute(
        "SELECT c, candidates, train_images, val_images, test_images FROM cbir.probe_overview WHERE probe_id = %s",
        [probe],
    ).fetchone()
    assert row is not None
    assert (row[0], *row[2:]) == (best, len(train), len(val), len(test))
    assert {each["c"]: each["val_balanced_accuracy"] for each in row[1]} == pytest.approx(on_val)
    found = connection.execute(
        "SELECT image_id, label_id, predicted_label_id, probabilities FROM cbir.probe_answer WHERE probe_id = %s ORDER BY 1",
        [probe],
    ).fetchall()
    assert [each[0] for each in found] == ids
    assert [each[1] for each in found] == test_labels.tolist()
    assert [each[2] for each in found] == models[best].predict(test).tolist()
    np.testing.assert_allclose([each[3] for each in found], models[best].predict_proba(test), atol=1e-6)
    places = connection.execute("SELECT label_id FROM cbir.probe_class WHERE probe_id = %s ORDER BY position", [probe])
    assert [label for (label,) in places] == models[best].classes_.tolist()


def test_vectors_lie_in_a_file_of_double_precision(connection: psycopg.Connection, images: list[int]) -> None:
    stored = find_encoder(connection, "toy")
    assert stored is not None
    with connection.transaction():
        probes.prepare_reading(connection)
        members = probes.select_members(connection, stored, (), 0, True)
        train = probes.read_labels(connection, "train")
        with (
            SILENT.task("reading", total=None, unit="embeddings") as task,
            probes.vectors_in_file(connection, stored, "train", members.train, task) as vectors,
        ):
            assert isinstance(vectors, np.memmap)
            assert (vectors.shape, vectors.dtype) == ((90, DIM), np.float64)
            np.testing.assert_array_equal(vectors, arrays(connection, "train")[0])
    assert train.ids.tolist() == arrays(connection, "train")[2]


def test_same_images_take_part_as_in_knn_classification(
    cli: Cli, connection: psycopg.Connection, images: list[int]
) -> None:
    # Without a label, with two, with an uncertain one, without an embedding, in no split.
    some = [one(connection, "SELECT min(image_id) FROM cbir.image WHERE split = %s AND image_id %% %s = 0", s, n)
            for s, n in (("train", 2), ("val", 3), ("test", 5), ("train", 7), ("test", 11))]  # fmt: skip
    assert len(set(some)) == 5
    connection.execute("DELETE FROM cbir.image_label WHERE image_id = %s", [some[0]])
    connection.execute(
        "INSERT INTO cbir.label (name) VALUES ('X'); INSERT INTO cbir.image_label (image_id, label_id, value)"
        f" SELECT i, l.label_id, v FROM cbir.label AS l, (VALUES ({some[1]}, 1), ({some[2]}, -1)) AS t (i, v)"
        " WHERE l.name = 'X'"
    )
    connection.execute("DELETE FROM cbir.embedding_toy WHERE image_id = %s", [some[3]])
    connection.execute("UPDATE cbir.image SET split = NULL WHERE image_id = %s", [some[4]])
    for split in ("val", "test"):
        assert cli("evaluate", "-e", "toy", "--query-split", split).code == 0
    knn = cli("classify", "-e", "toy", "--format", "json").rows[0]
    indexed = one(connection, "SELECT indexed_images FROM cbir.search_run WHERE run_id = %s", knn["test_run"])
    outcome = cli(*PROBE, "--grid", "1", "--format", "json")
    assert outcome.code == 0, outcome.err
    probe = outcome.rows[0]["probe"]
    counts = connection.execute(
        "SELECT train_images, val_images, test_images, left_out, not_encoded FROM cbir.probe_run WHERE probe_id = %s",
        [probe],
    ).fetchone()
    assert counts == (indexed, knn["val_queries"], knn["test_queries"], 3, 1)
    assert "3 images take no part because of their labels" in outcome.err
    assert "1 image takes no part because there is no embedding" in outcome.err
    queries = "SELECT array_agg(query_image_id ORDER BY query_image_id) FROM cbir.search_result WHERE run_id = %s"
    tested = "SELECT array_agg(image_id ORDER BY image_id) FROM cbir.probe_prediction WHERE probe_id = %s"
    assert one(connection, tested, probe) == one(connection, queries, knn["test_run"])


def test_command_shows_the_test_figures_of_the_chosen_c_alone(
    cli: Cli, connection: psycopg.Connection, images: list[int]
) -> None:
    outcome = cli(*PROBE, "--grid", "1000,0.1,10", "--by", "accuracy", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [row["c"] for row in outcome.rows] == [0.1, 10, 1000]
    (chosen,) = (row for row in outcome.rows if row["chosen"])
    best = max(row["val_accuracy"] for row in outcome.rows)
    assert chosen["c"] == min(row["c"] for row in outcome.rows if row["val_accuracy"] == best)
    assert {row["test_accuracy"] for row in outcome.rows if not row["chosen"]} == {None}
    (shown,) = cli("metrics", "--by", "linear", "--format", "json").rows
    assert (shown["probe"], shown["c"], shown["queries"], shown["classes"]) == (chosen["probe"], chosen["c"], 30, 3)
    for name in ("accuracy", "balanced_accuracy", "macro_auc"):
        assert shown[name] == chosen[f"test_{name}"]
    assert f"C = {chosen['c']:g} is best for 30 val images (accuracy)" in outcome.err


@pytest.mark.parametrize(
    ("grid", "remarked"),
    [("0.001,0.1", "0.1"), ("10,1000", "10"), ("0.1,1", None), ("0.001,0.1,1000", None), ("1", None)],
    ids=["best is last", "best is first", "equal", "best is inside", "one value"],
)
def test_best_c_at_an_end_of_the_grid_is_remarked_unless_its_neighbour_is_as_good(
    cli: Cli, connection: psycopg.Connection, images: list[int], grid: str, remarked: str | None
) -> None:
    outcome = cli(*PROBE, "--grid", grid)
    assert outcome.code == 0
    remark = "lies at an end of the grid: --grid can widen it."
    assert (remark in outcome.err) == (remarked is not None)
    assert remarked is None or f"The best C, {remarked}, {remark}" in outcome.err


def test_metrics_by_linear_class_list_every_class(cli: Cli, connection: psycopg.Connection, images: list[int]) -> None:
    probe = probed(connection)
    outcome = cli("metrics", "--by", "linear-class", "--run", probe, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert [row["class"] for row in outcome.rows] == ["A", "B", "C"]
    assert [row["train_images"] for row in outcome.rows] == [30, 30, 30]
    assert sum(row["queries"] for row in outcome.rows) == sum(row["predictions"] for row in outcome.rows) == 30
    assert f"Probe {probe}: toy, fitted to 90 train images of one" in outcome.err


def test_intervals_equal_those_of_the_bootstrap_by_patient(connection: psycopg.Connection, images: list[int]) -> None:
    probe = probed(connection)
    (row,) = probe_figures(connection, "linear", confidence=True, resamples=300, seed=4)
    found = connection.execute(
        "SELECT cluster_id, label_id, (label_id = predicted_label_id)::int FROM cbir.probe_answer WHERE probe_id = %s"
        " ORDER BY image_id",
        [probe],
    ).fetchall()
    cluster, label, right = (np.array(column) for column in zip(*found, strict=True))
    assert len(set(cluster)) == 15
    cells = Cells(
        np.unique(cluster, return_inverse=True)[1], np.unique(label, return_inverse=True)[1], right.astype(float),
        np.ones(len(right)),
    )  # fmt: skip
    for name, macro in (("accuracy", False), ("balanced_accuracy", True)):
        low, high = interval(bootstrap(cells, macro=macro, resamples=300, seed=4))
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high))
        assert low <= row[name] <= high
    for name in ("macro_f1", "macro_auc"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    classes = probe_figures(connection, "linear-class", confidence=True, resamples=300, seed=4)
    for each in classes:
        for name in ("precision", "recall", "f1", "auc"):
            assert each[f"{name}_low"] <= each[name] <= each[f"{name}_high"]
    assert classes == probe_figures(connection, "linear-class", confidence=True, resamples=300, seed=4)


def test_single_patient_gives_no_interval(connection: psycopg.Connection, images: list[int]) -> None:
    connection.execute(
        "UPDATE cbir.image SET patient_id = (SELECT min(patient_id) FROM cbir.image WHERE split = 'test') WHERE split = 'test'"
    )
    probed(connection)
    (row,) = probe_figures(connection, "linear", confidence=True, resamples=100)
    assert (row["accuracy_low"], row["macro_auc_high"]) == (None, None)


def test_same_command_gives_the_same_probe(connection: psycopg.Connection, images: list[int]) -> None:
    first, second = probed(connection), probed(connection)
    query = "SELECT jsonb_agg(to_jsonb(p) - 'probe_id' ORDER BY image_id) FROM cbir.probe_prediction AS p WHERE probe_id = %s"
    assert one(connection, query, first) == one(connection, query, second)
    recorded = "SELECT to_jsonb(p) - '{probe_id,created_at}'::text[] FROM cbir.probe_run AS p WHERE probe_id = %s"
    assert one(connection, recorded, first) == one(connection, recorded, second)


def test_probe_records_versions_grid_and_fingerprint(connection: psycopg.Connection, images: list[int]) -> None:
    probe = probed(connection, split_seed=7)
    row = connection.execute(
        "SELECT versions, candidates, fingerprint, split_seed, same_patient, criterion, datasets FROM cbir.probe_run"
        " WHERE probe_id = %s",
        [probe],
    ).fetchone()
    assert row is not None
    assert {"postgresql", "pgvector", "cbirdb", "python", "numpy", "scipy", "scikit-learn", "weights_sha256"} <= set(
        row[0]
    )
    assert [each["c"] for each in row[1]] == list(GRID)
    assert all(each["converged"] and each["iterations"] > 0 for each in row[1])
    assert len(row[2].split()) == 3
    assert row[3:] == (7, True, "balanced_accuracy", ["one"])


def spread_patients(connection: psycopg.Connection) -> None:
    """Give the first ten test images to patients of train images, five of them also to those of val images."""
    connection.execute(
        """
        UPDATE cbir.image AS i SET patient_id = o.patient_id
        FROM (SELECT image_id, row_number() OVER (ORDER BY image_id) AS n FROM cbir.image WHERE split = 'test') AS t,
             (SELECT patient_id, row_number() OVER (ORDER BY patient_id) AS n
              FROM (SELECT DISTINCT patient_id FROM cbir.image WHERE split = 'train') AS p) AS o
        WHERE i.image_id = t.image_id AND t.n <= 10 AND o.n = t.n
        """
    )


def test_exclude_patient_keeps_a_patients_last_split_alone(
    cli: Cli, connection: psycopg.Connection, images: list[int]
) -> None:
    spread_patients(connection)
    outcome = cli(*PROBE, "--grid", "1", "--format", "json")
    assert "20 train and val images took part whose patient has images in a later split" in outcome.err
    assert one(connection, "SELECT train_images FROM cbir.probe_run") == 90
    outcome = cli(*PROBE, "--grid", "1", "--exclude-patient", "--format", "json")
    assert "20 train and val images were left out whose patient has images in a later split" in outcome.err
    assert "no patient in two splits" in outcome.err
    row = connection.execute(
        "SELECT train_images, val_images, test_images, shared_patient_images, same_patient FROM cbir.probe_run"
        " WHERE probe_id = %s",
        [outcome.rows[0]["probe"]],
    ).fetchone()
    assert row == (70, 30, 30, 20, False)


def test_class_without_train_images_counts_as_wrong_and_is_named(
    cli: Cli, connection: psycopg.Connection, images: list[int]
) -> None:
    connection.execute(
        "DELETE FROM cbir.image WHERE split = 'train' AND image_id IN (SELECT image_id FROM cbir.image_label"
        " JOIN cbir.label USING (label_id) WHERE name = 'C')"
    )
    outcome = cli(*PROBE, "--grid", "1", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "10 test images count as wrong, because val or test has classes without train images: C." in outcome.err
    shown = {
        row["class"]: row for row in cli("metrics", "--by", "linear-class", "--confidence", "--format", "json").rows
    }
    assert (shown["C"]["recall"], shown["C"]["auc"], shown["C"]["precision"], shown["C"]["train_images"]) == (
        0,
        None,
        None,
        0,
    )
    assert (shown["C"]["recall_low"], shown["C"]["auc_low"]) == (0, None)


def test_two_classes_are_fitted_by_the_binary_regression(connection: psycopg.Connection, images: list[int]) -> None:
    connection.execute(
        "DELETE FROM cbir.image WHERE image_id IN (SELECT image_id FROM cbir.image_label JOIN cbir.label USING (label_id)"
        " WHERE name = 'C')"
    )
    probe = probed(connection)
    sums = "SELECT bool_and(cardinality(probabilities) = 2 AND abs(probabilities[1] + probabilities[2] - 1) < 1e-9)"
    assert one(connection, sums + " FROM cbir.probe_prediction WHERE probe_id = %s", probe) is True


def test_fit_that_did_not_converge_is_stored_as_not_final(
    cli: Cli, connection: psycopg.Connection, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbirdb.classify.logistic.MAX_ITERATIONS", 2)
    outcome = cli(*PROBE, "--grid", "1000", "--format", "json")
    assert (outcome.code, outcome.rows[0]["converged"], outcome.rows[0]["iterations"]) == (4, False, 2)
    assert "is NOT FINAL: The fit did not converge" in outcome.err
    assert "is NOT FINAL" in cli("metrics", "--by", "linear").err


REFUSED = [
    ("UPDATE cbir.image SET split = 'test' WHERE split = 'val'", (), 1, "Split 'val' has no image with exactly one label"),
    ("UPDATE cbir.image SET split = 'val' WHERE split = 'train'", (), 1, "Split 'train' has no image"),
    ("DELETE FROM cbir.embedding_toy", (), 1, "Split 'train' has no image with exactly one label and an embedding of 'toy'"),
    (
        "DELETE FROM cbir.image_label USING cbir.label WHERE image_label.label_id = label.label_id AND name <> 'B'", (), 1,
        "All train images have the class 'B', and a linear probe needs two classes.",
    ),
    (
        "UPDATE cbir.image_label SET label_id = 99 WHERE image_id IN (SELECT image_id FROM cbir.image WHERE split = 'val')",
        (), 1, "No val image has a class that a train image has.",
    ),
    ("SELECT 1", ("--grid", "-1"), 2, "Each C must be a number above 0"),
    ("SELECT 1", ("--grid", "1,,2"), 2, "'1,,2' is not a list of numbers."),
    ("SELECT 1", ("-d", "two"), 1, "There is no dataset named 'two'."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "options", "code", "sentence"), REFUSED)
def test_impossible_probe_is_one_sentence_and_stores_nothing(
    cli: Cli,
    connection: psycopg.Connection,
    images: list[int],
    change: str,
    options: Sequence[str],
    code: int,
    sentence: str,
) -> None:
    connection.execute("INSERT INTO cbir.label (label_id, name) OVERRIDING SYSTEM VALUE VALUES (99, 'new')")
    connection.execute(change.encode())
    outcome = cli(*PROBE, *options)
    assert (outcome.code, outcome.out) == (code, ""), outcome
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
    assert one(connection, "SELECT count(*) FROM cbir.probe_run") == 0


def test_missing_scikit_learn_is_one_sentence(
    cli: Cli, connection: psycopg.Connection, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbirdb.classify.logistic.find_spec", lambda _name: None)
    outcome = cli(*PROBE)
    assert (outcome.code, outcome.out) == (1, "")
    assert "scikit-learn is not installed. Install cbirdb with its extra 'linear'." in " ".join(outcome.err.split())


def test_file_of_vectors_that_cannot_be_written_is_one_sentence(
    cli: Cli, connection: psycopg.Connection, images: list[int]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        outcome = cli(*PROBE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"cannot be written into {tempfile.gettempdir()}" in outcome.err
    assert "Set TMPDIR" in outcome.err
    assert one(connection, "SELECT count(*) FROM cbir.probe_run") == 0


def test_change_during_the_fit_is_an_error_and_stores_nothing(
    connection: psycopg.Connection, images: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session relabels an image between reading and storing."""

    def relabel(labels: Any, predicted: Any) -> tuple[float, float]:
        with psycopg.connect(connection.info.dsn, autocommit=True) as other:
            other.execute(
                "UPDATE cbir.image_label SET label_id = (SELECT max(label_id) FROM cbir.label) WHERE image_id = 1"
            )
            other.execute(
                "UPDATE cbir.image_label SET label_id = (SELECT min(label_id) FROM cbir.label) WHERE image_id = 2"
            )
        return figures(labels, predicted)

    monkeypatch.setattr("cbirdb.classify.logistic.figures", relabel)
    with pytest.raises(ChangedError):
        probed(connection)
    assert one(connection, "SELECT count(*) FROM cbir.probe_run") == 0


@pytest.mark.parametrize(("split", "erased", "fitted"), [("test", 2, 0), ("val", 0, 2), ("train", 0, 2)])
def test_erasure_removes_predictions_and_counts_images_that_the_fit_rests_on(
    connection: psycopg.Connection, images: list[int], split: str, erased: int, fitted: int
) -> None:
    probe = probed(connection)
    pseudonym = one(
        connection, "SELECT min(pseudonym) FROM cbir.patient JOIN cbir.image USING (patient_id) WHERE split = %s", split
    )
    removed = one(connection, "SELECT removed -> 'probe_prediction' FROM cbir.erase_patient(%s)", pseudonym)
    assert removed == erased
    assert one(connection, "SELECT count(*) FROM cbir.probe_prediction") == 30 - erased
    row = connection.execute("SELECT erased_images, erased_fitted_images FROM cbir.probe_run").fetchone()
    assert row == (erased, fitted)
    (line,) = describe_probes(connection, {probe})
    assert (f"{erased} of its test images were erased" in line) == (erased > 0)
    assert (f"{fitted} of its train and val images were erased, and the figures still rest on" in line) == (fitted > 0)
    (shown,) = probe_figures(connection, "linear", confidence=True, resamples=100)
    assert shown["queries"] == 30 - erased


def test_erasure_counts_only_a_patients_last_split_where_patients_are_kept_apart(
    connection: psycopg.Connection, images: list[int]
) -> None:
    spread_patients(connection)
    probed(connection, same_patient=False)
    pseudonym = one(
        connection, "SELECT min(pseudonym) FROM cbir.patient WHERE 2 ="
        " (SELECT count(DISTINCT split) FROM cbir.image AS i WHERE i.patient_id = patient.patient_id)",
    )  # fmt: skip
    connection.execute("SELECT cbir.erase_patient(%s)", [pseudonym])
    row = connection.execute("SELECT erased_images, erased_fitted_images FROM cbir.probe_run").fetchone()
    assert row == (1, 0)


def test_merge_of_patients_is_counted_and_reported(connection: psycopg.Connection, images: list[int]) -> None:
    probe = probed(connection)
    connection.execute("SELECT cbir.merge_patients('p0', 'p1')")
    assert one(connection, "SELECT merged_images FROM cbir.probe_run") == 2
    (line,) = describe_probes(connection, {probe})
    assert "the patient of 2 of its images was merged into another" in line


def test_probes_go_with_their_encoder(cli: Cli, connection: psycopg.Connection, images: list[int]) -> None:
    probed(connection)
    assert cli("encoders", "drop", "toy", "--yes").code == 0
    assert one(connection, "SELECT count(*) FROM cbir.probe_prediction") == 0


def test_probes_go_with_a_dataset_of_theirs(cli: Cli, connection: psycopg.Connection, images: list[int]) -> None:
    probed(connection)
    assert cli("datasets", "drop", "one", "--yes").code == 0
    assert one(connection, "SELECT count(*) FROM cbir.probe_run") == 0
