"""Run encoders on PyTorch: devices, number formats, batches and lack of memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
import timm  # noqa: E402

from cbirdb.encoders.base import LoadOptions  # noqa: E402
from cbirdb.encoders.golden import SMALLEST_COSINE, golden_picture  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from cbirdb.encoders.spec import EncoderSpec  # noqa: E402
from cbirdb.encoders.torch_encoder import Parts, TorchEncoder, load_parts  # noqa: E402
from cbirdb.errors import EncoderError  # noqa: E402
from tests.support.encoder_checks import assert_same, cosine, embed, on_cpu, picture, refused  # noqa: E402
from tests.support.random_weights import randomise  # noqa: E402

# A very small ViT under the name of a shipped record.
SPEC = replace(SHIPPED["eva02-vit-b14"], name="small-vit", dim=64, files={}, options={})
IMAGES = [picture(200, 170, seed) for seed in range(21)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small-vit")
    timm.models.save_for_hf(randomise(timm.create_model("test_vit")), path)
    return path


@pytest.fixture
def encoder(folder: Path) -> TorchEncoder:
    loaded = load_encoder(SPEC, on_cpu(folder))
    assert isinstance(loaded, TorchEncoder)
    return loaded


@pytest.fixture
def inputs(encoder: TorchEncoder) -> Any:
    return np.stack([encoder.preprocess(image) for image in IMAGES])


def test_dimension_is_taken_from_the_model_if_the_record_has_none(folder: Path) -> None:
    encoder = load_encoder(replace(SPEC, dim=None), on_cpu(folder))
    assert encoder.dim == encoder.spec.dim == 64


def test_loading_tells_each_stage_when_it_begins(folder: Path) -> None:
    stages: list[str] = []
    load_encoder(SPEC, replace(on_cpu(folder), on_stage=stages.append))
    assert stages == [
        "importing its libraries",
        "hashing the weights",
        "reading the weights",
        "encoding a test picture",
    ]


def test_wrong_dimension_is_refused(folder: Path) -> None:
    error = refused(replace(SPEC, dim=65), on_cpu(folder))
    assert "64 values" in error.message
    assert "has 65" in error.message


def test_golden_embedding_is_that_of_the_golden_picture(encoder: TorchEncoder) -> None:
    assert_same(encoder.golden[None], embed(encoder, golden_picture()))


def test_batch_size_changes_neither_embeddings_nor_their_order(encoder: TorchEncoder, inputs: Any) -> None:
    expected = np.concatenate([encoder.encode(pixels[None]) for pixels in inputs])
    for size in (1, 2, 7, 64):
        encoder.batch_size = size
        assert_same(encoder.encode(inputs), expected)


def test_input_array_may_be_overwritten_right_after_submit(encoder: TorchEncoder, inputs: Any) -> None:
    """The decoder writes the next batch there while this one is still computed."""
    expected = encoder.encode(inputs[:4])
    slot = inputs[:4].copy()
    waiting = encoder.submit(slot)
    slot[:] = np.nan
    assert_same(waiting(), expected)


@pytest.mark.parametrize(("dtype", "smallest"), [("bfloat16", 0.99), ("float16", 0.9995)])
def test_half_precision_gives_close_embeddings_and_is_recorded(
    dtype: str, smallest: float, folder: Path, encoder: TorchEncoder, inputs: Any
) -> None:
    half = load_encoder(SPEC, on_cpu(folder, dtype=dtype))
    assert half.provenance == replace(encoder.provenance, dtype=dtype)
    found, expected = half.encode(inputs[:5]), encoder.encode(inputs[:5])
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected), "it was computed in float32"
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > smallest
    assert cosine(half.golden, half.encode(half.preprocess(golden_picture())[None])[0]) > SMALLEST_COSINE[dtype]


# Running out of memory


def allocate_too_much(_: object) -> None:
    torch.empty(2**55, dtype=torch.uint8)


def say(error: RuntimeError) -> Callable[[object], None]:
    def fail(_: object) -> None:
        raise error

    return fail


OUT_OF_MEMORY = {
    "a CPU's": allocate_too_much,
    "a GPU's": say(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
    "pinned": say(RuntimeError("CUDA error: out of memory")),
    "cuBLAS": say(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
}


class Memory:
    """Let at most ``largest`` pictures through a model at once, and keep the sizes that were tried."""

    def __init__(self, encoder: TorchEncoder, largest: int, fail: Callable[[object], None]) -> None:
        self.tried: list[int] = []
        self.largest, self.fail = largest, fail
        self.forward = encoder._forward
        encoder._forward = self

    def __call__(self, pixels: Any) -> Any:
        self.tried.append(len(pixels))
        if len(pixels) > self.largest:
            self.fail(pixels)
        return self.forward(pixels)


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_lack_of_memory_halves_the_batch_and_loses_no_embedding(kind: str, encoder: TorchEncoder, inputs: Any) -> None:
    expected = encoder.encode(inputs)
    encoder.batch_size = 16
    memory = Memory(encoder, 5, OUT_OF_MEMORY[kind])
    assert_same(encoder.encode(inputs), expected)
    assert memory.tried == [16, 8, 4, 4, 4, 4, 4, 1]
    assert encoder.largest_batch == 4

    memory.tried.clear()
    assert_same(encoder.encode(inputs), expected)
    assert memory.tried == [4, 4, 4, 4, 4, 1], "it forgot what memory is enough for"


def test_batches_done_before_memory_runs_out_are_kept(encoder: TorchEncoder, inputs: Any) -> None:
    expected = encoder.encode(inputs)
    encoder.batch_size = 8
    memory = Memory(encoder, 8, allocate_too_much)
    limits = itertools.chain([8, 8, 3], itertools.repeat(3))
    memory.forward = lambda pixels, forward=memory.forward: (setattr(memory, "largest", next(limits)), forward(pixels))[
        1
    ]
    memory.largest = next(limits)
    assert_same(encoder.encode(inputs), expected)
    assert memory.tried[:2] == [8, 8], "what was done was done again"
    assert sum(memory.tried) < 2 * len(inputs)


def test_no_memory_for_a_single_picture_is_reported_with_a_hint(encoder: TorchEncoder, inputs: Any) -> None:
    memory = Memory(encoder, 0, allocate_too_much)
    with pytest.raises(EncoderError) as caught:
        encoder.encode(inputs)
    assert memory.tried[-1] == 1
    assert "'small-vit'" in caught.value.message
    assert "\n" not in str(caught.value)
    assert "--device cpu" in (caught.value.hint or "")


def test_other_runtime_errors_are_raised_unchanged(encoder: TorchEncoder, inputs: Any) -> None:
    memory = Memory(encoder, 0, say(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        encoder.encode(inputs)
    assert len(memory.tried) == 1


class TooLarge(torch.nn.Module):
    """A model that the device has no room for."""

    def to(self, *_: object, **__: object) -> TooLarge:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_no_memory_for_the_model_is_reported_in_one_sentence(folder: Path, encoder: TorchEncoder) -> None:
    parts = Parts(TooLarge(), encoder._forward, encoder.preprocess, {}, folder / "config.json", ())
    with pytest.raises(EncoderError) as caught:
        load_parts(SPEC, LoadOptions(device="cpu"), lambda: parts)
    assert "memory" in caught.value.message
    assert "\n" not in str(caught.value)


# Devices


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:0", "cuda:-1", "", ":0", "CUDA"])
def test_unknown_device_is_refused(device: str, folder: Path) -> None:
    error = refused(SPEC, LoadOptions(weights=folder, device=device))
    assert f"'{device}'" in error.message


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_without_a_gpu_is_refused_with_a_hint_at_the_cpu(device: str, folder: Path) -> None:
    error = refused(SPEC, LoadOptions(weights=folder, device=device))
    assert "GPU" in error.message
    assert "cpu" in (error.hint or "")


@pytest.mark.usefixtures("no_gpu")
def test_auto_device_without_a_gpu_is_the_cpu(folder: Path) -> None:
    encoder = load_encoder(SPEC, LoadOptions(weights=folder))
    assert encoder.provenance.device == "cpu"


def test_missing_gpu_number_is_refused_before_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def build() -> Parts:
        pytest.fail("files were read for nothing")

    with pytest.raises(EncoderError, match="no GPU number 2 here; PyTorch finds 2, counted from 0"):
        load_parts(SPEC, LoadOptions(device="cuda:2"), build)


# Logging


@pytest.fixture
def root_level() -> Iterator[Callable[[int], None]]:
    level = logging.getLogger().level
    yield logging.getLogger().setLevel
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("fails", [False, True])
def test_loading_leaves_the_root_log_level_unchanged(
    level: int, fails: bool, folder: Path, root_level: Callable[[int], None]
) -> None:
    root_level(level)
    spec: EncoderSpec = replace(SPEC, dim=65) if fails else SPEC
    try:
        load_encoder(spec, on_cpu(folder))
    except EncoderError:
        assert fails
    assert logging.getLogger().level == level
