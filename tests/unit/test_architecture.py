"""Keep the code easy to read: imports in one direction, short modules and functions, pinned versions."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "cbirdb").rglob("*.py"))
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60


def test_imports_go_one_way() -> None:
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_all_packages_beneath_the_encoders_are_forbidden_to_import_torch() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["cbirdb"])
    kept = next(
        contract["source_modules"] for contract in contracts if "torch" in contract.get("forbidden_modules", ())
    )
    rows = [{f"cbirdb.{name}" for name in row.split(" | ")} for row in layers]
    encoders = next(number for number, row in enumerate(rows) if "cbirdb.encoders" in row)
    beneath = set().union(*rows[encoders + 1 :])
    assert beneath | {"cbirdb.db"} <= set(kept)


@pytest.mark.parametrize(
    "name", ["classify", "demo", "encode", "erase", "evaluate", "index", "ingest", "metrics", "patients", "search"]
)
def test_package_exports_every_name_that_it_promises(name: str) -> None:
    package = importlib.import_module(f"cbirdb.{name}")
    assert package.__all__
    assert [promised for promised in package.__all__ if not hasattr(package, promised)] == []
    with pytest.raises(AttributeError, match=f"module 'cbirdb.{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_every_module_has_at_most_400_lines() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_function_has_at_most_60_lines() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert too_long == {}


def test_every_module_has_a_docstring() -> None:
    assert [path.name for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_alembic_folder_is_no_package() -> None:
    # With one, `import alembic` in the checkout would find our folder instead of the library.
    assert not (ROOT / "alembic" / "__init__.py").exists()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-bench.lock"])
def test_lock_file_pins_versions_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|--trusted-host|\s@\s", text)
    lines = [line.split(";")[0].strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    wrong = [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.+!]+", line)
    ]
    assert wrong == []


def versions(lock: str) -> dict[str, set[str]]:
    lines = [line.split(";")[0].strip().split("==") for line in (ROOT / lock).read_text().splitlines()]
    return {name: {version for other, version in lines if other == name} for name, _ in lines}


def test_packages_in_both_lock_files_have_the_same_version() -> None:
    packages, bench = versions("requirements.lock"), versions("requirements-bench.lock")
    assert {name for name in packages.keys() & bench.keys() if packages[name] != bench[name]} == set()


@pytest.mark.parametrize(
    ("extra", "lock"),
    [
        *(
            (extra, "requirements.lock")
            for extra in (
                "embedded",
                "encoders",
                "small",
                "dicom",
                "docs",
                "linear",
                "onnx",
                "onnx-export",
                "pandas",
                "polars",
                "arrow",
                "test",
            )
        ),
        ("bench", "requirements-bench.lock"),
    ],
)
def test_every_dependency_of_the_package_is_pinned(extra: str, lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"][extra]
    pinned = {re.split(r"[\[=]", line)[0].lower().replace("_", "-") for line in (ROOT / lock).read_text().splitlines()}
    names = {re.split(r"[\[<>=!~; ]", name)[0].lower().replace("_", "-") for name in wanted}
    # An extra may take in another one.
    assert names - pinned - {project["name"]} == set()


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("cbirdb.cli.metrics", ("numpy", "PIL")),
        ("cbirdb.cli.index", ("numpy", "PIL")),
        ("cbirdb.cli.classify", ("numpy", "PIL")),
        ("cbirdb.classify", ("sklearn", "scipy", "PIL")),
        ("cbirdb.evaluate", ("PIL",)),
        ("cbirdb.ingest.run", ("h5py",)),
        ("cbirdb.ingest.inspect_files", ("psycopg",)),
        ("cbirdb.search", ("cbirdb.encode.decode",)),
        ("cbirdb", ("psycopg", "numpy", "PIL", "importlib.metadata")),
        ("cbirdb.api", ("psycopg", "numpy", "PIL", "pandas", "polars", "pyarrow")),
        ("cbirdb.metrics", ("numpy", "PIL")),
        ("cbirdb.db.schema.open", ("numpy", "PIL")),
    ],
)
def test_importing_a_module_loads_no_library_that_it_does_not_use(module: str, more: tuple[str, ...]) -> None:
    unused = ("sqlalchemy", "alembic", "torch", *more)
    program = f"import sys, {module}; print([name for name in {unused!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
