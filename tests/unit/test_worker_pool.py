"""Run work in processes that may crash, hang or be killed: only their item fails, and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbirdb.errors import PixelError
from cbirdb.parallel.shared_memory import SharedMemory
from cbirdb.parallel.worker_pool import WorkerDiedError, WorkerPool, WorkerTimeoutError, as_pixel_error
from tests.support import worker_functions
from tests.support.worker_functions import Order, Squares, obey

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
"""A test that takes longer hangs."""
PRELOAD = ["tests.support.worker_functions", "tests.support.worker_encoders", "cbirdb.ingest.run"]
"""The first pool of a process decides what is imported for all later ones, so this list serves every test."""


def pool(workers: int = 2, *, timeout_s: float = LIMIT_S, function: Callable[[Any], Any] = obey) -> WorkerPool:
    return WorkerPool(function, workers=workers, timeout_s=timeout_s, preload=PRELOAD)


def submit(workers: WorkerPool, *orders: Order) -> list[Future[Any]]:
    return [workers.submit(order) for order in orders]


def outcome(future: Future[Any]) -> Any:
    """Return the result, or the exception as a value."""
    try:
        return future.result(LIMIT_S)
    except Exception as error:  # noqa: BLE001
        return error


def wait_until(what: Callable[[], bool], complaint: str, *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits for its parent does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def check_nothing_is_left() -> None:
    assert multiprocessing.active_children() == []
    assert "worker pool" not in {thread.name for thread in threading.enumerate()}


# --- ordinary work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_gets_its_own_result(workers: int) -> None:
    with pool(workers) as started:
        futures = submit(started, *(("echo", number) for number in range(500)))
        assert [future.result(LIMIT_S) for future in futures] == list(range(500))
    check_nothing_is_left()


def test_items_are_begun_in_the_order_of_their_submission(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pool(1) as started:
        for future in submit(started, *(("append", (str(log), str(number))) for number in range(50))):
            future.result(LIMIT_S)
    assert log.read_text().split() == [str(number) for number in range(50)]


def test_pool_has_as_many_processes_as_requested() -> None:
    with pool(3) as started:
        futures = submit(started, *[("which", None)] * 200)
        pids = {future.result(LIMIT_S)[0] for future in futures}
        assert len(multiprocessing.active_children()) == 3
    assert len(pids) <= 3
    assert os.getpid() not in pids


def test_idle_pool_accepts_further_items() -> None:
    with pool() as started:
        for number in range(5):
            assert started.submit(("echo", number)).result(LIMIT_S) == number
            time.sleep(0.01)  # idle meanwhile


def test_owner_sees_what_workers_write_into_shared_memory() -> None:
    memory = SharedMemory(8 * 100)
    with pool(function=Squares(memory, 100)) as started:
        for future in [started.submit(number) for number in range(100)]:
            future.result(LIMIT_S)
    found = np.ndarray((100,), np.int64, memory.buffer)
    assert found.tolist() == [number**2 for number in range(100)]
    memory.close()


def test_shared_memory_of_one_gigabyte_is_writable_to_its_end() -> None:
    memory = SharedMemory(1 << 30)  # of which only what is written is taken
    with pool(1, function=Squares(memory, 1 << 27)) as started:
        started.submit((1 << 27) - 1).result(LIMIT_S)
    assert np.ndarray((1 << 27,), np.int64, memory.buffer)[-1] == ((1 << 27) - 1) ** 2
    memory.close()


def test_unused_pool_starts_no_process() -> None:
    # In another process: this one has run other pools, whose fork server stays for later pools.
    done = python("""
        import subprocess
        from cbirdb.parallel.worker_pool import WorkerPool
        from tests.support.worker_functions import obey
        with WorkerPool(obey, workers=3, timeout_s=1) as pool:
            print(subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True).stdout)
    """)
    assert done.stdout.split() == ["ps"]


@pytest.mark.parametrize("items", [0, 2], ids=["unused", "used"])
def test_closed_pool_refuses_items_and_can_be_closed_again(items: int) -> None:
    with pool(1) as closed:
        for number in range(items):
            assert closed.submit(("echo", number)).result(timeout=LIMIT_S) == number
    with pytest.raises(RuntimeError, match="the pool is closed"):
        closed.submit(("echo", 1))
    closed.close()  # once more does no harm


# --- what goes wrong -------------------------------------------------------------------------------------------------

DEATHS = [
    (("segfault", None), "signal 11"),
    (("abort", None), "signal 6"),
    (("killed", None), "signal 9"),
    (("leave", 7), "exit code 7"),
    (("leave", 0), "exit code 0"),
    (("exit", 3), "exit code 3"),
]


@pytest.mark.parametrize(("order", "words"), DEATHS, ids=[f"{order[0]}-{order[1]}" for order, _ in DEATHS])
def test_item_that_ends_its_process_fails_alone(order: Order, words: str) -> None:
    with pool() as started:
        futures = submit(started, *[("echo", 1)] * 10, order, *[("echo", 2)] * 20)
        found = [outcome(future) for future in futures]
        assert found[:10] + found[11:] == [1] * 10 + [2] * 20
        assert isinstance(found[10], WorkerDiedError)
        assert words in str(found[10])
        assert as_pixel_error(found[10]).reason == "crashed the decoder"
        wait_until(lambda: len(multiprocessing.active_children()) == 2, "the process was not replaced")
    check_nothing_is_left()


@pytest.mark.parametrize("order", [("sleep", 600), ("spin", None), ("stopped", None)], ids=lambda order: order[0])
def test_item_that_takes_too_long_fails_alone(order: Order) -> None:
    began = time.monotonic()
    with pool(timeout_s=1) as started:
        futures = submit(started, *[("echo", 1)] * 10, order, *[("echo", 2)] * 20)
        found = [outcome(future) for future in futures]
        assert found[:10] + found[11:] == [1] * 10 + [2] * 20
        assert isinstance(found[10], WorkerTimeoutError)
        assert str(found[10]) == "it took longer than 1 seconds"
        assert as_pixel_error(found[10]).reason == "timed out"
        wait_until(lambda: len(multiprocessing.active_children()) == 2, "the process was not replaced")
    assert 1 <= time.monotonic() - began < LIMIT_S
    check_nothing_is_left()


def test_time_limit_applies_to_each_item_and_not_to_all_together() -> None:
    with pool(1, timeout_s=1) as started:
        assert [outcome(future) for future in submit(started, *[("sleep", 0.2)] * 8)] == [None] * 8


def test_several_items_that_end_their_process_fail_and_all_others_succeed() -> None:
    orders: list[Order] = [("echo", number) for number in range(60)]
    for number in (0, 1, 2, 3, 30, 31, 59):
        orders[number] = ("abort", None)
    with pool() as started:
        found = [outcome(future) for future in submit(started, *orders)]
    for number, result in enumerate(found):
        if orders[number][0] == "abort":
            assert isinstance(result, WorkerDiedError), number
        else:
            assert result == number
    check_nothing_is_left()


def test_item_whose_process_is_killed_from_outside_fails_alone(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with pool() as started:
        before = submit(started, *[("echo", 1)] * 30)
        (working,) = submit(started, ("tell and sleep", str(told)))
        after = submit(started, *[("echo", 2)] * 30)
        killed: list[int] = []

        def kill() -> bool:
            """Kill it once beside other items, and once more when it is tried alone."""
            if told.exists() and (pid := int(told.read_text())) not in killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
            return working.done()

        wait_until(kill, "it neither failed nor was it begun")
        assert isinstance(outcome(working), WorkerDiedError)
        assert "signal 9" in str(outcome(working))
        assert [outcome(future) for future in before + after] == [1] * 30 + [2] * 30
        assert len(killed) <= 2
    check_nothing_is_left()


def test_other_items_of_a_killed_process_are_done_again(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with pool(1) as started:
        submit(started, ("echo", 0))[0].result(LIMIT_S)
        futures = submit(started, *[("tell and linger", str(told))] * 20)
        wait_until(told.exists, "nothing was begun")
        os.kill(int(told.read_text()), signal.SIGKILL)
        # The kernel kills so for lack of memory: no item is at fault, and at most one was alone in its process.
        assert [outcome(future) for future in futures].count(None) >= 19
    check_nothing_is_left()


def test_idle_processes_that_are_killed_are_replaced() -> None:
    with pool() as started:
        started.submit(("echo", 0)).result(LIMIT_S)
        wait_until(lambda: all(worker.ready for worker in started._workers), "the processes never got ready")
        for process in multiprocessing.active_children():
            process.kill()
        assert [outcome(future) for future in submit(started, *[("echo", 1)] * 20)].count(1) >= 18
        assert [outcome(future) for future in submit(started, *[("echo", 2)] * 20)] == [2] * 20
    check_nothing_is_left()


@pytest.mark.parametrize(
    "error",
    [PixelError("corrupt", "a chunk is missing"), ValueError("no"), MemoryError()],
    ids=lambda e: type(e).__name__,
)
def test_exception_in_an_item_is_raised_to_the_caller_and_its_process_goes_on(error: Exception) -> None:
    with pool(1) as started:
        raised, after = (outcome(future) for future in submit(started, ("raise", error), ("which", None)))
        assert type(raised) is type(error)
        assert str(raised) == str(error)
        assert getattr(raised, "reason", None) == getattr(error, "reason", None)
        assert after[0] == started._workers[0].process.pid, "the process was replaced without need"


@pytest.mark.parametrize("action", ["raise unreadable", "raise unsendable", "unsendable"])
def test_item_whose_outcome_cannot_be_pickled_fails_alone(action: str) -> None:
    with pool(1) as started:
        found = [outcome(future) for future in submit(started, ("echo", 1), (action, None), ("echo", 2))]
        assert (found[0], found[2]) == (1, 2)
        assert isinstance(found[1], Exception)
        assert outcome(started.submit(("echo", 3))) == 3
    check_nothing_is_left()


def test_items_beside_a_cancelled_future_are_done() -> None:
    with pool(1) as started:
        first, given_up, last = submit(started, ("sleep", 0.3), ("echo", 1), ("echo", 2))
        assert given_up.cancel()
        assert outcome(first) is None
        assert outcome(last) == 2
    check_nothing_is_left()


def only_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Return a function that the workers cannot import."""
    module = types.ModuleType("tests_only_here")
    function = worker_functions.obey_imported(module.__name__)
    module.missing = function
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return function


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_function_that_workers_cannot_import_is_reported_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(function=only_here(monkeypatch)) as started:
        error = outcome(started.submit(("echo", 1)))
        assert isinstance(error, RuntimeError)
        assert "could not start" in str(error)
    check_nothing_is_left()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_pool_that_cannot_start_refuses_or_fails_further_items(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(function=only_here(monkeypatch)) as started:
        assert isinstance(outcome(started.submit(1)), RuntimeError)
        wait_until(lambda: not started._thread.is_alive(), "it did not give up")
        try:
            late = started.submit(2)
        except RuntimeError:
            return
        with pytest.raises(RuntimeError):
            late.result(5)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["tell and sleep", "tell and spin"])
