"""Write small models under the names of large ones, for tests of where files lie and what they hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)

# isort: split
import open_clip
import timm
import torch
import transformers

from cbirdb.db.known_encoders import make_record
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from tests.support.random_weights import PREPROCESSORS, randomise

# A small model under the name and at the commit of a shipped record: what it is about here is where files lie.
SPEC = replace(SHIPPED["resnet50"], dim=None, files={}, options={"model": "ResNetModel", "pooling": "pooler"})
COMMIT = str(SPEC.revision)
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def write_small_resnet(folder: Path, *, number: int = 0) -> Path:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    model = randomise(transformers.ResNetModel(config))
    model.embedder.embedder.convolution.weight.data += number
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS["resnet50"]))
    return folder


def write_small_dinov2(folder: Path, *, pixels: int = 42) -> Path:
    """Write a DINOv2 for 98 x 98 pixels (7 x 7 patches) that sees pictures of another size."""
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 98, "patch_size": 14}
    randomise(transformers.Dinov2Model(transformers.Dinov2Config(**settings))).save_pretrained(folder)
    sizes = {"crop_size": {"height": pixels, "width": pixels}, "size": {"shortest_edge": pixels}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSORS["dinov2-vit-b14"], **sizes}))
    return folder


TEXT = "some/text-model"
SMALL_CLIP = {
    "embed_dim": 16, "vision_cfg": {"layers": 1, "width": 64, "patch_size": 32, "image_size": 64},
    "text_cfg": {"hf_model_name": TEXT, "hf_tokenizer_name": TEXT, "hf_proj_type": "mlp", "context_length": 8,
                 "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_pretrained": False},
}  # fmt: skip


def write_small_open_clip(folder: Path) -> Path:
    """Write a model whose text encoder comes from a second repository, in ``text``."""
    settings = {
        "vocab_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 32,
    }
    transformers.BertConfig(**settings, architectures=["BertForMaskedLM"]).save_pretrained(folder / "text")
    text = {**SMALL_CLIP["text_cfg"], "hf_model_name": str(folder / "text"), "hf_tokenizer_name": str(folder / "text")}
    model = randomise(open_clip.CustomTextCLIP(**{**json.loads(json.dumps(SMALL_CLIP)), "text_cfg": text}))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL_CLIP, "preprocess_cfg": {}}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def write_small_timm(folder: Path) -> Path:
    timm.models.save_for_hf(randomise(timm.create_model("test_vit")), folder)
    return folder


def record(name: str, loader: str, weights: object, **settings: object) -> EncoderSpec:
    """Make a record as ``cbirdb encoders add`` does."""
    nothing = {"revision": None, "dim": None, "pooling": None, "quick_gelu": False}
    about = {"licence": "unknown", "training_scheme": "unknown", "citation": ""}
    return make_record(name, loader=loader, weights=str(weights), **{**nothing, **about, **settings})


WRITERS = {"hf": write_small_resnet, "open_clip": write_small_open_clip, "timm": write_small_timm}
