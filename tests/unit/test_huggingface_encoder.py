"""Load encoders of the family 'huggingface': full ResNet-50 with seeded random weights, saved as on the hub."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The extra 'encoders' is optional. Other tests cover what cbirdb says without it.
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import huggingface_hub  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from cbirdb.encoders import huggingface  # noqa: E402
from cbirdb.encoders.base import Encoder  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.errors import EncoderError  # noqa: E402
from tests.support.encoder_checks import (  # noqa: E402
    PICTURES,
    assert_names_the_command,
    assert_same,
    cosine,
    embed,
    largest_cosine,
    on_cpu,
    refused,
    unheld,
)
from tests.support.random_weights import PREPROCESSORS, randomise, write_weights  # noqa: E402

RESNET50 = unheld("resnet50")
PREPROCESSOR = PREPROCESSORS["resnet50"]
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def save_model(folder: Path, **settings: object) -> Path:
    """Save a ResNet with other settings than ResNet-50."""
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**{"num_labels": 1000, **settings}))
    randomise(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    hub = tmp_path_factory.mktemp("hub")
    yield write_weights("resnet50", hub / "weights")
    shutil.rmtree(hub)


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Delete the test's folder: pytest would keep three runs, each with ten copies of 100 MB of weights."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(RESNET50, on_cpu(folder))


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[object, object]:
    """Load the model and the processor as users of transformers do."""
    model = transformers.ResNetForImageClassification.from_pretrained(folder).eval()
    return model, transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Copy the folder so that a test may damage it; the weights are a link."""
    other = tmp_path / "copy"
    other.mkdir()
    for name in FILES[:2]:
        shutil.copy(folder / name, other / name)
    (other / "model.safetensors").symlink_to(folder / "model.safetensors")
    return other


def replace_weights(folder: Path, state: dict) -> None:
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", PICTURES)
def test_input_equals_that_of_transformers(name: str, encoder: Encoder, reference: tuple) -> None:
    _, processor = reference
    expected = processor(images=PICTURES[name].convert("RGB"), return_tensors="pt")["pixel_values"]
    pixels = encoder.preprocess(PICTURES[name])
    assert pixels.shape == encoder.input_shape == (3, 224, 224)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels[None], expected.numpy())


def test_embedding_equals_that_of_transformers(encoder: Encoder, reference: tuple) -> None:
    model, processor = reference
    images = [PICTURES[name] for name in ("rgb", "grey", "palette", "odd")]
    with torch.no_grad():
        expected = model(**processor(images=[i.convert("RGB") for i in images], return_tensors="pt")).logits.numpy()

    values = embed(encoder, *images)

    assert values.shape == (4, 1000)
    assert_same(values, expected)
    assert largest_cosine(values) < 0.9999, "the comparison would hold for any two pictures"


