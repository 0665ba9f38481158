"""Resize DINOv2's position embeddings as its original code does, or as newer versions of transformers do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cbirdb.encoders.base import hash_settings  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from tests.support.encoder_checks import PICTURES, assert_same, cosine, embed, on_cpu, refused  # noqa: E402
from tests.support.small_weights import record, write_small_dinov2  # noqa: E402


def positions(encoder: Any) -> Any:
    return encoder._forward.args[0].embeddings.position_embeddings.detach().numpy()


def bicubic(trained: int, grid: int, offset: float) -> Any:
    """Weights of the trained positions in the new ones along one axis, by Keys' cubic with a = -0.75."""
    a, weights = -0.75, np.zeros((grid, trained))
    for new in range(grid):
        point = (new + 0.5) * trained / (grid + offset) - 0.5
        for place in range(math.floor(point) - 1, math.floor(point) + 3):
            d = abs(point - place)
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[new, min(max(place, 0), trained - 1)] += near if d <= 1 else far
    return weights


@pytest.mark.parametrize("offset", [0.1, 0.5])
def test_position_embeddings_are_those_of_a_bicubic_with_the_offset(offset: float, tmp_path: Path) -> None:
    write_small_dinov2(tmp_path)
    plain = positions(load_encoder(record("mine", "hf", tmp_path), on_cpu(None)))
    found = positions(load_encoder(record("mine", "hf", tmp_path, interpolate_offset=offset), on_cpu(None)))
    assert (plain.shape, found.shape) == ((1, 1 + 7 * 7, 32), (1, 1 + 3 * 3, 32))
    weights = bicubic(7, 3, offset)
    expected = np.einsum("ai,bj,ijd->abd", weights, weights, plain[0, 1:].reshape(7, 7, 32))
    np.testing.assert_allclose(found[0, 1:], expected.reshape(9, 32), rtol=0, atol=1e-6)
    assert np.array_equal(found[0, 0], plain[0, 0]), "the class token has no place"


def test_without_the_option_the_embedding_is_that_of_transformers(tmp_path: Path) -> None:
    write_small_dinov2(tmp_path)
    plain = load_encoder(record("mine", "hf", tmp_path), on_cpu(None))
    model = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(plain.preprocess(PICTURES["odd"])[None])).last_hidden_state[:, 0].numpy()
    assert_same(embed(plain, PICTURES["odd"]), expected)
    offset = load_encoder(record("mine", "hf", tmp_path, interpolate_offset=0.1), on_cpu(None))
    assert cosine(embed(offset, PICTURES["odd"])[0], expected[0]) < 1 - 1e-6


def test_preprocessing_hash_holds_the_offset_and_is_as_ever_without_one(tmp_path: Path) -> None:
    """Records that were added before there was the option keep their hash."""
    write_small_dinov2(tmp_path)
    plain, zero, offset = (
        load_encoder(record("mine", "hf", tmp_path, interpolate_offset=offset), on_cpu(None)).provenance
        for offset in (None, 0, 0.1)
    )
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    settings = {**processor.to_dict(), "class": type(processor).__name__}
    assert plain.preprocessing_sha256 == zero.preprocessing_sha256 == hash_settings(settings)
    assert offset.preprocessing_sha256 == hash_settings({**settings, "interpolate_offset": 0.1})


def test_pictures_of_the_trained_size_need_no_interpolation(tmp_path: Path) -> None:
    """RAD-DINO sees 518 x 518 pixels, for which its position embeddings were trained."""
    write_small_dinov2(tmp_path, pixels=98)
    plain, offset = (
        load_encoder(record("mine", "hf", tmp_path, interpolate_offset=offset), on_cpu(None)) for offset in (None, 0.1)
    )
    assert np.array_equal(positions(plain), positions(offset))
    assert_same(embed(plain, PICTURES["odd"]), embed(offset, PICTURES["odd"]))


def test_record_of_the_paper_has_the_offset_of_the_original_and_that_of_rad_dino_has_none() -> None:
    used = {
        name: spec.options["interpolate_offset"]
        for name, spec in SHIPPED.items()
        if "interpolate_offset" in spec.options
    }
    assert used == {"dinov2-vit-b14": 0.1}


def test_offset_for_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    write_small_dinov2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "dinov2_with_registers"}))
    transformers.Dinov2WithRegistersModel(transformers.AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    error = refused(record("mine", "hf", tmp_path, interpolate_offset=0.1), on_cpu(None))
    assert "'dinov2_with_registers'" in error.message
    assert "--interpolate-offset" in (error.hint or "")


def test_offset_for_pictures_that_are_not_square_is_refused(tmp_path: Path) -> None:
    write_small_dinov2(tmp_path)
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    crop = {"crop_size": {"height": 42, "width": 56}, "size": {"shortest_edge": 60}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**preprocessor, **crop}))
    error = refused(record("mine", "hf", tmp_path, interpolate_offset=0.1), on_cpu(None))
    assert "3 x 4 patches" in error.message


@pytest.mark.parametrize("offset", ["0.1", 1, -0.1, True])
def test_stored_offset_that_is_no_number_below_one_is_refused(offset: object, tmp_path: Path) -> None:
    write_small_dinov2(tmp_path)
    error = refused(record("mine", "hf", tmp_path, interpolate_offset=offset), on_cpu(None))
    assert f"is {offset!r}" in error.message
