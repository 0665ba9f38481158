"""Measures how fast encoders run with onnxruntime beside torch, on this machine's CPU.

    python benchmarks/onnx_runtime.py --work DIR [NAME...] [--json FILE]

For each encoder, both runtimes encode the same batch in turn, several times, in one process with the same number of
threads (OMP_NUM_THREADS, else the cores). The results are ratios, torch's time to onnxruntime's: of the best times, the
median over the pairs, and that of the processor's time, which other programs on the machine change least. The weights are seeded random numbers; DIR keeps them and the exports for the next run. The largest difference
is that between components of the two runtimes' unit vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import cbirdb.encoders.torchvision_operators  # noqa: F401 (before the libraries that import torchvision)

# isort: split
import numpy as np
import timm
import torch

from cbirdb.encoders.base import Encoder, LoadOptions
from cbirdb.encoders.onnx_encoder import choose_threads
from cbirdb.encoders.onnx_export import export_encoder
from cbirdb.encoders.registry import load_encoder
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from tests.support.random_weights import randomise, write_weights

LITE = "efficientnet-lite0"
NAMES = ("resnet50", "vit-b16", "dinov2-vit-b14", "clip-vit-l14", LITE)


def record(name: str) -> EncoderSpec:
    """Return the encoder's record."""
    if name != LITE:
        return SHIPPED[name]
    return replace(SHIPPED["eva02-vit-b14"], name=name, dim=None, options={})


def prepare(name: str, work: Path) -> tuple[Encoder, Encoder]:
    """Write weights and export where they are missing; return the encoder on both runtimes."""
    weights, exports = work / "weights", work / "onnx"
    if not (weights / name).exists():
        if name == LITE:
            timm.models.save_for_hf(randomise(timm.create_model("tf_efficientnet_lite0")), weights / name)
        else:
            write_weights(name, weights / name)
    spec = record(name)
    with_torch = load_encoder(spec, LoadOptions(weights=weights, device="cpu", allow_other_weights=True))
    if not (exports / with_torch.spec.name).exists():
        export_encoder(with_torch, exports)
    return with_torch, load_encoder(with_torch.spec, LoadOptions(weights=exports, device="cpu"))


def seconds(encoder: Encoder, batch: np.ndarray) -> tuple[float, float]:
    """Return the time of one batch, and the processor's time."""
    start, busy = time.perf_counter(), time.process_time()
    encoder.encode(batch)
    return time.perf_counter() - start, time.process_time() - busy


def unit(rows: np.ndarray) -> np.ndarray:
    """Return the rows at length one."""
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def measure(name: str, work: Path, pairs: int) -> dict[str, object]:
    """Return one encoder's row."""
    both = prepare(name, work)
    size = both[0].batch_size
    batch = np.random.default_rng(0).standard_normal((size, *both[0].input_shape), dtype=np.float32)
    # The first batch of each also warms up.
    difference = float(np.abs(unit(both[0].encode(batch)) - unit(both[1].encode(batch))).max())
    times = [(seconds(both[0], batch), seconds(both[1], batch)) for _ in range(pairs)]
    best = [min(pair[side][0] for pair in times) for side in (0, 1)]
    return {
        "encoder": name,
        "best": best[0] / best[1],
        "median": statistics.median(with_torch[0] / with_onnx[0] for with_torch, with_onnx in times),
        "median_of_processor_time": statistics.median(with_torch[1] / with_onnx[1] for with_torch, with_onnx in times),
        "torch_images_per_s": size / best[0],
        "onnx_images_per_s": size / best[1],
        "batch": size,
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--work", type=Path, required=True, help="folder of weights and exports")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    threads = choose_threads(None)
    torch.set_num_threads(threads)
    rows = []
    for name in arguments.names:
        rows.append(measure(name, arguments.work, arguments.pairs))
        print(json.dumps(rows[-1]), flush=True)
    machine = {
        "cpu": next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor()),
        "threads": threads, "load": os.getloadavg()[0], "pairs": arguments.pairs,
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "transformers", "timm", "open_clip_torch")},
    }  # fmt: skip
    print(json.dumps(machine))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "encoders": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
