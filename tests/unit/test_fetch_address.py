"""Fetch a model's file from a web server, at the address in its record."""

from __future__ import annotations

import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from cbirdb.encoders import download as downloading
from cbirdb.encoders import weights
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.manifest import MANIFEST
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError
from tests.support.fake_hub import FakeHub
from tests.support.fetch_checks import assert_says_the_other_way, contents, refused, sha256


def packed(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_shipped_addresses_use_https_and_a_pinned_sha256() -> None:
    for spec in SHIPPED.values():
        if weights.is_address(spec):
            assert str(spec.weights).startswith("https://")
            assert len(bytes.fromhex(str(spec.revision))) == 32


def test_file_is_fetched_once_from_its_address(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    fetched = fetch(medsam, tmp_path)
    assert contents(fetched.folder).keys() == {"medsam_vit_b.pth", MANIFEST}
    assert fetched.files == {"medsam_vit_b.pth": medsam.revision}
    assert fetched.commits == {medsam.weights: medsam.revision}
    hub.requests.clear()
    assert fetch(medsam, tmp_path) == fetched
    assert hub.requests == []


def test_only_the_weights_are_extracted_from_an_archive(address: Callable[..., EncoderSpec], tmp_path: Path) -> None:
    content = os.urandom(1000)
    files = {"medclip-vit/pytorch_model.bin": content, "medclip-vit/config.json": b"{}", "../outside": b"?"}
    spec = address("medclip-vit", "pretrained.zip", packed(**files))
    fetched = fetch(spec, tmp_path)
    assert contents(tmp_path) == {
        "medclip-vit/pytorch_model.bin": content,
        f"medclip-vit/{MANIFEST}": (fetched.folder / MANIFEST).read_bytes(),
    }
    assert fetched.files == {"pytorch_model.bin": sha256(content)}


def test_weights_in_pytorchs_zip_format_are_not_unpacked(address: Callable[..., EncoderSpec], tmp_path: Path) -> None:
    """PyTorch's own format is a zip archive."""
    content = packed(**{"archive/data.pkl": b"..."})
    fetched = fetch(address("medsam-vit-b", "medsam_vit_b.pth", content), tmp_path)
    assert (fetched.folder / "medsam_vit_b.pth").read_bytes() == content


def test_archive_without_the_weights_is_refused(address: Callable[..., EncoderSpec], tmp_path: Path) -> None:
    spec = address("medclip-vit", "pretrained.zip", packed(**{"readme.txt": b"nothing"}))
    assert "pytorch_model.bin" in refused(spec, tmp_path).message


def test_file_with_a_wrong_checksum_is_refused_and_deleted(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    good = hub.files["records/1/medsam_vit_b.pth"]
    hub.files["records/1/medsam_vit_b.pth"] = b"something else"
    error = refused(medsam, tmp_path)
    assert "has another content than recorded for 'medsam-vit-b'" in error.message
    assert sha256(b"something else")[:12] in error.message
    assert str(medsam.revision)[:12] in error.message
    assert contents(tmp_path) == {}, "something was left behind"

    hub.files["records/1/medsam_vit_b.pth"] = good
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}


def test_file_without_a_manifest_is_fetched_again(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    """The file may be half of a copy."""
    (tmp_path / "medsam-vit-b").mkdir()
    (tmp_path / "medsam-vit-b" / "medsam_vit_b.pth").write_bytes(b"half")
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}


def test_damaged_file_with_a_manifest_is_fetched_again(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    folder = fetch(medsam, tmp_path).folder
    (folder / "medsam_vit_b.pth").write_bytes(b"spoilt since")
    assert fetch(medsam, tmp_path).files == {"medsam_vit_b.pth": medsam.revision}, "damage became the standard"


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusal_by_the_server_names_the_address_and_leaves_no_file(
    status: int, hub: FakeHub, medsam: EncoderSpec, tmp_path: Path
) -> None:
    hub.refusals["/records/"] = (status, {})
    error = refused(medsam, tmp_path)
    assert f"{medsam.weights} of 'medsam-vit-b' cannot be fetched: it answers with status {status}." in error.message
    assert_says_the_other_way(error, "medsam-vit-b")
    assert contents(tmp_path) == {}


def test_unreachable_server_is_reported_with_other_ways_to_get_the_weights(medsam: EncoderSpec, tmp_path: Path) -> None:
    error = refused(replace(medsam, weights="http://127.0.0.1:9/medsam_vit_b.pth"), tmp_path)
    assert_says_the_other_way(error, "medsam-vit-b")


def test_silent_server_is_given_up_after_a_time_limit(
    medsam: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SILENCE", 0.5)
    errors: list[EncoderError] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = replace(medsam, weights=f"http://127.0.0.1:{silent.getsockname()[1]}/medsam_vit_b.pth")
        thread = threading.Thread(target=lambda: errors.append(refused(spec, tmp_path)), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it waits for ever for a server that accepts and says nothing"
    assert_says_the_other_way(errors[0], "medsam-vit-b")
    assert socket.getdefaulttimeout() is None, "what else uses the network is given up as soon"