@pytest.mark.parametrize("name", PICTURES)
def test_preprocessing_follows_the_description_in_the_record(name: str, encoder: Encoder) -> None:
    assert "shortest side 256, centre crop 224" in RESNET50.preprocessing
    image = PICTURES[name].convert("RGB")
    width, height = (256 if side == min(image.size) else int(256 * side / min(image.size)) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    cropped = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    expected = (np.asarray(cropped) / 255 - PREPROCESSOR["image_mean"]) / PREPROCESSOR["image_std"]
    np.testing.assert_allclose(encoder.preprocess(PICTURES[name]), expected.transpose(2, 0, 1), atol=1e-5)


def test_preprocessing_gives_the_same_input_after_pickling(encoder: Encoder) -> None:
    packed = pickle.dumps(encoder.preprocess)
    assert len(packed) < 100_000, "it takes the model along"
    there = pickle.loads(packed)
    for image in PICTURES.values():
        assert np.array_equal(there(image), encoder.preprocess(image))


def test_provenance_records_weights_preprocessing_libraries_dtype_and_device(encoder: Encoder) -> None:
    provenance = encoder.provenance
    assert len(provenance.weights_sha256 or "") == len(provenance.preprocessing_sha256) == 64
    assert set(provenance.libraries) == {"torch", "transformers", "pillow", "numpy"}
    assert (provenance.dtype, provenance.device) == ("float32", "cpu")
    json.dumps(provenance.libraries)


def test_provenance_does_not_depend_on_the_folder(copy: Path, encoder: Encoder) -> None:
    assert load_encoder(RESNET50, on_cpu(copy)).provenance == encoder.provenance


def test_provenance_changes_with_weights_and_with_preprocessing(copy: Path, encoder: Encoder) -> None:
    state = load_file(copy / "model.safetensors")
    state["classifier.1.bias"] = state["classifier.1.bias"] + 1
    replace_weights(copy, state)
    (copy / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, "resample": 2}))

    other = load_encoder(RESNET50, on_cpu(copy))

    assert other.provenance.weights_sha256 != encoder.provenance.weights_sha256
    assert other.provenance.preprocessing_sha256 != encoder.provenance.preprocessing_sha256
    batch = encoder.preprocess(PICTURES["rgb"])[None]
    np.testing.assert_allclose(other.encode(batch), encoder.encode(batch) + 1, atol=1e-3)


def test_half_precision_weights_run_in_float32(copy: Path, encoder: Encoder) -> None:
    state = load_file(copy / "model.safetensors")
    replace_weights(copy, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    values = embed(load_encoder(RESNET50, on_cpu(copy)), PICTURES["rgb"])
    assert values.dtype == np.float32
    assert cosine(values[0], embed(encoder, PICTURES["rgb"])[0]) > 0.999


def test_pooled_features_times_the_classifier_give_the_logits(folder: Path, encoder: Encoder) -> None:
    """The two records share their weights."""
    pooled = embed(load_encoder(SHIPPED["resnet50-pooled"], on_cpu(folder)), PICTURES["rgb"], PICTURES["odd"])
    assert pooled.shape == (2, 2048)
    state = load_file(folder / "model.safetensors")
    logits = pooled @ state["classifier.1.weight"].numpy().T + state["classifier.1.bias"].numpy()
    assert_same(logits, embed(encoder, PICTURES["rgb"], PICTURES["odd"]))


def test_pytorch_bin_gives_the_same_embedding_as_safetensors(copy: Path, encoder: Encoder) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert_same(embed(load_encoder(RESNET50, on_cpu(copy)), PICTURES["rgb"]), embed(encoder, PICTURES["rgb"]))


@pytest.mark.parametrize(
    "spec", [spec for spec in SHIPPED.values() if spec.family == "huggingface"], ids=lambda s: s.name
)
def test_record_names_a_known_pooling_an_existing_model_and_a_commit(spec: object) -> None:
    assert spec.options["pooling"] in huggingface.POOLINGS
    assert hasattr(transformers, spec.options.get("model", "AutoModel"))
    assert len(bytes.fromhex(spec.revision)) == 20, "the revision is no commit: what it names can change"


def test_unknown_pooling_is_refused_with_the_known_ones(folder: Path) -> None:
    spec = replace(RESNET50, options={**RESNET50.options, "pooling": "median"})
    error = refused(spec, on_cpu(folder))
    assert "'median'" in error.message
    assert "image-features" in (error.hint or "")


def test_missing_file_is_named(copy: Path) -> None:
    for name in reversed(FILES):
        (copy / name).unlink()
        error = refused(RESNET50, on_cpu(copy))
        assert name in error.message
        assert str(copy) in error.message
        assert_names_the_command(error, "resnet50")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "lfs pointer"]
)
def test_damaged_file_is_named(name: str, content: bytes, copy: Path) -> None:
    (copy / name).unlink()
    (copy / name).write_bytes(content)
    error = refused(RESNET50, on_cpu(copy))
    assert str(copy / name) in error.message
    assert_names_the_command(error, "resnet50")


