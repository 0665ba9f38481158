"""Measures how fast images become embeddings, beside the two limits of that speed, in the same run.

    python benchmarks/encode_throughput.py -e vit-b16 --weights DIR --device cuda --dtype bfloat16
    python benchmarks/encode_throughput.py --minutes 8 --device cuda --json benchmarks/encode_throughput_gpu.json

The second line measures the paper's nine encoders in float32 and bfloat16 within 8 minutes, the start included: each
cell of the table (an encoder and a number format) gets an equal part of the time that is left. It prints a cell and
writes it to the file when it is measured, so that a kill leaves what has been measured.

Three rates of a cell, in turn:

    forward     the model alone on inputs that are already in the device's memory
    decoding    reading, decoding and preprocessing alone, in as many plain processes as the pipeline has
    pipeline    `encode` as the command line runs it, from files to committed rows, with the start of its processes

The result is the pipeline's share of each limit. Its share of the smaller one is the figure to look at. If the model
runs on the CPU, both limits use the same cores, and no pipeline can reach either of them. Then `sharing cores`,
1 / (1/forward + 1/decoding), is the limit. The pictures are seeded JPEG files of smooth noise; DIR is as for
`cbirdb encode`, and without it seeded random weights are written to a temporary folder. They are as fast as any.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
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
from cbirdb.encoders.base import DType, Encoder, LoadOptions, Preprocessing
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.ingest import ingest
from cbirdb.parallel.machine import machine_cpus
from cbirdb.pixels import read_rgb
from cbirdb.progress import SILENT, Task

ROOT = Path(__file__).resolve().parents[1]
PAPER = tuple(name for name, spec in SHIPPED.items() if spec.in_paper)
IMAGES_PER_MINUTE = 1024
"""Pictures to write for each minute of the budget, where --images does not say."""
FORWARD_SHARE, DECODING_SHARE, PIPELINE_SHARE = 0.2, 0.15, 0.5
"""Parts of a cell's time once the encoder is loaded. The rest is for starts and commits."""


