"""Carry fetched encoders to a machine without internet, and find what a copy lost or changed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from cbirdb.cli.main import run
from cbirdb.encoders.bundle import BUNDLE, BundleCheck, verify_bundle, write_bundle
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.manifest import MANIFEST, write_manifest
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError
from tests.support.fake_hub import FakeHub
from tests.support.fetch_checks import RESNET50, sha256


@pytest.fixture
def bundle(resnet: dict, medsam: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a bundle of two encoders and move it."""
    monkeypatch.setitem(
        SHIPPED, "resnet50", replace(RESNET50, files={"model.safetensors": sha256(resnet["model.safetensors"])})
    )
    monkeypatch.setitem(SHIPPED, "medsam-vit-b", medsam)
    for name in ("resnet50", "medsam-vit-b"):
        fetch(SHIPPED[name], tmp_path / "here")
    assert write_bundle(tmp_path / "here") == ["medsam-vit-b", "resnet50"]
    return (tmp_path / "here").rename(tmp_path / "there")


def found(bundle: Path) -> dict[str, str]:
    return {check.encoder: check.found for check in verify_bundle(bundle) if not check.ok}


def test_moved_bundle_is_as_fetched(bundle: Path) -> None:
    assert verify_bundle(bundle) == [
        BundleCheck("medsam-vit-b", 1, "as fetched", ok=True), BundleCheck("resnet50", 3, "as fetched", ok=True),
    ]  # fmt: skip


def test_missing_changed_and_surplus_files_are_named(bundle: Path) -> None:
    (bundle / "resnet50" / "config.json").unlink()
    (bundle / "resnet50" / "model.safetensors").write_bytes(b"cut")
    (bundle / "resnet50" / "extra.bin").write_bytes(b"")
    faults = "missing: config.json; changed: model.safetensors; not listed: extra.bin"
    assert found(bundle) == {"resnet50": faults}


def test_missing_and_surplus_encoders_are_named(bundle: Path) -> None:
    shutil.rmtree(bundle / "resnet50")
    (bundle / "notes").mkdir()
    assert found(bundle) == {"resnet50": "missing", "notes": "not in the bundle's list"}


def test_changed_list_of_an_encoder_is_named(bundle: Path) -> None:
    (bundle / "medsam-vit-b" / "medsam_vit_b.pth").write_bytes(b"other")
    write_manifest(bundle / "medsam-vit-b", "medsam-vit-b", {})
    assert found(bundle) == {"medsam-vit-b": f"changed or missing: {MANIFEST}"}


def test_weights_that_are_not_the_owners_are_named_even_if_all_lists_agree(bundle: Path) -> None:
    (bundle / "resnet50" / "model.safetensors").write_bytes(b"other")
    write_manifest(bundle / "resnet50", "resnet50", {})
    write_bundle(bundle)
    assert found(bundle) == {"resnet50": "not the owners': model.safetensors"}


def test_folder_without_the_list_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="is no bundle") as caught:
        verify_bundle(tmp_path)
    assert "cbirdb encoders fetch --all --to DIR" in (caught.value.hint or "")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"encoders": []}'])
def test_damaged_list_is_reported_by_its_path(content: str, tmp_path: Path) -> None:
    (tmp_path / BUNDLE).write_text(content)
    with pytest.raises(EncoderError, match="is damaged") as caught:
        verify_bundle(tmp_path)
    assert str(tmp_path / BUNDLE) in caught.value.message


def test_command_verifies_a_bundle_without_a_database(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBIRDB_DSN", "host=/nowhere dbname=x")
    assert run(["encoders", "verify", "--bundle", str(bundle)]) == 0
    (bundle / "medsam-vit-b" / "medsam_vit_b.pth").write_bytes(b"cut")
    assert run(["encoders", "verify", "--bundle", str(bundle)]) == 4
    assert "changed: medsam_vit_b.pth" in capsys.readouterr().out


def test_fetch_of_all_goes_on_after_one_that_is_refused(
    hub: FakeHub, resnet: dict, medsam: EncoderSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in [*SHIPPED]:
        monkeypatch.delitem(SHIPPED, name)
    gated = replace(RESNET50, name="gated", weights="some/gated")
    for spec in (gated, RESNET50, medsam, replace(RESNET50, name="none", weights=None)):
        monkeypatch.setitem(SHIPPED, spec.name, spec)
    monkeypatch.setenv("CBIRDB_HOME", str(tmp_path / "home"))
    assert run(["encoders", "fetch", "--all", "--to", str(tmp_path / "to"), "--format", "csv"]) == 4
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == ["resnet50", "medsam-vit-b"]
    assert "'some/gated' of 'gated' cannot be fetched: the model hub answers with status 404." in err
    assert all(check.ok for check in verify_bundle(tmp_path / "to")), "the folder of the refused one was left"
