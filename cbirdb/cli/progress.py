"""Shows progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.progress import Task as RichTask
from rich.table import Column
from rich.text import Text

from cbirdb.names import escape_controls_by_line

SECONDS_BETWEEN_LINES = 10


class TerminalProgress:
    """Implements ``cbirdb.progress.Progress``."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def task(self, description: str, *, total: int | None, unit: str) -> Iterator[_Bar | _Lines]:
        """Show a bar or lines while the block runs."""
        if not self._console.is_terminal:
            yield _Lines(description, total, unit)
            return
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), _State(unit))
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield _Bar(progress, description, total)

    def note(self, message: str) -> None:
        """Write one line to stderr."""
        click.echo(escape_controls_by_line(message), err=True)


class _State(ProgressColumn):
    """Shows ``1,234 of 5,000, 350 images/s, 0:00:11 left``, or only the elapsed time while the total is unknown."""

    def __init__(self, unit: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._unit = unit

    def render(self, task: RichTask) -> Text:
        """Return the text of the column."""
        if not task.total:
            return Text(f"{timedelta(seconds=int(task.elapsed or 0))} so far")
        text = f"{int(task.completed):,} of {int(task.total):,}"
        if task.speed:
            text += f", {task.speed:,.0f} {self._unit}/s"
        if task.time_remaining is not None:
            text += f", {timedelta(seconds=int(task.time_remaining))} left"
        return Text(text)


class _Bar:
    """Shows a task as a bar of rich."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self._progress = progress
        self._description = description
        self._id = progress.add_task(description, total=total)

    def advance(self, n: int = 1) -> None:
        self._progress.advance(self._id, n)

    def update(self, *, done: int, total: int | None = None) -> None:
        self._progress.update(self._id, completed=done, total=total)

    def stage(self, name: str) -> None:
        self._progress.update(self._id, description=f"{self._description}: {name}")


class _Lines:
    """Writes one line every ten seconds, for logs, and one when a task that has stages begins."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = 0
        self._has_stages = False
        self._started = self._last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.update(done=self._done + n, total=self._total)

    def update(self, *, done: int, total: int | None = None) -> None:
        self._done, self._total = done, total
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = done / (now - self._started)
        line = f"{self._description}: {done:,}"
        if total:
            left = (total - done) / rate if rate else 0
            line += f" of {total:,}, {rate:,.0f} {self._unit}/s, {left:,.0f} s left"
        self._write(line)

    def stage(self, name: str) -> None:
        now = time.monotonic()
        if not self._has_stages:
            self._has_stages = True
            self._write(self._description)
        elif now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._write(f"{self._description}: {name}")

    def _write(self, line: str) -> None:
        click.echo(line, err=True)
        sys.stderr.flush()
