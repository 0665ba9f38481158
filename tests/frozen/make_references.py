"""Compute the frozen references with the libraries that the paper's authors pinned, each encoder run as their code runs it.

See README.md. This file runs in an environment of its own, without cbirdb.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.checkpoints import NINE, write_checkpoint

FOLDER = Path(__file__).parent
PICTURE = FOLDER / "picture.png"
REFERENCES = FOLDER / "references.json"
LIBRARIES = (
    "torch", "torchvision", "transformers", "open_clip_torch", "timm", "MedCLIP", "segment-anything", "safetensors",
    "pillow", "numpy",
)  # fmt: skip
VALUES = 48

Authors = tuple[Callable[[Image.Image], Any], Callable[[Any], Any]]
"""How the authors' code prepares an RGB picture, and how it gets embeddings from a batch."""


def of_transformers(model: str, embed: Callable[[Any, Any], Any], processor: str = "AutoImageProcessor") -> Any:
    import transformers

    def make(folder: Path) -> Authors:
        loaded = getattr(transformers, model).from_pretrained(folder).eval()
        prepare = getattr(transformers, processor).from_pretrained(folder)
        return (
            lambda image: prepare(image, return_tensors="pt")["pixel_values"][0],
            lambda pixels: embed(loaded, pixels),
        )

    return make


def cls(model: Any, pixels: Any) -> Any:
    return model(pixels).last_hidden_state[:, 0, :]


def unmasked(model: Any, pixels: Any) -> Any:
    """Mask nothing: the one departure from the authors' code, whose vectors do not repeat."""
    model.config.mask_ratio = 0.0
    return model(pixels, noise=torch.arange(196.0)[None]).last_hidden_state[:, 0, :]


def medsam(folder: Path) -> Authors:
    from segment_anything import sam_model_registry
    from transformers import SamImageProcessor

    model = sam_model_registry["vit_b"](checkpoint=folder / "medsam_vit_b.pth").eval()
    prepare = SamImageProcessor()
    return (
        lambda image: prepare(image, return_tensors="pt")["pixel_values"][0],
        lambda pixels: model.image_encoder(pixels).mean(axis=[2, 3]),
    )


def medclip(folder: Path) -> Authors:
    """Build both towers from their configurations instead of the hub's files, all of which the checkpoint replaces."""
    import transformers
    from medclip import MedCLIPModel, MedCLIPVisionModelViT, constants, modeling_medclip

    configs = {
        constants.VIT_TYPE: transformers.SwinConfig(),
        constants.BERT_TYPE: transformers.BertConfig(vocab_size=28996),
    }

    class Build:
        @staticmethod
        def from_pretrained(name: str, **_: Any) -> Any:
            return transformers.AutoModel.from_config(configs[name])

    modeling_medclip.AutoModel = Build
    modeling_medclip.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda _: None)
    model = MedCLIPModel(vision_cls=MedCLIPVisionModelViT).eval()
    # The file's stray key makes the package's own, strict loading fail.
    found = model.load_state_dict(torch.load(folder / "pytorch_model.bin"), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], ["text_model.model.embeddings.position_ids"])
    prepare = transformers.CLIPFeatureExtractor(
        do_resize=True, size=224, resample=Image.BICUBIC, do_center_crop=True, crop_size=224, do_normalize=True,
        image_mean=constants.IMG_MEAN, image_std=constants.IMG_STD, do_convert_rgb=False, do_pad_square=True,
    )  # fmt: skip
    # The package's encode_image also divides by the norm, which the reference is to hold.
    return lambda image: prepare(image, return_tensors="pt")["pixel_values"][0], model.vision_model


def clip(folder: Path) -> Authors:
    import open_clip
    from safetensors.torch import load_file

    torch.save(load_file(folder / "open_clip_model.safetensors"), folder / "openai.pt")
    open_clip.openai.download_pretrained_from_url = lambda *_, **__: str(folder / "openai.pt")
    model, _, prepare = open_clip.create_model_and_transforms("ViT-L-14", pretrained="openai")
    return prepare, model.eval().encode_image


def biomedclip(folder: Path) -> Authors:
    import open_clip

    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= dict.fromkeys(("hf_model_name", "hf_tokenizer_name"), str(folder / "text"))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    open_clip.factory.download_pretrained_from_hf = (
        lambda _, filename="open_clip_pytorch_model.bin", **__: str(folder / filename)
    )  # fmt: skip
    model, prepare = open_clip.create_model_from_pretrained(
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    )
    return prepare, model.eval().encode_image


AUTHORS: dict[str, Callable[[Path], Authors]] = {
    "resnet50": of_transformers("ResNetForImageClassification", lambda model, pixels: model(pixels).logits),
    "vit-b16": of_transformers("ViTModel", cls),
    "sam-vit-b": of_transformers(
        "SamModel", lambda model, pixels: model.get_image_embeddings(pixels).mean(axis=[2, 3]), "SamImageProcessor"
    ),
    "medsam-vit-b": medsam,
    "clip-vit-l14": clip,
    "medclip-vit": medclip,
    "biomedclip": biomedclip,
    "mae-vit-b": of_transformers("ViTMAEModel", unmasked),
    "dinov2-vit-b14": of_transformers("Dinov2Model", cls),
}


def sample(values: NDArray[np.float32]) -> list[float]:
    """Take numbers at equal distances, with all digits of float32."""
    flat = values.ravel()
    return [float(f"{value:.9g}") for value in flat[:: len(flat) // VALUES][:VALUES]]


def draw_picture() -> Image.Image:
    """Draw a grey half with a disc and bars, and a coloured half, 300 x 260."""
    y, x = np.mgrid[:260, :300]
    grey = 40 + x // 3 + y // 5 + np.where((x - 90) ** 2 + (y - 120) ** 2 < 60**2, 70, 0)
    grey = grey - np.where((y // 8) % 5 == 0, 30, 0)
    draws = np.random.RandomState(20240310).randint(0, 60, (13, 15, 3))
    blocks = np.where(x[..., None] > 150, draws[y // 20, x // 20], 0)
    return Image.fromarray(np.clip(grey[..., None] + blocks, 0, 255).astype(np.uint8))


def reference(encoder: str, image: Image.Image) -> dict[str, Any]:
    # Up to 1.7 GB, and twice that for CLIP: TMPDIR may name a folder in memory.
    folder = Path(tempfile.mkdtemp())
    try:
        write_checkpoint(encoder, folder)
        prepare, embed = AUTHORS[encoder](folder)
        pixels = prepare(image)
        with torch.inference_mode():
            embedding = embed(torch.as_tensor(pixels)[None])[0].numpy()
    finally:
        shutil.rmtree(folder)
    norm = float(np.linalg.norm(embedding.astype(np.float64)))
    return {
        "dim": len(embedding), "norm": float(f"{norm:.9g}"), "values": sample(embedding),
        "input_shape": list(pixels.shape), "input": sample(np.asarray(pixels)),
    }  # fmt: skip


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    wanted = sys.argv[1:] or NINE
    known = json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {"encoders": {}}
    if not PICTURE.exists():
        draw_picture().save(PICTURE, optimize=True)
    image = Image.open(PICTURE).convert("RGB")
    for encoder in wanted:
        known["encoders"][encoder] = reference(encoder, image)
        print(encoder, known["encoders"][encoder]["norm"], flush=True)
    known = {"libraries": {name: version(name) for name in LIBRARIES}, "encoders": known["encoders"]}
    text = json.dumps(known, indent=1)
    REFERENCES.write_text(text + "\n")


if __name__ == "__main__":
    main()
