"""Damaged pictures through `ingest`'s eyes, beside independent decoders: what those report must be refused.

    make fuzz                          seed 1, some minutes
    make fuzz ARGS="--seed 7 --rounds 10"

Every file is damaged in each way of ``damage.py``, with seeded places. The judges are programs of others that report
what their decoder says (``judges.py``). The table counts what was accepted although a judge reports it, of which there
must be none, and what was accepted because no decoder can notice it. An intact file that is refused is an error, too.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cbirdb.errors import PixelError
from cbirdb.ingest.inspect_files import look_pool
from cbirdb.limits import MAX_PIXELS
from cbirdb.parallel.worker_pool import WorkerDiedError, WorkerTimeoutError
from tests.fuzz.damage import DAMAGE, INTACT
from tests.fuzz.judges import JUDGES, missing_programs
from tests.fuzz.pictures import generated

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
COLUMNS = (
    "format",
    "damage",
    "files",
    "refused",
    "reported, yet accepted",
    "noticed by no decoder",
    "refused, judge silent",
)


@dataclass(frozen=True)
class Sample:
    """One damaged file."""

    format: str
    name: str
    damage: str
    path: Path


def real_files(count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Some real pictures: format, name and content; none where there are none beside the checkout."""
    rng = random.Random(seed)
    for file_format, suffixes in (("JPEG", (".jpg", ".jpeg")), ("PNG", (".png",))):
        found = sorted(path for path in REAL.rglob("*") if path.suffix in suffixes)
        for path in rng.sample(found, min(count, len(found))):
            yield file_format, path.name, path.read_bytes()


def samples(folder: Path, *, rounds: int, real: int, seed: int) -> Iterator[Sample]:
    """Each picture intact, and damaged in each way that there is for its format, written into the folder."""
    number = 0
    for file_format, name, data in [*generated(), *real_files(real, seed)]:
        for damage, harm in {INTACT: lambda data, _: data, **DAMAGE[file_format]}.items():
            seen = {data} if damage != INTACT else set()
            for turn in range(1 if damage == INTACT else rounds):
                harmed = harm(data, random.Random(f"{seed} {name} {damage} {turn}"))
                if harmed in seen:
                    continue
                seen.add(harmed)
                path = folder / f"{number:06}{'.jp2' if file_format == 'JPEG2000' else ''}"  # its judge wants the name
                path.write_bytes(harmed)
                number += 1
                yield Sample(file_format, name, damage, path)


def verdict(future: Future[object]) -> str | None:
    """Why cbirdb refuses a file; None: it takes it."""
    try:
        found = future.result()
    except (WorkerDiedError, WorkerTimeoutError) as error:
        return str(error)
    return f"{found.reason}: {found.message}" if isinstance(found, PixelError) else None


def main() -> int:
    """Print the table; 1 when something is accepted that a judge reports, or an intact file is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4, help="How often each way of damage is tried on a file.")
    parser.add_argument("--real", type=int, default=40, help="Real JPEG files, and as many PNG files.")
    options = parser.parse_args()
    if missing := missing_programs():
        sys.stderr.write(f"make fuzz needs {missing}.\n")
        return 2
    counts: Counter[tuple[str, str, str]] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as name, look_pool(MAX_PIXELS) as looks, ThreadPoolExecutor() as threads:
        tried = list(samples(Path(name), rounds=options.rounds, real=options.real, seed=options.seed))
        ours = [looks.submit(sample.path) for sample in tried]
        theirs = list(threads.map(lambda sample: JUDGES[sample.format].report(sample.path), tried))
        for sample, future, report in zip(tried, ours, theirs, strict=True):
            refused = verdict(future)
            if refused is None:
                kind = "noticed by no decoder" if report is None else "reported, yet accepted"
            else:
                kind = "refused, judge silent" if report is None else "refused"
            counts[sample.format, sample.damage, "files"] += 1
            counts[sample.format, sample.damage, kind] += 1
            if kind == "refused, judge silent":
                counts[sample.format, sample.damage, "refused"] += 1
            if kind == "reported, yet accepted" or (sample.damage == INTACT and refused is not None):
                wrong.append(f"{sample.format} {sample.name}, {sample.damage}: {report or refused}")
    print_table(counts)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


def print_table(counts: Counter[tuple[str, str, str]]) -> None:
    """Rows of Markdown, to be pasted into ``docs/damaged-images.md``."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for file_format, damage in dict.fromkeys((key[0], key[1]) for key in counts):
        figures = [f"{counts[file_format, damage, column]:,}" for column in COLUMNS[2:]]
        print(f"| {file_format} | {damage} | {' | '.join(figures)} |")
    total = [
        f"{sum(n for key, n in counts.items() if key[2] == column and key[1] != INTACT):,}" for column in COLUMNS[2:]
    ]
    print(f"| all | all damage | {' | '.join(total)} |")


if __name__ == "__main__":
    raise SystemExit(main())
