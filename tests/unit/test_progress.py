"""Show progress: a bar on a terminal, a line every ten seconds in a log, nothing when quiet."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from cbirdb.cli import progress as module
from cbirdb.cli.progress import TerminalProgress
from cbirdb.progress import SILENT


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> TerminalProgress:
    """Return progress whose stderr is a file."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    shown = TerminalProgress()
    shown._console = Console(file=io.StringIO(), force_terminal=False)
    return shown


def terminal(clock: Clock, width: int = 100) -> tuple[TerminalProgress, io.StringIO]:
    """Return progress on a terminal, and the text that the terminal receives."""
    screen = io.StringIO()
    shown = TerminalProgress()
    shown._console = Console(
        file=screen, force_terminal=True, width=width, get_time=clock, color_system=None, _environ={}
    )
    return shown, screen


def last_line(screen: io.StringIO) -> str:
    """Return the line that a person sees: the last one drawn."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()][-1].rstrip()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_terminal_shows_task_progress_rate_and_time_left(clock: Clock, width: int) -> None:
    shown, screen = terminal(clock, width)
    with shown.task("encoding tiny-image", total=5000, unit="images") as task:
        for seconds, images in ((1, 100), (1, 350), (1, 350)):
            clock.now += seconds
            task.advance(images)
        task._progress.refresh()
        line = last_line(screen)
    assert line.startswith("encoding tiny-image ")
    assert line.endswith("800 of 5,000, 350 images/s, 0:00:12 left")
    assert len(line) <= width


def test_terminal_shows_no_rate_before_the_first_step(clock: Clock) -> None:
    shown, screen = terminal(clock)
    with shown.task("encoding", total=5000, unit="images") as task:
        task._progress.refresh()
        line = last_line(screen)
    assert line.endswith("0 of 5,000")
    assert "images/s" not in line


def test_terminal_shows_the_time_so_far_while_the_total_is_unknown(clock: Clock) -> None:
    shown, screen = terminal(clock)
    with shown.task("indexing toy", total=None, unit="steps") as task:
        clock.now += 75
        task._progress.refresh()
        line = last_line(screen)
    assert line.startswith("indexing toy ")
    assert line.endswith("0:01:15 so far")


def test_terminal_shows_the_total_as_soon_as_it_is_known(clock: Clock) -> None:
    shown, screen = terminal(clock)
    with shown.task("indexing toy", total=None, unit="steps") as task:
        for done in (0, 100, 300):
            clock.now += 1
            task.update(done=done, total=2000)
        task._progress.refresh()
        line = last_line(screen)
    assert line.startswith("indexing toy ")
    assert "300 of 2,000" in line
    assert "steps/s" in line
    assert line.endswith(" left")


def test_terminal_bar_is_erased_and_the_cursor_shown_again_at_the_end(clock: Clock) -> None:
    shown, screen = terminal(clock)
    with shown.task("encoding", total=2, unit="images") as task:
        task.advance(2)
    # The bar's line is erased and the cursor shown again.
    assert screen.getvalue().rstrip("\r\n").endswith("\x1b[2K")
    assert "\x1b[?25h" in screen.getvalue()


def test_log_gets_a_line_every_ten_seconds_with_rate_and_time_left(
    lines: TerminalProgress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with lines.task("encoding tiny-image", total=5000, unit="images") as task:
        for _ in range(250):
            clock.now += 0.1
            task.advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    for line in err.splitlines():
        assert re.fullmatch(r"encoding tiny-image: [0-9,]+ of 5,000, 100 images/s, [0-9]+ s left", line), line
    first = err.splitlines()[0]
    done, left = (int(found.replace(",", "")) for found in re.findall(r": ([0-9,]+) of .* ([0-9]+) s left", first)[0])
    assert done in (1000, 1010)
    assert left == 40


def test_log_gets_no_line_for_a_task_shorter_than_ten_seconds(
    lines: TerminalProgress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with lines.task("encoding", total=100, unit="images") as task:
        clock.now += module.SECONDS_BETWEEN_LINES - 1
        task.advance(100)
    assert capsys.readouterr() == ("", "")


def test_log_line_without_a_total_shows_the_number_done(
    lines: TerminalProgress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with lines.task("reading", total=None, unit="files") as task:
        clock.now += 20
        task.advance(4000)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.startswith("reading: 4,000")
    assert "left" not in err


def test_log_line_before_the_first_step_shows_zero_of_the_total(
    lines: TerminalProgress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with lines.task("indexing", total=None, unit="steps") as task:
        clock.now += 20
        task.update(done=0, total=500)
    assert capsys.readouterr().err.startswith("indexing: 0 of 500")


def test_log_gets_a_line_when_a_task_with_stages_begins_and_then_every_ten_seconds(
    lines: TerminalProgress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with lines.task("loading resnet50 (2 of 3)", total=None, unit="stages") as task:
        for seconds, stage in ((0, "importing"), (4, "reading"), (4, "moving"), (4, "testing"), (4, "ending")):
            clock.now += seconds
            task.stage(stage)
    assert capsys.readouterr() == ("", "loading resnet50 (2 of 3)\nloading resnet50 (2 of 3): testing\n")


def test_terminal_shows_the_stage_of_a_task_and_the_time_so_far(clock: Clock) -> None:
    shown, screen = terminal(clock)
    with shown.task("loading resnet50 (2 of 3)", total=None, unit="stages") as task:
        for stage in ("importing its libraries", "reading the weights"):
            clock.now += 3
            task.stage(stage)
        task._progress.refresh()
        line = last_line(screen)
    assert line.startswith("loading resnet50 (2 of 3): reading the weights ")
    assert line.endswith("0:00:06 so far")


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalProgress().note("Something to know.")
    assert capsys.readouterr() == ("", "Something to know.\n")


def test_silent_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.task("encoding", total=10, unit="images") as task:
        task.advance()
        task.update(done=10, total=10)
        task.stage("ending")
    SILENT.note("Something to know.")
    assert capsys.readouterr() == ("", "")
