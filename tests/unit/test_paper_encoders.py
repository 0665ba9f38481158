"""Compare each model, at full size, with direct use of transformers, open_clip and timm on the same files.

``test_huggingface_encoder`` tests ResNet-50. SAM takes about ten seconds per picture on a CPU, so pictures are few.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

import cbirdb.encoders.torchvision_operators  # noqa: E402, F401 (before the libraries that import torchvision)

# isort: split
import open_clip  # noqa: E402
import timm  # noqa: E402
import timm.data  # noqa: E402
import timm.models.vision_transformer_sam  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.image_processing_backends import TorchvisionBackend  # noqa: E402

from cbirdb.encoders.base import Encoder  # noqa: E402
from cbirdb.encoders.golden import golden_picture  # noqa: E402
from cbirdb.encoders.huggingface import ImageProcessor  # noqa: E402
from cbirdb.encoders.registry import load_encoder  # noqa: E402
from cbirdb.encoders.shipped import SHIPPED  # noqa: E402
from tests.support.encoder_checks import PICTURES, assert_same, cosine, embed, largest_cosine, on_cpu  # noqa: E402
from tests.support.fake_hub import no_network  # noqa: E402
from tests.support.random_weights import NINE, WRITERS, write_weights  # noqa: E402

Pixels = NDArray[np.float32]
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALVES = ([0.5] * 3, [0.5] * 3)


@dataclass(frozen=True)
class Upstream:
    """A model as its library's own users run it."""

    prepare: Callable[[Image.Image], Any]
    """One RGB picture -> input without the batch axis."""
    embed: Callable[[Any], Any]
    """A batch of inputs -> embeddings."""


def processor_of(processor: Any) -> Callable[[Image.Image], Any]:
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


def of_transformers(model: str, pool: Callable[[Any, Any], Any]) -> Callable[[Path], Upstream]:
    def make(folder: Path) -> Upstream:
        loaded = getattr(transformers, model).from_pretrained(folder).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        return Upstream(processor_of(processor), lambda pixels: pool(loaded, pixels))

    return make


def cls(model: Any, pixels: Any) -> Any:
    return model(pixel_values=pixels).last_hidden_state[:, 0]


