"""Finds the test files that touch a file of SQL or Python: they name what it defines, or a command or function that uses it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

MOST_FILES = 16
"""Test files that are run for one fault, the nearest first."""
FOLDERS = ("unit", "sql", "integration", "security")
_IMPORT = re.compile(r"^\s*(?:from ([\w.]+) import ([\w, ]+|\([^)]*\))|import ([\w.]+))", re.MULTILINE)


class Touching:
    """Knows the sources, the tests and what they mention."""

    def __init__(self, root: Path) -> None:
        sources = [*root.glob("sql/*/*.sql"), *root.glob("cbirdb/**/*.py")]
        self._texts = {str(path.relative_to(root)): path.read_text() for path in sources}
        tests = {str(path.relative_to(root)): path.read_text() for path in root.glob("tests/**/*.py")}
        self._tests = {
            path: text for path, text in tests.items()
            if re.match("test_(?!mutants)", Path(path).name) and "containers/" not in path
        }  # fmt: skip
        # What a test takes from files beside it counts as its own.
        helpers = {path.removesuffix(".py").replace("/", "."): text for path, text in tests.items()}
        self._tests = {path: _with_helpers(text, helpers) for path, text in self._tests.items()}
        self._test_imports = {path: _imported(text) for path, text in self._tests.items()}
        self._imports = {path: _imported(text) for path, text in self._texts.items() if path.endswith(".py")}

    def of(self, path: str) -> list[str]:
        """List test files, nearest first: by steps of use, then named after it, then by folder, then by mentions."""
        chosen: list[str] = []
        known, step = {path}, {path}
        while step and len(chosen) < MOST_FILES:
            mentions = {test: self._mentions(test, step) for test in self._tests if test not in chosen}
            named = [test for test, number in mentions.items() if number]
            topics = {_topic(path) for path in step}
            own = {test for test in named if any(topic in Path(test).stem for topic in topics)}
            chosen += sorted(
                named,
                key=lambda test: (test not in own, not _shares_word(test, path), _place(test), -mentions[test], test),
            )
            step = {user for user in self._texts if self._uses(user, step)} - known
            known |= step
        if path.endswith(".py"):
            # It may be imported by a name that is put together, as an encoder's family is: tests of the folder's subject.
            subject = Path(path).parent.name[:-1]
            chosen += sorted(test for test in self._tests if subject in Path(test).stem and test not in chosen)
        return chosen[:MOST_FILES]

    def _uses(self, user: str, used: Iterable[str]) -> bool:
        for path in used:
            if path.endswith(".sql"):
                if _named(path).search(self._texts[user]):
                    return True
            elif _module(path) in self._imports.get(user, ()):
                return True
        return False

    def _mentions(self, test: str, paths: Iterable[str]) -> int:
        text, number = self._tests[test], 0
        for path in paths:
            if path.endswith(".sql"):
                number += len(_named(path).findall(text))
            elif path.startswith("cbirdb/cli/"):
                # A command, as tests give it to the command line.
                number += len(re.findall(rf"[\"(,] ?\"{Path(path).stem.replace('_', '-')}\"", text))
            else:
                number += _module(path) in self._test_imports[test]
        return number


def _shares_word(test: str, path: str) -> bool:
    """Say whether the names of both files have a word in common."""
    return bool(set(Path(test).stem.split("_")) & set(_topic(path).split("_")))


def _place(test: str) -> int:
    """Order the folders of tests: those of one unit first, which are quick, then those that run commands."""
    folder = Path(test).parent.name
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)


def _topic(path: str) -> str:
    """Return the subject of a file: its name, or that of its folder where every verb has a file of that name."""
    return Path(path).parent.name if Path(path).stem in {"__init__", "run"} else Path(path).stem


def _named(path: str) -> re.Pattern[str]:
    """Return the name of an object of SQL; one whose name is an English word, with its schema."""
    name = Path(path).stem
    return re.compile(rf"\b{name}\b" if "_" in name else rf"\bcbir(?:_internal)?\.{name}\b")


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(text: str) -> set[str]:
    """Modules that a text imports; of ``from a import b`` both a and a.b, since b may be a module."""
    found = set()
    for module, names, plain in _IMPORT.findall(text):
        found |= {module or plain} | {f"{module}.{name}" for name in re.findall(r"\w+", names)}
    return found


def _with_helpers(text: str, helpers: dict[str, str]) -> str:
    taken = {name for name in _imported(text) if name in helpers and not name.endswith("conftest")}
    return "\n".join([text, *(helpers[name] for name in sorted(taken))])
