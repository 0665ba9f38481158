"""The family 'huggingface': full ResNet-50 with seeded random weights, saved as the hub saves it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

# The extra 'encoders' is optional: where it is not installed, cbirdb says so (tested elsewhere) and nothing here can run.
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import huggingface_hub  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from cbirdb.encoders import huggingface  # noqa: E402
from cbirdb.encoders.base import LoadOptions, hash_files  # noqa: E402
from cbirdb.encoders.registry import load_encoder
from cbirdb.errors import EncoderError  # noqa: E402

# What microsoft/resnet-50 has at the hub: an older layout than save_pretrained writes today.
PREPROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def save_model(folder: Path, **settings: object) -> Path:
    torch.manual_seed(20240310)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**{"num_labels": 1000, **settings}))
    for module in model.modules():
        # Fresh statistics (0 and 1) let values grow with depth until all pictures look alike.
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(1.0, 2.0)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    hub = tmp_path_factory.mktemp("hub")
    yield save_model(hub / "resnet-50")
    shutil.rmtree(hub)


@pytest.fixture(scope="module")
def bin_folder(folder: Path) -> Path:
    other = folder.parent / "resnet-50-bin"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(folder / "model.safetensors"), other / "pytorch_model.bin")
    return other


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Pytest keeps the folders of three runs, and each run writes weights of 100 MB ten times."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the test that asks only where the files come from a second or two of convolutions."""
    monkeypatch.setattr(huggingface, "_try_out", lambda *_: None)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> huggingface.HuggingFaceEncoder:
    return huggingface.load(RESNET50, LoadOptions(weights=folder, device="cpu"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[object, object]:
    """The model and the processor as transformers' own users make them."""
    model = transformers.ResNetForImageClassification.from_pretrained(folder).eval()
    return model, transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder like the fixture's, to be spoilt; the weights are a link."""
    other = tmp_path / "copy"
    other.mkdir()
    for name in FILES[:2]:
        shutil.copy(folder / name, other / name)
    (other / "model.safetensors").symlink_to(folder / "model.safetensors")
    return other


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on port 9: whoever asks the hub after all is refused."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/{revision}/{filename}"
    )


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise over a gradient: it has structure at every scale that resizing can get wrong."""
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    fine = random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(noise, dtype=np.int64) + fine, 0, 255).astype(np.uint8))


PICTURES = {
    "rgb": picture(640, 480),
    "grey": picture(512, 512, 1).convert("L"),
    "palette": picture(300, 400, 2).convert("P", palette=Image.Palette.ADAPTIVE),
    "alpha": Image.merge("RGBA", [*picture(320, 320, 6).split(), Image.linear_gradient("L").resize((320, 320))]),
    "odd": picture(333, 217, 3),
    "tiny": picture(5, 3, 4),
    "tall": picture(61, 1000, 5),
}


def replace_weights(folder: Path, state: dict) -> None:
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the last places: kernels sum in an order that depends on batch size and memory alignment."""
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > 0.99999
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", PICTURES)
def test_input_is_that_of_transformers(name: str, encoder: huggingface.HuggingFaceEncoder, reference: tuple) -> None:
    _, processor = reference
    expected = processor(images=PICTURES[name].convert("RGB"), return_tensors="pt")["pixel_values"]
    pixels = encoder.preprocess(PICTURES[name])
    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels[None], expected.numpy())


def test_embedding_is_that_of_transformers(encoder: huggingface.HuggingFaceEncoder, reference: tuple) -> None:
    model, processor = reference
    images = [PICTURES[name] for name in ("rgb", "grey", "palette", "odd")]
    with torch.no_grad():
        expected = model(**processor(images=[i.convert("RGB") for i in images], return_tensors="pt")).logits.numpy()

    values = encoder.encode([encoder.preprocess(image) for image in images])

    assert values.shape == (4, 1000)
    assert values.dtype == np.float32
    assert_same(values, expected)
    # Else the comparison would hold for any two pictures.
    assert max(cosine(values[i], values[j]) for i in range(4) for j in range(i)) < 0.9999


