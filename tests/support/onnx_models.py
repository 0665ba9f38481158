"""Write very small models of every family, export them, and change what an export says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)

# isort: split
import pytest
import torch
import transformers

from cbirdb.encoders import medclip, medsam
from cbirdb.encoders.base import Encoder
from cbirdb.encoders.onnx_export import export_encoder
from cbirdb.encoders.onnx_folder import MANIFEST, MODEL
from cbirdb.encoders.registry import load_encoder
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from tests.support.encoder_checks import on_cpu
from tests.support.random_weights import PREPROCESSORS, SIGLIP, randomise
from tests.support.small_weights import SPEC, record, write_small_open_clip, write_small_resnet, write_small_timm

LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SAM_VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    "output_channels": 8, "window_size": 2, "num_pos_feats": 4, "global_attn_indexes": [0],
}  # fmt: skip
SMALL_SAM = {
    **PREPROCESSORS["sam-vit-b"],
    "size": {"longest_edge": 64},
    "pad_size": {"height": 64, "width": 64},
}
SQUARE = {"height": 32, "width": 32}


def _save(folder: Path, model: Any, preprocessor: dict[str, Any]) -> Path:
    randomise(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def write_vit(folder: Path) -> Path:
    config = transformers.ViTConfig(**LAYERS, image_size=32, patch_size=8)
    return _save(folder, transformers.ViTModel(config), {**PREPROCESSORS["vit-b16"], "size": SQUARE})


def write_mae(folder: Path) -> Path:
    decoder = {f"decoder_{name}": value for name, value in LAYERS.items()}
    config = transformers.ViTMAEConfig(**LAYERS, **decoder, image_size=32, patch_size=8)
    return _save(folder, transformers.ViTMAEForPreTraining(config), {**PREPROCESSORS["mae-vit-b"], "size": SQUARE})


def write_dinov2(folder: Path) -> Path:
    """Write one whose positions are interpolated, as those of the published one."""
    config = transformers.Dinov2Config(**{k: v for k, v in LAYERS.items() if k != "intermediate_size"}, image_size=70)
    sizes = {"size": {"shortest_edge": 48}, "crop_size": {"height": 42, "width": 42}}
    return _save(folder, transformers.Dinov2Model(config), {**PREPROCESSORS["dinov2-vit-b14"], **sizes})


def write_sam(folder: Path) -> Path:
    config = transformers.SamConfig(
        vision_config=SAM_VISION,
        prompt_encoder_config={"hidden_size": 8, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1},
    )
    return _save(folder, transformers.SamModel(config), SMALL_SAM)


def write_siglip(folder: Path) -> Path:
    config = transformers.SiglipConfig(
        text_config={**LAYERS, "vocab_size": 64, "projection_size": 16},
        vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
    )
    return _save(folder, transformers.SiglipModel(config), {**SIGLIP, "size": SQUARE})


SMALL_SWIN = partial(transformers.SwinConfig, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])


def write_medclip(folder: Path) -> Path:
    """Write a smaller Swin; the test that loads it puts ``SMALL_SWIN`` into the place of Swin-T's configuration."""
    from safetensors.torch import load_file

    folder.mkdir()
    randomise(transformers.SwinModel(SMALL_SWIN())).save_pretrained(folder)
    state = {f"{medclip.SWIN}{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    state[medclip.PROJECTION] = torch.randn(12, 64, generator=torch.Generator().manual_seed(0)) / 8
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def write_medsam(folder: Path) -> Path:
    """Write a smaller network in the layout of the original code."""
    from safetensors.torch import load_file

    folder.mkdir()
    config = transformers.SamVisionConfig(**SAM_VISION)
    randomise(transformers.SamVisionModel(config)).save_pretrained(folder)
    names = (
        ("vision_encoder.", "image_encoder."), (".patch_embed.projection.", ".patch_embed.proj."),
        (".layers.", ".blocks."), (".neck.conv1.", ".neck.0."), (".neck.layer_norm1.", ".neck.1."),
        (".neck.conv2.", ".neck.2."), (".neck.layer_norm2.", ".neck.3."), (".layer_norm", ".norm"),
    )  # fmt: skip
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        original = name
        for ours, theirs in names:
            original = original.replace(ours, theirs)
        state[original] = tensor
    torch.save(state, folder / "medsam_vit_b.pth")
    return folder


def shrink_fixed_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the two families whose size is fixed load the small models of ``write_medclip`` and ``write_medsam``."""
    monkeypatch.setattr(medclip, "SwinConfig", SMALL_SWIN)
    monkeypatch.setattr(medsam, "SamVisionConfig", partial(transformers.SamVisionConfig, **SAM_VISION))
    processor = partial(transformers.SamImageProcessorPil, size=SMALL_SAM["size"], pad_size=SMALL_SAM["pad_size"])
    monkeypatch.setattr(medsam, "SamImageProcessorPil", processor)


def _small(name: str, **options: object) -> EncoderSpec:
    return replace(SHIPPED[name], dim=None, options=options)


SMALL: dict[str, tuple[EncoderSpec, Callable[[Path], Path]]] = {
    "resnet": (SPEC, write_small_resnet),
    "vit": (_small("vit-b16", model="ViTModel"), write_vit),
    "mae": (_small("mae-vit-b", model="ViTMAEModel", pooling="cls-unmasked"), write_mae),
    "dinov2": (_small("dinov2-vit-b14", model="Dinov2Model"), write_dinov2),
    "dinov2 with an offset": (_small("dinov2-vit-b14", model="Dinov2Model", interpolate_offset=0.1), write_dinov2),
    "sam": (_small("sam-vit-b", model="SamModel", pooling="sam-grid-mean"), write_sam),
    "siglip": (_small("siglip2-so400m", pooling="image-features"), write_siglip),
    "medclip": (_small("medclip-vit"), write_medclip),
    "medsam": (_small("medsam-vit-b"), write_medsam),
    "open_clip": (_small("biomedclip"), write_small_open_clip),
    "timm": (_small("eva02-vit-b14"), write_small_timm),
}
"""Records of every family, each with the function that writes a very small model for it."""


def small_record(folder: Path, **settings: object) -> EncoderSpec:
    """Make a record, as a user adds one, of the small ResNet in a folder."""
    return record("ours", "hf", folder, pooling="pooler", **settings)


def exported(spec: EncoderSpec, weights: Path, to: Path) -> Path:
    """Export an encoder; return its folder."""
    return export_encoder(load_encoder(spec, on_cpu(weights)), to).folder


def load_exported(spec: EncoderSpec, folder: Path, **settings: object) -> Encoder:
    return load_encoder(spec, on_cpu(folder, **settings))


def change_manifest(folder: Path, **values: object) -> None:
    """Change values at the top of the description."""
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def write_linear(folder: Path, weights: str) -> None:
    """Replace the network by a layer whose weights lie in another file, and let the description say its SHA-256."""
    import hashlib

    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 8], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", weights), ("offset", "0"), ("length", str(3 * 8 * 4))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "w"], ["embeddings"]),
        ],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, None, None])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 8])],
        initializer=[tensor, helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    replace_network(folder, model.SerializeToString(), hashlib.sha256(model.SerializeToString()).hexdigest())


def replace_network(folder: Path, content: bytes, digest: str) -> None:
    """Replace the network, and let the description say this SHA-256."""
    (folder / MODEL).write_bytes(content)
    change_manifest(folder, files={MODEL: digest})
