"""Load small models of many kinds by records such as ``cbirdb encoders add`` makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
import open_clip  # noqa: E402
import timm  # noqa: E402
import timm.data  # noqa: E402
import transformers  # noqa: E402

from cbirdb.db.known_encoders import make_record  # noqa: E402
from cbirdb.encoders.huggingface import POOLINGS  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.spec import EncoderSpec  # noqa: E402
from cbirdb.errors import InputError  # noqa: E402
from tests.support.encoder_checks import (  # noqa: E402
    PICTURES,
    assert_same,
    cosine,
    embed,
    largest_cosine,
    on_cpu,
    refused,
)
from tests.support.fake_hub import no_network  # noqa: E402
from tests.support.random_weights import DO, HALVES, IMAGENET, SIGLIP, randomise, write_weights  # noqa: E402

IMAGES = [PICTURES[name] for name in ("rgb", "odd", "grey")]


def record(loader: str, weights: object, **settings: Any) -> EncoderSpec:
    nothing = {"revision": None, "dim": None, "pooling": None, "quick_gelu": False}
    about = {"licence": "unknown", "training_scheme": "unknown", "citation": ""}
    made = make_record("mine", loader=loader, weights=str(weights), **{**nothing, **about, **settings})
    # The database returns a record in this form.
    return EncoderSpec.from_json(json.loads(json.dumps(made.as_json())))


def added(spec: EncoderSpec) -> Any:
    """Compute the pictures' embeddings without a network."""
    with no_network() as asked:
        encoder = load_encoder(spec, on_cpu(None))
        found = embed(encoder, *IMAGES)
    assert asked == []
    assert encoder.dim == found.shape[1]
    assert largest_cosine(found) < 0.9999, "the comparison would hold for any two pictures"
    return found


def upstream(prepare: Callable[[Any], Any], run: Callable[[Any], Any]) -> Any:
    with torch.inference_mode():
        return run(torch.stack([prepare(image.convert("RGB")) for image in IMAGES])).numpy()


def processor_of(folder: Path) -> Callable[[Any], Any]:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


# transformers

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PREPROCESSOR = {**DO, **HALVES, "resample": 2, "size": 64, "image_processor_type": "ViTImageProcessor"}


def save(folder: Path, model: Any, preprocessor: dict[str, Any]) -> Path:
    randomise(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def vit(folder: Path) -> Path:
    return save(folder, transformers.ViTModel(transformers.ViTConfig(**LAYERS, image_size=64)), PREPROCESSOR)


def small_clip(folder: Path) -> Path:
    config = transformers.CLIPConfig(
        vision_config={**LAYERS, "image_size": 64, "patch_size": 16},
        text_config={**LAYERS, "vocab_size": 99},
        projection_dim=24,
    )
    preprocessor = {
        **DO, **IMAGENET, "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, "resample": 3,
        "crop_size": {"height": 64, "width": 64}, "do_center_crop": True,
    }  # fmt: skip
    return save(folder, transformers.CLIPModel(config), preprocessor)


def small_siglip(folder: Path, kind: str = "Siglip") -> Path:
    vision = {**LAYERS, "image_size": 64, "patch_size": 16}
    config = transformers.SiglipConfig(vision_config=vision, text_config={**LAYERS, "vocab_size": 99})
    return save(folder, getattr(transformers, f"{kind}Model")(config), {**SIGLIP, "size": {"height": 64, "width": 64}})


@pytest.mark.parametrize(
    ("pooling", "take"),
    [
        (None, lambda out: out.last_hidden_state[:, 0]),
        ("cls", lambda out: out.last_hidden_state[:, 0]),
        ("mean", lambda out: out.last_hidden_state.mean(1)),
        ("pooler", lambda out: out.pooler_output),
    ],
)
def test_each_pooling_takes_the_output_that_it_names(
    pooling: str | None, take: Callable[[Any], Any], tmp_path: Path
) -> None:
    found = added(record("hf", vit(tmp_path), pooling=pooling))
    model = transformers.ViTModel.from_pretrained(tmp_path).eval()
    assert_same(found, upstream(processor_of(tmp_path), lambda pixels: take(model(pixel_values=pixels))))


@pytest.mark.parametrize("write", [small_clip, small_siglip], ids=["clip", "siglip"])
def test_image_features_equal_the_image_embeddings_of_the_whole_model(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = added(record("hf", write(tmp_path), pooling="image-features"))
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    whole = upstream(
        processor_of(tmp_path),
        lambda pixels: model(pixel_values=pixels, input_ids=torch.tensor([[1, 2]])).image_embeds,
    )
    # The whole model returns vectors of length 1.
    assert_same(found / np.linalg.norm(found, axis=1, keepdims=True), whole)


def test_convolutional_network_gives_its_pooled_output(tmp_path: Path) -> None:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    preprocessor = {**DO, **IMAGENET, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}}
    save(tmp_path, transformers.ConvNextModel(config), preprocessor)
    found = added(record("hf", tmp_path, pooling="pooler"))
    model = transformers.ConvNextModel.from_pretrained(tmp_path).eval()
    assert_same(found, upstream(processor_of(tmp_path), lambda pixels: model(pixels).pooler_output))


def test_unmasked_autoencoder_gives_the_same_embedding_twice(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(**LAYERS, image_size=64, decoder_hidden_size=32, decoder_num_attention_heads=2)
    save(tmp_path, transformers.ViTMAEForPreTraining(config), PREPROCESSOR)
    spec = record("hf", tmp_path, pooling="cls-unmasked")
    assert np.array_equal(added(spec), added(spec))


def test_grid_of_a_segmentation_model_is_averaged(tmp_path: Path) -> None:
    config = transformers.SamConfig(
        vision_config={**LAYERS, "image_size": 64, "patch_size": 16, "output_channels": 16, "global_attn_indexes": [1]},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 16, "iou_head_hidden_dim": 16},
    )
    preprocessor = {
        **DO, **IMAGENET, "image_processor_type": "SamImageProcessor", "size": {"longest_edge": 64}, "do_pad": True,
        "pad_size": {"height": 64, "width": 64},
    }  # fmt: skip
    save(tmp_path, transformers.SamModel(config), preprocessor)
    found = added(record("hf", tmp_path, pooling="sam-grid-mean"))
    model = transformers.SamModel.from_pretrained(tmp_path).eval()
    assert_same(found, upstream(processor_of(tmp_path), lambda pixels: model.vision_encoder(pixels)[0].mean((2, 3))))


def test_every_pooling_can_be_named_on_the_command_line() -> None:
    from cbirdb.cli.encoders import add

    (option,) = (parameter for parameter in add.params if parameter.name == "pooling")
    assert set(option.type.choices) == set(POOLINGS)


@pytest.mark.parametrize("pooling", ["image-features", "sam-grid-mean", "logits", "pooler"])
def test_pooling_that_the_model_does_not_have_is_refused(pooling: str, tmp_path: Path) -> None:
    config = transformers.ViTConfig(**LAYERS, image_size=64)
    save(tmp_path, transformers.ViTModel(config, add_pooling_layer=False), PREPROCESSOR)
    error = refused(record("hf", tmp_path, pooling=pooling), on_cpu(None))
    assert str(tmp_path) in error.message


def test_language_model_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**LAYERS, vocab_size=99)
    save(tmp_path, transformers.BertModel(config), PREPROCESSOR)
    assert str(tmp_path) in refused(record("hf", tmp_path), on_cpu(None)).message


