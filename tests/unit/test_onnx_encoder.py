"""Load exported encoders: without torch, and only what the record, the description and the files agree on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from cbirdb.encoders import onnx_encoder  # noqa: E402
from cbirdb.encoders.base import LoadOptions  # noqa: E402
from cbirdb.encoders.onnx_encoder import OnnxEncoder, choose_threads  # noqa: E402
from cbirdb.encoders.onnx_folder import MANIFEST, MODEL, find_export  # noqa: E402
from cbirdb.encoders.registry import has_files, load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.errors import EncoderError  # noqa: E402
from tests.support.encoder_checks import assert_same, embed, on_cpu, picture, refused  # noqa: E402
from tests.support.onnx_models import change_manifest, exported, replace_network, write_linear  # noqa: E402
from tests.support.small_weights import SPEC, write_small_resnet  # noqa: E402

IMAGES = [picture(200, 170, seed) for seed in range(11)]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a small ResNet once; return the folder above the export's."""
    path = tmp_path_factory.mktemp("onnx")
    return exported(SPEC, write_small_resnet(path / "weights"), path / "exports").parent


@pytest.fixture
def folder(parent: Path, tmp_path: Path) -> Path:
    """Copy the export, to change it."""
    return shutil.copytree(parent / "resnet50", tmp_path / "resnet50")


@pytest.fixture
def encoder(parent: Path) -> OnnxEncoder:
    loaded = load_encoder(SPEC, on_cpu(parent))
    assert isinstance(loaded, OnnxEncoder)
    return loaded


@pytest.mark.parametrize("below", ["", "resnet50"])
def test_folder_above_and_folder_itself_are_both_found(below: str, parent: Path) -> None:
    assert load_encoder(SPEC, on_cpu(parent / below)).provenance.runtime == "onnxruntime"


def test_export_in_the_folder_of_fetched_weights_is_found_without_an_option(parent: Path) -> None:
    options = LoadOptions(store=parent)
    assert has_files(SPEC, options)
    assert load_encoder(SPEC, options).provenance.runtime == "onnxruntime"


def test_folder_of_weights_still_runs_with_torch(parent: Path) -> None:
    weights = parent.parent / "weights"
    assert find_export(SPEC, on_cpu(weights)) is None
    assert load_encoder(SPEC, on_cpu(weights)).provenance.runtime == "torch"


WITHOUT = ("torch", "torchvision", "transformers", "timm", "open_clip", "onnx", "onnxscript", "huggingface_hub")


def test_running_needs_neither_torch_nor_the_models_library(parent: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({WITHOUT!r}))\n"
        "from dataclasses import replace; from pathlib import Path; from cbirdb.encoders.base import LoadOptions\n"
        "from cbirdb.encoders.registry import load_encoder; from cbirdb.encoders.shipped import SHIPPED\n"
        f"spec = replace(SHIPPED['resnet50'], dim=None, options={SPEC.options!r})\n"
        "options = LoadOptions(weights=Path(sys.argv[1]), allow_other_weights=True)\n"
        "print(load_encoder(spec, options).golden.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, parent], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(8,)\n", "")


def test_missing_onnxruntime_is_refused_with_the_extra_to_install(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "cbirdb.encoders.onnx_encoder")
    error = refused(SPEC, on_cpu(parent))
    assert "'onnxruntime'" in error.message
    assert "'.[onnx]'" in (error.hint or "")


def test_batch_size_changes_neither_embeddings_nor_their_order(encoder: OnnxEncoder) -> None:
    expected = np.concatenate([embed(encoder, image) for image in IMAGES])
    for size in (1, 2, 7, 64):
        encoder.batch_size = size
        assert_same(embed(encoder, *IMAGES), expected)


def test_batches_are_as_small_as_those_of_torch_on_a_cpu(encoder: OnnxEncoder, parent: Path) -> None:
    with_torch = load_encoder(SPEC, on_cpu(parent.parent / "weights"))
    assert encoder.batch_size == with_torch.batch_size == 8


# Threads