def write_picture(path: Path, number: int, side: int) -> None:
    """Write a grey JPEG file about as large as a radiograph of that size."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)


def write_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Write the pictures, on all cores."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    paths = [folder / "pictures" / f"{number:06}.jpg" for number in range(count)]
    with ProcessPoolExecutor(machine_cpus(), get_context("forkserver")) as pool:
        list(pool.map(write_picture, paths, range(count), [side] * count, chunksize=8))
    return paths


def write_weights(names: Sequence[str], folder: Path) -> None:
    """Write seeded random weights, several encoders at once: drawing numbers uses one core."""
    waiting = list(names)
    running: list[subprocess.Popen[bytes]] = []
    try:
        while waiting or running:
            while waiting and len(running) < max(1, machine_cpus() // 2):
                command = [sys.executable, "-m", "tests.support.random_weights", str(folder), waiting.pop(0)]
                one_thread = os.environ | {
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                }
                running.append(subprocess.Popen(command, cwd=ROOT, env=one_thread, stdout=subprocess.DEVNULL))
            if running.pop(0).wait():
                sys.exit("Weights could not be written.")
    finally:
        for process in running:
            process.kill()


def forward_rate(encoder: Encoder, batch_size: int, seconds: float) -> float:
    """Return images per second of the model alone."""
    batch = np.random.default_rng(0).standard_normal((batch_size, *encoder.input_shape), dtype=np.float32)
    if encoder.provenance.device == "cpu":
        return _rate(lambda: encoder.encode(batch), batch_size, seconds, lambda: None)
    import torch

    resident = torch.from_numpy(batch).to(encoder.device)
    return _rate(partial(encoder.forward, resident), batch_size, seconds, torch.cuda.synchronize)


def _rate(step: Callable[[], object], size: int, seconds: float, synchronise: Callable[[], object]) -> float:
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


def decoding_rate(encoder: Encoder, paths: Sequence[Path], workers: int, seconds: float | None) -> float:
    """Return images per second of reading, decoding and preprocessing alone, in plain processes.

    :param seconds: about how long to measure. None: as long as all files take.
    """
    with ProcessPoolExecutor(workers, get_context("forkserver"), _begin, (encoder.preprocess,)) as pool:
        first = paths[: workers * 4]
        list(pool.map(_prepare, first))  # start the processes and their imports first
        if seconds is not None:
            start = time.perf_counter()
            list(pool.map(_prepare, first))
            paths = paths[: max(len(first), int(len(first) / (time.perf_counter() - start) * seconds))]
        start = time.perf_counter()
        list(pool.map(_prepare, paths, chunksize=8))
        return len(paths) / (time.perf_counter() - start)


class TimeUpError(Exception):
    """Raised to end a run of the pipeline whose time is used up. What was encoded until then is stored."""


class Watch:
    """Progress that counts images, notes when the first ones were encoded, and ends the run when its time is up."""

    def __init__(self, seconds: float | None) -> None:
        self._start = time.perf_counter()
        self._seconds = seconds
        self.images = 0
        self.first_s = 0.0

    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def task(self, _description: str, *, total: int | None, unit: str) -> Iterator[Task]:
        yield self

    def advance(self, n: int = 1) -> None:
        self.first_s = self.first_s or self.elapsed()
        self.images += n
        if self._seconds is not None and self.elapsed() > self._seconds:
            raise TimeUpError

    def update(self, *, done: int, total: int | None = None) -> None: ...

    def stage(self, name: str) -> None: ...

    note = SILENT.note


def pipeline_rate(
    connection: psycopg.Connection, encoder: Encoder, settings: Settings, options: EncodeOptions, seconds: float | None
) -> tuple[float, Watch]:
    """Return images per second from files to committed rows.

    :param seconds: when to end. None: when all images are encoded.
    """
    if (before := find_encoder(connection, encoder.spec.name)) is not None:
        drop_encoder(connection, before)
    watch = Watch(seconds)
    try:
        (summary,) = encode(connection, [encoder], options, connect=partial(connect, settings), progress=watch)
    except TimeUpError:
        pass
    else:
        if summary.failed:
            sys.exit(f"{summary.failed} pictures failed: the rate would mean nothing.")
    return watch.images / watch.elapsed(), watch


@dataclass
class Bench:
    """The pictures, the database and the options that all cells share."""

    arguments: argparse.Namespace
    paths: list[Path]
    weights: Path | None
    settings: Settings
    connection: psycopg.Connection
    workers: int

    def measure(self, name: str, dtype: DType, until: float | None) -> dict[str, object]:
        """Measure all rates of one encoder in one number format.

        :param until: the monotonic time at which to end. None: as long as the options say.
        """
        arguments = self.arguments
        options = LoadOptions(weights=self.weights, device=arguments.device, allow_other_weights=True)
        (encoder,) = load_encoders(self.connection, [name], options, dtype=dtype)
        # Both kinds of worker processes start from one that has imported their modules, as the pipeline's do by
        # themselves. The first pool decides.
        preload_workers([encoder])
        batch_size = arguments.batch_size or encoder.batch_size
        left = None if until is None else max(1.0, until - time.monotonic())
        rates: dict[str, list[float]] = {"forward": [], "decoding": [], "pipeline": [], "first_images_s": []}
        for _ in range(arguments.repeat or (3 if left is None else 1)):
            seconds = arguments.seconds if left is None else FORWARD_SHARE * left
            rates["forward"].append(forward_rate(encoder, batch_size, seconds))
            share = None if left is None else DECODING_SHARE * left
            rates["decoding"].append(decoding_rate(encoder, self.paths, self.workers, share))
            chosen = EncodeOptions(batch_size=batch_size, decode=DecodeOptions(workers=self.workers))
            share = None if left is None else PIPELINE_SHARE * left
            rate, watch = pipeline_rate(self.connection, encoder, self.settings, chosen, share)
            rates["pipeline"].append(rate)
            rates["first_images_s"].append(watch.first_s)
        return self._result(name, encoder, batch_size, watch.images, rates)

    def _result(
        self, name: str, encoder: Encoder, batch_size: int, images: int, rates: dict[str, list[float]]
    ) -> dict[str, object]:
        middle = {kind: statistics.median(values) for kind, values in rates.items()}
        pipeline, forward, decoding = middle["pipeline"], middle["forward"], middle["decoding"]
        shared = encoder.provenance.device == "cpu"
        return {
            "encoder": name, "device": device_name(encoder), "dtype": encoder.provenance.dtype,
            "batch_size": batch_size, "workers": self.workers, "images": images, "side": self.arguments.side,
            "rates": rates, "median": middle,
            "share_of_forward": pipeline / forward, "share_of_decoding": pipeline / decoding,
            "ratio": pipeline / min(forward, decoding),
            "ratio_sharing_cores": pipeline * (1 / forward + 1 / decoding) if shared else None,
        }  # fmt: skip


def device_name(encoder: Encoder) -> str:
    """Return the GPU's name, or the number of cores."""
    if encoder.provenance.device == "cpu":
        return f"CPU, {machine_cpus()} cores"
    import torch

    return str(torch.cuda.get_device_name())