# timm


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_timm_model_gives_the_input_of_its_classifier(name: str, tmp_path: Path) -> None:
    model = randomise(timm.create_model(name))
    timm.models.save_for_hf(model, tmp_path, safe_serialization="both")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    expected = upstream(transform, lambda pixels: model.forward_head(model.forward_features(pixels), pre_logits=True))
    assert_same(added(record("timm", tmp_path)), expected)
    (tmp_path / "model.safetensors").unlink()
    assert_same(added(record("timm", tmp_path)), expected)


def test_timm_model_without_a_classifier_gives_its_output(tmp_path: Path) -> None:
    model = randomise(timm.create_model("test_vit", num_classes=0))
    timm.models.save_for_hf(model, tmp_path, model_config={"num_classes": 0})
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    assert_same(added(record("timm", tmp_path)), upstream(transform, model))


def test_timm_model_with_another_number_of_classes_gives_the_input_of_its_classifier(tmp_path: Path) -> None:
    model = randomise(timm.create_model("test_vit", num_classes=14))
    timm.models.save_for_hf(model, tmp_path, model_config={"num_classes": 14})
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    expected = upstream(transform, lambda pixels: model.forward_head(model.forward_features(pixels), pre_logits=True))
    assert_same(added(record("timm", tmp_path)), expected)


def test_timm_model_whose_file_names_another_source_is_read_from_its_folder(tmp_path: Path) -> None:
    """Configurations of timm name their source: an address or another repository."""
    model = randomise(timm.create_model("test_vit"))
    timm.models.save_for_hf(model, tmp_path)
    expected = added(record("timm", tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= {
        "url": "https://example.org/weights.pth", "hf_hub_id": "timm/test_vit", "source": "hf-hub", "file": "/nowhere",
        "custom_load": "hf",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert np.array_equal(added(record("timm", tmp_path)), expected)


def test_timm_architecture_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_vit"), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet51", "num_classes": 10}))
    assert str(tmp_path) in refused(record("timm", tmp_path), on_cpu(None)).message


# open_clip


def write_open_clip(folder: Path, name: str = "open_clip_model.safetensors", **config: Any) -> Any:
    model_config = {
        "embed_dim": 48, "vision_cfg": {"layers": 2, "width": 64, "patch_size": 16, "image_size": 64},
        "text_cfg": {"context_length": 8, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}, **config,
    }  # fmt: skip
    settings = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_config, "preprocess_cfg": settings}))
    model = randomise(open_clip.CLIP(**{"quick_gelu": False, **json.loads(json.dumps(model_config))}))
    if name.endswith(".bin"):
        torch.save(model.state_dict(), folder / name)
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), folder / name)
    return model


