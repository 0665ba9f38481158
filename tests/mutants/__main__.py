"""Draw single faults, put each into a copy of the tree, and see whether a test that touches the file fails.

    python -m tests.mutants --seed 0 --sample 60

Half of the sample is SQL, half Python. Results are added to a file as they come: the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from queue import Queue

from tests.mutants.edits import Edit, edits
from tests.mutants.touching import Touching

ROOT = Path(__file__).resolve().parents[2]
AIM = 0.95
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo-output", "node_modules")
Result = dict[str, object]
running: set[subprocess.Popen[bytes]] = set()
"""Processes to end when the tool ends."""


def drawn(seed: int, sample: int, only: str) -> list[Edit]:
    """The sample, always the same of the same tree, alternately SQL and Python."""
    rng = random.Random(seed)
    each = []
    for of_language in edits(ROOT).values():
        chosen = [one for one in of_language if re.search(only, one.path)]
        rng.shuffle(chosen)  # a larger sample begins with the smaller one
        each.append(chosen)
    mixed = [one for pair in zip(*each, strict=False) for one in pair] if all(each) else [*each[0], *each[1]]
    return mixed[:sample]


def copies(number: int, folder: Path) -> Queue[Path]:
    """Copies of the tree, each with the shared folder beside it, where there is one."""
    ready: Queue[Path] = Queue()
    for place in range(number):
        tree = folder / str(place) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        if (shared := ROOT.parent / "shared").is_dir():
            (folder / str(place) / "shared").symlink_to(shared)
        ready.put(tree)
    return ready


def tried(edit: Edit, tests: list[str], ready: Queue[Path], timeout_s: int) -> Result:
    """The outcome of one fault: caught, by which test, which passes without it; survived; or why it does not count."""
    tree = ready.get()
    file = tree / edit.path
    text = file.read_text()
    began = time.monotonic()
    try:
        file.write_text(edit.apply(text))
        outcome, test = run_tests(tree, tests, timeout_s) if tests else ("survived", "no test touches it")
        file.write_text(text)
        if outcome == "caught" and run_tests(tree, [test], timeout_s)[0] != "survived":
            outcome = "fails anyhow"
    finally:
        file.write_text(text)
        ready.put(tree)
    return {
        "key": edit.key, "path": edit.path, "line": edit.line, "kind": edit.kind, "edit": edit.words,
        "outcome": outcome, "test": test, "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def run_tests(tree: Path, tests: list[str], timeout_s: int) -> tuple[str, str]:
    """The outcome, and the test that failed first."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider",
        "-m", "not slow and not container", *tests,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        # A session of its own, so that what hangs is ended with everything that it started.
        process = subprocess.Popen(
            command, cwd=tree, env=environment, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
        running.add(process)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return "timed out", f"after {timeout_s} s"
        finally:
            end(process)
            running.discard(process)
        output.seek(0)
        said = output.read()
    if process.returncode == 0:
        return "survived", ""
    if process.returncode < 0 or "! KeyboardInterrupt !" in said:
        return "interrupted", ""
    if re.search(r"\bin (?:role_)?template\b", said) and re.search(r"psycopg\.errors\.\w+", said):
        return "not loaded", ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", said, re.MULTILINE)
    return "caught", failed[1] if failed else said.strip().splitlines()[-1][:120]


def end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does it, so that pytest stops the servers that it started; by force when that does not help."""
    for how in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)


def main() -> int:
    """:returns: 0 when the aim is reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for the tests of one fault")
    parser.add_argument("--only", default="", help="a regular expression that files must match")
    parser.add_argument("--results", type=Path, help="where results are added [default: build/mutants-SEED.jsonl]")
    given = parser.parse_args()
    results = given.results or ROOT / "build" / f"mutants-{given.seed}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    sample = drawn(given.seed, given.sample, given.only)
    keys = {one.key for one in sample}
    found = {row["key"]: row for row in known if row["key"] in keys and row["outcome"] != "fails anyhow"}
    touching = Touching(ROOT)
    todo = [one for one in sample if one.key not in found]
    print(f"{len(sample)} faults, {len(found)} of them tried before; results: {results}", flush=True)
    # Also where it was started in the background, in which a shell has SIGINT ignored: tests would ignore it, too.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="cbirdb-mutants-") as folder, ThreadPoolExecutor(given.jobs) as pool:
        Path(folder).chmod(0o755)  # servers of tests run as another user where this one is root
        ready = copies(given.jobs, Path(folder))
        tests = {path: touching.of(path) for path in {one.path for one in todo}}
        futures = [pool.submit(tried, one, tests[one.path], ready, given.timeout) for one in todo]
        try:
            for done in as_completed(futures):
                result = done.result()
                found[str(result["key"])] = result
                with results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print("{outcome:<12} {path}:{line}  {edit} | {test} ({seconds} s)".format(**result), flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in [*running]:
                end(process)
            print("Interrupted; the same command goes on from here.")
    return summary(list(found.values()))


def summary(rows: list[Result]) -> int:
    """Tests that did not end in time caught nothing: they may be slow, or the fault may be an endless loop."""
    print("\n| file | line | edit | outcome |\n|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["outcome"] == "caught", str(row["path"]), int(str(row["line"])))):
        test = str(row["test"]).removeprefix("tests/")
        cell = str(row["edit"]).replace("|", "\\|")
        print(f"| {row['path']} | {row['line']} | `{cell}` | {row['outcome']} {test} |")
    counted = [row for row in rows if row["outcome"] in ("caught", "timed out", "survived")]
    caught = sum(row["outcome"] == "caught" for row in counted)
    share = caught / len(counted) if counted else 0.0
    print(
        f"\n{caught} of {len(counted)} caught ({share:.0%}; the aim is {AIM:.0%});"
        f" {len(rows) - len(counted)} more do not count: they cannot be loaded, or the test fails without them, too."
    )
    return 0 if share >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
