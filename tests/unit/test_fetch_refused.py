"""Report refusals and interruptions by the hub or the network while a model's files are fetched."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from cbirdb.encoders import fetch as fetching
from cbirdb.encoders.base import LoadOptions
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.manifest import MANIFEST
from cbirdb.encoders.registry import has_files
from cbirdb.errors import EncoderError
from tests.support.fake_hub import FakeHub
from tests.support.fetch_checks import (
    BIOMEDCLIP,
    RESNET50,
    TEXT,
    assert_says_the_other_way,
    contents,
    refused,
    refused_to,
    sha256,
)

GATED = {"X-Error-Code": "GatedRepo"}


def test_unknown_repository_is_refused_with_other_ways_to_get_the_weights(hub: FakeHub, tmp_path: Path) -> None:
    error = refused(RESNET50, tmp_path)
    assert "status 404" in error.message
    assert "microsoft/resnet-50" in error.message
    assert_says_the_other_way(error, "resnet50")
    assert not (tmp_path / "resnet50" / MANIFEST).exists()


def test_unknown_commit_is_refused_with_status_404(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    assert "status 404" in refused(replace(RESNET50, revision="0" * 40), tmp_path).message


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("at", ["/api/models/", "/resolve/"], ids=["the repository", "its files"])
def test_gated_repository_is_refused_with_advice_to_accept_its_terms(
    at: str, status: int, hub: FakeHub, resnet: dict, tmp_path: Path
) -> None:
    hub.refusals[at] = (status, GATED)
    error = refused(RESNET50, tmp_path)
    assert "accept their terms" in error.message
    assert "hf auth login" in error.message


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_refusal_by_the_hub_is_reported_with_its_status(
    status: int, hub: FakeHub, resnet: dict, tmp_path: Path
) -> None:
    hub.refusals["/api/models/"] = (status, {})
    error = refused(RESNET50, tmp_path)
    assert f"status {status}" in error.message
    assert_says_the_other_way(error, "resnet50")


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json"])
def test_file_that_the_repository_lacks_is_named(lost: str, resnet: dict, tmp_path: Path) -> None:
    del resnet[lost]
    error = refused_to(tmp_path)
    assert f"has no file {lost}" in error.message


def test_repository_without_weights_is_refused(resnet: dict, tmp_path: Path) -> None:
    del resnet["model.safetensors"], resnet["pytorch_model.bin"]
    error = refused_to(tmp_path)
    assert "has no weights" in error.message
    assert not (tmp_path / "resnet50" / MANIFEST).exists()


def test_repository_without_its_open_clip_configuration_is_refused(biomedclip: dict, tmp_path: Path) -> None:
    del biomedclip["open_clip_config.json"]
    with pytest.raises(EncoderError) as caught:
        fetch(BIOMEDCLIP, tmp_path)
    assert "has no file open_clip_config.json" in caught.value.message


def test_missing_repository_of_the_text_encoder_is_named(hub: FakeHub, biomedclip: dict, tmp_path: Path) -> None:
    del hub.repositories[TEXT]
    error = refused(BIOMEDCLIP, tmp_path)
    assert TEXT in error.message
    assert not (tmp_path / "biomedclip" / MANIFEST).exists()


def test_unreachable_hub_is_reported_within_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    error = refused(RESNET50, tmp_path)
    assert time.monotonic() - start < 5, "it kept trying where nobody listens"
    assert "microsoft/resnet-50" in error.message
    assert_says_the_other_way(error, "resnet50")


def test_silent_hub_is_given_up_within_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that drops packets looks like this."""
    assert fetching.HUB_TIMEOUT <= 5
    monkeypatch.setattr(fetching, "HUB_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        error = refused(RESNET50, tmp_path)
    assert time.monotonic() - start < 5, "it waits longer than it says"
    assert_says_the_other_way(error, "resnet50")


def test_offline_variable_prevents_every_request(
    hub: FakeHub, resnet: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable sets when the library is imported
    error = refused(RESNET50, tmp_path)
    assert "HF_HUB_OFFLINE" in error.message
    assert_says_the_other_way(error, "resnet50")
    assert hub.requests == []


def test_broken_connection_is_resumed(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    hub.cuts["model.safetensors"] = [100_000]
    fetched = fetch(RESNET50, tmp_path)
    assert fetched.files["model.safetensors"] == sha256(resnet["model.safetensors"])


def test_interrupted_download_is_completed_by_the_next_fetch(
    hub: FakeHub, resnet: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's own tries
    hub.cuts["model.safetensors"] = [100_000, *[0] * 20]
    error = refused(RESNET50, tmp_path)
    assert "The files downloaded so far are kept" in (error.hint or "")
    assert not (tmp_path / "resnet50" / MANIFEST).exists()
    assert not has_files(RESNET50, LoadOptions(store=tmp_path))

    hub.cuts.clear()
    fetched = fetch(RESNET50, tmp_path)
    assert fetched.files["model.safetensors"] == sha256(resnet["model.safetensors"])
    assert set(contents(fetched.folder)) == {*fetched.files, MANIFEST}, "a partial file was left beside it"