def test_closing_cancels_unfinished_items_and_leaves_no_process(tmp_path: Path, action: str) -> None:
    told = tmp_path / "pid"
    started = pool(1, timeout_s=600)
    futures = submit(started, (action, str(told)), *[("echo", 1)] * 50)
    wait_until(told.exists, "nothing was begun")
    began = time.monotonic()
    started.close()
    assert time.monotonic() - began < 30
    check_nothing_is_left()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(LIMIT_S)


def test_closing_ends_stopped_processes() -> None:
    started = pool(timeout_s=600)
    started.submit(("echo", 1)).result(LIMIT_S)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGSTOP)
    started.close()
    check_nothing_is_left()


def test_error_in_the_with_block_ends_the_processes() -> None:
    def work() -> None:
        with pool() as started:
            submit(started, *[("sleep", 0.05)] * 20)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    check_nothing_is_left()


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own to its end."""
    return subprocess.run(
        [sys.executable, "-c", _whole(program)], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )


def _whole(program: str) -> str:
    return f"import os, signal, time\n{textwrap.dedent(program)}"


@contextmanager
def owner_of_workers(action: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a process with two workers, one of them busy; yield it and the ids of all processes that it started."""
    program = f"""
        from cbirdb.parallel.worker_pool import WorkerPool
        from tests.support.worker_functions import obey
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which pytest-xdist's workers ignore
            pool = WorkerPool(obey, workers=2, timeout_s=600, preload=["tests.support.worker_functions"])
            server = pool.submit(("which", None)).result()[1]
            while not all(worker.ready for worker in pool._workers):
                time.sleep(0.01)
            pool.submit(({action!r}, 600))
            time.sleep(0.5)
            print(server, *(worker.process.pid for worker in pool._workers), flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _whole(program)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    pids: list[int] = []
    try:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        assert all(alive(pid) for pid in pids)
        yield process, pids
    finally:
        process.kill()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("action", ["echo", "sleep", "spin", "stopped"])
def test_workers_of_a_killed_process_end_even_if_they_hang(action: str) -> None:
    with owner_of_workers(action) as (process, pids):
        process.kill()
        wait_until(
            lambda: not any(alive(pid) for pid in pids), f"a worker that does '{action}' outlives its owner", seconds=15
        )


def test_item_outlives_the_process_that_started_its_worker_and_the_pool_goes_on() -> None:
    done = python("""
        from cbirdb.parallel.worker_pool import WorkerPool
        from tests.support.worker_functions import obey
        if __name__ == "__main__":
            with WorkerPool(obey, workers=2, timeout_s=30, preload=["tests.support.worker_functions"]) as pool:
                server = pool.submit(("which", None)).result()[1]
                begun = [pool.submit(("sleep", 1)) for _ in range(2)]
                time.sleep(0.3)
                os.kill(server, signal.SIGKILL)
                print([future.result() for future in begun], pool.submit(("echo", 1)).result())
    """)
    assert done.stdout.split("\n")[0] == "[None, None] 1"


def test_ctrl_c_ends_a_process_and_its_workers_with_one_traceback() -> None:
    with owner_of_workers("sleep") as (process, pids):
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert err.count("Traceback") == 1, err  # the program's own, which does not catch it
        wait_until(lambda: not any(alive(pid) for pid in pids), "a worker is left", seconds=15)