@pytest.mark.parametrize("name", PICTURES)
def test_preprocessing_is_what_the_record_says(name: str, encoder: huggingface.HuggingFaceEncoder) -> None:
    assert "shortest side 256 then centre crop 224" in RESNET50.preprocessing
    image = PICTURES[name].convert("RGB")
    width, height = (256 if side == min(image.size) else int(256 * side / min(image.size)) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    cropped = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    expected = (np.asarray(cropped) / 255 - PREPROCESSOR["image_mean"]) / PREPROCESSOR["image_std"]
    np.testing.assert_allclose(encoder.preprocess(PICTURES[name]), expected.transpose(2, 0, 1), atol=1e-5)


def test_batch_size_does_not_matter(encoder: huggingface.HuggingFaceEncoder) -> None:
    inputs = [encoder.preprocess(PICTURES[name]) for name in ("rgb", "grey", "tall")]
    together = encoder.encode(inputs)
    alone = np.concatenate([encoder.encode([pixels]) for pixels in inputs])
    assert together.shape == (3, 1000)
    assert_same(together, alone)


def test_preprocess_from_several_threads(encoder: huggingface.HuggingFaceEncoder) -> None:
    images = list(PICTURES.values()) * 6
    expected = [encoder.preprocess(image) for image in PICTURES.values()] * 6
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encoder.preprocess, images))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_safetensors_and_bin_agree(bin_folder: Path, encoder: huggingface.HuggingFaceEncoder) -> None:
    other = huggingface.load(RESNET50, LoadOptions(weights=bin_folder, device="cpu"))
    inputs = [encoder.preprocess(PICTURES["rgb"])]
    assert_same(other.encode(inputs), encoder.encode(inputs))
    assert other.provenance.weights_sha256 == hash_files([bin_folder / "pytorch_model.bin"])
    assert other.provenance.preprocessing_sha256 == encoder.provenance.preprocessing_sha256


def test_old_weights_without_batch_counters(copy: Path, encoder: huggingface.HuggingFaceEncoder) -> None:
    state = load_file(copy / "model.safetensors")
    replace_weights(copy, {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
    old = huggingface.load(RESNET50, LoadOptions(weights=copy, device="cpu"))
    inputs = [encoder.preprocess(PICTURES["rgb"])]
    assert_same(old.encode(inputs), encoder.encode(inputs))


def test_provenance(folder: Path, encoder: huggingface.HuggingFaceEncoder) -> None:
    provenance = encoder.provenance
    assert encoder.spec == RESNET50
    assert provenance.weights_sha256 == hash_files([folder / "model.safetensors"])
    assert provenance.libraries["torch"] == torch.__version__
    assert provenance.libraries["transformers"] == transformers.__version__
    assert set(provenance.libraries) == {"torch", "transformers", "pillow", "numpy"}
    assert (provenance.dtype, provenance.device) == ("float32", "cpu")
    json.dumps(provenance.libraries)


def test_provenance_follows_weights_and_preprocessing(copy: Path, encoder: huggingface.HuggingFaceEncoder) -> None:
    state = load_file(copy / "model.safetensors")
    state["classifier.1.bias"] = state["classifier.1.bias"] + 1
    replace_weights(copy, state)
    (copy / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, "resample": 2}))

    other = huggingface.load(RESNET50, LoadOptions(weights=copy, device="cpu"))

    assert other.provenance.weights_sha256 != encoder.provenance.weights_sha256
    assert other.provenance.preprocessing_sha256 != encoder.provenance.preprocessing_sha256
    inputs = [encoder.preprocess(PICTURES["rgb"])]
    np.testing.assert_allclose(other.encode(inputs), encoder.encode(inputs) + 1, atol=1e-3)


def test_half_precision_weights_run_in_float32(copy: Path, encoder: huggingface.HuggingFaceEncoder) -> None:
    state = load_file(copy / "model.safetensors")
    replace_weights(copy, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    values = huggingface.load(RESNET50, LoadOptions(weights=copy)).encode([encoder.preprocess(PICTURES["rgb"])])
    assert values.dtype == np.float32
    assert cosine(values[0], encoder.encode([encoder.preprocess(PICTURES["rgb"])])[0]) > 0.999


def test_every_record_of_the_family_can_be_run() -> None:
    for spec in ENCODERS.values():
        if spec.family == "huggingface":
            assert spec.name in huggingface.ARCHITECTURES
            assert spec.weights
            assert spec.revision


def refused(weights: Path | None, device: str = "cpu") -> EncoderError:
    with pytest.raises(EncoderError) as caught:
        load_encoder("resnet50", LoadOptions(weights=weights, device=device))
    return caught.value


def assert_mendable(error: EncoderError) -> None:
    assert error.message.endswith(".")
    assert "\n" not in str(error)
    assert error.hint
    assert "hf download microsoft/resnet-50" in error.hint
    assert "--weights DIR" in error.hint


def test_folder_missing(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} does not exist" in error.message
    assert_mendable(error)


def test_file_instead_of_folder(folder: Path) -> None:
    error = refused(folder / "model.safetensors")
    assert "is a file, not a folder" in error.message
    assert_mendable(error)


@pytest.mark.parametrize("name", FILES)
def test_file_missing(name: str, copy: Path) -> None:
    (copy / name).unlink()
    error = refused(copy)
    assert name in error.message
    assert str(copy) in error.message
    assert_mendable(error)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "lfs pointer"]
)
def test_file_damaged(name: str, content: bytes, copy: Path) -> None:
    (copy / name).unlink()
    (copy / name).write_bytes(content)
    error = refused(copy)
    assert str(copy / name) in error.message
    assert_mendable(error)


