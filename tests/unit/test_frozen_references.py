"""Compare the paper's nine encoders with references computed once with the libraries that its authors pinned.

``test_paper_encoders`` compares with the libraries that are installed, so it cannot see that they changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

from cbirdb.encoders.base import Encoder  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.spec import EncoderSpec  # noqa: E402
from tests.frozen.make_references import PICTURE, REFERENCES, draw_picture, sample  # noqa: E402
from tests.support.checkpoints import NINE, draw  # noqa: E402
from tests.support.encoder_checks import embed, on_cpu  # noqa: E402
from tests.support.random_weights import write_weights  # noqa: E402

FROZEN = json.loads(REFERENCES.read_text())["encoders"]
COSINE, NORM = 1 - 1e-9, 1e-5
"""Bounds of the cosine and of the norm's relative difference. Measured: 1 - 3e-13 and 1e-7."""
SLOW = ("sam-vit-b", "medsam-vit-b", "clip-vit-l14")


@dataclass
class Trial:
    """One encoder with its files, loaded when first used."""

    name: str
    folder: Path

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(SHIPPED[self.name], on_cpu(self.folder))

    @cached_property
    def embedding(self) -> NDArray[np.float32]:
        return embed(self.encoder, Image.open(PICTURE))[0]

    def embedding_of(self, spec: EncoderSpec, folder: Path) -> NDArray[np.float32]:
        """Return the embedding by another record, or from a folder with another configuration."""
        return embed(load_encoder(spec, on_cpu(folder)), Image.open(PICTURE))[0]


@pytest.fixture(scope="module")
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("weights") / request.param
    yield Trial(request.param, write_weights(request.param, folder))
    shutil.rmtree(folder.parent)


def each(*names: str) -> Any:
    """Run each encoder's tests on one worker, which writes its files once."""
    return pytest.mark.parametrize(
        "trial",
        [
            pytest.param(
                name, marks=[pytest.mark.xdist_group(name), *([pytest.mark.slow] if name in SLOW else [])]
            )
            for name in names
        ],
        indirect=True,
    )  # fmt: skip


def differences(name: str, embedding: NDArray[np.float32]) -> tuple[float, float]:
    """Return one minus the cosine over the frozen values, and the relative difference of the norms."""
    a, b = np.array(sample(embedding)), np.array(FROZEN[name]["values"])
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    norm = np.linalg.norm(embedding.astype(np.float64))
    return float(1 - cosine), float(abs(norm / FROZEN[name]["norm"] - 1))


def test_all_nine_encoders_of_the_paper_have_a_reference() -> None:
    assert {spec.name for spec in SHIPPED.values() if spec.in_paper} == set(FROZEN) == set(NINE)


def test_picture_is_the_one_that_was_drawn() -> None:
    assert np.array_equal(np.asarray(Image.open(PICTURE)), np.asarray(draw_picture()))


def test_numbers_of_a_tensor_depend_on_its_name_alone() -> None:
    frozen = [0.06814595, 0.02463777, 0.07933488, 0.08081983]
    assert draw("classifier.1.bias", (4,)).tolist() == pytest.approx(frozen, rel=1e-6)
    assert draw("classifier.1.bias", (9,))[:4].tolist() == draw("classifier.1.bias", (4,)).tolist()
    assert draw("classifier.2.bias", (4,)).tolist() != draw("classifier.1.bias", (4,)).tolist()


@each(*NINE)
def test_embedding_equals_that_of_the_authors_libraries(trial: Trial) -> None:
    frozen = FROZEN[trial.name]
    assert trial.embedding.shape == (frozen["dim"],) == (SHIPPED[trial.name].dim,)
    assert len(frozen["values"]) == 48
    cosine, norm = differences(trial.name, trial.embedding)
    print(f"{trial.name}: 1 - cosine {cosine:.1e}, norm {norm:.1e}")
    assert cosine <= 1 - COSINE
    assert norm <= NORM


@each(*NINE)
def test_input_equals_that_of_the_authors_libraries(trial: Trial) -> None:
    found = trial.encoder.preprocess(Image.open(PICTURE))
    assert list(found.shape) == FROZEN[trial.name]["input_shape"]
    np.testing.assert_allclose(sample(found), FROZEN[trial.name]["input"], rtol=0, atol=1e-6)


@each("dinov2-vit-b14")
def test_reference_of_dinov2_tells_the_ways_to_interpolate_apart(trial: Trial) -> None:
    spec = SHIPPED[trial.name]
    options = {key: value for key, value in spec.options.items() if key != "interpolate_offset"}
    cosine, _ = differences(trial.name, trial.embedding_of(replace(spec, options=options), trial.folder))
    assert cosine > 1e-6


@each("dinov2-vit-b14")
@pytest.mark.parametrize(
    "change", [{"hidden_act": "quick_gelu"}, {"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-5}], ids=str
)
def test_reference_tells_a_small_change_of_the_architecture_apart(trial: Trial, change: dict, tmp_path: Path) -> None:
    config = json.loads((trial.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    for name in ("preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(trial.folder / name)
    cosine, _ = differences(trial.name, trial.embedding_of(SHIPPED[trial.name], tmp_path))
    assert cosine > 1 - COSINE
