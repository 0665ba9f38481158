"""Write the paper's nine checkpoints with other numbers: the hubs' files, tensor names and shapes.

No model is built, and only NumPy, PyTorch and safetensors are needed. So the libraries that the authors pinned and today's
read the same files (``frozen_references.py``). ``checkpoint_tensors.json`` lists the tensors. Its names come from the
old libraries' models (transformers 4.39.3, open_clip 2.24.0, segment-anything 1.0, MedCLIP 0.0.3); ``position_ids``, which
older versions still saved, is added to the text towers of MedCLIP and BiomedCLIP, whose files have it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

TENSORS: dict[str, dict[str, list[int]]] = json.loads(Path(__file__).with_name("checkpoint_tensors.json").read_text())
"""Encoder -> names of tensors, ``{0,1}`` for each of these numbers -> shape."""
NINE = tuple(TENSORS)

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
DO = {"do_normalize": True, "do_resize": True}

# What the hub has beside the weights: older layouts than the library writes today.
PREPROCESSORS: dict[str, dict[str, Any]] = {
    "resnet50": {**DO, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", **IMAGENET, "resample": 3, "size": 224},
    "vit-b16": {**DO, **HALVES, "resample": 2, "size": 224},
    "sam-vit-b": {
        **DO, "do_convert_rgb": True, "do_pad": True, "do_rescale": True, **IMAGENET,
        "image_processor_type": "SamImageProcessor", "pad_size": {"height": 1024, "width": 1024},
        "processor_class": "SamProcessor", "resample": 2, "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 1024},
    },
    "mae-vit-b": {**DO, **IMAGENET, "resample": 2, "size": 224},
    "dinov2-vit-b14": {
        **DO, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True,
        "do_rescale": True, **IMAGENET, "image_processor_type": "BitImageProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256},
    },
}  # fmt: skip
BASE = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu", "num_channels": 3,
    "qkv_bias": True,
}  # fmt: skip
VIT = {**BASE, "image_size": 224, "patch_size": 16, "intermediate_size": 3072, "layer_norm_eps": 1e-12}
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet50": {
        "model_type": "resnet", "architectures": ["ResNetForImageClassification"], "depths": [3, 4, 6, 3],
        "embedding_size": 64, "hidden_act": "relu", "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck",
        "num_channels": 3, "downsample_in_first_stage": False,
        "id2label": {str(label): f"class {label}" for label in range(1000)},
        "label2id": {f"class {label}": label for label in range(1000)},
    },
    "vit-b16": {"model_type": "vit", "architectures": ["ViTModel"], **VIT},
    "sam-vit-b": {
        "model_type": "sam", "architectures": ["SamModel"],
        "vision_config": {
            **BASE, "image_size": 1024, "patch_size": 16, "mlp_dim": 3072, "output_channels": 256, "window_size": 14,
            "global_attn_indexes": [2, 5, 8, 11], "layer_norm_eps": 1e-6, "use_rel_pos": True, "use_abs_pos": True,
        },
        "prompt_encoder_config": {"hidden_size": 256, "image_size": 1024, "patch_size": 16},
        "mask_decoder_config": {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8, "mlp_dim": 2048},
    },
    "mae-vit-b": {
        "model_type": "vit_mae", "architectures": ["ViTMAEForPreTraining"], **VIT, "decoder_hidden_size": 512,
        "decoder_intermediate_size": 2048, "decoder_num_attention_heads": 16, "decoder_num_hidden_layers": 8,
        "mask_ratio": 0.75, "norm_pix_loss": False,
    },
    "dinov2-vit-b14": {
        "model_type": "dinov2", "architectures": ["Dinov2Model"], **BASE, "image_size": 518, "patch_size": 14,
        "mlp_ratio": 4, "layer_norm_eps": 1e-6, "layerscale_value": 1.0, "use_swiglu_ffn": False,
    },
}  # fmt: skip
OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
# The hub's file does say quick_gelu; this one does not, as many a local copy.
CLIP = {
    "embed_dim": 768, "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
}  # fmt: skip
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
BIOMEDCLIP = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 224},
    "text_cfg": {
        "hf_model_name": BERT, "hf_tokenizer_name": BERT, "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256, "hf_model_pretrained": False,
    },
}  # fmt: skip


def tensor_shapes(encoder: str) -> dict[str, list[int]]:
    """Return the names and shapes of a checkpoint's tensors."""
    return {name: shape for pattern, shape in TENSORS[encoder].items() for name in _expand(pattern)}


