"""Install the wheel elsewhere and use it: SQL files and migrations are inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbirdb.db.server.embedded import EmbeddedServer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PARTS = ("cbirdb", "sql", "alembic", "pyproject.toml", "README.md", "LICENSE")


def checked(*command: object, **more: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        source, target = ROOT / part, folder / "checkout" / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    checked(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "checkout")
    (built,) = folder.glob("cbirdb-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """Install the wheel into another environment; yield its ``cbirdb``, a folder to run it in, and its variables."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    checked(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    site = Path(checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # This brings the libraries of this environment but not its editable cbirdb: Python ignores the .pth files in a folder
    # that a .pth file adds.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "CBIRDB_", "PYTHON"))
    }
    environment["CBIRDB_HOME"] = str(folder / "home")
    (folder / "cwd").mkdir()
    yield folder / "venv" / "bin" / "cbirdb", folder / "cwd", environment
    EmbeddedServer(folder / "home").stop()


def test_wheel_holds_every_sql_file_and_migration_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "cbirdb/py.typed" in names
    for folder, pattern in (("sql", "*/*.sql"), ("alembic", "versions/*.py"), ("alembic", "env.py")):
        files = list((ROOT / folder).glob(pattern))
        assert files
        assert {f"cbirdb/_{folder}/{path.relative_to(ROOT / folder).as_posix()}" for path in files} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "sql/", "alembic/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_wheel_starts_its_server_and_runs_the_demo_from_another_folder(
    installed: tuple[Path, Path, dict[str, str]],
) -> None:
    program, folder, environment = installed
    where = checked(
        program.parent / "python", "-c", "import cbirdb; print(cbirdb.__file__)", cwd=folder, env=environment
    )
    assert where.startswith(str(program.parent.parent)), "the checkout was tested, not the wheel"
    checked(program, "db", "start", cwd=folder, env=environment)
    rows = json.loads(checked(program, "demo", "--format", "json", cwd=folder, env=environment))
    assert [row["n"] for row in rows] == [1, 3, 5, 10]
    assert (folder / "demo-output").is_dir()
    doctor = json.loads(checked(program, "db", "doctor", "--format", "json", cwd=folder, env=environment))
    assert {row["result"] for row in doctor} == {"ok"}
