"""Counts the processors and the memory that this process may use: the machine's, or the container's if less.

A container's limits are files of a control group (cgroup). Version 2 has one tree of groups, version 1 one tree per
resource; some machines have both. The limits of all groups above a group apply, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def machine_cpus() -> int:
    """Count the processors that this process may use. A quota of 1.5 counts as two."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min([cpus, *(math.ceil(quota) for quota in _cpu_quotas())]))


def machine_memory() -> int:
    """Return the bytes of memory that this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_memory_limits()])


def _memory_limits() -> Iterator[int]:
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            yield from (limit for limit in _numbers(group / name)[:1] if limit > 0)


def _cpu_quotas() -> Iterator[float]:
    """Yield the quotas, in processors."""
    for group in _groups("cpu"):
        # Version 2 writes "100000 100000" or "max 100000". In version 1, -1 means no quota.
        pair = _numbers(group / "cpu.max") or [
            *_numbers(group / "cpu.cfs_quota_us"),
            *_numbers(group / "cpu.cfs_period_us"),
        ]
        if len(pair) == 2 and min(pair) > 0:
            yield pair[0] / pair[1]


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of the groups above it, in the trees that limit a resource."""
    mount = ROOT / "sys/fs/cgroup"
    for line in _lines(ROOT / "proc/self/cgroup") or ["0::/"]:
        # "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1.
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        trees = (mount / controllers, mount / controller) if controllers else (mount, mount / "unified")
        # A container may see the host's path while its own group lies at the root of the tree.
        inside = PurePosixPath(path.lstrip("/"))
        for tree in trees:
            yield from (tree / above for above in (inside, *inside.parents))


def _numbers(file: Path) -> list[int]:
    """Return the numbers in a limit's file; none if the file is missing or the limit is "max"."""
    words = [word for line in _lines(file) for word in line.split()]
    return [int(word) for word in words] if all(word.lstrip("-").isdecimal() for word in words) else []


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []  # no such control group here