@pytest.mark.parametrize(
    "file", ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"]
)
def test_open_clip_input_and_embedding_equal_those_of_the_library(file: str, tmp_path: Path) -> None:
    model = write_open_clip(tmp_path, file)
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    encoder = load_encoder(record("open_clip", tmp_path), on_cpu(None))
    for image in IMAGES:
        assert np.array_equal(encoder.preprocess(image), transform(image.convert("RGB")).numpy())
    assert_same(added(record("open_clip", tmp_path)), upstream(transform, model.encode_image))


def test_quick_gelu_is_used_if_the_record_or_the_models_configuration_says_so(tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    plain = added(record("open_clip", tmp_path))
    quick = added(record("open_clip", tmp_path, quick_gelu=True))
    assert cosine(plain[0], quick[0]) < 0.99999
    (tmp_path / "other").mkdir()
    write_open_clip(tmp_path / "other", quick_gelu=True)
    assert_same(added(record("open_clip", tmp_path / "other")), quick)


def test_other_weight_files_in_the_folder_change_neither_provenance_nor_embedding(tmp_path: Path) -> None:
    """The library would choose among several files by an order of its own."""
    write_open_clip(tmp_path)
    before = load_encoder(record("open_clip", tmp_path), on_cpu(None))
    for other in ("open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors", "model.safetensors", "a.pth"):
        (tmp_path / other).write_bytes(b"not what is read")
    after = load_encoder(record("open_clip", tmp_path), on_cpu(None))
    assert after.provenance == before.provenance
    assert np.array_equal(after.golden, before.golden)


def test_open_clip_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    write_open_clip(tmp_path)
    write_open_clip(tmp_path / "other", embed_dim=32)
    shutil.copy(tmp_path / "other" / "open_clip_model.safetensors", tmp_path / "open_clip_model.safetensors")
    assert str(tmp_path / "open_clip_model.safetensors") in refused(record("open_clip", tmp_path), on_cpu(None)).message


# All three libraries


@pytest.mark.parametrize("loader", ["hf", "timm", "open_clip"])
def test_preprocessing_hash_depends_on_the_settings_and_not_on_the_folder(loader: str, tmp_path: Path) -> None:
    writers = {
        "hf": (vit, "preprocessor_config.json", lambda c: c | {"image_mean": [0.4] * 3}),
        "timm": (
            lambda folder: timm.models.save_for_hf(timm.create_model("test_vit"), folder),
            "config.json",
            lambda c: c | {"pretrained_cfg": c["pretrained_cfg"] | {"mean": [0.4] * 3}},
        ),
        "open_clip": (
            write_open_clip,
            "open_clip_config.json",
            lambda c: c | {"preprocess_cfg": c["preprocess_cfg"] | {"interpolation": "bilinear"}},
        ),
    }
    write, file, change = writers[loader]
    write(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (load_encoder(record(loader, tmp_path / name), on_cpu(None)).provenance for name in ("one", "two"))
    assert one == two
    config = json.loads((tmp_path / "two" / file).read_text())
    (tmp_path / "two" / file).write_text(json.dumps(change(config)))
    three = load_encoder(record(loader, tmp_path / "two"), on_cpu(None)).provenance
    assert three == replace(one, preprocessing_sha256=three.preprocessing_sha256)
    assert three.preprocessing_sha256 != one.preprocessing_sha256


@pytest.mark.parametrize(
    ("loader", "settings", "said"),
    [
        ("timm", {"pooling": "cls"}, "pooling"),
        ("open_clip", {"pooling": "mean"}, "pooling"),
        ("hf", {"quick_gelu": True}, "quick-gelu"),
        ("timm", {"quick_gelu": True}, "quick-gelu"),
        ("timm", {"interpolate_offset": 0.1}, "interpolate-offset"),
        ("open_clip", {"interpolate_offset": 0.0}, "interpolate-offset"),
    ],
)
def test_setting_of_another_library_is_refused(loader: str, settings: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        record(loader, tmp_path, **settings)


@pytest.mark.parametrize("weights", ["nowhere", "./a/b", "/nowhere/at-all", "~/nowhere", "a/b/c", ""])
def test_weights_that_are_neither_folder_nor_repository_are_refused(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither a folder of this machine nor a repository"):
        record("hf", weights)


@pytest.mark.slow
def test_siglip2_base_embedding_equals_that_of_transformers(tmp_path: Path) -> None:
    write_weights("siglip2-base", tmp_path)
    found = added(record("hf", tmp_path, pooling="image-features", dim=768))
    model = transformers.SiglipVisionModel.from_pretrained(tmp_path).eval()
    expected = upstream(processor_of(tmp_path), lambda pixels: model(pixel_values=pixels).pooler_output)
    shutil.rmtree(tmp_path)
    assert_same(found, expected)
    assert largest_cosine(found) < 0.999
