"""Refuse weights that run code, lack a tensor, belong to another model or cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
from safetensors.torch import save_file  # noqa: E402

from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.weights import read_state  # noqa: E402
from tests.support.encoder_checks import assert_names_the_command, on_cpu, refused, unheld  # noqa: E402
from tests.support.small_weights import (  # noqa: E402
    FILES,
    SPEC,
    WRITERS,
    record,
    write_small_open_clip,
    write_small_resnet,
    write_small_timm,
)

pytestmark = pytest.mark.usefixtures("unasked_hub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_open_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_weights_without_read_permission_are_refused_by_their_path(
    contents: dict[str, bytes], bound_by_permissions: Path
) -> None:
    for name, content in contents.items():
        (bound_by_permissions / name).write_bytes(content)
    (bound_by_permissions / "model.safetensors").chmod(0)
    error = refused(SPEC, on_cpu(bound_by_permissions))
    assert str(bound_by_permissions / "model.safetensors") in error.message


class Payload:
    """A pickle that makes a folder when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


class TestPickles:
    """Weights in the pickle formats, for every family that reads them."""

    FILE: ClassVar = {
        "resnet50": "pytorch_model.bin",
        "medsam-vit-b": "medsam_vit_b.pth",
        "medclip-vit": "pytorch_model.bin",
        "biomedclip": "open_clip_pytorch_model.bin",
        "eva02-vit-b14": "pytorch_model.bin",
    }

    @staticmethod
    def write_around(name: str, folder: Path, folders: dict[str, Path]) -> None:
        """Link the other files, so that loading gets as far as the weights."""
        if name in folders:
            for path in folders[name].glob("*.json"):
                (folder / path.name).symlink_to(path)
        if name == "biomedclip":
            (folder / "text").symlink_to(folders[name] / "text")

    @pytest.mark.parametrize("name", FILE)
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_code_in_pickled_weights_is_not_run(
        self, name: str, legacy: bool, folder: Path, clip_folder: Path, tmp_path: Path
    ) -> None:
        written = {"resnet50": folder, "biomedclip": clip_folder, "eva02-vit-b14": write_small_timm(tmp_path / "timm")}
        spoilt = tmp_path / "spoilt"
        spoilt.mkdir()
        self.write_around(name, spoilt, written)
        path = spoilt / self.FILE[name]
        torch.save({"a": Payload(tmp_path / "executed")}, path, _use_new_zipfile_serialization=not legacy)
        spec = SPEC if name == "resnet50" else unheld(name, dim=None, options={})

        error = refused(spec, on_cpu(spoilt))

        assert not (tmp_path / "executed").exists(), "reading the weights ran what is in them"
        assert str(path) in error.message
        assert "weights_only" in str(error.__cause__), "it was refused for another reason"
        assert_names_the_command(error, name)
        torch.load(path, weights_only=False)
        assert (tmp_path / "executed").exists(), "the pickle is harmless, so the test proves nothing"


@pytest.mark.parametrize("loader", WRITERS)
def test_weights_that_lack_a_tensor_are_refused(loader: str, tmp_path: Path) -> None:
    """The libraries would fill it at random, so that every run gave other vectors."""
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
def test_configuration_of_another_model_is_refused(
    name: str, file: str, written: dict, words: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps(written))
    for weights in ("model.safetensors", "open_clip_model.safetensors"):
        (tmp_path / weights).write_bytes(b"")
    error = refused(SHIPPED[name], on_cpu(tmp_path, allow_other_weights=False))
    assert words in error.message
    assert f"does not describe '{name}'" in error.message
