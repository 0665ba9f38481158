"""Search beside the peers: index build, recall and single-query latency of cbirdb, plain pgvector and what else there is.

    make .venv/.installed-bench
    .venv/bin/python benchmarks/peers.py --rows 200000 --dim 512 --json benchmarks/peers.json

The same vectors, the same queries (which are not among the vectors), the same truth (exact, single precision) for:

    paper           FAISS flat and pandas, as the paper's code does it; exact
    faiss-hnsw, hnswlib             in this process: no server, no transactions, nothing but the index
    lancedb, chroma, milvus-lite    databases that are embedded in this process and keep files
    pgvector        plain pgvector: psycopg, one table, HNSW at the default parameters, the SQL of its own documentation
    cbirdb          an index of --method at cbirdb's defaults (HNSW: m = 16, ef_construction = 128), asked as applications
                    do, through cbir.similar_images, which describes what it finds and records each search
    cbirdb-hnsw, cbirdb-bit-hnsw, cbirdb-ivfflat
                    asked through cbir_internal.nearest_image, for ids alone; HNSW here with the parameters of plain pgvector

Graphs get --m and --ef-construction where they can be told (pgvector: its defaults; cbirdb: its own); every build may use
--threads threads. Latency is that of one client that asks one query at a time, everything that it has to do included.
All peers are there at once and take turns, block of queries by block of queries, setting by setting, so that noise
hits all of them; a setting that takes more than --seconds in one turn goes on with fewer queries. What is compared is the
median at the fastest setting whose recall is at least --floor: a setting that is fast because it finds little does not
count. A new peer is a class in `search_peers/`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from clustered import clustered_vectors
from search_peers import PEERS, Built, Options, Peer
from server import add_server_options, server_settings

from cbirdb.index.methods import METHODS
from cbirdb.vectors.exact_knn import exact_neighbours

DEPTHS = (10, 100)
YARDSTICK = "faiss-hnsw"
BUILD_YARDSTICK = "pgvector"
BLOCKS = 2
"""So many turns; each takes its share of the queries through every peer and setting."""
PACKAGES = ("faiss-cpu", "hnswlib", "lancedb", "chromadb", "pymilvus", "milvus-lite", "pandas", "pgvector", "psycopg")


@dataclass
class Point:
    """What one peer gave with one setting at one depth, over all queries."""

    peer: str
    kind: str
    k: int
    setting: dict[str, int]
    recalls: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Share of the k true nearest that were found, mean over the queries."""
        return float(np.mean(self.recalls))

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return float(np.percentile(self.times_ms, 50))

    @property
    def p95_ms(self) -> float:
        """95th percentile of the latency."""
        return float(np.percentile(self.times_ms, 95))

    @property
    def words(self) -> str:
        """The setting for a table."""
        words = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in self.setting.items()) or "exact"
        return words + (" (default)" if self.setting == PEERS[self.peer].default else "")


def main() -> None:
    """Build, measure and print."""
    arguments = parsed()
    missing = not_installed(arguments.peers)
    if missing:
        sys.exit("\n".join(missing))
    vectors, queries = data(arguments)
    # Not the rows' numbers, so that a peer that returns those is found out.
    ids = np.arange(len(vectors), dtype=np.int64) * 3 + 1
    truth = exact_neighbours(queries, [(ids, vectors)], max(DEPTHS), device="cpu").ids
    with tempfile.TemporaryDirectory(prefix="peers-") as folder, ExitStack() as stack:
        peers: dict[str, Peer] = {}
        builds: dict[str, Built] = {}
        for name in arguments.peers:
            peers[name] = new_peer(name, Path(folder), arguments)
            stack.callback(peers[name].close)
            print(f"building {name} ...", end=" ", file=sys.stderr, flush=True)
            builds[name] = peers[name].build(ids, vectors)
            print(f"{builds[name].load_s + builds[name].index_s:.1f} s", file=sys.stderr)
        points = measure(peers.values(), queries, truth, arguments.seconds)
    report(arguments, builds, points)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3, help="that one setting may take in one turn")
    parser.add_argument("--threads", type=int, default=2, help="that a build may use")
    parser.add_argument("--m", type=int, default=16, help="neighbours per element of a graph")
    parser.add_argument("--ef-construction", type=int, default=128, help="candidates while a graph is built")
    parser.add_argument("--floor", type=float, default=0.99, help="recall below which a latency does not count")
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=list(PEERS),
        metavar="A,B,...",
        help=f"which, in place of all: {', '.join(PEERS)}",
    )
    parser.add_argument("--method", choices=["auto", *METHODS], default="hnsw", help="of the index of 'cbirdb'")
    add_server_options(parser)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.peers if name not in PEERS]
    if unknown:
        parser.error(f"there is no peer '{unknown[0]}'; there are: {', '.join(PEERS)}")
    return arguments