def test_weights_cut_short(folder: Path, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("rb") as whole:
        (copy / "model.safetensors").write_bytes(whole.read(1_000_000))
    error = refused(copy)
    assert str(copy / "model.safetensors") in error.message
    assert_mendable(error)


class Payload:
    """A pickle that runs a command when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def test_pickled_code_is_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"classifier.1.bias": Payload(tmp_path / "executed")}, copy / "pytorch_model.bin")
    error = refused(copy)
    assert str(copy / "pytorch_model.bin") in error.message
    assert_mendable(error)
    assert not (tmp_path / "executed").exists()


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("name", FILES[:2])
def test_code_beside_the_weights_is_not_run(name: str, copy: Path, tmp_path: Path) -> None:
    """``auto_map`` would make transformers import Python files of the folder."""
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    settings = json.loads((copy / name).read_text())
    settings["auto_map"] = {"AutoConfig": "evil.Config", "AutoImageProcessor": "evil.Processor"}
    (copy / name).write_text(json.dumps(settings))
    load_encoder("resnet50", LoadOptions(weights=copy, device="cpu"))
    assert not (tmp_path / "executed").exists()


def test_other_architecture(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    error = refused(copy)
    assert "model_type is vit, not resnet" in error.message
    assert_mendable(error)


def test_sister_model(tmp_path: Path) -> None:
    """ResNet-18 has 1000 logits too and would load without a word."""
    small = save_model(tmp_path, layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    error = refused(small)
    assert "depths is [2, 2, 2, 2], not [3, 4, 6, 3]" in error.message
    assert_mendable(error)


def test_wrong_number_of_logits(tmp_path: Path) -> None:
    error = refused(save_model(tmp_path, num_labels=14))
    assert "14 values" in error.message
    assert "1000" in error.message
    assert_mendable(error)


@pytest.mark.parametrize("lost", ["classifier.1.weight", "resnet.embedder.embedder.normalization.running_mean"])
def test_weights_incomplete(lost: str, copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    del state[lost]
    replace_weights(copy, state)
    error = refused(copy)
    assert lost in error.message
    assert "lacks 1 parameter" in error.message
    assert_mendable(error)


def test_weights_of_another_shape(copy: Path, tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", num_labels=14)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to(wide / "model.safetensors")
    error = refused(copy)
    assert str(copy / "model.safetensors") in error.message
    assert_mendable(error)


def test_unknown_device(folder: Path) -> None:
    error = refused(folder, device="tpu")
    assert "'tpu'" in error.message
    assert error.hint


def test_cuda_without_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refused(folder, device="cuda")
    assert "GPU" in error.message
    assert error.hint
    assert "cpu" in error.hint


@pytest.mark.usefixtures("no_trial")
def test_auto_device_without_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_encoder("resnet50", LoadOptions(weights=folder)).provenance.device == "cpu"


def fill_cache(cache: Path, folder: Path, names: tuple[str, ...]) -> None:
    model = cache / "models--microsoft--resnet-50"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    for name in names:
        (snapshot / name).symlink_to(folder / name)


@pytest.mark.usefixtures("no_hub", "no_trial")
@pytest.mark.parametrize("names", [FILES, (*FILES[:2], "pytorch_model.bin")], ids=["safetensors", "bin"])
def test_cache_is_used_without_the_hub(
    names: tuple[str, ...], folder: Path, bin_folder: Path, empty_cache: Path
) -> None:
    source = bin_folder if "pytorch_model.bin" in names else folder
    fill_cache(empty_cache, source, names)
    found = load_encoder("resnet50", LoadOptions(device="cpu"))
    assert found.provenance.weights_sha256 == hash_files([source / names[2]])


@pytest.mark.usefixtures("no_hub")
def test_hub_refuses_connection(empty_cache: Path, capfd: pytest.CaptureFixture) -> None:
    start = time.monotonic()
    error = refused(None)
    assert time.monotonic() - start < 3
    assert "cannot be reached" in error.message
    assert str(empty_cache) in error.message
    assert_mendable(error)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_hub")
def test_incomplete_cache_is_not_enough(folder: Path, empty_cache: Path) -> None:
    fill_cache(empty_cache, folder, FILES[:2])
    error = refused(None)
    assert "not complete in the cache" in error.message
    assert_mendable(error)


def test_hub_does_not_answer(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that swallows packets, and not one that refuses them."""
    assert huggingface.HUB_TIMEOUT <= 5
    monkeypatch.setattr(huggingface, "HUB_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        error = refused(None)
    assert time.monotonic() - start < 5
    assert_mendable(error)


OFFLINE = """
import time
from cbirdb.encoders.base import LoadOptions
from cbirdb.encoders.registry import load_encoder
from cbirdb.errors import EncoderError
import cbirdb.encoders.huggingface
start = time.monotonic()
try:
    load_encoder("resnet50", LoadOptions())
except EncoderError as error:
    print(round(time.monotonic() - start, 3), error)
"""


def test_offline_variable_without_weights_fails_fast(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    seconds, message = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 2
    assert "HF_HUB_OFFLINE" in message
    assert "microsoft/resnet-50" in message
    assert "--weights DIR" in message


def test_loading_says_nothing(folder: Path) -> None:
    """In a process of its own: the libraries warn only once per process."""
    code = (
        "from pathlib import Path; import sys; from cbirdb.encoders.registry import load_encoder;"
        "from cbirdb.encoders.base import LoadOptions; load_encoder('resnet50', LoadOptions(Path(sys.argv[1]), 'cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("no_trial")
def test_loading_leaves_the_libraries_settings(folder: Path) -> None:
    transformers.logging.set_verbosity_info()
    try:
        load_encoder("resnet50", LoadOptions(weights=folder, device="cpu"))
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
        assert not huggingface_hub.utils.are_progress_bars_disabled()
    finally:
        transformers.logging.set_verbosity_warning()


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for. ``files`` are those of the branch 'main', at ``COMMIT``."""

    files: ClassVar[dict[str, Path]] = {}

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        listing = [
            {"type": "file", "path": n, "size": p.stat().st_size, "oid": "a" * 40} for n, p in self.files.items()
        ]
        if path == "/api/models/microsoft/resnet-50/revision/main" and self.files:
            siblings = [{"rfilename": name} for name in self.files]
            self._send(json.dumps({"id": "microsoft/resnet-50", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/microsoft/resnet-50/tree/{COMMIT}":
            self._send(json.dumps(listing).encode())
        elif path.startswith(f"/microsoft/resnet-50/resolve/{COMMIT}/") and path.split("/")[-1] in self.files:
            file = self.files[path.split("/")[-1]]
            self._send(file.read_bytes(), {"ETag": f'"{hash_files([file])}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def _send(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(Hub, "files", {})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("offered", [["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]])
def test_download(
    offered: list[str], hub: type[Hub], bin_folder: Path, empty_cache: Path, capfd: pytest.CaptureFixture
) -> None:
    """Only what is read is fetched, and the folder that it lands in is that of the commit."""
    sources = {"model.safetensors": bin_folder.parent / "resnet-50", "pytorch_model.bin": bin_folder}
    hub.files = {name: bin_folder / name for name in (*FILES[:2], "pytorch_model.bin")}
    hub.files |= {name: sources[name] / name for name in offered}
    hub.files["tf_model.h5"] = bin_folder / "config.json"

    found = load_encoder("resnet50", LoadOptions(device="cpu"))

    assert found.provenance.weights_sha256 == hash_files([hub.files[offered[0]]])
    snapshot = empty_cache / "models--microsoft--resnet-50" / "snapshots" / COMMIT
    assert {path.name for path in snapshot.iterdir()} == {*FILES[:2], offered[0]}
    assert capfd.readouterr() == ("", "")


def test_hub_does_not_know_the_model(hub: type[Hub]) -> None:
    error = refused(None)
    assert "status 404" in error.message
    assert_mendable(error)


def test_hub_has_no_weights(hub: type[Hub], folder: Path) -> None:
    hub.files = {name: folder / name for name in FILES[:2]}
    error = refused(None)
    assert "has no weights" in error.message
    assert_mendable(error)
