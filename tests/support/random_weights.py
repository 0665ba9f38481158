"""Write seeded random weights of full architectures, in the hubs' on-disk formats.

No model hub can be reached from where the tests run, so tests of encoders use these: files of the real names,
layouts and sizes, as the published ones have them, with other numbers. ``python -m tests.support.random_weights DIR [NAME...]``
writes a folder per encoder, to be passed to ``cbirdb encode --weights DIR``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)

# isort: split
import open_clip
import timm
import transformers
from safetensors.torch import save_file

SEED = 20240310
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
SIGLIP = {
    **DO,
    "do_rescale": True,
    **HALVES,
    "image_processor_type": "SiglipImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Draw numbers so large that two pictures get clearly different embeddings, unlike with a new model."""
    generator = torch.Generator().manual_seed(SEED)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # Fresh statistics (0 and 1) let values grow with depth until all pictures look alike.
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(1.0, 2.0, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw(name, parameter, generator)
    return model.eval()


def draw(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    if tensor.ndim < 2:
        near = 1.0 if name.endswith("weight") else 0.0
        tensor.normal_(near, 0.05, generator=generator)
    elif any(part in name for part in ("token", "pos_embed", "position", "rel_pos", "embedding")):
        tensor.normal_(0.0, 0.05, generator=generator)
    else:
        tensor.normal_(0.0, 1 / math.sqrt(tensor[0].numel()), generator=generator)


def save_transformers(name: str, folder: Path, model: Any, preprocessor: dict[str, Any] | None = None) -> Any:
    randomise(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor or PREPROCESSORS[name]))
    return model


def resnet50(folder: Path) -> None:
    save_transformers(
        "resnet50", folder, transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    )


def vit_b16(folder: Path) -> None:
    save_transformers("vit-b16", folder, transformers.ViTModel(transformers.ViTConfig()))


def sam_vit_b(folder: Path) -> None:
    save_transformers("sam-vit-b", folder, transformers.SamModel(transformers.SamConfig()))


def mae_vit_b(folder: Path) -> None:
    # The published file is that of pre-training, with the decoder.
    save_transformers("mae-vit-b", folder, transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig()))


def dinov2_vit_b14(folder: Path) -> None:
    config = transformers.Dinov2Config(image_size=518, patch_size=14)
    save_transformers("dinov2-vit-b14", folder, transformers.Dinov2Model(config))


def medsam_vit_b(folder: Path) -> None:
    """Name the tensors as the original SAM code does: written out here, not derived from the code under test."""
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 64, 64, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}
    shapes["patch_embed.proj.bias"] = (768,)
    for layer in range(12):
        side = 2 * (64 if layer in (2, 5, 8, 11) else 14) - 1
        for name, shape in {
            "norm1.weight": (768,), "norm1.bias": (768,), "attn.rel_pos_h": (side, 64), "attn.rel_pos_w": (side, 64),
            "attn.qkv.weight": (2304, 768), "attn.qkv.bias": (2304,), "attn.proj.weight": (768, 768),
            "attn.proj.bias": (768,), "norm2.weight": (768,), "norm2.bias": (768,), "mlp.lin1.weight": (3072, 768),
            "mlp.lin1.bias": (3072,), "mlp.lin2.weight": (768, 3072), "mlp.lin2.bias": (768,),
        }.items():  # fmt: skip
            shapes[f"blocks.{layer}.{name}"] = shape
    shapes |= {"neck.0.weight": (256, 768, 1, 1), "neck.1.weight": (256,), "neck.1.bias": (256,)}
    shapes |= {"neck.2.weight": (256, 256, 3, 3), "neck.3.weight": (256,), "neck.3.bias": (256,)}
    generator = torch.Generator().manual_seed(SEED)
    state = {}
    for name, shape in shapes.items():
        state[f"image_encoder.{name}"] = torch.empty(shape)
        draw(name, state[f"image_encoder.{name}"], generator)
    state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = torch.randn(2, 128, generator=generator)
    state["mask_decoder.iou_token.weight"] = torch.randn(1, 256, generator=generator)
    torch.save(state, folder / "medsam_vit_b.pth")


