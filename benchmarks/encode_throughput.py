"""Measures how fast images become embeddings, beside the two limits of that speed, in the same run.

    python benchmarks/encode_throughput.py -e vit-b16 --weights DIR --device cuda --dtype bfloat16

Three rates, in turn, several times. The result is the pipeline's ratio to the smaller of the two limits:

    forward     the model alone on inputs that are already in the device's memory
    decoding    reading, decoding and preprocessing alone, in as many plain processes as the pipeline has
    pipeline    `encode` as the command line runs it, from files to committed rows

If the model runs on the CPU, both limits use the same cores, and no pipeline can reach either of them. Then `sharing
cores`, 1 / (1/forward + 1/decoding), is the limit. The pictures are seeded JPEG files of smooth noise; DIR is as for
`cbirdb encode`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psycopg
from PIL import Image

from cbirdb.config import Settings
from cbirdb.db.connection import connect
from cbirdb.db.embeddings import drop_encoder, find_encoder
from cbirdb.db.schema.open import open_database
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.encode import EncodeOptions, encode
from cbirdb.encode.decode import DecodeOptions, preload_workers
from cbirdb.encode.load import load_encoders
from cbirdb.encoders.base import Encoder, LoadOptions, Preprocessing
from cbirdb.ingest import ingest
from cbirdb.parallel.machine import machine_cpus
from cbirdb.pixels import read_rgb


def write_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Write grey JPEG files about as large as radiographs of that size."""
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(folder / "pictures" / f"{number:06}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def forward_rate(encoder: Encoder, batch_size: int, seconds: float) -> float:
    """Return images per second of the model alone."""
    batch = np.random.default_rng(0).standard_normal((batch_size, *encoder.input_shape), dtype=np.float32)
    if encoder.provenance.device == "cpu":
        return _rate(lambda: encoder.encode(batch), batch_size, seconds, lambda: None)
    import torch

    resident = torch.from_numpy(batch).to(encoder.device)
    return _rate(partial(encoder.forward, resident), batch_size, seconds, torch.cuda.synchronize)


def _rate(step: object, size: int, seconds: float, synchronise: object) -> float:
    step()
    synchronise()
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or done == 0:
        step()
        done += size
        if done % (8 * size) == 0:
            synchronise()
    synchronise()
    elapsed = time.perf_counter() - start
    return done / elapsed


_preprocess: Preprocessing


def _begin(preprocess: Preprocessing) -> None:
    global _preprocess  # noqa: PLW0603
    _preprocess = preprocess
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _prepare(path: Path) -> None:
    _preprocess(read_rgb(path))


def decoding_rate(encoder: Encoder, paths: list[Path], workers: int) -> float:
    """Return images per second of reading, decoding and preprocessing alone, in plain processes."""
    with ProcessPoolExecutor(workers, get_context("forkserver"), _begin, (encoder.preprocess,)) as pool:
        list(pool.map(_prepare, paths[: workers * 4]))  # start the processes and their imports first
        start = time.perf_counter()
        list(pool.map(_prepare, paths, chunksize=8))
        return len(paths) / (time.perf_counter() - start)


def pipeline_rate(
    connection: psycopg.Connection, encoder: Encoder, settings: Settings, options: EncodeOptions
) -> float:
    """Return images per second from files to committed rows, including the start of the processes."""
    if (before := find_encoder(connection, encoder.spec.name)) is not None:
        drop_encoder(connection, before)
    start = time.perf_counter()
    (summary,) = encode(connection, [encoder], options, connect=partial(connect, settings))
    elapsed = time.perf_counter() - start
    if summary.failed:
        sys.exit(f"{summary.failed} pictures failed: the rate would mean nothing.")
    return summary.encoded / elapsed


def run(arguments: argparse.Namespace, home: Path) -> dict[str, object]:
    """Measure all rates of one encoder, in turn."""
    paths = write_pictures(home, arguments.images, arguments.side)
    settings = Settings(home=home / "server")
    workers = arguments.workers or machine_cpus()
    with closing(open_database(settings)) as connection:
        options = LoadOptions(arguments.weights, device=arguments.device, allow_other_weights=True)
        (encoder,) = load_encoders(connection, [arguments.encoder], options, dtype=arguments.dtype)
        # Both kinds of worker processes start from one that has imported their modules, as the pipeline's do by
        # themselves. The first pool decides.
        preload_workers([encoder])
        batch_size = arguments.batch_size or encoder.batch_size
        encode_options = EncodeOptions(batch_size=batch_size, decode=DecodeOptions(workers=workers))
        ingest(connection, "folder", home / "pictures")
        rates: dict[str, list[float]] = {"forward": [], "decoding": [], "pipeline": []}
        for _ in range(arguments.repeat):
            rates["forward"].append(forward_rate(encoder, batch_size, arguments.seconds))
            rates["decoding"].append(decoding_rate(encoder, paths, workers))
            rates["pipeline"].append(pipeline_rate(connection, encoder, settings, encode_options))
    EmbeddedServer(home / "server").stop()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    shared = encoder.provenance.device == "cpu"
    return {
        "encoder": arguments.encoder, "device": device_name(encoder), "dtype": encoder.provenance.dtype,
        "batch_size": batch_size, "workers": workers, "images": arguments.images, "side": arguments.side,
        "rates": rates, "median": middle,
        "ratio": middle["pipeline"] / min(middle["forward"], middle["decoding"]),
        "ratio_sharing_cores": middle["pipeline"] * (1 / middle["forward"] + 1 / middle["decoding"]) if shared else None,
    }  # fmt: skip


def device_name(encoder: Encoder) -> str:
    """Return the GPU's name, or the number of cores."""
    if encoder.provenance.device == "cpu":
        return f"CPU, {machine_cpus()} cores"
    import torch

    return str(torch.cuda.get_device_name())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-e", "--encoder", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of the forward pass")
    parser.add_argument("--json", type=Path, help="append the result to a list in this file")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="cbirdb-benchmark-"))
    home.chmod(0o755)
    try:
        result = run(arguments, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(
        f"{result['encoder']}, {result['dtype']}, {result['device']}, {result['images']} JPEG files of side {result['side']}"
    )
    print(f"pipeline / smaller limit: {result['ratio']:.2f}")
    if result["ratio_sharing_cores"] is not None:
        print(f"pipeline / limit of both sharing the same cores: {result['ratio_sharing_cores']:.2f}")
    for name, values in result["rates"].items():
        print(f"  {name:9} {statistics.median(values):9.1f} images/s  ({min(values):.1f} to {max(values):.1f})")
    if arguments.json:
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
        arguments.json.write_text(json.dumps([*before, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
