"""Docstrings and SQL descriptions say what something does, with the verb first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "cbirdb").rglob("*.py"))
ALL_PYTHON = [
    *MODULES,
    *(path for name in ("tests", "benchmarks", "alembic") for path in sorted((ROOT / name).rglob("*.py"))),
]
SQL_FILES = sorted((ROOT / "sql").rglob("*.sql"))
NO_OPENING = re.compile(r"(what|which|whether|how many|how much|how often|where|that|so many)\b", re.IGNORECASE)
"""Openings that make a reader wait for the verb."""
NO_VERB = re.compile(r"(the|an?|one|of|for|as|in|so|those|every|all|with|to)\b", re.IGNORECASE)
"""First words that cannot be the verb of a sentence."""
SQL_HEADER = re.compile(r"^-- (?:Title|Description): *(.*)", re.MULTILINE)
SQL_COMMENT = re.compile(r"^COMMENT ON .*?\sIS\s+'(.*?)(?:\n|';)", re.MULTILINE | re.DOTALL)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[str, str]
"""``file:line`` and the text that begins there."""


def docstrings(path: Path) -> Iterator[Place]:
    """Yield the docstrings of module, classes, functions, constants and attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        for statement in getattr(node, "body", None) if isinstance(getattr(node, "body", None), list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield f"{path.relative_to(ROOT)}:{statement.lineno}", value.value.strip()


def public_functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """Yield the public functions of a module and the public methods of its public classes, and True for a method."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, False
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, Function) and not member.name.startswith("_"):
                    yield member, True


def described_methods() -> set[str]:
    """Return the names of methods that some class describes; others that carry the name implement or override it."""
    return {
        function.name
        for path in MODULES
        for function, is_method in public_functions(ast.parse(path.read_text()))
        if is_method and ast.get_docstring(function)
    }


def sql_descriptions(path: Path) -> Iterator[Place]:
    """Yield title, description and COMMENTs of an SQL file."""
    text = path.read_text()
    for found in (*SQL_HEADER.finditer(text), *SQL_COMMENT.finditer(text)):
        yield f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}", found[1].strip()


def refuse(places: Iterator[Place], advice: str) -> None:
    """Fail with one line for each of the places."""
    lines = [f"{place} {text.partition(chr(10))[0]}" for place, text in places]
    if lines:
        pytest.fail("\n".join([f"{len(lines)} to reword: {advice}", *lines]), pytrace=False)


def test_no_docstring_begins_with_a_question_word() -> None:
    found = ((place, text) for path in ALL_PYTHON for place, text in docstrings(path) if NO_OPENING.match(text))
    refuse(found, "begin with a verb, or for a constant with a noun")


def test_every_public_function_has_a_docstring() -> None:
    described = described_methods()
    found = (
        (f"{path.relative_to(ROOT)}:{function.lineno}", function.name)
        for path in MODULES
        for function, is_method in public_functions(ast.parse(path.read_text()))
        if ast.get_docstring(function) is None and not (is_method and function.name in described)
    )
    refuse(found, "say in a sentence what it does")


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found = (
        (f"{path.relative_to(ROOT)}:{node.lineno}", text)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function) and (text := ast.get_docstring(node)) and NO_VERB.match(text)
    )
    refuse(found, "begin with a verb: Return ..., Filter ..., Refuse ...")


def test_no_sql_description_begins_with_a_question_word() -> None:
    found = ((place, text) for path in SQL_FILES for place, text in sql_descriptions(path) if NO_OPENING.match(text))
    refuse(found, "begin with a verb or a noun")


@pytest.mark.parametrize(
    ("text", "opens_with_question_word"),
    [
        ("What a reader is.", True),
        ("How many images there are.", True),
        ("where the key lies", True),
        ("How to search through an index.", False),
        ("Whatever the caller passes.", False),
        ("Return what a reader is.", False),
    ],
)
def test_only_the_first_words_decide(text: str, opens_with_question_word: bool) -> None:
    assert bool(NO_OPENING.match(text)) == opens_with_question_word