COLUMNS = (
    f"{'encoder':<16}{'dtype':<10}{'batch':>6}{'images':>8}{'pipeline':>10}{'forward':>10}{'decoding':>10}"
    f"{'/forward':>10}{'/decoding':>10}{'/smaller':>10}{'/sharing':>10}{'first s':>9}"
)


def line(result: dict[str, object]) -> str:
    """Return a result's line of the table."""
    middle = result["median"]
    sharing = "-" if result["ratio_sharing_cores"] is None else f"{result['ratio_sharing_cores']:.2f}"
    return (
        f"{result['encoder']:<16}{result['dtype']:<10}{result['batch_size']:>6}{result['images']:>8}"
        f"{middle['pipeline']:>10.1f}{middle['forward']:>10.1f}{middle['decoding']:>10.1f}"
        f"{result['share_of_forward']:>10.2f}{result['share_of_decoding']:>10.2f}{result['ratio']:>10.2f}"
        f"{sharing:>10}{middle['first_images_s']:>9.1f}"
    )


def run(arguments: argparse.Namespace, home: Path, began: float) -> None:
    """Measure all cells, in turn; print and save each."""
    end = None if arguments.minutes is None else began + 60 * arguments.minutes
    say = partial(_say, began)
    paths = write_pictures(home, arguments.images, arguments.side)
    say(f"{len(paths)} JPEG files of side {arguments.side}")
    weights = arguments.weights
    needing = [name for name in arguments.encoder if SHIPPED[name].weights is not None]
    if weights is None and needing:
        weights = home / "weights"
        write_weights(needing, weights)
        say(f"seeded random weights of {len(needing)} encoders")
    settings = Settings(home=home / "server")
    with closing(open_database(settings)) as connection:
        ingest(connection, "folder", home / "pictures")
        say("database; pictures ingested")
        bench = Bench(arguments, paths, weights, settings, connection, arguments.workers or machine_cpus())
        cells = list(product(arguments.encoder, arguments.dtype))
        print(COLUMNS, flush=True)
        for number, (name, dtype) in enumerate(cells):
            until = None
            if end is not None:
                now = time.monotonic()
                if now >= end:
                    say(f"No time left for {', '.join(f'{name} {dtype}' for name, dtype in cells[number:])}.")
                    break
                until = now + (end - now) / (len(cells) - number)
            result = bench.measure(name, dtype, until)
            print(line(result), flush=True)
            if arguments.json:
                append(arguments.json, result)
    say("done; images per second, and the pipeline's share of each limit")


def _say(began: float, text: str) -> None:
    print(f"[{time.monotonic() - began:.0f} s] {text}", flush=True)


def append(path: Path, result: dict[str, object]) -> None:
    """Append a result to the list in a file, which a kill leaves whole."""
    before = json.loads(path.read_text()) if path.exists() else []
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps([*before, result], indent=1) + "\n")
    part.replace(path)


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-e", "--encoder", action="append", help="may be repeated; default: the paper's nine")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--dtype", action="append", help="may be repeated; default: float32, with --minutes bfloat16, too"
    )
    parser.add_argument("--minutes", type=float, help="end after so many, and divide them among the cells")
    parser.add_argument("--images", type=int, help="default: 512; with --minutes 1024 for each")
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeat", type=int, help="default: 3; with --minutes 1")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each forward pass, without --minutes")
    parser.add_argument("--json", type=Path, help="append each result to a list in this file")
    arguments = parser.parse_args()
    arguments.encoder = arguments.encoder or list(PAPER)
    arguments.dtype = arguments.dtype or (["float32"] if arguments.minutes is None else ["float32", "bfloat16"])
    arguments.images = arguments.images or int(IMAGES_PER_MINUTE * (arguments.minutes or 0.5))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped
    home = Path(tempfile.mkdtemp(prefix="cbirdb-benchmark-"))
    home.chmod(0o755)
    try:
        run(arguments, home, began)
    finally:
        server = EmbeddedServer(home / "server")
        if server.running():
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