def not_installed(names: Iterable[str]) -> list[str]:
    """A sentence for each chosen peer whose modules are not there."""
    return [
        f"The peer '{name}' needs {module}, which is not installed. Install the extra 'bench' (make .venv/.installed-bench),"
        " or choose others with --peers."
        for name in names
        for module in PEERS[name].needs
        if importlib.util.find_spec(module) is None
    ]


def data(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (rows, dim) and queries (queries, dim) from the same clusters."""
    together = np.empty((arguments.rows + arguments.queries, arguments.dim), np.float32)
    start = 0
    for _, batch in clustered_vectors(len(together), arguments.dim, seed=arguments.seed):
        together[start : start + len(batch)] = batch
        start += len(batch)
    return together[: arguments.rows], together[arguments.rows :]


def new_peer(name: str, folder: Path, arguments: argparse.Namespace) -> Peer:
    """A peer with nothing in it yet."""
    own = folder / name
    own.mkdir()
    options = Options(
        folder=own,
        dim=arguments.dim,
        threads=arguments.threads,
        m=arguments.m,
        ef_construction=arguments.ef_construction,
        server=server_settings(arguments),
        method=arguments.method,
    )
    return PEERS[name](options)


def measure(peers: Iterable[Peer], queries: np.ndarray, truth: np.ndarray, seconds: float) -> list[Point]:
    """Every peer with every setting at every depth, in turns; who is slow answers fewer queries."""
    plan = [
        (peer, Point(peer.name, peer.kind, k, setting))
        for k in DEPTHS
        for peer in peers
        for setting in peer.settings(k)
    ]
    for turn, block in enumerate(np.array_split(np.arange(len(queries)), BLOCKS), start=1):
        print(f"turn {turn} of {BLOCKS}", file=sys.stderr)
        for peer, point in plan:
            peer.use(point.setting)
            peer.search(queries[block[-1]], point.k)  # not counted: whoever went before has the caches
            turn_ends = time.perf_counter() + seconds
            for number in block:
                began = time.perf_counter()
                if began > turn_ends:
                    break
                found = peer.search(queries[number], point.k)
                point.times_ms.append(1000 * (time.perf_counter() - began))
                point.recalls.append(len(np.intersect1d(found, truth[number, : point.k])) / point.k)
    return [point for _, point in plan]


def fastest(points: list[Point], peer: str, k: int, floor: float) -> Point | None:
    """The point of lowest median latency among those that find enough."""
    good = [point for point in points if point.peer == peer and point.k == k and point.recall >= floor]
    return min(good, key=lambda point: point.p50_ms) if good else None


def report(arguments: argparse.Namespace, builds: dict[str, Built], points: list[Point]) -> None:
    """Ratios first."""
    versions = {name: version(name) for name in PACKAGES}
    print(
        f"{arguments.rows:,} rows, {arguments.dim} dimensions, {arguments.queries} queries; builds with {arguments.threads}"
        f" threads; " + ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    )
    headlines = report_headline(arguments, points)
    report_builds(builds, points)
    report_curves(points)
    if arguments.json:
        figures = {
            "arguments": vars(arguments) | {"json": None, "dsn": None, "home": None},
            "versions": versions,
            "headline": headlines,
            "builds": {name: asdict(build) for name, build in builds.items()},
            "curves": [
                {
                    "peer": p.peer,
                    "k": p.k,
                    "setting": p.setting,
                    "recall": p.recall,
                    "queries": len(p.times_ms),
                    "p50_ms": p.p50_ms,
                    "p95_ms": p.p95_ms,
                }
                for p in points
            ],
        }
        arguments.json.write_text(json.dumps(figures, indent=1))


def report_headline(arguments: argparse.Namespace, points: list[Point]) -> list[dict[str, Any]]:
    """Who finds enough, how fast, beside FAISS' HNSW."""
    rows: list[dict[str, Any]] = []
    for k in DEPTHS:
        yardstick = fastest(points, YARDSTICK, k, arguments.floor)
        print(f"\nLowest latency at recall@{k} of at least {arguments.floor}; ratio to {YARDSTICK}")
        print(f"{'':16}{'':12}{'ratio':>8}{'p50 ms':>9}{'p95 ms':>9}{'recall':>9}  setting")
        for name in arguments.peers:
            point = fastest(points, name, k, arguments.floor)
            own = [one for one in points if one.peer == name and one.k == k]
            shown = point or max(own, key=lambda one: one.recall)
            ratio = point.p50_ms / yardstick.p50_ms if point and yardstick else None
            written = f"{ratio:>8.2f}" if ratio is not None else f"{'-':>8}"
            print(
                f"{name:16}{shown.kind:12}{written}{shown.p50_ms:>9.2f}{shown.p95_ms:>9.2f}{shown.recall:>9.4f}"
                f"  {shown.words}{'' if point else '; not reached, its best'}"
            )
            rows.append(
                {"peer": name, "k": k, "reached": point is not None, "ratio": ratio, "recall": shown.recall,
                 "p50_ms": shown.p50_ms, "p95_ms": shown.p95_ms, "setting": shown.setting}
            )  # fmt: skip
    return rows


def report_builds(builds: dict[str, Built], points: list[Point]) -> None:
    """How long until the vectors can be searched, beside plain pgvector, and what a search then needs."""
    yardstick = builds.get(BUILD_YARDSTICK)
    print(f"\nLoad and build; ratio to {BUILD_YARDSTICK}. Reached: the highest recall of the sweep")
    print(
        f"{'':16}{'total':>7}{'index':>7}{'load s':>9}{'index s':>9}{'MB':>8}{'reached@10':>12}{'@100':>8}"
        f"  {'built with':24}note"
    )
    for name, build in builds.items():
        total, index = "-", "-"
        if yardstick is not None:
            total = f"{(build.load_s + build.index_s) / (yardstick.load_s + yardstick.index_s):.2f}"
            index = f"{build.index_s / yardstick.index_s:.2f}"
        best = [max(p.recall for p in points if p.peer == name and p.k == k) for k in DEPTHS]
        size = f"{build.size_bytes / 2**20:,.0f}" if build.size_bytes is not None else "-"
        details = ", ".join(f"{key} {value}" for key, value in build.details.items())
        print(
            f"{name:16}{total:>7}{index:>7}{build.load_s:>9.1f}{build.index_s:>9.1f}{size:>8}{best[0]:>12.4f}{best[1]:>8.4f}"
            f"  {build.parameters:24}{build.note}{'; ' + details if details else ''}"
        )


def report_curves(points: list[Point]) -> None:
    """Recall against latency, every point."""
    print("\nRecall against latency, one query at a time")
    print(f"{'':16}{'k':>4}{'recall':>9}{'p50 ms':>9}{'p95 ms':>9}{'queries':>9}  setting")
    for p in points:
        print(f"{p.peer:16}{p.k:>4}{p.recall:>9.4f}{p.p50_ms:>9.2f}{p.p95_ms:>9.2f}{len(p.times_ms):>9}  {p.words}")


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
