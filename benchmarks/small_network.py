"""Shows efficientnet-lite0 beside tiny-image on three real sets: precision at N, micro and macro, with intervals.

    python benchmarks/small_network.py --data ../shared/data --json benchmarks/small_network.json

Each set is evaluated alone. Where a set has no splits of its own, the content of the files decides: half of them are
queries, the other half is searched. The database is made for this run in a new folder, unless --home names one that
holds the embeddings of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import cbirdb

ENCODERS = ("tiny-image", "efficientnet-lite0")
SETS: dict[str, dict[str, Any]] = {
    "medical_mnist": {"dataset": "folder", "split": "50/0/50"},
    "nih14": {"dataset": "nih14"},
    "busi": {"dataset": "folder", "split": "50/0/50", "label_pattern": r"(?P<label>[a-z]+) [(]"},
}
CUTOFFS = (1, 3, 5, 10)


def measure(db: cbirdb.Database, data: Path) -> list[dict[str, Any]]:
    """Ingest, encode and evaluate each set with both encoders; return a row per set, encoder and N."""
    for name, options in SETS.items():
        db.ingest(options["dataset"], data / name, **{k: v for k, v in options.items() if k != "dataset"})
    db.encode(ENCODERS)
    rows = []
    for name in SETS:
        for encoder in ENCODERS:
            run = db.evaluate(encoder, datasets=name)
            found = db.metrics(encoder, run=run.run_id, cutoffs=CUTOFFS, confidence=True).to_dicts()
            rows += [{"set": name, "indexed": run.indexed, **row} for row in found]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: a line per set, mean and encoder."""
    lines = ["| set | mean | encoder | " + " | ".join(f"P@{n}" for n in CUTOFFS) + " |", "|---" * 7 + "|"]
    for name in SETS:
        for mean in ("micro", "macro"):
            for encoder in ENCODERS:
                found = [row for row in rows if row["set"] == name and row["encoder"] == encoder]
                figures = [
                    f"{row[f'{mean}_precision']:.3f} ({row[f'{mean}_low']:.3f} to {row[f'{mean}_high']:.3f})"
                    for row in found
                ]
                over = f"{found[0]['queries']} queries" if mean == "micro" else f"{found[0]['classes']} classes"
                lines.append(f"| {name} | {mean}, {over} | {encoder} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with " + ", ".join(SETS))
    parser.add_argument("--home", type=Path, help="folder of the embedded server to keep")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = cbirdb.connect(home=arguments.home or folder)
        try:
            rows = measure(db, arguments.data)
        finally:
            db.stop_server()
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
