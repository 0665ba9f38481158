"""How a long-running function tells how far it is, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: int = 1) -> None:
        """``n`` more units are done."""

    def update(self, *, done: int, total: int | None = None) -> None:
        """``done`` units are done in all, of ``total``."""


class Progress(Protocol):
    """Where progress and remarks for a person go."""

    def task(self, description: str, *, total: int | None, unit: str) -> AbstractContextManager[Task]:
        """Open a task; ``total`` is ``None`` when it is not known."""

    def note(self, message: str) -> None:
        """Say one sentence that the user should read."""


class _SilentTask:
    def advance(self, n: int = 1) -> None: ...

    def update(self, *, done: int, total: int | None = None) -> None: ...


class Silent:
    """The default for library use: says nothing."""

    @contextmanager
    def task(self, description: str, *, total: int | None, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, message: str) -> None: ...


SILENT = Silent()
