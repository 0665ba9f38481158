"""Calls a function in worker processes that may crash or hang, and continues without the failed call.

A decoder of images is C code that reads strangers' files. One file in a million ends the process, loops for ever, or
asks for all memory. ``concurrent.futures`` gives up when a process of its pool dies, and waits without end for one that
hangs.
"""

from __future__ import annotations

import atexit
import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from cbirdb.errors import PixelError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16
"""Items sent to a worker at once: a message costs as much as a small image."""
FLUSH_S = 0.05
"""Seconds for which a worker collects results, to send several at once."""
GRACE_S = 2.0
"""Seconds that workers have to end by themselves when the pool closes."""


class WorkerDiedError(Exception):
    """Raised when the process that worked on an item crashed or was killed."""

    def __init__(self, exit_code: int | None) -> None:
        self.exit_code = exit_code or 0
        ending = f"exit code {exit_code}"
        if self.exit_code < 0:
            ending = f"signal {-self.exit_code}, {signal.strsignal(-self.exit_code) or 'unknown'}"
        super().__init__(f"the process that read it ended ({ending})")


class WorkerTimeoutError(Exception):
    """Raised when an item took too long; its process was killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it took longer than {seconds:g} seconds")


def as_pixel_error(error: WorkerDiedError | WorkerTimeoutError) -> PixelError:
    """Return the error to record for an image file."""
    return PixelError("timed out" if isinstance(error, WorkerTimeoutError) else "crashed the decoder", str(error))


_preloaded = ["__main__"]


def preload_modules(modules: Sequence[str]) -> None:
    """Import these modules once for all worker processes. A call has no effect after the first process has started."""
    _preloaded.extend(module for module in modules if module not in _preloaded)
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_preloaded))


class WorkerPool(Generic[Item, Result]):
    """A fixed number of processes that call one function, item by item, in the order of submission."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        *,
        workers: int,
        timeout_s: float,
        preload: Sequence[str] = (),
    ) -> None:
        """Prepare the pool; the processes start with the first item.

        :param function: must be picklable, as must items and results.
        :param timeout_s: seconds that one item may take.
        :param preload: modules that the function needs, imported once for all workers.
        """
        # No fork of this process: its threads (of torch, of the driver) hold locks that a fork would copy.
        self._context = multiprocessing.get_context("forkserver")
        preload_modules(preload)
        self._function = function
        # Else they find all that they need in modules.
        self._needs_program = "__main__" in {*preload, getattr(function, "func", function).__module__}
        self._timeout_s = timeout_s
        self._queue: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._failed: BaseException | None = None
        self._wake_receiver, self._wake_sender = self._context.Pipe(duplex=False)
        self._size = workers
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._dispatch, name="worker pool", daemon=True)

    def submit(self, item: Item) -> Future[Result]:
        """Queue an item.

        :returns: its future result. It raises :class:`WorkerDiedError` or :class:`WorkerTimeoutError` if the process
            did not survive the item, and otherwise whatever the function raised.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._failed is not None:
                raise RuntimeError(str(self._failed)) from self._failed
            if not self._workers:
                self._workers = [self._start() for _ in range(self._size)]
                self._thread.start()
                # Workers ignore the signal by which ``multiprocessing`` ends them when a program ends.
                atexit.register(self.close)
            idle = not self._queue
            self._queue.append(_Job(item, future))
        if idle:
            self._wake_sender.send_bytes(b"!")
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and cancel the items that no process has begun."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for job in self._queue:
                job.future.cancel()
            self._queue.clear()
        if self._workers:
            atexit.unregister(self.close)
            self._wake_sender.send_bytes(b"!")
            self._thread.join()
        for worker in self._workers:
            worker.pipe.close()
        deadline = time.monotonic() + GRACE_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(GRACE_S)
            worker.held.close()
            for job in worker.sent:
                job.future.cancel()
        self._wake_sender.close()
        self._wake_receiver.close()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        watched, held = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._function, theirs, watched), daemon=True)
        try:
            with _safe_path(), nullcontext() if self._needs_program else _program_hidden():
                process.start()
        except (EOFError, OSError) as error:
            raise RuntimeError("No worker process can be started: the process that starts them has ended.") from error
        theirs.close()  # so that we notice when the worker ends
        watched.close()
        return _Worker(process, ours, held)

    def _dispatch(self) -> None:
        """Hand out items, collect results and replace processes: the loop of the pool's own thread."""
        try:
            while True:
                with self._lock:
                    if self._closed:
                        return
                    self._assign()
                now = time.monotonic()
                due = [worker.since + self._timeout_s for worker in self._workers if worker.sent]
                pipes: list[Any] = [self._wake_receiver, *(worker.pipe for worker in self._workers)]
                ready = wait(pipes, max(0.0, min(due) - now) if due else None)
                if self._wake_receiver in ready:
                    self._wake_receiver.recv_bytes()
                for number, worker in enumerate(self._workers):
                    if worker.pipe in ready and not worker.take_results():
                        self._replace(number, None)
                    elif worker.sent and time.monotonic() - worker.since > self._timeout_s:
                        worker.process.kill()
                        self._replace(number, WorkerTimeoutError(self._timeout_s))
        except BaseException as error:  # whoever waits for an item must learn of it  # noqa: BLE001
            self._fail_all(error)

    def _assign(self) -> None:
        """Give items to the least busy workers; a few each while few are queued."""
        for worker in sorted(self._workers, key=lambda worker: len(worker.sent)):
            if not self._queue or not worker.ready or any(job.suspect for job in worker.sent):
                continue
            if self._queue[0].suspect:
                if not worker.sent:
                    worker.send([self._queue.popleft()])
                continue
            share = max(1, min(CHUNK, len(self._queue) // len(self._workers)))
            if len(worker.sent) <= share // 2:
                jobs: list[_Job] = []
                while self._queue and len(jobs) < share and not self._queue[0].suspect:
                    jobs.append(self._queue.popleft())
                worker.send(jobs)

    def _replace(self, number: int, error: Exception | None) -> None:
        """Start another process in place of one that has ended.

        An item that it had alone caused the end. Several unanswered items are suspect: each is tried again, alone.
        """
        worker = self._workers[number]
        worker.pipe.close()
        worker.process.join(GRACE_S)
        worker.process.kill()  # in case it closed the pipe but lives on
        worker.held.close()
        if not worker.ready:
            raise RuntimeError(f"A worker process could not start (exit code {worker.process.exitcode}).")
        if len(worker.sent) == 1:
            worker.sent.popleft().future.set_exception(error or WorkerDiedError(worker.process.exitcode))
        else:
            for job in worker.sent:
                job.suspect = True
            with self._lock:
                self._queue.extendleft(reversed(worker.sent))
        self._workers[number] = self._start()

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            self._failed = error
            waiting = list(self._queue)
            self._queue.clear()
        for worker in self._workers:
            waiting += worker.sent
            worker.sent.clear()
        for job in waiting:
            with suppress(InvalidStateError):
                job.future.set_exception(error)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Set PYTHONSAFEPATH while a process starts.

    Python starts the fork server with ``-c``, which looks for modules in the working directory first. That may be a
    folder of a stranger's images, with a numpy.py among them.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def _program_hidden() -> Iterator[None]:
    """Keep a new process from running the user's program again, as it does to have what the program defines.

    A script without ``if __name__ == "__main__"`` would begin anew in each process.
    """
    program = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: program.pop(name) for name in ("__file__", "__spec__") if name in program}
    program["__spec__"] = None
    try:
        yield
    finally:
        program.update(hidden)


@dataclass(slots=True)
class _Job:
    """One queued item."""

    item: Any
    future: Future[Any]
    suspect: bool = False
    """True if its process ended or hung while several items were unanswered."""


class _Worker:
    """One process as the pool sees it."""

    def __init__(self, process: BaseProcess, pipe: Connection, held: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.held = held
        """The end of a pipe without messages. The process is killed when it is closed, thus when this one ends."""
        self.ready = False
        self.sent: deque[_Job] = deque()
        self.since = 0.0
        """Time when it last answered or got new work."""

    def send(self, jobs: list[_Job]) -> None:
        if not self.sent:
            self.since = time.monotonic()
        self.sent.extend(jobs)
        # If the process has ended, reading its pipe will tell; the items are handled there.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send([job.item for job in jobs])

    def take_results(self) -> bool:
        """Take one message of results; return False if the process has ended."""
        try:
            outcomes = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return False
        self.ready = True
        self.since = time.monotonic()
        for succeeded, value in outcomes:
            future = self.sent.popleft().future
            with suppress(InvalidStateError):  # its owner has cancelled it
                if succeeded:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        return True


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled.

    Exceptions of some libraries cannot be sent, or not be rebuilt where they arrive.
    """
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_owner(watched: Connection) -> None:
    """Have the kernel kill this process when the other end of a pipe is closed, even in the middle of a hanging call.

    The other end is the pool's. Nothing is ever sent, so closing it is the only event.
    """
    descriptor = watched.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)


def _work(function: Callable[[Any], Any], pipe: Connection, watched: Connection) -> None:
    """Run the loop of a worker process until the pool closes its end of the pipe or dies."""
    # The pool handles Ctrl-C and SIGTERM. Both may go to all processes at once, from a terminal or from Slurm.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        _die_with_owner(watched)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # workers already use every core
    try:
        pipe.send([])  # tell the pool that this worker is ready
        while True:
            outcomes: list[tuple[bool, Any]] = []
            flushed = time.monotonic()
            for item in pipe.recv():
                try:
                    outcomes.append((True, function(item)))
                except Exception as error:  # the caller decides what to do with it  # noqa: BLE001
                    outcomes.append((False, _portable(error)))
                if time.monotonic() - flushed > FLUSH_S:
                    pipe.send(outcomes)
                    outcomes, flushed = [], time.monotonic()
            pipe.send(outcomes)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
