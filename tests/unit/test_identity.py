"""Hold weights to their SHA-256: refuse others by name, and load them under a name of their own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
from safetensors.torch import save_file  # noqa: E402

from cbirdb.encoders import identity  # noqa: E402
from cbirdb.encoders.base import LoadOptions, hash_files  # noqa: E402
from cbirdb.encoders.identity import confirmation  # noqa: E402
from cbirdb.encoders.manifest import MANIFEST, write_manifest  # noqa: E402
from cbirdb.encoders.registry import get_spec, identified_spec, load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.spec import EncoderSpec  # noqa: E402
from cbirdb.encoders.weights import read_state  # noqa: E402
from cbirdb.errors import UnknownNameError  # noqa: E402
from tests.support.encoder_checks import on_cpu, refused  # noqa: E402
from tests.support.small_weights import COMMIT, SPEC, WRITERS, record, write_small_resnet  # noqa: E402

pytestmark = pytest.mark.usefixtures("unasked_hub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("other"), number=1)


def sha256(folder: Path) -> str:
    return hash_files([folder / "model.safetensors"])


def held(folder: Path) -> EncoderSpec:
    """Return a record that is held to the weights of a folder."""
    return replace(SPEC, files={"model.safetensors": sha256(folder)})


def strictly(folder: Path | None, **settings: object) -> LoadOptions:
    return on_cpu(folder, allow_other_weights=False, **settings)


# --- a record with a SHA-256 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [False, True])
def test_recorded_weights_load_under_their_own_name(allowed: bool, folder: Path) -> None:
    encoder = load_encoder(held(folder), on_cpu(folder, allow_other_weights=allowed))
    assert encoder.spec.name == "resnet50"
    assert encoder.provenance.weights_sha256 == sha256(folder)


def test_other_weights_are_refused_with_both_hashes_and_the_way_to_use_them(folder: Path, other: Path) -> None:
    error = refused(held(folder), strictly(other))
    reason = f"it has the SHA-256 {sha256(other)[:12]}..., not {sha256(folder)[:12]}...."
    assert error.message == f"The file {other / 'model.safetensors'} does not hold the weights of 'resnet50': {reason}"
    assert error.hint.startswith("Run: cbirdb encoders fetch resnet50.")
    assert error.hint.endswith(f"under the name resnet50@{sha256(other)[:8]}: --allow-other-weights")


def test_one_changed_bit_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "spoilt")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "spoilt" / "model.safetensors").write_bytes(content)
    assert "it has the SHA-256" in refused(held(folder), strictly(tmp_path / "spoilt")).message


@pytest.mark.parametrize(
    ("name", "file", "content_of", "what"),
    [
        ("dinov2-vit-b14", "model.safetensors", "rad-dino", "it is that of 'rad-dino'"),
        ("clip-vit-l14", "open_clip_pytorch_model.bin", "biomedclip", "it is that of 'biomedclip'"),
        ("medsam-vit-b", "medsam_vit_b.pth", None, "it is plain SAM ViT-B (sam_vit_b_01ec64.pth)"),
    ],
)
def test_weights_of_a_known_model_are_named(
    name: str, file: str, content_of: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("config.json", "preprocessor_config.json", "open_clip_config.json"):
        (tmp_path / needed).write_text("{}")
    (tmp_path / file).write_bytes(os.urandom(100))
    found = hash_files([tmp_path / file])
    if content_of is None:
        (sam,) = [words for words in identity.OTHERS.values() if "sam_vit_b_01ec64" in words]
        monkeypatch.setattr(identity, "OTHERS", {found: sam})
    else:
        monkeypatch.setitem(SHIPPED, content_of, replace(SHIPPED[content_of], files={"x": found}))
    error = refused(SHIPPED[name], strictly(tmp_path))
    assert error.message.endswith(f"does not hold the weights of '{name}': {what}.")
    assert f"{name}@{found[:8]}: --allow-other-weights" in error.hint


@pytest.mark.parametrize("loader", WRITERS)
def test_unknown_weights_that_do_not_fit_are_refused_with_the_first_tensor(loader: str, tmp_path: Path) -> None:
    folder = WRITERS[loader](tmp_path)
    (path,) = (path for path in folder.iterdir() if path.suffix in {".bin", ".safetensors"})
    state = read_state(path)
    changed = next(
        name for name in state if name.endswith(("blocks.1.mlp.fc1.weight", "mlp.c_fc.weight", "convolution.weight"))
    )
    shape = list(state[changed].shape)
    state[changed] = torch.zeros(shape[0] + 1, *shape[1:])
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path, metadata={"format": "pt"})
    spec = record("mine", loader, folder, pooling="pooler" if loader == "hf" else None)
    error = refused(replace(spec, files={path.name: "0" * 64}), strictly(folder))
    assert f"{changed} has the shape" in error.message
    assert f"{shape[0] + 1}, " in error.message


def test_unknown_weights_with_another_configuration_are_refused_with_the_first_value(folder: Path, other: Path) -> None:
    spec = replace(held(folder), options={**SPEC.options, "config": {"depths": [3, 4, 6, 3]}})
    assert "depths is [1, 1], not [3, 4, 6, 3]" in refused(spec, strictly(other)).message


# --- other weights, on purpose ---------------------------------------------------------------------------------------


def test_other_weights_get_a_name_of_their_own(folder: Path, other: Path) -> None:
    encoder = load_encoder(held(folder), on_cpu(other))
    assert encoder.spec.name == f"resnet50@{sha256(other)[:8]}"
    assert (encoder.spec.licence, encoder.spec.files, encoder.spec.in_paper) == ("unknown", {}, False)


def test_name_with_digits_loads_the_weights_whose_sha256_begins_so(folder: Path, other: Path) -> None:
    spec = get_spec(f"resnet50@{sha256(other)[:8]}")
    small = replace(spec, options=SPEC.options, dim=None)
    assert load_encoder(small, strictly(other)).spec.name == spec.name
    for options in (strictly(folder), on_cpu(folder)):
        error = refused(small, options)
        assert f"not {sha256(other)[:8]}..." in error.message
        assert error.hint.endswith(f"name the encoder resnet50@{sha256(folder)[:8]}.")


def test_name_with_digits_finds_the_folder_of_the_plain_name(other: Path, tmp_path: Path) -> None:
    shutil.copytree(other, tmp_path / "resnet50")
    small = replace(get_spec(f"resnet50@{sha256(other)[:8]}"), options=SPEC.options, dim=None)
    for options in (strictly(tmp_path), strictly(None, store=tmp_path)):
        assert load_encoder(small, options).provenance.weights_sha256 == sha256(other)


@pytest.mark.parametrize("name", ["resnet50@", "resnet50@12345", "resnet50@1234567g", "nothing@12345678"])
def test_name_with_other_digits_is_unknown(name: str) -> None:
    with pytest.raises(UnknownNameError):
        get_spec(name)


def test_users_own_folder_keeps_its_name(other: Path) -> None:
    spec = record("mine", "hf", other, pooling="pooler")
    assert load_encoder(spec, on_cpu(None)).spec.name == "mine"


# --- a record without a SHA-256 --------------------------------------------------------------------------------------


def test_weights_without_a_known_sha256_are_accepted_with_a_warning(
    other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for options in (strictly(other), on_cpu(other)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load_encoder(SPEC, options).spec.name == "resnet50"
        assert "The weights of 'resnet50' are not yet confirmed" in caplog.text


def fetched(folder: Path, store: Path, commit: str = COMMIT) -> Path:
    """Fill a folder as the first fetch does."""
    shutil.copytree(folder, store / "resnet50")
    write_manifest(store / "resnet50", "resnet50", {str(SPEC.weights): commit})
    return store


def test_first_fetch_confirms_the_weights_of_every_folder(folder: Path, other: Path, tmp_path: Path) -> None:
    store = fetched(folder, tmp_path)
    assert load_encoder(SPEC, strictly(None, store=store)).spec.name == "resnet50"
    assert load_encoder(SPEC, strictly(folder, store=store)).spec.name == "resnet50"
    assert f"not {sha256(folder)[:12]}..." in refused(SPEC, strictly(other, store=store)).message
    renamed = load_encoder(SPEC, on_cpu(other, store=store)).spec.name
    assert renamed == f"resnet50@{sha256(other)[:8]}"


def test_list_in_another_folder_does_not_replace_that_of_the_first_fetch(
    folder: Path, other: Path, tmp_path: Path
) -> None:
    store, elsewhere = fetched(folder, tmp_path / "store"), fetched(other, tmp_path / "elsewhere")
    assert load_encoder(SPEC, strictly(elsewhere)).spec.name == "resnet50"
    assert f"not {sha256(folder)[:12]}..." in refused(SPEC, strictly(elsewhere, store=store)).message


def test_fetch_of_another_commit_confirms_nothing(folder: Path, other: Path, tmp_path: Path) -> None:
    store = fetched(folder, tmp_path, "f" * 40)
    assert load_encoder(SPEC, strictly(other, store=store)).spec.name == "resnet50"


def test_weights_that_changed_since_they_were_fetched_are_refused(folder: Path, other: Path, tmp_path: Path) -> None:
    store = fetched(folder, tmp_path)
    shutil.copy(other / "model.safetensors", store / "resnet50")
    assert f"not {sha256(folder)[:12]}..." in refused(SPEC, strictly(store)).message


def test_folder_that_was_fetched_for_another_encoder_is_named(other: Path, tmp_path: Path) -> None:
    shutil.copytree(other, tmp_path / "model")
    write_manifest(tmp_path / "model", "rad-dino", {"microsoft/rad-dino": "f" * 40})
    error = refused(SPEC, strictly(tmp_path / "model"))
    assert error.message.endswith("does not hold the weights of 'resnet50': it was fetched for 'rad-dino'.")
    assert load_encoder(SPEC, on_cpu(tmp_path / "model")).spec.name == f"resnet50@{sha256(other)[:8]}"


def test_damaged_list_of_a_folder_is_reported_by_its_path(other: Path, tmp_path: Path) -> None:
    shutil.copytree(other, tmp_path / "model")
    (tmp_path / "model" / MANIFEST).write_text("{")
    assert str(tmp_path / "model" / MANIFEST) in refused(SPEC, strictly(tmp_path / "model")).message


def test_confirmation_says_where_the_sha256_is_known_from(folder: Path, other: Path, tmp_path: Path) -> None:
    assert confirmation(SPEC, tmp_path) == "not yet confirmed"
    assert confirmation(held(folder), tmp_path) == "record"
    assert confirmation(SPEC, fetched(folder, tmp_path)) == "first fetch"
    assert confirmation(SHIPPED["tiny-image"], tmp_path) is None
    assert confirmation(record("mine", "hf", other), tmp_path) is None


# --- the shipped records ---------------------------------------------------------------------------------------------


def test_each_sha256_belongs_to_one_file_of_one_repository() -> None:
    owners: dict[str, set[str]] = {}
    for spec in SHIPPED.values():
        for file, digest in spec.files.items():
            assert len(bytes.fromhex(digest)) == 32, (spec.name, file)
            owners.setdefault(digest, set()).add(str(spec.weights))
    assert all(len(found) == 1 for found in owners.values()), owners
    assert not set(owners) & set(identity.OTHERS)


def test_every_record_with_weights_names_the_source_of_its_licence_and_of_its_sha256() -> None:
    for spec in SHIPPED.values():
        if spec.weights is not None:
            assert str(spec.licence_source).startswith("https://"), spec.name
            assert bool(spec.files) == bool(spec.files_source), spec.name


def test_stored_record_cannot_confirm_weights_or_add_sources(folder: Path) -> None:
    planted = {**json.loads(json.dumps(held(folder).as_json())), "mirrors": ["https://a.b/c"], "restrictions": 7}
    spec = EncoderSpec.from_json(planted)
    assert (spec.files, spec.mirrors, spec.restrictions) == ({}, (), ())


def test_identified_spec_names_the_weights_only_if_others_are_allowed(folder: Path, other: Path) -> None:
    assert identified_spec(held(folder), on_cpu(other)).name == f"resnet50@{sha256(other)[:8]}"
    assert identified_spec(held(folder), strictly(other)).name == "resnet50"


def test_sha256_of_an_exports_weights_is_held_in_the_same_way(folder: Path, other: Path, tmp_path: Path) -> None:
    export, right, wrong = tmp_path / "model.onnx", sha256(folder), sha256(other)
    assert identity.identify_hash(held(folder), export, right, strictly(None)).refusal is None
    refusal = identity.identify_hash(held(folder), export, wrong, strictly(None)).refusal
    assert refusal is not None
    assert str(export) in refusal.message
    assert identity.identify_hash(held(folder), export, wrong, on_cpu(None)).spec.name == f"resnet50@{wrong[:8]}"
    assert identity.identify_hash(SPEC, export, wrong, strictly(None)).refusal is None


def test_change_with_its_time_set_back_is_seen_in_the_same_process(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"before")
    time.sleep(1.1)  # else it is too new to be remembered
    then, first = file.stat(), hash_files([file])
    file.write_bytes(b"after!")
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    time.sleep(1.1)
    assert file.stat().st_mtime_ns == then.st_mtime_ns
    assert hash_files([file]) != first