def test_truncated_weights_are_refused(folder: Path, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("rb") as whole:
        (copy / "model.safetensors").write_bytes(whole.read(1_000_000))
    error = refused(RESNET50, on_cpu(copy))
    assert str(copy / "model.safetensors") in error.message
    assert_names_the_command(error, "resnet50")


@pytest.mark.parametrize("name", FILES[:2])
def test_code_beside_the_weights_is_not_run(name: str, copy: Path, tmp_path: Path) -> None:
    """``auto_map`` would make transformers import Python files of the folder."""
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    settings = json.loads((copy / name).read_text())
    settings["auto_map"] = {"AutoConfig": "evil.Config", "AutoImageProcessor": "evil.Processor"}
    (copy / name).write_text(json.dumps(settings))
    load_encoder(RESNET50, on_cpu(copy))
    assert not (tmp_path / "executed").exists()


def test_model_that_needs_its_own_code_is_refused_and_the_code_is_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    (copy / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}))
    error = refused(RESNET50, on_cpu(copy))
    assert str(copy / "config.json") in error.message
    assert not (tmp_path / "executed").exists()


def test_other_architecture_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    error = refused(RESNET50, on_cpu(copy))
    assert "model_type is vit, not resnet" in error.message
    assert_names_the_command(error, "resnet50")


def test_smaller_model_of_the_same_architecture_is_refused(tmp_path: Path) -> None:
    """ResNet-18 has 1000 logits too and would load without a warning."""
    small = save_model(tmp_path, layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    error = refused(RESNET50, on_cpu(small))
    assert "depths is [2, 2, 2, 2], not [3, 4, 6, 3]" in error.message
    assert_names_the_command(error, "resnet50")


def test_wrong_number_of_logits_is_refused(tmp_path: Path) -> None:
    error = refused(RESNET50, on_cpu(save_model(tmp_path, num_labels=14)))
    assert "14 values" in error.message
    assert "1000" in error.message
    assert_names_the_command(error, "resnet50")


@pytest.mark.parametrize("lost", ["classifier.1.weight", "resnet.embedder.embedder.normalization.running_mean"])
def test_weights_without_a_parameter_are_refused_with_its_name(lost: str, copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    del state[lost]
    replace_weights(copy, state)
    error = refused(RESNET50, on_cpu(copy))
    assert lost in error.message
    assert "lacks 1 parameter" in error.message
    assert_names_the_command(error, "resnet50")


def test_weights_of_another_shape_are_refused(copy: Path, tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", num_labels=14)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to(wide / "model.safetensors")
    error = refused(RESNET50, on_cpu(copy))
    assert str(copy / "model.safetensors") in error.message
    assert_names_the_command(error, "resnet50")


def test_loading_prints_nothing(folder: Path) -> None:
    """The libraries warn only once per process, so this test starts another one."""
    code = (
        "from pathlib import Path; import sys; from cbirdb.encoders.registry import load_encoder;"
        "from cbirdb.encoders.base import LoadOptions; from cbirdb.encoders.shipped import SHIPPED;"
        "load_encoder(SHIPPED['resnet50'], LoadOptions(weights=Path(sys.argv[1]), device='cpu', allow_other_weights=True))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_leaves_the_libraries_log_settings_unchanged(folder: Path) -> None:
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    try:
        load_encoder(RESNET50, on_cpu(folder))
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
        assert not huggingface_hub.utils.are_progress_bars_disabled()
    finally:
        transformers.logging.set_verbosity_warning()


def test_missing_library_is_refused_with_the_extra_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "cbirdb.encoders.timm_models", raising=False)
    with pytest.raises(EncoderError, match="needs the Python package 'timm'") as caught:
        load_encoder(SHIPPED["eva02-vit-b14"], on_cpu(folder))
    assert "encoders" in (caught.value.hint or "")
