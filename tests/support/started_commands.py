"""Starts the command line as processes that a test stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("cbirdb")
Process = "subprocess.Popen[str]"
Start = Callable[..., Process]


def start_command(*arguments: object) -> subprocess.Popen[str]:
    """Start ``cbirdb`` in a process group of its own."""
    return subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@contextmanager
def started_commands(dsn: str, *last: str) -> Iterator[Start]:
    """Give a function that starts commands on a database; none outlives the block.

    :param last: arguments that come after all others.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        processes.append(start_command("--dsn", dsn, *arguments, *last))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
