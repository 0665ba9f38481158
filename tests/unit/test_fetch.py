"""Fetch a model's files from a hub on this machine and check that they are still as fetched."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from cbirdb.encoders.base import LoadOptions, hash_files
from cbirdb.encoders.fetch import Fetched, fetch
from cbirdb.encoders.manifest import MANIFEST, changed_files
from cbirdb.encoders.registry import has_files
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.errors import EncoderError
from tests.support.fake_hub import FakeHub
from tests.support.fetch_checks import (
    BIOMEDCLIP,
    RESNET50,
    TEXT,
    TEXT_COMMIT,
    contents,
    manifest,
    refused,
    refused_to,
    sha256,
)


def test_only_needed_files_of_the_pinned_commit_are_fetched(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    fetched = fetch(RESNET50, tmp_path / "to")
    assert fetched.folder == tmp_path / "to" / "resnet50"
    found = contents(fetched.folder)
    found.pop(MANIFEST)
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    assert found == {name: resnet[name] for name in names}
    assert sorted(hub.downloads()) == sorted(names), "more came over the line than is needed"
    assert has_files(RESNET50, LoadOptions(store=tmp_path / "to"))


def test_manifest_names_encoder_commits_files_and_hashes(resnet: dict, tmp_path: Path) -> None:
    fetched = fetch(RESNET50, tmp_path)
    names = ("config.json", "model.safetensors", "preprocessor_config.json")
    assert manifest(fetched.folder) == {
        "encoder": "resnet50",
        "commits": {"microsoft/resnet-50": RESNET50.revision},
        "files": {name: sha256(resnet[name]) for name in names},
    }
    assert fetched == Fetched(
        fetched.folder, {"microsoft/resnet-50": RESNET50.revision}, manifest(fetched.folder)["files"]
    )
    assert fetched.size_bytes == sum(len(resnet[name]) for name in names)


def test_pytorch_bin_is_fetched_if_there_is_no_safetensors(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    content = resnet.pop("model.safetensors")
    fetched = fetch(RESNET50, tmp_path)
    assert "pytorch_model.bin" in fetched.files
    assert sha256(content) not in fetched.files.values()


@pytest.mark.parametrize("hidden", [".cache", "store"])
def test_manifest_is_complete_even_in_a_hidden_folder(hidden: str, resnet: dict, tmp_path: Path) -> None:
    """Many users keep weights in ~/.cache, and the hub's library makes a folder named .cache itself."""
    fetched = fetch(RESNET50, tmp_path / hidden / "weights")
    assert set(fetched.files) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_partial_files_of_a_killed_download_are_not_in_the_manifest(resnet: dict, tmp_path: Path) -> None:
    (tmp_path / "resnet50").mkdir()
    (tmp_path / "resnet50" / "model.safetensors.partial.0123abcd.partial").write_bytes(b"a beginning")
    assert set(fetch(RESNET50, tmp_path).files) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_second_fetch_downloads_nothing(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    first = fetch(RESNET50, tmp_path)
    hub.requests.clear()
    assert fetch(RESNET50, tmp_path) == first
    assert hub.downloads() == []


def test_deleted_and_damaged_files_are_fetched_again(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    """The hub's library compares only times, which a fault of the disk or an interrupted copy leaves unchanged."""
    folder = fetch(RESNET50, tmp_path).folder
    (folder / "config.json").unlink()
    before = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(b"spoilt")
    os.utime(folder / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    fetched = fetch(RESNET50, tmp_path)
    assert fetched.files["config.json"] == sha256(resnet["config.json"])
    assert fetched.files["model.safetensors"] == sha256(resnet["model.safetensors"]), "damage became the standard"


def test_text_encoder_is_fetched_from_its_own_repository_at_its_pinned_commit(
    hub: FakeHub, biomedclip: dict, tmp_path: Path
) -> None:
    fetched = fetch(BIOMEDCLIP, tmp_path)
    text = {"text/config.json", "text/vocab.txt", "text/tokenizer_config.json"}
    assert set(fetched.files) == {"open_clip_config.json", "open_clip_pytorch_model.bin", *text}
    assert (fetched.folder / "text" / "config.json").read_bytes() == b'{"model_type": "bert"}'
    assert fetched.commits == {BIOMEDCLIP.weights: BIOMEDCLIP.revision, TEXT: TEXT_COMMIT}
    assert manifest(fetched.folder)["files"] == {name: hash_files([fetched.folder / name]) for name in fetched.files}
    hub.requests.clear()
    fetch(BIOMEDCLIP, tmp_path)
    assert hub.downloads() == []


def test_model_without_a_separate_text_encoder_is_fetched_from_one_repository(
    hub: FakeHub, biomedclip: dict, tmp_path: Path
) -> None:
    config = {"model_cfg": {"embed_dim": 512, "text_cfg": {"context_length": 77}}, "preprocess_cfg": {}}
    biomedclip["open_clip_config.json"] = json.dumps(config).encode()
    assert list(fetch(BIOMEDCLIP, tmp_path).commits) == [BIOMEDCLIP.weights]


def test_record_without_a_commit_fetches_the_newest_and_names_it(resnet: dict, tmp_path: Path) -> None:
    fetched = fetch(replace(RESNET50, revision=None), tmp_path)
    assert fetched.commits == {"microsoft/resnet-50": "f" * 40}
    assert (fetched.folder / "config.json").read_bytes() == b'{"model_type": "other"}'


def test_fetching_another_commit_replaces_the_files_of_the_first(resnet: dict, tmp_path: Path) -> None:
    fetch(RESNET50, tmp_path)
    fetched = fetch(replace(RESNET50, revision="f" * 40), tmp_path)
    assert fetched.files["config.json"] == sha256(b'{"model_type": "other"}')
    assert manifest(fetched.folder)["commits"] == {"microsoft/resnet-50": "f" * 40}


def test_failed_fetch_of_another_commit_leaves_no_manifest_that_names_it(
    hub: FakeHub, resnet: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's library falls back to the files in the folder when the hub fails halfway."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's own tries
    folder = fetch(RESNET50, tmp_path).folder
    hub.refusals[f"/tree/{'f' * 40}"] = (500, {})
    with pytest.raises(EncoderError):
        fetch(replace(RESNET50, revision="f" * 40), tmp_path)
    assert not (folder / MANIFEST).exists() or manifest(folder)["commits"] == {str(RESNET50.weights): RESNET50.revision}


def test_unchanged_files_are_reported_as_unchanged(resnet: dict, tmp_path: Path) -> None:
    assert changed_files(fetch(RESNET50, tmp_path).folder) == (3, [])


def test_changed_and_missing_files_are_reported_by_name(biomedclip: dict, tmp_path: Path) -> None:
    folder = fetch(BIOMEDCLIP, tmp_path).folder
    (folder / "open_clip_pytorch_model.bin").write_bytes(biomedclip["open_clip_pytorch_model.bin"][:-1] + b"x")
    (folder / "text" / "vocab.txt").unlink()
    count, bad = changed_files(folder) or (0, [])
    assert (count, sorted(bad)) == (5, ["open_clip_pytorch_model.bin", "text/vocab.txt"])


def test_folder_without_a_manifest_has_nothing_to_compare(tmp_path: Path) -> None:
    assert changed_files(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '"text"', "null", "{}", '{"files": []}', '{"files": null}', '{"files": {"a": 1}}', "\0\x80"],
)
def test_damaged_manifest_is_reported_by_its_path(content: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("something")
    (tmp_path / MANIFEST).write_text(content, encoding="latin-1")
    with pytest.raises(EncoderError, match="is damaged") as caught:
        changed_files(tmp_path)
    assert str(tmp_path / MANIFEST) in caught.value.message


def test_moved_folder_is_reported_as_unchanged(resnet: dict, tmp_path: Path) -> None:
    """Users carry the folder to a machine without internet."""
    moved = fetch(RESNET50, tmp_path / "here").folder.rename(tmp_path / "there")
    assert changed_files(moved) == (3, [])


def test_fetching_an_encoder_without_weights_is_refused(tmp_path: Path) -> None:
    assert "has no weights" in refused(SHIPPED["tiny-image"], tmp_path).message


def test_fetching_an_encoder_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    spec = replace(RESNET50, name="mine", weights=str(tmp_path), revision=None)
    assert str(tmp_path) in refused(spec, tmp_path / "to").message


def test_fetching_weights_of_ones_own_is_refused(tmp_path: Path) -> None:
    assert "nothing to fetch" in refused(replace(RESNET50, name="resnet50@12345678"), tmp_path).message


def test_target_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused_to(tmp_path / "file")
    assert str(tmp_path / "file") in error.message
    assert "--to" in (error.hint or "")


def test_fetching_without_progress_writes_nothing(
    resnet: dict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(RESNET50, tmp_path)
    assert capfd.readouterr() == ("", "")