def medclip_vit(folder: Path) -> None:
    swin = randomise(transformers.SwinModel(transformers.SwinConfig()))
    swin.save_pretrained(folder)  # for the names of its tensors, which are those of the years of MedCLIP
    from safetensors.torch import load_file

    state = {f"vision_model.model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(SEED)
    state["vision_model.projection_head.weight"] = torch.randn(512, 768, generator=generator) / 28
    state["text_model.model.embeddings.position_ids"] = torch.arange(512)[None]
    state["logit_scale"] = torch.tensor(2.6)
    torch.save(state, folder / "pytorch_model.bin")
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()


def clip_vit_l14(folder: Path) -> None:
    # The hub's file does say quick_gelu; this one does not, as many a local copy.
    config = open_clip.get_model_config("ViT-L-14")
    model = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14-quickgelu"))
    save_open_clip(folder, model, config, "open_clip_model.safetensors")


def biomedclip(folder: Path) -> None:
    text = folder / "text"
    transformers.BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(text)
    (text / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest"]))
    config = {
        "embed_dim": 512,
        "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 224},
        "text_cfg": {
            "hf_model_name": str(text), "hf_tokenizer_name": str(text), "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256, "hf_model_pretrained": False,
        },
    }  # fmt: skip
    model = open_clip.CustomTextCLIP(**json.loads(json.dumps(config)))
    repository = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    config["text_cfg"] |= {"hf_model_name": repository, "hf_tokenizer_name": repository}
    save_open_clip(folder, model, config, "open_clip_pytorch_model.bin")


def save_open_clip(folder: Path, model: Any, config: dict[str, Any], file: str) -> None:
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    settings = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    state = randomise(model).state_dict()
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)


def rad_dino(folder: Path) -> None:
    preprocessor = PREPROCESSORS["dinov2-vit-b14"] | {
        "crop_size": {"height": 518, "width": 518}, "size": {"shortest_edge": 518},
        "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3,
    }  # fmt: skip
    config = transformers.Dinov2Config(image_size=518, patch_size=14)
    save_transformers("rad-dino", folder, transformers.Dinov2Model(config), preprocessor)


def dinov3_vit_b16(folder: Path) -> None:
    config = transformers.DINOv3ViTConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, num_register_tokens=4
    )
    preprocessor = {
        **DO, "do_rescale": True, **IMAGENET, "image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
    }  # fmt: skip
    save_transformers("dinov3-vit-b16", folder, transformers.DINOv3ViTModel(config), preprocessor)


def siglip2_base(folder: Path) -> None:
    """Write the smaller model of the same family as siglip2-so400m and medsiglip, whose files have 4.5 and 3.5 GB."""
    config = transformers.SiglipConfig(text_config={"num_hidden_layers": 1}, vision_config={"image_size": 224})
    preprocessor = {**SIGLIP, "size": {"height": 224, "width": 224}}
    save_transformers("siglip2-base", folder, transformers.SiglipModel(config), preprocessor)


def eva02_vit_b14(folder: Path) -> None:
    model = randomise(timm.create_model("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k"))
    timm.models.save_for_hf(model, folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    "resnet50": resnet50,
    "vit-b16": vit_b16,
    "sam-vit-b": sam_vit_b,
    "medsam-vit-b": medsam_vit_b,
    "clip-vit-l14": clip_vit_l14,
    "medclip-vit": medclip_vit,
    "biomedclip": biomedclip,
    "mae-vit-b": mae_vit_b,
    "dinov2-vit-b14": dinov2_vit_b14,
    "rad-dino": rad_dino,
    "dinov3-vit-b16": dinov3_vit_b16,
    "siglip2-base": siglip2_base,
    "eva02-vit-b14": eva02_vit_b14,
}
NINE = tuple(WRITERS)[:9]


def write_weights(name: str, folder: Path) -> Path:
    """Write the files of one encoder into a folder, as a download leaves them there."""
    folder.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    WRITERS[name](folder)
    return folder


if __name__ == "__main__":
    for wanted in sys.argv[2:] or NINE:
        print(write_weights(wanted, Path(sys.argv[1]) / wanted))
