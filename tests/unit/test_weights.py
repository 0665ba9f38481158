"""Where a model's files are looked for, that nothing asks the network, and that nothing in them is executed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from huggingface_hub import constants  # noqa: E402

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
import open_clip  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from cbirdb.encoders.base import EncoderSpec, LoadOptions, hash_files  # noqa: E402
from cbirdb.encoders.registry import is_here, load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.weights import read_state  # noqa: E402
from cbirdb.known_encoders import make_record  # noqa: E402
from tests.encoder_checks import PICTURES, assert_names_the_command, embed, on_cpu, refused  # noqa: E402
from tests.fake_hub import FakeHub, fake_hub, no_network  # noqa: E402
from tests.random_weights import PREPROCESSORS, randomise  # noqa: E402

# A small model under the name and at the commit of a shipped record: what it is about here is where files lie.
SPEC = replace(SHIPPED["resnet50"], dim=None, options={"model": "ResNetModel", "pooling": "pooler"})
COMMIT = str(SPEC.revision)
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
WITH_WEIGHTS = [name for name, spec in SHIPPED.items() if spec.weights]


def write_small_resnet(folder: Path, *, number: int = 0) -> Path:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    model = randomise(transformers.ResNetModel(config))
    model.embedder.embedder.convolution.weight.data += number
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS["resnet50"]))
    return folder


TEXT = "some/text-model"
SMALL_CLIP = {
    "embed_dim": 16, "vision_cfg": {"layers": 1, "width": 64, "patch_size": 32, "image_size": 64},
    "text_cfg": {"hf_model_name": TEXT, "hf_tokenizer_name": TEXT, "hf_proj_type": "mlp", "context_length": 8,
                 "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_pretrained": False},
}  # fmt: skip


def write_small_open_clip(folder: Path) -> Path:
    """With a text side out of a second repository, which lies in ``text``."""
    settings = {
        "vocab_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 32,
    }
    transformers.BertConfig(**settings, architectures=["BertForMaskedLM"]).save_pretrained(folder / "text")
    text = {**SMALL_CLIP["text_cfg"], "hf_model_name": str(folder / "text"), "hf_tokenizer_name": str(folder / "text")}
    model = randomise(open_clip.CustomTextCLIP(**{**json.loads(json.dumps(SMALL_CLIP)), "text_cfg": text}))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL_CLIP, "preprocess_cfg": {}}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def write_small_timm(folder: Path) -> Path:
    timm.models.save_for_hf(randomise(timm.create_model("test_vit")), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_open_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def hub() -> Iterator[FakeHub]:
    """A hub that has everything that is looked for: whoever asks it gets it, and is found out."""
    with pytest.MonkeyPatch.context() as patch, fake_hub(patch) as running:
        running.repositories["microsoft/resnet-50"] = {COMMIT: dict.fromkeys(FILES, b"{}")}
        yield running
        assert running.requests == [], "the hub was asked for something"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty."""
    path = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    return path