@pytest.mark.parametrize(
    ("variable", "given", "expected"),
    [("3", 2, 3), ("4,2", 2, 4), (" 1 ", None, 1), ("", 2, 2), ("0", 2, 2), ("many", 2, 2), ("-1", 2, 2)],
)
def test_threads_are_those_of_omp_num_threads_else_the_given(
    variable: str, given: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert choose_threads(given) == expected


def test_threads_are_one_per_core_of_this_process_without_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads(None) == len(os.sched_getaffinity(0))


def count_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("threads", [1, 4])
def test_session_starts_no_more_threads_than_it_may(
    threads: int, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = count_threads()
    session = onnx_encoder.open_session(parent / "resnet50" / MODEL, threads)
    # The calling thread is one of them.
    assert count_threads() - before == threads - 1
    del session


# Lack of memory

OUT_OF_MEMORY = (
    "import resource, sys; from pathlib import Path\n"
    "import numpy as np; from tests.support.small_weights import SPEC\n"
    "from cbirdb.encoders.base import LoadOptions; from cbirdb.encoders.registry import load_encoder\n"
    "encoder = load_encoder(SPEC, LoadOptions(weights=Path(sys.argv[1])))\n"
    "batch = np.zeros((1024, *encoder.input_shape), np.float32); encoder.batch_size = 1024\n"
    "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)\n"
    "found = encoder.encode(batch)\n"
    "print(found.shape, encoder.largest_batch < 1024, bool((abs(found - found[0]) < 1e-5).all()))"
)


def test_lack_of_memory_halves_the_batch_and_loses_no_embedding(parent: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, parent], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "(1024, 8) True True\n"), done.stderr


# What is refused


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_number_format_is_refused(dtype: str, parent: Path) -> None:
    assert f"not in {dtype}" in refused(SPEC, on_cpu(parent, dtype=dtype)).message


def test_gpu_is_refused(parent: Path) -> None:
    assert "'cuda:1'" in refused(SPEC, LoadOptions(weights=parent, device="cuda:1")).message


def test_export_of_another_encoder_is_refused(folder: Path) -> None:
    error = refused(SHIPPED["vit-b16"], on_cpu(folder))
    assert "export of 'resnet50', not of 'vit-b16'" in error.message


@pytest.mark.parametrize("options", [{"model": "ResNetModel", "pooling": "mean"}, {}])
def test_export_by_another_record_is_refused(options: dict[str, str], folder: Path) -> None:
    assert "by another record" in refused(replace(SPEC, options=options), on_cpu(folder)).message


def test_required_values_of_the_configuration_do_not_refuse_an_export(folder: Path) -> None:
    load_encoder(replace(SPEC, options={**SPEC.options, "config": {"model_type": "resnet"}}), on_cpu(folder))


def test_wrong_dimension_is_refused(folder: Path) -> None:
    assert "gives 8 values" in refused(replace(SPEC, dim=9), on_cpu(folder)).message


SPOIL: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "one byte changed": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "a pickle": lambda _: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("kind", SPOIL)
def test_changed_network_is_refused_by_its_sha256(kind: str, folder: Path) -> None:
    (folder / MODEL).write_bytes(SPOIL[kind]((folder / MODEL).read_bytes()))
    error = refused(SPEC, on_cpu(folder))
    assert str(folder / MODEL) in error.message
    assert "SHA-256" in error.message


@pytest.mark.parametrize("kind", ["truncated", "empty", "a pickle"])
def test_file_that_is_no_network_is_refused_also_with_its_sha256(kind: str, folder: Path) -> None:
    import hashlib

    content = SPOIL[kind]((folder / MODEL).read_bytes())
    replace_network(folder, content, hashlib.sha256(content).hexdigest())
    error = refused(SPEC, on_cpu(folder))
    assert f"{folder / MODEL} is damaged or of another kind" in error.message


def test_missing_network_is_refused(folder: Path) -> None:
    (folder / MODEL).unlink()
    assert str(folder / MODEL) in refused(SPEC, on_cpu(folder)).message


def test_other_network_is_refused_by_the_fixed_picture_also_with_its_sha256(folder: Path, tmp_path: Path) -> None:
    other = exported(SPEC, write_small_resnet(tmp_path / "other", number=1), tmp_path / "to")
    files = json.loads((other / MANIFEST).read_text())["files"]
    replace_network(folder, (other / MODEL).read_bytes(), files[MODEL])
    assert "no longer computes what it did" in refused(SPEC, on_cpu(folder)).message


@pytest.mark.parametrize("where", ["../outside.bin", "{}/outside.bin", "link.bin"])
def test_weights_outside_of_the_folder_are_not_read(where: str, folder: Path) -> None:
    pytest.importorskip("onnx")
    (folder.parent / "outside.bin").write_bytes(np.ones((3, 8), np.float32).tobytes())
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    write_linear(folder, where.format(folder.parent))
    assert "is damaged or of another kind (Fail)" in refused(SPEC, on_cpu(folder)).message


def test_the_same_weights_inside_the_folder_are_read(folder: Path) -> None:
    """The test above refuses for where the file lies, and for nothing else."""
    pytest.importorskip("onnx")
    (folder / "inside.bin").write_bytes(np.ones((3, 8), np.float32).tobytes())
    write_linear(folder, "inside.bin")
    assert "no longer computes what it did" in refused(SPEC, on_cpu(folder)).message


def test_network_with_an_unknown_operator_is_refused(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    import hashlib

    model = onnx.load(folder / MODEL)
    model.graph.node[0].domain = "custom"
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    content = model.SerializeToString()
    replace_network(folder, content, hashlib.sha256(content).hexdigest())
    assert "is damaged or of another kind" in refused(SPEC, on_cpu(folder)).message


CHANGES: dict[str, dict[str, object]] = {
    "another format": {"format": 2},
    "a file above the folder": {"files": {MODEL: "0" * 64, "../x": "0" * 64}},
    "no network among the files": {"files": {}},
    "a SHA-256 of another form": {"weights_sha256": "ABC"},
    "a SHA-256 that is a number": {"weights_sha256": 7},
    "a golden embedding of another length": {"golden_embedding": [1.0, 2.0]},
    "a golden embedding with NaN": {"golden_embedding": [float("nan")] * 8},
    "a golden embedding of words": {"golden_embedding": ["many"] * 8},
    "another shape than the preprocessing has": {"input_shape": [3, 32, 32]},
    "no shape": {"input_shape": None},
    "a shape of broken numbers": {"input_shape": [3, 224.0, 224]},
    "a dimension that is no whole number": {"dim": 8.0},
    "preprocessing that is a list": {"preprocessing": []},
    "preprocessing without settings": {"preprocessing": {}},
    "a list of options": {"options": []},
}


@pytest.mark.parametrize("change", CHANGES)
def test_description_that_cannot_be_right_is_refused(change: str, folder: Path) -> None:
    change_manifest(folder, **CHANGES[change])
    error = refused(SPEC, on_cpu(folder))
    assert f"{folder / MANIFEST} is damaged or of another version" in error.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000, b" " * (2 << 20)])
def test_damaged_description_is_refused(content: bytes, folder: Path) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert f"{folder / MANIFEST} is damaged or of another version" in refused(SPEC, on_cpu(folder)).message


def test_another_preprocessing_under_the_same_hash_is_refused_by_the_fixed_picture(folder: Path) -> None:
    preprocessing = json.loads((folder / MANIFEST).read_text())["preprocessing"]
    change_manifest(folder, preprocessing={**preprocessing, "mean": [0.1, 0.2, 0.3], "crop": None, "resize": "exact", "height": 224, "width": 224})  # fmt: skip
    assert "no longer computes what it did" in refused(SPEC, on_cpu(folder)).message


def test_name_with_a_control_character_stays_one_line(folder: Path) -> None:
    change_manifest(folder, encoder="other\nname")
    with pytest.raises(EncoderError, match="export of 'other name', not of 'resnet50'"):
        load_encoder(SPEC, on_cpu(folder))
