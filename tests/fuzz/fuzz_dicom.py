"""Damaged DICOM files: each is shown or refused with a reason, in bounded time and memory, and nothing else happens.

    make fuzz-dicom                    5,000 files, seed 1, some minutes
    make fuzz-dicom ARGS="--seed 7 --files 500"

Real files beside the checkout are damaged, and small ones of each transfer syntax; headers more often than pixels. Each
is decoded twice: refusing damage and accepting it, in another rendering.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cbirdb.parallel.worker_pool import WorkerDiedError, WorkerPool, WorkerTimeoutError
from tests.fuzz.damage import EVERYWHERE, Harm
from tests.fuzz.dicom_attempt import attempt
from tests.support.dicom_pixels import ENCODERS, UNCOMPRESSED, colours, compressed, native, smooth, uid

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
LARGEST_REAL = 400_000
"""Bytes; larger files only take longer."""
HEADER = 3000
"""Most headers end within so many bytes."""
TIMEOUT_S = 30.0
MOST_MEMORY = 2 << 30
RENDERINGS = ("as-displayed", "min-max", "equalise", "ct-preset:lung", "hu-windows:-1024..1024,-135..215,0..80")
COLUMNS = ("transfer syntax", "damage", "files", "shown", "shown if damage is accepted", "refused", "slowest, s")


def in_header(count: int) -> Harm:
    """Replace so many bytes of the header, where most of them matter."""

    def harm(data: bytes, rng: random.Random) -> bytes:
        harmed = bytearray(data)
        for place in rng.sample(range(132, min(HEADER, len(data))), count):
            harmed[place] ^= rng.randrange(1, 256)
        return bytes(harmed)

    return harm


def in_pixel_group(data: bytes, rng: random.Random) -> bytes:
    """A byte of the elements that say how pixels lie becomes another: size, bits, colours, windows, tables."""
    places = [
        place for place in range(132, min(len(data), 1 << 16)) if data[place : place + 2] in (b"\x28\0", b"\0\x28")
    ]
    if not places:
        return data
    place = rng.choice(places) + rng.randrange(16)
    harmed = bytearray(data)
    if place < len(harmed):
        harmed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(harmed)


def in_codestream(data: bytes, rng: random.Random) -> bytes:
    """Bytes of the header of the compressed pixels become others."""
    start = max(data.find(b"\xe0\x7f\x10\0"), 132)
    harmed = bytearray(data)
    for place in rng.sample(range(start, min(start + 200, len(data))), min(2, len(data) - start)):
        harmed[place] ^= rng.randrange(1, 256)
    return bytes(harmed)


HARMS: dict[str, Harm] = {
    **EVERYWHERE,
    "1 byte of the header": in_header(1),
    "5 bytes of the header": in_header(5),
    "1 byte of group 28": in_pixel_group,
    "2 bytes where pixels begin": in_codestream,
}


def sources() -> list[tuple[str, bytes]]:
    """Transfer syntax and content of intact files."""
    made: list[tuple[str, bytes]] = []
    eight = (smooth() >> 4).astype(np.uint8)
    for syntax in (*UNCOMPRESSED, *ENCODERS):
        name = str(uid.UID(syntax).name)
        write = native if syntax in UNCOMPRESSED else compressed
        made.append((name, write(colours(), syntax)))
        made.append((name, write(np.stack([eight, eight.max() - eight]), syntax, frames=True)))
        if syntax != uid.JPEGBaseline8Bit:
            made.append((name, write(smooth(), syntax, BitsStored=12, WindowCenter=2000, WindowWidth=3000)))
    real = (path for path in sorted(REAL.rglob("*")) if path.is_file() and path.suffix != ".csv")
    return [*made, *(("real files", path.read_bytes()) for path in real if path.stat().st_size <= LARGEST_REAL)]


def samples(files: int, seed: int) -> Iterator[tuple[str, str, bytes, str]]:
    """Syntax, damage, content and rendering of the damaged files."""
    intact = sources()
    rng = random.Random(seed)
    for number in range(files):
        syntax, data = intact[number % len(intact)]
        damage = rng.choice(list(HARMS))
        yield syntax, damage, HARMS[damage](data, rng), rng.choice(RENDERINGS)


def main() -> int:
    """Print the table; 1 when anything escapes, hangs, dies or takes more memory than allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    counts: Counter[tuple[str, str, str]] = Counter()
    slowest: dict[tuple[str, str], float] = {}
    reasons: Counter[str] = Counter()
    wrong, memory = [], 0
    with WorkerPool(attempt, workers=options.workers, timeout_s=TIMEOUT_S, preload=[attempt.__module__]) as pool:
        tried = [(*one[:2], pool.submit(one[2:])) for one in samples(options.files, options.seed)]
        for number, (syntax, damage, future) in enumerate(tried):
            counts[syntax, damage, "files"] += 1
            try:
                found = future.result()
            except (WorkerDiedError, WorkerTimeoutError) as error:
                wrong.append(f"file {number}, {syntax}, {damage}: {error}")
                continue
            if found.escaped:
                wrong.append(f"file {number}, {syntax}, {damage}: {found.escaped}")
            counts[syntax, damage, "refused" if found.strict else "shown"] += 1
            counts[syntax, damage, "shown if damage is accepted"] += found.lenient is None
            reasons[(found.strict or "shown").split(":")[0]] += 1
            slowest[syntax, damage] = max(slowest.get((syntax, damage), 0.0), found.seconds)
            memory = max(memory, found.memory)
    print_table(counts, slowest)
    print("\n" + ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common()))
    print(f"Largest memory of a worker: {memory / 2**20:,.0f} MiB.")
    if memory > MOST_MEMORY:
        wrong.append("a worker took more than 2 GiB")
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


def print_table(counts: Counter[tuple[str, str, str]], slowest: dict[tuple[str, str], float]) -> None:
    """Rows of Markdown by damage, and one for each syntax."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for part, other in ((0, 1), (1, 0)):
        for name in sorted({key[part] for key in counts}):
            figures = [
                f"{sum(n for key, n in counts.items() if key[part] == name and key[2] == c):,}" for c in COLUMNS[2:6]
            ]
            longest = max((seconds for key, seconds in slowest.items() if key[part] == name), default=0.0)
            names = (name, "all") if other else ("all", name)
            print(f"| {' | '.join([*names, *figures])} | {longest:.2f} |")


if __name__ == "__main__":
    raise SystemExit(main())
