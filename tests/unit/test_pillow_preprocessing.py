"""Prepare pictures with Pillow and NumPy alone, to the bit as the models' libraries do."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)

# isort: split
import open_clip.transform
import timm.data
import transformers

from cbirdb.encoders.huggingface import ImageProcessor
from cbirdb.encoders.onnx_describe import describe, odd_pictures
from cbirdb.encoders.openclip import Transform
from cbirdb.encoders.pillow_preprocessing import LARGEST_SIDE, PillowPreprocessing
from cbirdb.errors import EncoderError
from tests.support.encoder_checks import PICTURES
from tests.support.random_weights import IMAGENET, PREPROCESSORS, SIGLIP

TYPES = {"resnet50": "resnet", "vit-b16": "vit", "mae-vit-b": "vit_mae", "sam-vit-b": "sam", "dinov2-vit-b14": "dinov2"}


def from_hub(settings: dict[str, Any], model_type: str, folder: Path) -> ImageProcessor:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return ImageProcessor(transformers.AutoImageProcessor.from_pretrained(folder, backend="pil"))


def of_open_clip(**settings: object) -> Transform:
    return Transform(open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**settings), False))


def of_timm(name: str, **changes: object) -> Transform:
    settings = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return Transform(timm.data.create_transform(**{**settings, **changes}, is_training=False))


def described(preprocess: Any) -> PillowPreprocessing:
    return describe(SimpleNamespace(preprocess=preprocess, spec=SimpleNamespace(name="ours")))


def assert_equal_pixels(preprocess: Any) -> None:
    found = pickle.loads(pickle.dumps(described(preprocess)))  # as worker processes get it
    assert found == PillowPreprocessing.from_json(json.loads(json.dumps(found.as_json())))
    for image in (*PICTURES.values(), *odd_pictures()):
        wanted, pixels = preprocess(image), found(image)
        assert (pixels.shape, pixels.dtype) == (found.shape, np.float32)
        np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize("name", TYPES)
def test_pixels_equal_those_of_the_papers_processors(name: str, tmp_path: Path) -> None:
    assert_equal_pixels(from_hub(PREPROCESSORS[name], TYPES[name], tmp_path))


def test_pixels_equal_those_of_siglips_processor(tmp_path: Path) -> None:
    assert_equal_pixels(from_hub({**SIGLIP, "size": {"height": 224, "width": 224}}, "siglip", tmp_path))


@pytest.mark.parametrize("side", [383, 384])
def test_pixels_equal_those_of_convnexts_processor_on_both_sides_of_its_limit(side: int, tmp_path: Path) -> None:
    assert_equal_pixels(from_hub({**PREPROCESSORS["resnet50"], "size": side}, "resnet", tmp_path))


@pytest.mark.parametrize("crop", [223, 224])
@pytest.mark.parametrize("missing", ["do_rescale", "do_normalize", None])
def test_pixels_equal_those_of_clips_processor_with_and_without_each_step(
    crop: int, missing: str | None, tmp_path: Path
) -> None:
    settings = {"size": {"shortest_edge": 224}, "crop_size": crop, **({missing: False} if missing else {})}
    assert_equal_pixels(ImageProcessor(transformers.CLIPImageProcessorPil(**settings)))


@pytest.mark.parametrize("settings", [{}, {"size": 223}, {"resize_mode": "squash", "interpolation": "bilinear"}])
def test_pixels_equal_those_of_open_clips_transform(settings: dict[str, Any]) -> None:
    assert_equal_pixels(of_open_clip(**settings))


@pytest.mark.parametrize("name", ["eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", "tf_efficientnet_lite0", "resnet50.a1_in1k"])  # fmt: skip
def test_pixels_equal_those_of_timms_transform(name: str) -> None:
    assert_equal_pixels(of_timm(name))


def centre_square(image: Image.Image) -> np.ndarray:
    """Prepare a picture as TensorFlow's evaluation does: seven eighths of the shorter side, then resized."""
    width, height = image.size
    side = max(1, int(0.875 * min(width, height)))
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    crop = image.convert("RGB").crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return ((np.asarray(crop, np.float32) - 127.0) / 128.0).transpose(2, 0, 1)


def test_share_cuts_out_the_centre_before_resizing() -> None:
    found = PillowPreprocessing(
        "exact", 224, 224, "bicubic", (127.0,) * 3, (128.0,) * 3, factor=1.0, share=0.875
    )  # fmt: skip
    for image in (*PICTURES.values(), *odd_pictures()):
        np.testing.assert_array_equal(found(image), centre_square(image))
    assert described(found) is found, "an encoder that is prepared so needs no other description"


REFUSED = {
    "open_clip's longest side": (lambda: of_open_clip(resize_mode="longest"), "ResizeKeepRatio"),
    "timm's border": (lambda: of_timm("resnet50.a1_in1k", crop_mode="border"), "ResizeKeepRatio"),
    "no resizing": (
        lambda: ImageProcessor(transformers.CLIPImageProcessorPil(do_resize=False)),
        "CLIPImageProcessorPil does not resize",
    ),
    "no common shape": (
        lambda: ImageProcessor(transformers.CLIPImageProcessorPil(do_center_crop=False)),
        "no common shape",
    ),
    "a crop larger than the picture": (
        lambda: ImageProcessor(transformers.CLIPImageProcessorPil(size={"shortest_edge": 100}, crop_size=224)),
        "the crop is larger than the picture",
    ),
    "a function of its own": (lambda: odd_pictures, "there is no description of function"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_preprocessing_that_cannot_be_described_is_refused(kind: str) -> None:
    make, words = REFUSED[kind]
    with pytest.raises(EncoderError) as caught:
        described(make())
    assert words in caught.value.message
    assert caught.value.message.endswith(".")
    assert "with torch" in (caught.value.hint or "")


PLAIN = PillowPreprocessing("exact", 8, 8, "bicubic", tuple(IMAGENET["image_mean"]), tuple(IMAGENET["image_std"]))


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "other"}, {"filter": "sharp"}, {"crop_rounding": "up"}, {"scaling": "none"},
        {"height": 0}, {"width": LARGEST_SIDE + 1}, {"height": 8.0}, {"height": True}, {"crop": (9, 8)}, {"crop": (8, -1)},
        {"pad": (1 << 40, 8)}, {"mean": (0.5,)}, {"deviation": (1.0, 0.0, 1.0)}, {"mean": (float("nan"), 0.0, 0.0)},
        {"factor": float("inf")}, {"factor": 0.0}, {"resize": "shortest"}, {"resize": "longest"},
        {"resize": "longest", "pad": (8, 8), "crop": (4, 4)}, {"pad": (4, 4)}, {"share": 0.0}, {"share": 1.1}, {"share": float("nan")}, {"share": 0.5, "resize": "shortest", "crop": (4, 4)}, {"resize": "longest", "pad": (4, 8)},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(PLAIN, **change)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="sharpen"):
        PillowPreprocessing.from_json({**PLAIN.as_json(), "sharpen": 1})
