"""Test the commands for intervals, index sizes, anatomy, comparison, classification and leakage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Outcome, picture

pytestmark = pytest.mark.also_by_a_site

Cli = Callable[..., Outcome]
COUNTS = {"train": 12, "val": 4, "test": 6}


@pytest.fixture
def evaluated(cli: Cli, tmp_path: Path) -> int:
    """Encode and evaluate two classes of pictures, dark and bright; return the id of the run over the test split."""
    number = 0
    for split, count in COUNTS.items():
        for label in ("nodule", "normal"):
            for _ in range(count // 2):
                path = tmp_path / "data" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = picture(number % 4 + (100 if label == "nodule" else 0))
                image.putpixel((0, 0), number)
                image.save(path)
                number += 1
    assert cli("ingest", "folder", tmp_path / "data").code == 0
    assert cli("encode", "-e", "tiny-image").code == 0
    assert cli("evaluate", "-e", "tiny-image", "--query-split", "val").code == 0
    outcome = cli("evaluate", "-e", "tiny-image", "--format", "json")
    assert (outcome.code, outcome.rows[0]["queries"], outcome.rows[0]["indexed"]) == (0, 6, 12), outcome.err
    return outcome.rows[0]["run"]


@pytest.mark.parametrize("by", ["run", "class", "dataset"])
def test_confidence_adds_intervals_that_contain_the_mean_to_every_row(cli: Cli, evaluated: int, by: str) -> None:
    plain = cli("metrics", "-n", "1,3", "--by", by, "--format", "json").rows
    outcome = cli("metrics", "-n", "1,3", "--by", by, "--confidence", "--resamples", 200, "--format", "json")
    assert outcome.code == 0, outcome.err
    names = ("micro_low", "micro_high", "macro_low", "macro_high")
    assert [{name: value for name, value in row.items() if name not in names} for row in outcome.rows] == plain
    for row in outcome.rows:
        assert row["micro_low"] <= row["micro_precision"] <= row["micro_high"]
        assert row["macro_low"] <= row["macro_precision"] <= row["macro_high"]
    assert "200 resamples of whole patients, seed 0" in outcome.err


def test_same_seed_gives_same_intervals(cli: Cli, evaluated: int) -> None:
    call = ("metrics", "-n", "1,3", "--confidence", "--resamples", 100, "--format", "json")
    assert cli(*call, "--seed", 5).rows == cli(*call, "--seed", 5).rows


def test_metrics_by_index_size_and_by_anatomy_list_every_group(cli: Cli, evaluated: int) -> None:
    sizes = cli("metrics", "-n", "1", "--by", "index-size", "--format", "json").rows
    assert [row["fraction"] for row in sizes] == [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert sizes[-1]["indexed_images"] == 12
    (whole,) = cli("metrics", "-n", "1", "--format", "json").rows
    assert sizes[-1]["micro_precision"] == whole["micro_precision"]
    anatomy = cli("metrics", "-n", "1,3", "--by", "anatomy", "--format", "json").rows
    assert {(row["region"], row["n"]) for row in anatomy} == {
        (region, n) for region in ("all", "(none)/(none)") for n in (1, 3)
    }
    assert anatomy[0]["run"] == evaluated


def test_classify_chooses_the_smallest_k_that_is_best_for_validation(cli: Cli, evaluated: int) -> None:
    outcome = cli("classify", "-e", "tiny-image", "--format", "json")
    assert outcome.code == 0, outcome.err
    chosen = [row for row in outcome.rows if row["chosen"]]
    assert len(chosen) == 1
    best = max(row["val_balanced_accuracy"] for row in outcome.rows)
    assert chosen[0]["k"] == min(row["k"] for row in outcome.rows if row["val_balanced_accuracy"] == best)
    assert (chosen[0]["val_queries"], chosen[0]["test_queries"], chosen[0]["test_run"]) == (4, 6, evaluated)
    assert f"k = {chosen[0]['k']} is best on val" in outcome.err


def test_leakage_counts_causes_and_shows_figures_without_leaking_images(cli: Cli, evaluated: int) -> None:
    causes = cli("leakage", "-e", "tiny-image", "--near", 0.01, "--causes", "--format", "json").rows
    assert [row["cause"] for row in causes] == ["same patient", "identical file", "nearly identical", "any of these"]
    # The pictures repeat but for one pixel: every query has near copies, none has the same file, patients are unknown.
    assert [row["touched"] for row in causes] == [0, 0, 6, 6]
    assert causes[0]["unknown"] == 6
    outcome = cli("leakage", "-e", "tiny-image", "--near", 0.01, "-n", "1", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "Same patient: 0 of 6 queries" in outcome.err
    assert "not known for 6" in outcome.err
    assert {row["variant"] for row in outcome.rows} == {"all", "without leaking images"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("metrics", "--by", "index-size", "--confidence"), 2, "--confidence is not available for --by index-size"),
        (("metrics", "--by", "anatomy", "-n", "101"), 1, "P@101 is not available"),
        (("metrics", "--resamples", "1"), 2, "100<=x<=1000000"),
        (("metrics", "--compare-paper", "--run", "1"), 2, "--compare-paper and --run cannot be combined"),
        (("metrics", "--compare-paper", "-n", "1"), 2, "--compare-paper and -n cannot be combined"),
        (("compare",), 2, "A comparison needs two encoders or more"),
        (("compare", "-e", "tiny-image", "-e", "tiny-imago"), 1, "Did you mean 'tiny-image'"),
        (("compare", "-e", "tiny-image", "-e", "resnet50"), 1, "no embeddings of 'resnet50'"),
        (("classify", "-e", "nope"), 1, "no encoder named 'nope'"),
        (("leakage", "-e", "tiny-image", "--near", "3"), 2, "0<=x<=2"),
        (("leakage", "-e", "tiny-image", "--run", "99"), 1, "There is no finished evaluation run 99"),
        (("leakage", "-e", "tiny-image", "-n", "0"), 2, "'0' is not a list of numbers"),
    ],
)
def test_bad_input_gives_its_sentence_and_exit_code(
    cli: Cli, evaluated: int, arguments: Sequence[object], code: int, sentence: str
) -> None:
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (code, ""), outcome
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err


def test_classify_without_a_validation_run_names_the_evaluate_command(cli: Cli, class_folder: Path) -> None:
    cli("ingest", "folder", class_folder, "--split", "50/0/50")
    cli("encode", "-e", "tiny-image")
    assert cli("evaluate", "-e", "tiny-image").code == 0
    outcome = cli("classify", "-e", "tiny-image")
    assert outcome.code == 1
    assert "cbirdb evaluate -e tiny-image --query-split val" in outcome.err


def test_compare_paper_without_an_encoder_of_the_paper_says_so(cli: Cli, evaluated: int) -> None:
    outcome = cli("metrics", "--compare-paper")
    assert outcome.code == 1
    assert "No encoder of the paper's table has a finished evaluation run" in outcome.err


def test_compare_refuses_encoders_without_a_common_query(cli: Cli, evaluated: int, tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(500).save(data / "test" / "normal" / "new.png")
    assert cli("ingest", "folder", data).code == 0
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        for number, path in enumerate([*data.glob("train/*/*.png"), *data.glob("test/*/new.png")]):
            file[path.relative_to(data).as_posix()] = np.eye(20, dtype=np.float32)[number]
    assert cli("import-embeddings", "-e", "published", tmp_path / "vectors.h5").code == 4  # the others have none
    assert cli("evaluate", "-e", "published").code == 0
    outcome = cli("compare", "-e", "tiny-image", "-e", "published", "-n", 1)
    assert (outcome.code, outcome.out) == (1, "")
    assert "have no query in common." in outcome.err