def dinov2(folder: Path) -> Upstream:
    """Interpolate the position embeddings by a scale factor, as the original code does and the library does not."""

    def interpolate(embeddings: Any, height: int, width: int) -> Any:
        class_token, patches = loaded.embeddings.position_embeddings.split([1, 37 * 37], dim=1)
        scales = ((height // 14 + 0.1) / 37, (width // 14 + 0.1) / 37)
        grid = patches.reshape(1, 37, 37, 768).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, scale_factor=scales, mode="bicubic", align_corners=False)
        return torch.cat([class_token, grid.permute(0, 2, 3, 1).reshape(1, -1, 768)], dim=1)

    loaded = transformers.Dinov2Model.from_pretrained(folder).eval()
    loaded.embeddings.interpolate_pos_encoding = interpolate
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return Upstream(processor_of(processor), lambda pixels: cls(loaded, pixels))


def mae(folder: Path) -> Upstream:
    """Load the encoder's tensors into a ViT, which has no code for masking."""
    state = {
        name.removeprefix("vit."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith("vit.") and "mask_token" not in name
    }
    model = transformers.ViTModel.from_pretrained(
        None, config=transformers.ViTConfig(), state_dict=state, add_pooling_layer=False
    ).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return Upstream(processor_of(processor), lambda pixels: cls(model, pixels))


def medsam(folder: Path) -> Upstream:
    """Load a checkpoint of the original SAM code into timm's model."""
    # SAM's own code normalises with 1e-6; timm takes PyTorch's 1e-5.
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    model = timm.create_model("samvit_base_patch16", num_classes=0, norm_layer=norm).eval()
    state = torch.load(folder / "medsam_vit_b.pth", weights_only=True)
    model.load_state_dict(timm.models.vision_transformer_sam.checkpoint_filter_fn(state, model), strict=True)

    def embed_grid(pixels: Any) -> Any:
        grid = model.forward_features(pixels)
        assert grid.shape[1:] == (256, 64, 64)
        return grid.mean(dim=(2, 3))

    return Upstream(processor_of(transformers.SamImageProcessorPil()), embed_grid)


def medclip(folder: Path) -> Upstream:
    """Load timm's Swin-T, which names its tensors as the authors of Swin do."""
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).eval()
    model.load_state_dict(swin_of_timm(state), strict=True)
    projection = state["vision_model.projection_head.weight"]
    return Upstream(medclip_input, lambda pixels: model(pixels) @ projection.T)


def swin_of_timm(state: dict[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, tensor in sorted(state.items()):
        if not name.startswith("vision_model.model.") or name.endswith("relative_position_index"):
            continue
        new = name.removeprefix("vision_model.model.")
        for old, timms in (
            ("encoder.", ""), ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("embeddings.norm", "patch_embed.norm"), ("attention.self.relative", "attn.relative"),
            ("attention.output.dense", "attn.proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("layernorm.", "norm."),
        ):  # fmt: skip
            new = new.replace(old, timms)
        if ".downsample." in new:  # timm has it at the beginning of the next stage
            stage = int(new.split(".")[1])
            new = new.replace(f"layers.{stage}.", f"layers.{stage + 1}.", 1)
        for part in ("query", "key", "value"):
            if f"attention.self.{part}" in name:
                whole = [state[name.replace(f"self.{part}", f"self.{other}")] for other in ("query", "key", "value")]
                new, tensor = new.replace(f"attention.self.{part}", "attn.qkv"), torch.cat(whole)  # noqa: PLW2901
        renamed[new] = tensor
    return renamed


def medclip_input(image: Image.Image) -> Any:
    """Preprocess by hand as the authors' code does."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(224 * width / short), int(224 * height / short)), BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    values = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float64) / 255
    return torch.from_numpy(((values - 0.5862785803043838) / 0.27950088968644304).astype(np.float32).transpose(2, 0, 1))


def clip(folder: Path) -> Upstream:
    """Create the architecture by its name, which includes QuickGELU."""
    model, _, transform = open_clip.create_model_and_transforms("ViT-L-14-quickgelu")
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"), strict=True)
    return Upstream(transform, model.eval().encode_image)


def biomedclip(folder: Path) -> Upstream:
    """Load the folder, with the text encoder's files where open_clip finds them without a network."""
    other = folder.parent / "biomedclip-reference"
    other.mkdir()
    (other / "open_clip_pytorch_model.bin").symlink_to(folder / "open_clip_pytorch_model.bin")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {
        "hf_model_name": str(folder / "text"),
        "hf_tokenizer_name": str(folder / "text"),
    }
    (other / "open_clip_config.json").write_text(json.dumps(config))
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{other}")
    shutil.rmtree(other)
    return Upstream(transform, model.eval().encode_image)


def eva02(folder: Path) -> Upstream:
    """Load the whole classifier and return the input of its last layer."""
    model = timm.create_model("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k").eval()
    model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True), strict=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return Upstream(transform, lambda pixels: model.forward_head(model.forward_features(pixels), pre_logits=True))


UPSTREAM: dict[str, Callable[[Path], Upstream]] = {
    "medclip-vit": medclip,
    "vit-b16": of_transformers("ViTModel", cls),
    "sam-vit-b": of_transformers("SamModel", lambda model, pixels: model.get_image_embeddings(pixels).mean((2, 3))),
    "medsam-vit-b": medsam,
    "clip-vit-l14": clip,
    "biomedclip": biomedclip,
    "mae-vit-b": mae,
    "dinov2-vit-b14": dinov2,
    "rad-dino": of_transformers("Dinov2Model", cls),
    "dinov3-vit-b16": of_transformers("DINOv3ViTModel", cls),
    "eva02-vit-b14": eva02,
}
FAST = ("medclip-vit",)
SLOWEST = ("sam-vit-b", "medsam-vit-b")


@dataclass
class Trial:
    """One encoder, its upstream model, and the embeddings of both for some pictures."""

    name: str
    folder: Path

    @property
    def pictures(self) -> list[Image.Image]:
        return [golden_picture(), PICTURES["odd"], *([] if self.name in SLOWEST else [PICTURES["grey"]])]

    @cached_property
    def encoder(self) -> Encoder:
        with no_network() as asked:
            encoder = load_encoder(SHIPPED[self.name], on_cpu(self.folder.parent))
        assert asked == [], "loading asked the network"
        return encoder

    @cached_property
    def upstream(self) -> Upstream:
        return UPSTREAM[self.name](self.folder)

    @cached_property
    def found(self) -> Pixels:
        # Loading has computed the first picture's embedding.
        return np.concatenate([self.encoder.golden[None], embed(self.encoder, *self.pictures[1:])])

    @cached_property
    def expected(self) -> Pixels:
        inputs = torch.stack([self.upstream.prepare(image.convert("RGB")) for image in self.pictures])
        with torch.inference_mode():
            # One by one: the attention of SAM takes gigabytes.
            return np.concatenate([self.upstream.embed(pixels[None]).numpy() for pixels in inputs])


def one_of(name: str) -> Any:
    """Run each encoder's tests on one worker: they share files of up to 1.7 GB."""
    marks = [pytest.mark.xdist_group(name), *([] if name in FAST else [pytest.mark.slow])]
    return pytest.param(name, marks=marks)


@pytest.fixture(scope="module")
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("weights") / request.param
    yield Trial(request.param, write_weights(request.param, folder))
    shutil.rmtree(folder.parent)


def each(*names: str) -> Any:
    return pytest.mark.parametrize("trial", [one_of(name) for name in names], indirect=True)


def test_all_nine_encoders_of_the_paper_are_tested() -> None:
    assert {spec.name for spec in SHIPPED.values() if spec.in_paper} == set(NINE) == {"resnet50", *UPSTREAM} & set(NINE)
    assert set(UPSTREAM) < set(WRITERS)


@each(*UPSTREAM)
def test_embedding_equals_that_of_the_upstream_model(trial: Trial) -> None:
    assert trial.found.shape == (len(trial.pictures), SHIPPED[trial.name].dim)
    assert_same(trial.found, trial.expected, atol=1e-4)
    assert largest_cosine(trial.found) < 0.999, "the comparison would hold for any two pictures"


@each(*UPSTREAM)
def test_input_equals_that_of_the_upstream_processor(trial: Trial) -> None:
    for name, image in PICTURES.items():
        found = trial.encoder.preprocess(image)
        assert found.shape == trial.encoder.input_shape, name
        assert found.dtype == np.float32
        expected = trial.upstream.prepare(image.convert("RGB")).numpy()
        if trial.name == "medclip-vit":  # by hand, in double precision
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)
        else:
            assert np.array_equal(found, expected), name
        if image.mode == "L":
            assert np.array_equal(found, trial.encoder.preprocess(image.convert("RGB")))


@each(*UPSTREAM)
def test_preprocessing_gives_the_same_input_after_pickling(trial: Trial) -> None:
    packed = pickle.dumps(trial.encoder.preprocess)
    assert len(packed) < 100_000, "it takes the model along"
    assert np.array_equal(pickle.loads(packed)(PICTURES["odd"]), trial.encoder.preprocess(PICTURES["odd"]))


def shortest(image: Image.Image, side: int) -> tuple[int, int]:
    width, height = image.size
    return int(side * width / min(width, height)), int(side * height / min(width, height))


def squashed(side: int, resample: Image.Resampling, mean: list[float], deviation: list[float]) -> Callable[..., Any]:
    return lambda image: normalised(image.resize((side, side), resample), mean, deviation)


def cropped(
    side: int, crop: int, mean: list[float], deviation: list[float], centre: Callable[[float], int] = int
) -> Callable[..., Any]:
    def prepare(image: Image.Image) -> Any:
        image = image.resize(shortest(image, side), BICUBIC)
        left, top = centre((image.width - crop) / 2), centre((image.height - crop) / 2)
        return normalised(image.crop((left, top, left + crop, top + crop)), mean, deviation)

    return prepare


def padded(image: Image.Image) -> Any:
    """Prepare as SAM does: longest side 1024, zeros below or on the right."""
    scale = 1024 / max(image.size)
    size = (int(image.width * scale + 0.5), int(image.height * scale + 0.5))
    whole = np.zeros((3, 1024, 1024))
    whole[:, : size[1], : size[0]] = normalised(image.resize(size, BILINEAR), *IMAGENET)
    return whole


def normalised(image: Image.Image, mean: list[float], deviation: list[float]) -> Any:
    return ((np.asarray(image) / 255 - mean) / deviation).transpose(2, 0, 1)


BY_HAND: dict[str, Callable[[Image.Image], Any]] = {
    "vit-b16": squashed(224, BILINEAR, *HALVES),
    "sam-vit-b": padded,
    "medsam-vit-b": padded,
    "clip-vit-l14": cropped(224, 224, *CLIP, centre=round),
    "biomedclip": cropped(224, 224, *CLIP, centre=round),
    "mae-vit-b": squashed(224, BILINEAR, *IMAGENET),
    "dinov2-vit-b14": cropped(256, 224, *IMAGENET),
    "rad-dino": cropped(518, 518, [0.5307] * 3, [0.2583] * 3),
    "eva02-vit-b14": squashed(448, BICUBIC, *CLIP),
}


@each(*BY_HAND)
def test_preprocessing_equals_a_calculation_with_pillow_and_numpy(trial: Trial) -> None:
    for name, image in PICTURES.items():
        expected = BY_HAND[trial.name](image.convert("RGB"))
        np.testing.assert_allclose(trial.encoder.preprocess(image), expected, rtol=0, atol=1e-5, err_msg=name)


@each(*UPSTREAM)
def test_provenance_records_weights_preprocessing_libraries_dtype_and_device(trial: Trial) -> None:
    provenance = trial.encoder.provenance
    assert len(provenance.weights_sha256 or "") == len(provenance.preprocessing_sha256) == 64
    assert {"torch", "pillow", "numpy"} < set(provenance.libraries)
    if isinstance(trial.encoder.preprocess, ImageProcessor):
        processor = trial.encoder.preprocess.processor
        used = {"transformers", *({"torchvision"} if isinstance(processor, TorchvisionBackend) else ())}
    else:
        used = {"timm", "torchvision"}
    assert used <= set(provenance.libraries), "pixels depend on a library whose version is not recorded"
    assert (provenance.dtype, provenance.device) == ("float32", "cpu")


@each("mae-vit-b")
def test_mae_embedding_is_identical_in_every_call_and_every_load(trial: Trial) -> None:
    """The library masks 75 % of the patches and draws them anew in each call."""
    image = PICTURES["odd"]
    first = embed(trial.encoder, image)
    torch.manual_seed(1)
    assert np.array_equal(embed(trial.encoder, image), first), "two calls differ"
    other = load_encoder(SHIPPED["mae-vit-b"], on_cpu(trial.folder))
    assert np.array_equal(embed(other, image), first), "two loads differ"

    masked = transformers.ViTMAEModel.from_pretrained(trial.folder).eval()
    pixels = torch.from_numpy(trial.encoder.preprocess(image)[None])
    with torch.inference_mode():
        drawn = [cls(masked, pixels)[0].numpy() for _ in range(2)]
    assert cosine(drawn[0], drawn[1]) < 0.9999, "the library no longer masks by itself: this test proves nothing"
    assert cosine(first[0], drawn[0]) < 0.9999


@each("dinov2-vit-b14")
def test_library_alone_would_interpolate_dinov2_in_another_way(trial: Trial) -> None:
    model = transformers.Dinov2Model.from_pretrained(trial.folder).eval()
    with torch.inference_mode():
        plain = cls(model, torch.from_numpy(trial.encoder.preprocess(trial.pictures[1])[None])).numpy()
    assert cosine(plain[0], trial.found[1]) < 0.999999, "the comparison would hold for the library's way too"
    assert cosine(trial.expected[1], trial.found[1]) > 0.9999999


@each("sam-vit-b")
@pytest.mark.parametrize("left_out", ["prompt_encoder.shared_embedding", "shared_image_embedding"])
def test_sam_loads_from_a_file_with_its_shared_tensor_under_either_name(
    trial: Trial, left_out: str, tmp_path: Path
) -> None:
    """Safetensors hold a shared tensor once, and either name may be the one that is kept."""
    state = load_file(trial.folder / "model.safetensors")
    del state[f"{left_out}.positional_embedding"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(trial.folder / name, tmp_path / name)
    found = load_encoder(SHIPPED["sam-vit-b"], on_cpu(tmp_path)).golden
    assert_same(found[None], trial.found[:1])


@each("clip-vit-l14")
def test_clip_is_loaded_with_quick_gelu(trial: Trial) -> None:
    """A file of weights does not say whether the model was trained with GELU or QuickGELU, and both run."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{trial.folder}")
    with torch.inference_mode():
        plain = model.encode_image(transform(trial.pictures[1])[None]).numpy()
    assert cosine(plain[0], trial.found[1]) < 0.99999, "the comparison would hold for plain GELU too"
    assert cosine(trial.expected[1], trial.found[1]) > 0.999999


@each("biomedclip")
def test_biomedclip_keeps_no_text_encoder_in_memory(trial: Trial) -> None:
    tensors = sum(parameter.numel() for parameter in trial.encoder._forward.parameters())
    assert tensors < 90e6, "the text side has another 110 million"


@pytest.mark.slow
@each("medclip-vit", "vit-b16", "biomedclip")
@pytest.mark.parametrize(("dtype", "smallest"), [("bfloat16", 0.99), ("float16", 0.9995)])
def test_half_precision_gives_close_embeddings_and_is_recorded(trial: Trial, dtype: str, smallest: float) -> None:
    encoder = load_encoder(SHIPPED[trial.name], on_cpu(trial.folder, dtype=dtype))
    assert encoder.provenance.dtype == dtype
    found = embed(encoder, *trial.pictures)
    assert found.dtype == np.float32
    assert not np.array_equal(found, trial.found), "it was computed in float32"
    assert min(cosine(a, b) for a, b in zip(found, trial.found, strict=True)) > smallest


OFFLINE = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from cbirdb.encoders.base import LoadOptions
from cbirdb.encoders.huggingface import ImageProcessor  # noqa: E402
from cbirdb.encoders.registry import load_encoder
from cbirdb.encoders.shipped import SHIPPED
for name in sys.argv[2:]:
    encoder = load_encoder(SHIPPED[name], LoadOptions(weights=Path(sys.argv[1]), device="cpu", allow_other_weights=True))
    print(name, encoder.golden.shape[0], float(np.linalg.norm(encoder.golden)) > 0)
"""


@pytest.mark.slow
def test_encoders_load_offline_from_one_folder_of_weights(tmp_path: Path) -> None:
    names = ("resnet50", "medclip-vit", "biomedclip")
    for name in names:
        write_weights(name, tmp_path / "weights" / name)
    # Nothing listens on port 9, so a request fails.
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "empty"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-c", OFFLINE, tmp_path / "weights", *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    shutil.rmtree(tmp_path / "weights")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:-1] == [f"{name} {SHIPPED[name].dim} True" for name in names]
    assert not (tmp_path / "empty").exists(), "something was put into the hub's cache"