def _expand(pattern: str) -> Iterator[str]:
    if (found := re.search(r"\{([\d,]+)\}", pattern)) is None:
        yield pattern
        return
    for number in found[1].split(","):
        yield from _expand(pattern[: found.start()] + number + pattern[found.end() :])


def draw(name: str, shape: Sequence[int]) -> NDArray[Any]:
    """Draw a tensor's numbers from its name alone, the same in every version of NumPy.

    They are so large that two pictures get clearly different embeddings, unlike with a new model.
    """
    last = name.rpartition(".")[2]
    if last in COUNTS:
        return COUNTS[last](shape)
    if last == "running_var":
        # Fresh statistics (0 and 1) let values grow with depth until all pictures look alike.
        return np.float32(1.5) + _noise(name, shape, 0.3)
    if len(shape) < 2:
        return np.asarray(
            np.float32(last in {"weight", "lambda1"}) + _noise(name, shape, 0.05)
        )  # also without dimensions
    if any(part in name for part in ("token", "pos_embed", "position", "rel_pos", "embedding")):
        return _noise(name, shape, 0.05)
    return _noise(name, shape, 1 / math.sqrt(math.prod(shape[1:])))


def _noise(name: str, shape: Sequence[int], deviation: float) -> NDArray[np.float32]:
    # NumPy promises the raw bits of a generator for ever, but not the numbers that it makes of them.
    count = math.prod(shape)
    bits = np.random.PCG64(list(name.encode())).random_raw(-(-count // 2)).view("<u4")[:count]
    numbers = (bits >> np.uint32(8)).astype(np.float32)
    numbers *= np.float32(2**-24)
    numbers -= np.float32(0.5)
    numbers *= np.float32(math.sqrt(12) * deviation)
    return numbers.reshape(shape)


def _relative_positions(side: int) -> NDArray[np.int64]:
    """Number the offsets between any two places of a window, as Swin's files hold them."""
    row, column = np.divmod(np.arange(side * side), side)
    rows, columns = row[:, None] - row, column[:, None] - column
    return (rows + side - 1) * (2 * side - 1) + columns + side - 1


COUNTS: dict[str, Callable[[Sequence[int]], NDArray[np.int64]]] = {
    "num_batches_tracked": lambda shape: np.ones(shape, np.int64),
    "position_ids": lambda shape: np.arange(shape[-1]).reshape(shape),
    "relative_position_index": lambda shape: _relative_positions(math.isqrt(shape[0])),
}
"""Tensors of integers, which have their real values."""


def draw_state(encoder: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors."""
    state = {name: torch.from_numpy(draw(name, shape)) for name, shape in tensor_shapes(encoder).items()}
    if encoder == "sam-vit-b":  # one tensor under two names
        state["prompt_encoder.shared_embedding.positional_embedding"] = state[
            "shared_image_embedding.positional_embedding"
        ].clone()
    if encoder == "clip-vit-l14":  # OpenAI published half precision
        state = {name: tensor.half().float() for name, tensor in state.items()}
    return state


def write_checkpoint(encoder: str, folder: Path) -> None:
    """Write an encoder's files into a folder, as a download leaves them there."""
    state = draw_state(encoder)
    if encoder in CONFIGS:
        _write(folder / "config.json", CONFIGS[encoder])
        _write(folder / "preprocessor_config.json", PREPROCESSORS[encoder])
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    elif encoder == "clip-vit-l14":
        _write(folder / "open_clip_config.json", {"model_cfg": CLIP, "preprocess_cfg": OPENAI})
        save_file(state, folder / "open_clip_model.safetensors")
    elif encoder == "biomedclip":
        _write(folder / "open_clip_config.json", {"model_cfg": BIOMEDCLIP, "preprocess_cfg": OPENAI})
        torch.save(state, folder / "open_clip_pytorch_model.bin")
        (folder / "text").mkdir(exist_ok=True)
        _write(folder / "text" / "config.json", {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
        (folder / "text" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nchest")
    else:
        torch.save(state, folder / {"medsam-vit-b": "medsam_vit_b.pth", "medclip-vit": "pytorch_model.bin"}[encoder])


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