def fill_cache(cache: Path, repository: str, commit: str, files: dict[str, Path], *, main: str | None = None) -> Path:
    """As the hub's own library leaves files there: content among the blobs, links in the commit's folder."""
    model = cache / f"models--{repository.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    for path in (snapshot, model / "blobs", model / "refs"):
        path.mkdir(parents=True, exist_ok=True)
    (model / "refs" / "main").write_text(main or commit)
    for name, source in files.items():
        blob = model / "blobs" / hash_files([source])
        if not blob.exists():
            blob.symlink_to(source)
        (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def sha256_of(spec: EncoderSpec, options: LoadOptions) -> str | None:
    """Which weights are read."""
    with no_network() as asked:
        found = load_encoder(spec, options).provenance.weights_sha256
    assert asked == []
    return found


def expected_sha256(folder: Path) -> str:
    return hash_files([folder / "model.safetensors"])


def test_folder_of_weights_is_read_as_it_is(folder: Path) -> None:
    assert sha256_of(SPEC, on_cpu(folder)) == expected_sha256(folder)


def test_folder_per_encoder_is_preferred_to_what_lies_beside_it(tmp_path: Path) -> None:
    outer = write_small_resnet(tmp_path / "outer")
    inner = write_small_resnet(outer / "resnet50", number=1)
    assert expected_sha256(inner) != expected_sha256(outer)
    assert sha256_of(SPEC, on_cpu(outer)) == expected_sha256(inner)


def test_named_folder_comes_before_the_fetched_one(folder: Path, tmp_path: Path) -> None:
    write_small_resnet(tmp_path / "store" / "resnet50", number=1)
    assert sha256_of(SPEC, on_cpu(folder, store=tmp_path / "store")) == expected_sha256(folder)


def test_fetched_folder_comes_before_the_cache(folder: Path, tmp_path: Path, cache: Path) -> None:
    fetched = write_small_resnet(tmp_path / "store" / "resnet50", number=1)
    fill_cache(cache, "microsoft/resnet-50", COMMIT, {name: folder / name for name in FILES})
    assert sha256_of(SPEC, on_cpu(None, store=tmp_path / "store")) == expected_sha256(fetched)


@pytest.mark.parametrize("layout", ["model.safetensors", "pytorch_model.bin"])
def test_cache_is_used_at_the_commit_of_the_record(layout: str, folder: Path, tmp_path: Path, cache: Path) -> None:
    files = {name: folder / name for name in FILES[:2]}
    files[layout] = folder / "model.safetensors"
    if layout == "pytorch_model.bin":
        model = transformers.ResNetModel.from_pretrained(folder)
        files[layout] = tmp_path / layout
        torch.save(model.state_dict(), files[layout])
    fill_cache(cache, "microsoft/resnet-50", COMMIT, files, main="b" * 40)
    assert sha256_of(SPEC, on_cpu(None)) == hash_files([files[layout]])


def test_another_commit_in_the_cache_is_not_taken_for_it(folder: Path, cache: Path) -> None:
    fill_cache(cache, "microsoft/resnet-50", "b" * 40, {name: folder / name for name in FILES})
    error = refused(SPEC, on_cpu(None))
    assert str(cache) in error.message
    assert_names_the_command(error, "resnet50")


def test_without_a_commit_the_cache_is_used_as_fetched(folder: Path, cache: Path) -> None:
    fill_cache(cache, "microsoft/resnet-50", "b" * 40, {name: folder / name for name in FILES})
    assert sha256_of(replace(SPEC, revision=None), on_cpu(None)) == expected_sha256(folder)


@pytest.mark.parametrize("lost", FILES)
def test_incomplete_cache_is_not_enough(lost: str, folder: Path, cache: Path) -> None:
    fill_cache(cache, "microsoft/resnet-50", COMMIT, {name: folder / name for name in FILES if name != lost})
    assert_names_the_command(refused(SPEC, on_cpu(None)), "resnet50")


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_nothing_here_is_said_at_once_and_nobody_is_asked(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = SHIPPED[name]
    with no_network() as asked:
        error = refused(spec, LoadOptions(store=tmp_path / "store", device="cpu"))
    assert asked == []
    assert str(spec.weights) in error.message
    assert any(file in error.message for file in ("safetensors", ".bin", ".pth")), "no file is named"
    assert str(tmp_path / "store") in error.message
    assert_names_the_command(error, name)
    assert capfd.readouterr() == ("", "")


def test_folder_missing(tmp_path: Path) -> None:
    error = refused(SPEC, on_cpu(tmp_path / "nowhere"))
    assert f"{tmp_path / 'nowhere'} does not exist" in error.message
    assert_names_the_command(error, "resnet50")


def test_file_instead_of_folder(folder: Path) -> None:
    error = refused(SPEC, on_cpu(folder / "model.safetensors"))
    assert "is a file, not a folder" in error.message
    assert_names_the_command(error, "resnet50")


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_empty_folder_is_said_to_lack_a_file_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    error = refused(SHIPPED[name], on_cpu(tmp_path))
    assert str(tmp_path / name) in error.message
    assert any(file in error.message for file in ("config.json", "pytorch_model.bin", "medsam_vit_b.pth"))
    assert_names_the_command(error, name)


def test_fetching_that_broke_off_is_not_taken_for_done(folder: Path, tmp_path: Path) -> None:
    """Else whoever fetches what is missing would leave it as it is."""
    broken = tmp_path / "store" / "resnet50"
    broken.mkdir(parents=True)
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    options = on_cpu(None, store=tmp_path / "store")
    assert "preprocessor_config.json" in refused(SPEC, options).message
    assert not is_here(SPEC, options)


def test_what_is_here_is_known_without_loading(folder: Path, tmp_path: Path, cache: Path) -> None:
    assert is_here(SPEC, on_cpu(folder))
    assert not is_here(SPEC, on_cpu(None, store=tmp_path / "store"))
    fill_cache(cache, "microsoft/resnet-50", COMMIT, {name: folder / name for name in FILES})
    assert is_here(SPEC, on_cpu(None, store=tmp_path / "store"))


def record(name: str, loader: str, weights: object, **settings: object) -> EncoderSpec:
    """As ``cbirdb encoders add`` makes one."""
    nothing = {"revision": None, "dim": None, "pooling": None, "quick_gelu": False}
    about = {"licence": "unknown", "training_scheme": "unknown", "citation": ""}
    return make_record(name, loader=loader, weights=str(weights), **{**nothing, **about, **settings})


def test_added_folder_is_where_it_was(folder: Path) -> None:
    assert sha256_of(record("mine", "hf", folder, pooling="pooler"), on_cpu(None)) == expected_sha256(folder)


def test_added_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = write_small_resnet(tmp_path / "gone")
    spec = record("mine", "hf", gone)
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    error = refused(spec, on_cpu(None))
    assert f"{gone} does not exist" in error.message
    assert "--weights DIR" in (error.hint or "")


@pytest.mark.parametrize("weights", ["a b/c", "own--er/name", "owner/name.git", "owner/-name"])
def test_repository_that_cannot_exist_is_a_sentence(weights: str) -> None:
    error = refused(replace(SPEC, name="mine", weights=weights, revision=None), on_cpu(None))
    assert weights in error.message


NAMES = ["with space#1", "100%20?x=1@v2", "umläut", "brackets[1]:x"]
WRITERS = {"hf": write_small_resnet, "open_clip": write_small_open_clip, "timm": write_small_timm}


@pytest.mark.parametrize("loader", WRITERS)
def test_folder_may_have_any_name(loader: str, tmp_path: Path) -> None:
    """Libraries that make addresses of folders would misread some."""
    first = WRITERS[loader](tmp_path / "plain")
    vectors = embed(
        load_encoder(record("mine", loader, first, pooling="pooler" if loader == "hf" else None), on_cpu(None)),
        PICTURES["odd"],
    )
    for name in NAMES:
        other = first.rename(tmp_path / name)
        spec = record("mine", loader, other, pooling="pooler" if loader == "hf" else None)
        with no_network() as asked:
            assert np.array_equal(embed(load_encoder(spec, on_cpu(None)), PICTURES["odd"]), vectors), name
        assert asked == []
        first = other


@pytest.mark.parametrize("loader", WRITERS)
def test_folder_may_be_relative(loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = record("mine", loader, WRITERS[loader](tmp_path / "weights"), pooling="pooler" if loader == "hf" else None)
    expected = sha256_of(spec, on_cpu(None))
    monkeypatch.chdir(tmp_path)
    assert sha256_of(spec, on_cpu(Path("weights"))) == expected
    monkeypatch.chdir(tmp_path / "weights")
    assert sha256_of(spec, on_cpu(Path())) == expected


@pytest.fixture
def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_unreadable_weights_are_an_error_to_read(contents: dict[str, bytes], bound_by_permissions: Path) -> None:
    for name, content in contents.items():
        (bound_by_permissions / name).write_bytes(content)
    (bound_by_permissions / "model.safetensors").chmod(0)
    error = refused(SPEC, on_cpu(bound_by_permissions))
    assert str(bound_by_permissions / "model.safetensors") in error.message


def without_text(clip_folder: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in clip_folder.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    return folder


def test_text_side_comes_from_the_cache(clip_folder: Path, tmp_path: Path, cache: Path) -> None:
    """Where the model was brought by other means, the text side's configuration may still be there."""
    spec = record("mine", "open_clip", without_text(clip_folder, tmp_path / "clip"))
    spec = replace(spec, options={"text_revision": "c" * 40})
    fill_cache(cache, TEXT, "c" * 40, {"config.json": clip_folder / "text" / "config.json"}, main="d" * 40)
    with no_network() as asked:
        found = embed(load_encoder(spec, on_cpu(None)), PICTURES["odd"])
    assert asked == []
    complete = load_encoder(record("mine", "open_clip", clip_folder), on_cpu(None))
    assert np.array_equal(found, embed(complete, PICTURES["odd"]))


def test_missing_text_side_is_named(clip_folder: Path, tmp_path: Path) -> None:
    spec = replace(SHIPPED["biomedclip"], dim=None, options={})
    error = refused(spec, on_cpu(without_text(clip_folder, tmp_path / "clip")))
    assert "text/config.json" in error.message
    assert TEXT in error.message
    assert_names_the_command(error, "biomedclip")


OFFLINE = """
import time
from pathlib import Path
from cbirdb.encoders.base import LoadOptions
from cbirdb.encoders.registry import load_encoder
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.errors import EncoderError
import cbirdb.encoders.huggingface
start = time.monotonic()
try:
    load_encoder(SHIPPED["resnet50"], LoadOptions(store=Path("weights"), device="cpu"))
except EncoderError as error:
    print(round(time.monotonic() - start, 3), error)
"""


def test_without_internet_missing_weights_are_said_at_once(tmp_path: Path) -> None:
    # Nothing listens on port 9: whoever asks the hub after all is refused.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    seconds, message = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 2, "it waited for something"
    assert "model.safetensors or pytorch_model.bin of microsoft/resnet-50" in message
    assert "cbirdb encoders fetch resnet50" in message
    assert "--weights DIR" in message


class Payload:
    """A pickle that makes a folder when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


class TestPickles:
    """Weights in the old formats, of every family that reads them."""

    FILE: ClassVar = {
        "resnet50": "pytorch_model.bin",
        "medsam-vit-b": "medsam_vit_b.pth",
        "medclip-vit": "pytorch_model.bin",
        "biomedclip": "open_clip_pytorch_model.bin",
        "eva02-vit-b14": "pytorch_model.bin",
    }

    @staticmethod
    def write_around(name: str, folder: Path, folders: dict[str, Path]) -> None:
        """What else must be there so that loading comes as far as the weights."""
        if name in folders:
            for path in folders[name].glob("*.json"):
                (folder / path.name).symlink_to(path)
        if name == "biomedclip":
            (folder / "text").symlink_to(folders[name] / "text")

    @pytest.mark.parametrize("name", FILE)
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_code_in_them_is_not_run(
        self, name: str, legacy: bool, folder: Path, clip_folder: Path, tmp_path: Path
    ) -> None:
        written = {"resnet50": folder, "biomedclip": clip_folder, "eva02-vit-b14": write_small_timm(tmp_path / "timm")}
        spoilt = tmp_path / "spoilt"
        spoilt.mkdir()
        self.write_around(name, spoilt, written)
        path = spoilt / self.FILE[name]
        torch.save({"a": Payload(tmp_path / "executed")}, path, _use_new_zipfile_serialization=not legacy)
        spec = SPEC if name == "resnet50" else replace(SHIPPED[name], dim=None, options={})

        error = refused(spec, on_cpu(spoilt))

        assert not (tmp_path / "executed").exists(), "reading the weights ran what is in them"
        assert str(path) in error.message
        assert "weights_only" in str(error.__cause__), "it was refused for another reason"
        assert_names_the_command(error, name)
        torch.load(path, weights_only=False)
        assert (tmp_path / "executed").exists(), "the pickle is harmless, so the test proves nothing"


@pytest.mark.parametrize("loader", WRITERS)
def test_weights_that_lack_a_tensor_are_refused(loader: str, tmp_path: Path) -> None:
    """The libraries would make it up at random, and every run would give other vectors."""
    folder = WRITERS[loader](tmp_path)
    (path,) = (path for path in folder.iterdir() if path.suffix in {".bin", ".safetensors"})
    state = read_state(path)
    lost = next(
        name for name in state if name.endswith(("blocks.1.mlp.fc1.weight", "mlp.c_fc.weight", "convolution.weight"))
    )
    del state[lost]
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path, metadata={"format": "pt"})
    error = refused(record("mine", loader, folder, pooling="pooler" if loader == "hf" else None), on_cpu(None))
    assert str(path) in error.message


@pytest.mark.parametrize(
    ("name", "file", "written", "words"),
    [
        ("eva02-vit-b14", "config.json", {"architecture": "vit_base_patch16_224"}, "architecture is vit_base_patch16_224"),
        ("clip-vit-l14", "open_clip_config.json", {"model_cfg": {"embed_dim": 768, "vision_cfg": {"image_size": 336, "patch_size": 14}}}, "image_size is 336, not 224"),
        ("biomedclip", "open_clip_config.json", {"model_cfg": {"embed_dim": 768}}, "embed_dim is 768, not 512"),
    ],
)  # fmt: skip
def test_a_sister_model_of_the_same_dimension_is_refused(
    name: str, file: str, written: dict, words: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps(written))
    for weights in ("model.safetensors", "open_clip_model.safetensors"):
        (tmp_path / weights).write_bytes(b"")
    error = refused(SHIPPED[name], on_cpu(tmp_path))
    assert words in error.message
    assert f"does not describe '{name}'" in error.message
