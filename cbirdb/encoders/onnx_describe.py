"""Describes a library's preprocessing so that it runs without the library.

The description is read from the settings of the object that prepares pictures, and then compared with it on pictures of
odd sizes: what is described wrongly is refused, like what cannot be described.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from cbirdb.encoders.base import Encoder, Preprocessing
from cbirdb.encoders.golden import golden_picture
from cbirdb.encoders.pillow_preprocessing import PillowPreprocessing
from cbirdb.errors import EncoderError

KEEP_TORCH = "Run this encoder with torch."
LARGEST_PIXEL_DIFFERENCE = 1e-6
SIZES = ((512, 512), (640, 480), (480, 641), (333, 217), (1000, 61), (61, 1000), (224, 224), (5, 3), (257, 1023))
"""Widths and heights of the pictures to compare: square, wide, tall, odd, small, and the size of many inputs."""


def odd_pictures() -> list[Image.Image]:
    """Draw the golden picture and seeded noise of each size, coarse and fine, every third grey."""
    random = np.random.default_rng(0)
    pictures = [golden_picture()]
    for number, size in enumerate(SIZES):
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size)
        fine = random.integers(-20, 21, (size[1], size[0], 3))
        noise = Image.fromarray(np.clip(np.asarray(coarse, np.int64) + fine, 0, 255).astype(np.uint8))
        pictures.append(noise if number % 3 else noise.convert("L"))
    return pictures


def describe(encoder: Encoder) -> PillowPreprocessing:
    """Return the encoder's preprocessing as Pillow and NumPy can run it.

    :raises EncoderError: when it has no such description, or the description gives other pixels.
    """
    try:
        described = _describe(encoder.preprocess)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EncoderError(
            f"The preprocessing of '{encoder.spec.name}' cannot run without its library: {error}.",
            hint=KEEP_TORCH,
        ) from error
    for picture in odd_pictures():
        wanted, found = encoder.preprocess(picture), described(picture)
        if wanted.shape != found.shape or not np.allclose(wanted, found, rtol=0, atol=LARGEST_PIXEL_DIFFERENCE):
            raise EncoderError(
                f"The preprocessing of '{encoder.spec.name}' gives other pixels without its library"
                f" (a picture of {picture.width} x {picture.height}).",
                hint=KEEP_TORCH,
            )
    return described


def _describe(preprocess: Preprocessing) -> PillowPreprocessing:
    if isinstance(preprocess, PillowPreprocessing):
        return preprocess
    if (processor := getattr(preprocess, "processor", None)) is not None:
        return _of_transformers(processor)
    if (transform := getattr(preprocess, "transform", None)) is not None:
        return _of_torchvision(list(transform.transforms))
    raise ValueError(f"there is no description of {type(preprocess).__name__}")


def _of_transformers(processor: Any) -> PillowPreprocessing:
    """Read the settings of an image processor that runs on Pillow."""
    name = type(processor).__name__
    settings = processor.to_dict()
    if processor.backend != "pil":
        raise ValueError(f"{name} runs on {processor.backend}")
    if not settings["do_resize"]:
        raise ValueError(f"{name} does not resize")
    common: dict[str, Any] = {
        "filter": Image.Resampling(settings["resample"]).name.lower(),
        "factor": settings["rescale_factor"] if settings["do_rescale"] else 1.0,
        "mean": _colour(settings["image_mean"]) if settings["do_normalize"] else (0.0,) * 3,
        "deviation": _colour(settings["image_std"]) if settings["do_normalize"] else (1.0,) * 3,
        "pad": _sides(settings["pad_size"]) if settings.get("do_pad") else None,
    }
    size = settings["size"]
    if name.startswith("ConvNext"):
        return _of_convnext(size["shortest_edge"], settings, common)
    if settings.get("do_center_crop"):
        common["crop"] = _sides(settings["crop_size"])
    if size.get("shortest_edge") and not size.get("longest_edge"):
        return _square("shortest", size["shortest_edge"], common)
    if size.get("longest_edge") and not size.get("shortest_edge"):
        return _square("longest", size["longest_edge"], common)
    height, width = _sides(size)
    return PillowPreprocessing(resize="exact", height=height, width=width, **common)


def _of_convnext(side: int, settings: Mapping[str, Any], common: Mapping[str, Any]) -> PillowPreprocessing:
    """Describe ConvNeXt's rule: below 384, resize to a larger picture and crop it."""
    if side >= 384:
        return _square("exact", side, common)
    return _square("shortest", int(side / settings["crop_pct"]), {**common, "crop": (side, side)})


def _square(resize: str, side: int, common: Mapping[str, Any]) -> PillowPreprocessing:
    return PillowPreprocessing(resize=resize, height=side, width=side, **common)  # type: ignore[arg-type]


def _sides(size: Mapping[str, int]) -> tuple[int, int]:
    return size["height"], size["width"]


def _colour(values: Any) -> tuple[float, ...]:
    """Return one value for each channel; a single number is meant for all."""
    numbers = np.asarray(values, np.float64).reshape(-1).tolist()
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def _of_torchvision(transforms: list[Any]) -> PillowPreprocessing:
    """Read the settings of a composed transform of timm or open_clip."""
    settings: dict[str, Any] = {"scaling": "divide-float32", "factor": 255.0, "crop_rounding": "half-to-even"}
    order = []
    for transform in transforms:
        name = type(transform).__name__
        if name not in READERS:
            raise ValueError(f"there is no description of {name}")
        settings |= READERS[name](transform)
        order.append(name.removeprefix("Maybe"))
    wanted = [name for name in ("Resize", "CenterCrop", "ToTensor", "Normalize") if name in order]
    if [name for name in order if name != "ConvertMode"] != wanted or len(wanted) < 3:
        raise ValueError(f"its steps are {', '.join(order)}")
    return PillowPreprocessing(**settings)


def _resize(transform: Any) -> dict[str, Any]:
    if transform.max_size is not None:
        raise ValueError("Resize has a largest size")
    size = [transform.size] if isinstance(transform.size, int) else list(transform.size)
    return {
        "resize": "shortest" if len(size) == 1 else "exact",
        "height": size[0],
        "width": size[-1],
        "filter": transform.interpolation.value,
    }


READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "Resize": _resize,
    "CenterCrop": lambda transform: {"crop": tuple(transform.size)},
    "Normalize": lambda transform: {"mean": _colour(transform.mean), "deviation": _colour(transform.std)},
    "ToTensor": lambda _: {},
    "MaybeToTensor": lambda _: {},
    "MaybeConvertMode": lambda _: {},
}
"""Ways to read the settings of a transform, by the name of its class. Pictures are RGB before the first one."""
