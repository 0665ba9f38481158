"""Reports the progress of a long-running function without knowledge of terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: int = 1) -> None:
        """Report that ``n`` more units are done."""

    def update(self, *, done: int, total: int | None = None) -> None:
        """Report that ``done`` units of ``total`` are done in all."""

    def stage(self, name: str) -> None:
        """Report what begins now, in a task that cannot count."""


class Progress(Protocol):
    """Receiver of progress and of remarks for a person."""

    def task(self, description: str, *, total: int | None, unit: str) -> AbstractContextManager[Task]:
        """Open a task. ``total`` is ``None`` if unknown."""

    def note(self, message: str) -> None:
        """Show one sentence to the user."""


class _SilentTask:
    def advance(self, n: int = 1) -> None: ...

    def update(self, *, done: int, total: int | None = None) -> None: ...

    def stage(self, name: str) -> None: ...


class Silent:
    """Shows nothing: the default for library use."""

    @contextmanager
    def task(self, description: str, *, total: int | None, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, message: str) -> None: ...


SILENT = Silent()
