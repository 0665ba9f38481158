"""Asks an advisory database (OSV) about every pinned package, in one request (``make audit``).

Prints a line per package with advisories and ends with 1; ends with 0 if there are none. If the database cannot be reached,
one line says that nothing was checked. CBIRDB_ADVISORIES names a mirror of the database.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("requirements.lock", "requirements-bench.lock")
ADDRESS = "https://api.osv.dev"
TIMEOUT_S = 30
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)")
Pin = tuple[str, str]


def pins(paths: list[Path]) -> list[Pin]:
    """Return name and version of each line, once.

    :raises ValueError: for a line that pins nothing.
    """
    found: set[Pin] = set()
    for path in paths:
        for line in path.read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            pin = PIN.match(line)
            if pin is None:
                raise ValueError(f"{path.name}: this line pins no version: {line}")
            found.add((pin[1], pin[2]))
    return sorted(found)


def advisories(packages: list[Pin], address: str) -> dict[Pin, list[str]]:
    """Return the ids of the advisories of each package that has any.

    :raises OSError: when the database does not answer.
    :raises ValueError: when its answer is invalid.
    """
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in packages]
    request = urllib.request.Request(
        f"{address}/v1/querybatch", json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        results = json.load(answer)["results"]
    return {
        pin: [advisory["id"] for advisory in result["vulns"]]
        for pin, result in zip(packages, results, strict=True)
        if result.get("vulns")
    }


def main() -> int:
    """Check all pinned packages; return the exit code."""
    packages = pins([ROOT / name for name in FILES])
    address = os.environ.get("CBIRDB_ADVISORIES", ADDRESS).rstrip("/")
    try:
        found = advisories(packages, address)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"No package was checked: the advisory database at {address} does not answer ({error}).", file=sys.stderr)
        return 0
    for (name, version), ids in found.items():
        print(f"{name} {version}: {', '.join(ids)}")
    print(f"{len(packages)} pinned packages checked, {len(found)} with advisories.", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
