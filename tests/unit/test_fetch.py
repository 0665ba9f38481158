"""Bringing a model's files from a hub and from a plain web server; both run on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from cbirdb.encoders import fetch as fetching
from cbirdb.encoders import weights
from cbirdb.encoders.base import EncoderSpec, LoadOptions, hash_files
from cbirdb.encoders.fetch import MANIFEST, Fetched, changed_files, fetch
from cbirdb.encoders.registry import is_here
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.errors import EncoderError
from tests.fake_hub import FakeHub, fake_hub

RESNET50 = SHIPPED["resnet50"]
BIOMEDCLIP = SHIPPED["biomedclip"]
TEXT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
TEXT_COMMIT = str(BIOMEDCLIP.options["text_revision"])
GATED = {"X-Error-Code": "GatedRepo"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    with fake_hub(monkeypatch) as running:
        yield running


@pytest.fixture
def resnet(hub: FakeHub) -> dict[str, bytes]:
    """The repository of ResNet-50: what is fetched of it, what else it has, and a newer commit on ``main``."""
    files = {
        "config.json": b'{"model_type": "resnet"}',
        "preprocessor_config.json": b"{}",
        "model.safetensors": os.urandom(300_000),
        "pytorch_model.bin": b"the same in another format",
        "tf_model.h5": b"and in another",
        "README.md": b"# ResNet",
    }
    newer = {**files, "config.json": b'{"model_type": "other"}'}
    hub.repositories["microsoft/resnet-50"] = {str(RESNET50.revision): files, "f" * 40: newer}
    return files


@pytest.fixture
def biomedclip(hub: FakeHub) -> dict[str, bytes]:
    """The repository of BiomedCLIP, and the one that its text side comes from."""
    config = {"model_cfg": {"embed_dim": 512, "text_cfg": {"hf_model_name": TEXT}}, "preprocess_cfg": {}}
    files = {
        "open_clip_config.json": json.dumps(config).encode(),
        "open_clip_pytorch_model.bin": os.urandom(1000),
        "tokenizer.json": b"{}",
    }
    text = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\nchest", "tokenizer_config.json": b"{}"}
    hub.repositories[str(BIOMEDCLIP.weights)] = {str(BIOMEDCLIP.revision): files}
    hub.repositories[TEXT] = {
        TEXT_COMMIT: {**text, "pytorch_model.bin": b"not needed", "flax_model.msgpack": b"not needed"},
        "e" * 40: {**text, "config.json": b'{"model_type": "newer"}'},
    }
    return files


def contents(folder: Path) -> dict[str, bytes]:
    """Files but for those that the hub's library keeps beside them for itself."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(folder).parts
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refused(spec: EncoderSpec, to: Path) -> EncoderError:
    """The error of fetching, which has to be one for a person to read."""
    with pytest.raises(EncoderError) as caught:
        fetch(spec, to)
    error = caught.value
    assert error.message.endswith(".")
    assert "\n" not in str(error)
    assert f"'{spec.name}'" in error.message
    return error


def assert_says_the_other_way(error: EncoderError, name: str) -> None:
    assert f"cbirdb encoders fetch {name} --to DIR" in (error.hint or "")
    assert "--weights DIR" in (error.hint or "")


