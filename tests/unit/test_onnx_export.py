"""Export encoders of every family to ONNX, and refuse an export that differs from torch."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from cbirdb.encoders import onnx_export  # noqa: E402
from cbirdb.encoders.onnx_export import LARGEST_DIFFERENCE, export_encoder  # noqa: E402
from cbirdb.encoders.onnx_folder import DATA, MANIFEST, MODEL  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.torch_encoder import TorchEncoder  # noqa: E402
from cbirdb.errors import EncoderError  # noqa: E402
from tests.support.encoder_checks import PICTURES, embed, on_cpu  # noqa: E402
from tests.support.onnx_models import SMALL, exported, load_exported, shrink_fixed_architectures  # noqa: E402
from tests.support.random_weights import write_weights  # noqa: E402
from tests.support.small_weights import SPEC, write_small_resnet  # noqa: E402


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def assert_equal(torch_encoder: Any, onnx_encoder: Any) -> None:
    """Compare inputs to the bit, and unit vectors of all pictures: in one batch, alone and in batches of other sizes."""
    for image in PICTURES.values():
        np.testing.assert_array_equal(onnx_encoder.preprocess(image), torch_encoder.preprocess(image))
    wanted = unit(embed(torch_encoder, *PICTURES.values()))
    for size in (1, 3, len(wanted)):
        onnx_encoder.batch_size = size
        found = unit(embed(onnx_encoder, *PICTURES.values()))
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= LARGEST_DIFFERENCE
    assert np.ptp(wanted, axis=0).max() > 100 * LARGEST_DIFFERENCE, "all pictures look alike to this model"


@pytest.mark.parametrize("name", SMALL)
def test_export_of_each_family_gives_torchs_inputs_and_embeddings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_fixed_architectures(monkeypatch)
    spec, write = SMALL[name]
    encoder = load_encoder(spec, on_cpu(write(tmp_path / "weights")))
    done = export_encoder(encoder, tmp_path / "onnx")
    assert done.difference <= LARGEST_DIFFERENCE
    found = load_exported(spec, done.folder)
    assert_equal(encoder, found)
    assert found.dim == encoder.dim
    assert found.input_shape == encoder.input_shape
    assert found.provenance.weights_sha256 == encoder.provenance.weights_sha256
    assert found.provenance.preprocessing_sha256 == encoder.provenance.preprocessing_sha256
    assert (encoder.provenance.runtime, found.provenance.runtime) == ("torch", "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "efficientnet-lite0"])
def test_export_of_a_full_size_network_gives_torchs_inputs_and_embeddings(name: str, tmp_path: Path) -> None:
    # The weights of the second come with a package: it is the real network.
    weights = write_weights(name, tmp_path / name) if name == "resnet50" else None
    encoder = load_encoder(SHIPPED[name], on_cpu(weights))
    folder = export_encoder(encoder, tmp_path / "onnx").folder
    assert_equal(encoder, load_exported(encoder.spec, folder))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_resnet(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def encoder(weights: Path) -> TorchEncoder:
    loaded = load_encoder(SPEC, on_cpu(weights))
    assert isinstance(loaded, TorchEncoder)
    return loaded


def test_description_names_origin_versions_and_hashes(encoder: TorchEncoder, weights: Path, tmp_path: Path) -> None:
    done = export_encoder(encoder, tmp_path)
    stored = json.loads((done.folder / MANIFEST).read_text())
    digest = hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()
    assert (stored["encoder"], stored["weights_sha256"]) == ("resnet50", digest)
    assert stored["files"] == {MODEL: hashlib.sha256((done.folder / MODEL).read_bytes()).hexdigest()}
    assert {"torch", "transformers", "onnx", "onnxscript", "onnxruntime", "pillow", "numpy", "cbirdb"} == set(
        stored["libraries"]
    )
    np.testing.assert_allclose(stored["golden_embedding"], encoder.golden, rtol=1e-6)
    assert done.manifest_sha256 == hashlib.sha256((done.folder / MANIFEST).read_bytes()).hexdigest()


def test_export_is_a_folder_with_the_encoders_name_that_others_may_read(encoder: TorchEncoder, tmp_path: Path) -> None:
    done = export_encoder(encoder, tmp_path / "a" / "b")
    assert done.folder == tmp_path / "a" / "b" / "resnet50"
    assert sorted(path.name for path in done.folder.parent.iterdir()) == ["resnet50"]
    assert stat.S_IMODE(done.folder.stat().st_mode) & 0o055 == 0o055


def test_weights_above_the_limit_of_one_file_lie_beside_the_network(
    encoder: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "ONE_FILE", 100)
    done = export_encoder(encoder, tmp_path)
    assert sorted(path.name for path in done.folder.iterdir()) == sorted([MANIFEST, MODEL, DATA])
    assert set(done.export.files) == {MODEL, DATA}
    assert_equal(encoder, load_exported(SPEC, done.folder))


# What is refused


def refused(encoder: Any, to: Path) -> EncoderError:
    with pytest.raises(EncoderError) as caught:
        export_encoder(encoder, to)
    assert caught.value.message.endswith(".")
    assert "\n" not in str(caught.value)
    return caught.value


def spoil_network(encoder: TorchEncoder) -> None:
    """Make torch compute something that the exporter does not see."""
    forward = encoder._forward
    encoder._forward = lambda pixels: forward(pixels) + (0.01 if not torch.compiler.is_exporting() else 0.0)


def fix_batch(encoder: TorchEncoder) -> None:
    forward = encoder._forward
    encoder._forward = lambda pixels: forward(pixels) * len(pixels)


def branch_on_values(encoder: TorchEncoder) -> None:
    forward = encoder._forward
    encoder._forward = lambda pixels: forward(pixels) if float(pixels.sum()) > 0 else -forward(pixels)


def use_torchs_resize(encoder: TorchEncoder) -> None:
    encoder.preprocess = _Processor("torchvision", {**RESIZE})


def misstate_settings(encoder: TorchEncoder) -> None:
    """Make the library prepare pictures in another way than its settings say."""
    inner = encoder.preprocess
    encoder.preprocess = _Shifted(inner.processor, inner)


RESIZE = {"do_resize": True}


class _Processor:
    def __init__(self, backend: str, settings: dict[str, Any]) -> None:
        self.backend, self._settings, self.processor = backend, settings, self

    def to_dict(self) -> dict[str, Any]:
        return self._settings


class _Shifted:
    def __init__(self, processor: Any, inner: Any) -> None:
        self.processor, self._inner = processor, inner

    def __call__(self, image: Any) -> Any:
        return self._inner(image) + np.float32(1e-4)


REFUSED: dict[str, tuple[Callable[[TorchEncoder], None], str]] = {
    "other embeddings": (spoil_network, "differs from torch by"),
    "a fixed batch": (fix_batch, "cannot run the export"),
    "branches on values": (branch_on_values, "cannot be exported to ONNX"),
    "preprocessing on torchvision": (use_torchs_resize, "runs on torchvision"),
    "preprocessing that its settings do not describe": (misstate_settings, "gives other pixels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_export_says_why_and_leaves_nothing_behind(kind: str, encoder: TorchEncoder, tmp_path: Path) -> None:
    spoil, words = REFUSED[kind]
    spoil(encoder)
    error = refused(encoder, tmp_path / "onnx")
    assert words in error.message
    assert "with torch" in (error.hint or "")
    assert not (tmp_path / "onnx").exists()


def test_existing_folder_is_not_overwritten(encoder: TorchEncoder, tmp_path: Path) -> None:
    (tmp_path / "resnet50").mkdir()
    (tmp_path / "resnet50" / "precious").touch()
    assert "exists already" in refused(encoder, tmp_path).message
    assert [path.name for path in tmp_path.rglob("*")] == ["resnet50", "precious"]


def test_folder_that_cannot_be_written_is_named(encoder: TorchEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refused(encoder, tmp_path / "file").message


def test_export_of_an_export_is_refused(weights: Path, tmp_path: Path) -> None:
    folder = exported(SPEC, weights, tmp_path)
    assert "are an export already" in refused(load_exported(SPEC, folder), tmp_path / "again").message


def test_encoder_without_a_network_is_refused(tmp_path: Path) -> None:
    tiny = load_encoder(SHIPPED["tiny-image"], on_cpu(None))
    assert "there is nothing to export" in refused(tiny, tmp_path / "onnx").message


def test_other_number_format_is_refused(encoder: TorchEncoder, tmp_path: Path) -> None:
    encoder.provenance = replace(encoder.provenance, dtype="bfloat16")
    assert "number format" in refused(encoder, tmp_path / "onnx").message


def test_missing_exporter_is_refused_with_the_extra_to_install(
    encoder: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", fail)
    error = refused(encoder, tmp_path / "onnx")
    assert "'onnxscript'" in error.message
    assert "onnx-export" in (error.hint or "")
