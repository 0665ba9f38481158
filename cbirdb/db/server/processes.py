"""Examines a PostgreSQL server's processes on this machine, also those of a killed server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def is_server(pid: int) -> bool:
    """Return True if this process is a living PostgreSQL server."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.partition("(")[2].startswith("postgres)") and text.rpartition(")")[2].split()[0] != "Z"


def shared_memory_in_use(pid_file: Sequence[str]) -> bool:
    """Return True if processes hold the shared memory whose key and id are in the seventh line of a pid file.

    Return False if the machine does not tell: PostgreSQL then refuses to start, and says why.
    """
    try:
        number = pid_file[6].split()[1]
        blocks = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    except (OSError, IndexError):
        return False
    return any(block[1] == number and block[6] != "0" for block in blocks)