def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def test_only_what_is_read_is_fetched_and_of_the_pinned_commit(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    fetched = fetch(RESNET50, tmp_path / "to")
    assert fetched.folder == tmp_path / "to" / "resnet50"
    found = contents(fetched.folder)
    found.pop(MANIFEST)
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    assert found == {name: resnet[name] for name in names}
    assert sorted(hub.downloads()) == sorted(names), "more came over the line than is needed"
    assert is_here(RESNET50, LoadOptions(store=tmp_path / "to"))


def test_list_says_what_came_and_from_where(resnet: dict, tmp_path: Path) -> None:
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


def test_older_format_is_fetched_where_there_is_no_other(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    content = resnet.pop("model.safetensors")
    fetched = fetch(RESNET50, tmp_path)
    assert "pytorch_model.bin" in fetched.files
    assert sha256(content) not in fetched.files.values()


@pytest.mark.parametrize("hidden", [".cache", "store"])
def test_list_is_complete_wherever_the_folder_lies(hidden: str, resnet: dict, tmp_path: Path) -> None:
    """Many keep such files in ~/.cache, and the hub's library has a folder of that name of its own."""
    fetched = fetch(RESNET50, tmp_path / hidden / "weights")
    assert set(fetched.files) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_remains_of_a_killed_download_are_not_listed_as_fetched(resnet: dict, tmp_path: Path) -> None:
    (tmp_path / "resnet50").mkdir()
    (tmp_path / "resnet50" / "model.safetensors.partial.0123abcd.partial").write_bytes(b"a beginning")
    assert set(fetch(RESNET50, tmp_path).files) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_nothing_is_downloaded_twice(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    first = fetch(RESNET50, tmp_path)
    hub.requests.clear()
    assert fetch(RESNET50, tmp_path) == first
    assert hub.downloads() == []


def test_what_was_damaged_since_is_fetched_again(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    """The hub's library compares times alone, which a disk's fault or a copy that broke off leaves as they were."""
    folder = fetch(RESNET50, tmp_path).folder
    (folder / "config.json").unlink()
    before = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(b"spoilt")
    os.utime(folder / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    fetched = fetch(RESNET50, tmp_path)
    assert fetched.files["config.json"] == sha256(resnet["config.json"])
    assert fetched.files["model.safetensors"] == sha256(resnet["model.safetensors"]), "damage became the standard"


def test_text_side_comes_along_from_its_own_repository_at_its_own_commit(
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


def test_model_without_a_text_side_of_its_own_needs_no_second_repository(
    hub: FakeHub, biomedclip: dict, tmp_path: Path
) -> None:
    config = {"model_cfg": {"embed_dim": 512, "text_cfg": {"context_length": 77}}, "preprocess_cfg": {}}
    biomedclip["open_clip_config.json"] = json.dumps(config).encode()
    assert list(fetch(BIOMEDCLIP, tmp_path).commits) == [BIOMEDCLIP.weights]


def test_record_without_a_commit_gets_the_newest_and_says_which(resnet: dict, tmp_path: Path) -> None:
    fetched = fetch(replace(RESNET50, revision=None), tmp_path)
    assert fetched.commits == {"microsoft/resnet-50": "f" * 40}
    assert (fetched.folder / "config.json").read_bytes() == b'{"model_type": "other"}'


def test_another_commit_replaces_what_the_first_brought(resnet: dict, tmp_path: Path) -> None:
    fetch(RESNET50, tmp_path)
    fetched = fetch(replace(RESNET50, revision="f" * 40), tmp_path)
    assert fetched.files["config.json"] == sha256(b'{"model_type": "other"}')
    assert manifest(fetched.folder)["commits"] == {"microsoft/resnet-50": "f" * 40}


def test_files_of_one_commit_never_pass_for_those_of_another(
    hub: FakeHub, resnet: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's library falls back to what is in the folder when the hub fails halfway."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's own tries
    folder = fetch(RESNET50, tmp_path).folder
    hub.refusals[f"/tree/{'f' * 40}"] = (500, {})
    with pytest.raises(EncoderError):
        fetch(replace(RESNET50, revision="f" * 40), tmp_path)
    assert not (folder / MANIFEST).exists() or manifest(folder)["commits"] == {str(RESNET50.weights): RESNET50.revision}


def test_unchanged_files_are_found_unchanged(resnet: dict, tmp_path: Path) -> None:
    assert changed_files(fetch(RESNET50, tmp_path).folder) == (3, [])


def test_changed_and_missing_files_are_found(biomedclip: dict, tmp_path: Path) -> None:
    folder = fetch(BIOMEDCLIP, tmp_path).folder
    (folder / "open_clip_pytorch_model.bin").write_bytes(biomedclip["open_clip_pytorch_model.bin"][:-1] + b"x")
    (folder / "text" / "vocab.txt").unlink()
    count, bad = changed_files(folder) or (0, [])
    assert (count, sorted(bad)) == (5, ["open_clip_pytorch_model.bin", "text/vocab.txt"])


def test_folder_that_something_else_filled_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert changed_files(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '"text"', "null", "{}", '{"files": []}', '{"files": null}', '{"files": {"a": 1}}', "\0\x80"],
)
def test_damaged_list_is_said_to_be_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("something")
    (tmp_path / MANIFEST).write_text(content, encoding="latin-1")
    if content == '{"files": {"a": 1}}':
        assert changed_files(tmp_path) == (1, ["a"])
        return
    with pytest.raises(EncoderError, match="is damaged") as caught:
        changed_files(tmp_path)
    assert str(tmp_path / MANIFEST) in caught.value.message


def test_moved_folder_is_still_as_fetched(resnet: dict, tmp_path: Path) -> None:
    """That is what the list is for: carried to a machine without internet."""
    moved = fetch(RESNET50, tmp_path / "here").folder.rename(tmp_path / "there")
    assert changed_files(moved) == (3, [])


def test_nothing_to_fetch_where_there_are_no_weights(tmp_path: Path) -> None:
    assert "has no weights" in refused(SHIPPED["tiny-image"], tmp_path).message


def test_folder_of_this_machine_is_not_fetched(tmp_path: Path) -> None:
    spec = replace(RESNET50, name="mine", weights=str(tmp_path), revision=None)
    assert str(tmp_path) in refused(spec, tmp_path / "to").message


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused_to(tmp_path / "file")
    assert str(tmp_path / "file") in error.message
    assert "--to" in (error.hint or "")


def refused_to(to: Path) -> EncoderError:
    with pytest.raises(EncoderError) as caught:
        fetch(RESNET50, to)
    return caught.value


# What the hub or the network refuses


def test_unknown_repository(hub: FakeHub, tmp_path: Path) -> None:
    error = refused(RESNET50, tmp_path)
    assert "status 404" in error.message
    assert "microsoft/resnet-50" in error.message
    assert_says_the_other_way(error, "resnet50")
    assert not (tmp_path / "resnet50" / MANIFEST).exists()


def test_unknown_commit(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    assert "status 404" in refused(replace(RESNET50, revision="0" * 40), tmp_path).message


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("at", ["/api/models/", "/resolve/"], ids=["the repository", "its files"])
def test_terms_not_accepted(at: str, status: int, hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    hub.refusals[at] = (status, GATED)
    error = refused(RESNET50, tmp_path)
    assert "accept their terms" in error.message
    assert "hf auth login" in error.message


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_hub_refuses(status: int, hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    hub.refusals["/api/models/"] = (status, {})
    error = refused(RESNET50, tmp_path)
    assert f"status {status}" in error.message
    assert_says_the_other_way(error, "resnet50")


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json"])
def test_repository_lacks_a_file(lost: str, resnet: dict, tmp_path: Path) -> None:
    del resnet[lost]
    error = refused_to(tmp_path)
    assert f"has no file {lost}" in error.message


def test_repository_has_no_weights(resnet: dict, tmp_path: Path) -> None:
    del resnet["model.safetensors"], resnet["pytorch_model.bin"]
    error = refused_to(tmp_path)
    assert "has no weights" in error.message
    assert not (tmp_path / "resnet50" / MANIFEST).exists()


def test_repository_lacks_the_configuration_that_names_the_text_side(biomedclip: dict, tmp_path: Path) -> None:
    del biomedclip["open_clip_config.json"]
    with pytest.raises(EncoderError) as caught:
        fetch(BIOMEDCLIP, tmp_path)
    assert "has no file open_clip_config.json" in caught.value.message


def test_repository_of_the_text_side_is_named_when_it_fails(hub: FakeHub, biomedclip: dict, tmp_path: Path) -> None:
    del hub.repositories[TEXT]
    error = refused(BIOMEDCLIP, tmp_path)
    assert TEXT in error.message
    assert not (tmp_path / "biomedclip" / MANIFEST).exists()


def test_no_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    error = refused(RESNET50, tmp_path)
    assert time.monotonic() - start < 5, "it kept trying where nobody listens"
    assert "microsoft/resnet-50" in error.message
    assert_says_the_other_way(error, "resnet50")


def test_hub_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that swallows packets, and not one that refuses them."""
    assert fetching.HUB_TIMEOUT <= 5
    monkeypatch.setattr(fetching, "HUB_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        error = refused(RESNET50, tmp_path)
    assert time.monotonic() - start < 5, "it waits longer than it says"
    assert_says_the_other_way(error, "resnet50")


def test_offline_variable_forbids_to_ask(
    hub: FakeHub, resnet: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable sets when the library is imported
    error = refused(RESNET50, tmp_path)
    assert "HF_HUB_OFFLINE" in error.message
    assert_says_the_other_way(error, "resnet50")
    assert hub.requests == []


def test_connection_that_breaks_is_taken_up_again(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [100_000]
    fetched = fetch(RESNET50, tmp_path)
    assert fetched.files["model.safetensors"] == sha256(resnet["model.safetensors"])


def test_download_that_broke_off_goes_on_next_time(
    hub: FakeHub, resnet: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's own tries
    hub.cuts["model.safetensors"] = [100_000, *[0] * 20]
    error = refused(RESNET50, tmp_path)
    assert "What has come so far is kept" in (error.hint or "")
    assert not (tmp_path / "resnet50" / MANIFEST).exists()
    assert not is_here(RESNET50, LoadOptions(store=tmp_path))

    hub.cuts.clear()
    fetched = fetch(RESNET50, tmp_path)
    assert fetched.files["model.safetensors"] == sha256(resnet["model.safetensors"])
    assert set(contents(fetched.folder)) == {*fetched.files, MANIFEST}, "a partial file was left beside it"


# Files that a record names by their address


@pytest.fixture
def address(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, bytes], EncoderSpec]:
    """Puts a file on a server and gives the record that names its address there."""
    monkeypatch.setattr(weights, "ADDRESS", "http://")  # those that ship are https://

    def offer(name: str, file: str, content: bytes) -> EncoderSpec:
        hub.files[file] = content
        return replace(SHIPPED[name], weights=f"{hub.endpoint}/{file}", revision=sha256(content))

    return offer


@pytest.fixture
def medsam(address: Callable[..., EncoderSpec]) -> EncoderSpec:
    return address("medsam-vit-b", "records/1/medsam_vit_b.pth", os.urandom(300_000))


def packed(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_shipped_addresses_are_encrypted_and_pinned() -> None:
    for spec in SHIPPED.values():
        if weights.is_address(spec):
            assert str(spec.weights).startswith("https://")
            assert len(bytes.fromhex(str(spec.revision))) == 32


def test_file_is_fetched_from_its_address(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    fetched = fetch(medsam, tmp_path)
    assert contents(fetched.folder).keys() == {"medsam_vit_b.pth", MANIFEST}
    assert fetched.files == {"medsam_vit_b.pth": medsam.revision}
    assert fetched.commits == {medsam.weights: medsam.revision}
    hub.requests.clear()
    assert fetch(medsam, tmp_path) == fetched
    assert hub.requests == []


def test_file_is_taken_out_of_its_archive(address: Callable[..., EncoderSpec], tmp_path: Path) -> None:
    content = os.urandom(1000)
    files = {"medclip-vit/pytorch_model.bin": content, "medclip-vit/config.json": b"{}", "../outside": b"?"}
    spec = address("medclip-vit", "pretrained.zip", packed(**files))
    fetched = fetch(spec, tmp_path)
    assert contents(tmp_path) == {
        "medclip-vit/pytorch_model.bin": content,
        f"medclip-vit/{MANIFEST}": (fetched.folder / MANIFEST).read_bytes(),
    }
    assert fetched.files == {"pytorch_model.bin": sha256(content)}


def test_weights_that_are_an_archive_themselves_stay_whole(address: Callable[..., EncoderSpec], tmp_path: Path) -> None:
    """PyTorch's own format is a zip archive."""
    content = packed(**{"archive/data.pkl": b"..."})
    fetched = fetch(address("medsam-vit-b", "medsam_vit_b.pth", content), tmp_path)
    assert (fetched.folder / "medsam_vit_b.pth").read_bytes() == content


def test_archive_without_the_file_is_a_sentence(address: Callable[..., EncoderSpec], tmp_path: Path) -> None:
    spec = address("medclip-vit", "pretrained.zip", packed(**{"readme.txt": b"nothing"}))
    assert "pytorch_model.bin" in refused(spec, tmp_path).message


def test_wrong_checksum_is_thrown_away(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    good = hub.files["records/1/medsam_vit_b.pth"]
    hub.files["records/1/medsam_vit_b.pth"] = b"something else"
    error = refused(medsam, tmp_path)
    assert "is not what 'medsam-vit-b' was recorded with" in error.message
    assert sha256(b"something else")[:12] in error.message
    assert str(medsam.revision)[:12] in error.message
    assert contents(tmp_path) == {}, "something was left behind"

    hub.files["records/1/medsam_vit_b.pth"] = good
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}


def test_file_that_breaks_off_is_not_taken_for_whole(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    hub.cuts["medsam_vit_b.pth"] = [100_000]
    refused(medsam, tmp_path)
    assert contents(tmp_path) == {}
    assert not is_here(medsam, LoadOptions(store=tmp_path))
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}


def test_file_without_a_list_is_checked_by_fetching_it_again(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    """What lies there may be half of a copy."""
    (tmp_path / "medsam-vit-b").mkdir()
    (tmp_path / "medsam-vit-b" / "medsam_vit_b.pth").write_bytes(b"half")
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}


def test_damaged_file_beside_a_list_is_fetched_again(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    folder = fetch(medsam, tmp_path).folder
    (folder / "medsam_vit_b.pth").write_bytes(b"spoilt since")
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}, "damage became the standard"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_server_refuses(status: int, hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    hub.refusals["/records/"] = (status, {})
    error = refused(medsam, tmp_path)
    assert str(medsam.weights) in error.message
    assert_says_the_other_way(error, "medsam-vit-b")
    assert contents(tmp_path) == {}


def test_no_way_to_the_server(medsam: EncoderSpec, tmp_path: Path) -> None:
    error = refused(replace(medsam, weights="http://127.0.0.1:9/medsam_vit_b.pth"), tmp_path)
    assert_says_the_other_way(error, "medsam-vit-b")


def test_server_that_falls_silent_is_given_up(
    medsam: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SILENCE", 0.5)
    errors: list[EncoderError] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = replace(medsam, weights=f"http://127.0.0.1:{silent.getsockname()[1]}/medsam_vit_b.pth")
        thread = threading.Thread(target=lambda: errors.append(refused(spec, tmp_path)), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it waits for ever for a server that accepts and says nothing"
    assert_says_the_other_way(errors[0], "medsam-vit-b")
    assert socket.getdefaulttimeout() is None, "what else uses the network is given up as soon"
