"""Provide a model hub on this machine for tests of fetching."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cbirdb.encoders.spec import EncoderSpec
    from tests.support.fake_hub import FakeHub

# The hub's library comes with an extra, so it is imported where it is used.


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty cache of the hub."""
    from huggingface_hub import constants

    path = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    return path


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from tests.support.fake_hub import fake_hub

    with fake_hub(monkeypatch) as running:
        yield running


@pytest.fixture
def resnet(hub: FakeHub) -> dict[str, bytes]:
    """Put ResNet-50's repository on the hub: needed files, other files and a newer commit on ``main``."""
    from tests.support.fetch_checks import RESNET50

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
    """Put BiomedCLIP's repository and that of its text encoder on the hub."""
    from tests.support.fetch_checks import BIOMEDCLIP, TEXT, TEXT_COMMIT

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


@pytest.fixture
def address(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, bytes], EncoderSpec]:
    """Put a file on a server and return the record that names its address."""
    from cbirdb.encoders import download, weights
    from cbirdb.encoders.shipped import SHIPPED

    monkeypatch.setattr(weights, "ADDRESS", "http://")  # those that ship are https://
    monkeypatch.setattr(download, "PAUSE", 0)

    def offer(name: str, file: str, content: bytes) -> EncoderSpec:
        hub.files[file] = content
        return replace(
            SHIPPED[name],
            weights=f"{hub.endpoint}/{file}",
            revision=hashlib.sha256(content).hexdigest(),
            files={},
            mirrors=(),
        )

    return offer


@pytest.fixture
def medsam(address: Callable[..., EncoderSpec]) -> EncoderSpec:
    return address("medsam-vit-b", "records/1/medsam_vit_b.pth", os.urandom(300_000))


@pytest.fixture
def unasked_hub(hub_cache: Path) -> Iterator[FakeHub]:
    """Provide a hub with every file, and fail the test that asks it for one."""
    from tests.support.fake_hub import fake_hub
    from tests.support.small_weights import COMMIT, FILES

    with pytest.MonkeyPatch.context() as patch, fake_hub(patch) as running:
        running.repositories["microsoft/resnet-50"] = {COMMIT: dict.fromkeys(FILES, b"{}")}
        yield running
        assert running.requests == [], "the hub was asked for something"
