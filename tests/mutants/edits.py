"""All single edits of a file that may be faults: of SQL by patterns, of Python by its syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """Characters ``start`` to ``end`` of a file become ``new``."""

    path: str
    start: int
    end: int
    new: str
    kind: str
    line: int
    before: str

    @property
    def key(self) -> str:
        """Return a name that no other edit of the same tree has."""
        return f"{self.path}:{self.start}:{self.end}:{self.new}"

    @property
    def words(self) -> str:
        """The edit on one line."""
        old, new = (" ".join(text.split()) for text in (self.before, self.new))
        return f"{old} -> {new}" if new else f"{old} dropped"

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


Replacement = str | Callable[[re.Match[str]], str]

# Kind, pattern, replacement. A group named "at" is what is replaced; without one it is the whole match.
SQL_EDITS: list[tuple[str, str, Replacement]] = [
    ("comparison", r" (?P<at><=) ", "<"),
    ("comparison", r" (?P<at><) ", "<="),
    ("comparison", r" (?P<at>>=) ", ">"),
    ("comparison", r" (?P<at>>) ", ">="),
    ("comparison", r" (?P<at>=) (?!ANY|any)", "<>"),
    ("comparison", r" (?P<at><>) (?!ALL|all)", "="),
    ("and, or", r"\b(?P<at>AND)\b", "OR"),
    ("and, or", r"(?<!CREATE )\b(?P<at>OR)\b", "AND"),
    ("null", r"\bIS (?P<at>NULL)\b", "NOT NULL"),
    ("null", r"\bIS (?P<at>NOT NULL)\b", "NULL"),
    ("null", r"\bIS NOT DISTINCT FROM\b", "="),
    ("null", r"\bIS DISTINCT FROM\b", "<>"),
    ("null", r"\bIS (?P<at>NOT TRUE)\b", "FALSE"),
    ("null", r"\bIS (?P<at>FALSE)\b", "NOT TRUE"),
    ("null", r"coalesce\((?P<kept>[^(),]+(?:\([^()]*\))?), [^()]+\)", lambda match: match["kept"]),
    ("negation", r"(?:WHERE|AND|OR|IF|\() (?P<at>NOT )|\((?P<at2>NOT )", ""),
    ("arithmetic", r"[\w)\]] (?P<at>\+) [\w(]", "-"),
    ("arithmetic", r"[\w)\]] (?P<at>-) [\w(]", "+"),
    ("constant", r"(?<![\w$.'\-{])(?P<at>[0-9]+)(?![\w.'%}])", lambda match: str(int(match["at"]) + 1)),
    ("constant", r"(?<!NOT )\b(?P<at>TRUE)\b", "FALSE"),
    ("constant", r"(?<!IS )\b(?P<at>FALSE)\b", "TRUE"),
    ("condition dropped", r"^ *(?P<at>AND [^\n]*)$", ""),
    ("order", r"ORDER BY [^,()\n]+(?P<at>, [^,()\n]+?)(?= LIMIT|\)|;|$)", ""),
    ("order", r"(?P<at> DESC)\b", ""),
    ("order", r"ORDER BY [\w.]+(?P<at>)(?=[,)\n])", " DESC"),
    ("least, most", r"\b(?P<at>min)\(", "max"),
    ("least, most", r"\b(?P<at>max)\(", "min"),
    ("least, most", r"\b(?P<at>least)\(", "greatest"),
    ("least, most", r"\b(?P<at>greatest)\(", "least"),
    ("least, most", r"\b(?P<at>bool_and)\(", "bool_or"),
    ("least, most", r"\b(?P<at>bool_or)\(", "bool_and"),
    # Not the other way round: along a foreign key, as nearly all joins go, it changes nothing.
    ("join", r"\b(?P<at>LEFT) JOIN", "INNER"),
    ("distinct", r"SELECT (?P<at>DISTINCT )(?!ON)", ""),
    ("distinct", r"count\((?P<at>DISTINCT )", ""),
    ("distinct", r"\bUNION(?P<at> ALL)\b", ""),
    ("filter dropped", r" FILTER \(WHERE [^()]*\)", ""),
    ("right", r"'(?P<at>USAGE)'", "MEMBER"),
    ("right", r"^(?P<at>SECURITY DEFINER)$", ""),
    ("right", r"^(?P<at>REVOKE ALL ON FUNCTION [^;]*;)", ""),
]  # fmt: skip

_COMPILED = [(kind, re.compile(pattern, re.MULTILINE), new) for kind, pattern, new in SQL_EDITS]
# Comments, what is shown to people, and the types that a function declares hold no faults of this kind.
_SQL_TALK = re.compile(
    r"--[^\n]*|^COMMENT ON .*?;$|^\s*(?:RAISE EXCEPTION|HINT|'[A-Z][a-z ]+)[^\n]*", re.MULTILINE | re.DOTALL
)


def sql_edits(path: str, text: str) -> Iterator[Edit]:
    """Of a file of SQL, or of any text with statements in it."""
    talk = [match.span() for match in _SQL_TALK.finditer(text)]
    for kind, pattern, new in _COMPILED:
        for match in pattern.finditer(text):
            group = next((name for name in ("at", "at2") if match.groupdict().get(name) is not None), None)
            start, end = match.span(group) if group else match.span()
            if any(first <= start < last for first, last in talk):
                continue
            replaced = new if isinstance(new, str) else new(match)
            yield Edit(path, start, end, replaced, kind, text.count("\n", 0, start) + 1, text[start:end] or match[0])


_OPERATORS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "//"),
    ast.FloorDiv: ("//", "*"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
_STATEMENT = re.compile(r"\b(SELECT|UPDATE|DELETE|INSERT|WHERE|JOIN)\b")


def python_edits(path: str, text: str) -> Iterator[Edit]:
    """Of a module: its operators, conditions, constants and returns, and the SQL in its strings."""
    return _Module(path, text).edits()


class _Module:
    """A module's text beside its syntax tree."""

    def __init__(self, path: str, text: str) -> None:
        self._path, self._text, self._lines = path, text, text.splitlines()
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def edits(self) -> Iterator[Edit]:
        for node in _code(ast.parse(self._text)):
            if isinstance(node, ast.Compare):
                operands = [node.left, *node.comparators]
                for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
                    yield from self._operator(left, operator, right, "comparison")
            elif isinstance(node, ast.BoolOp):
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self._operator(left, node.op, right, "and, or")
            elif isinstance(node, ast.BinOp):
                yield from self._operator(node.left, node.op, node.right, "arithmetic")
            elif isinstance(node, ast.Constant):
                yield from self._constant(node)
            else:
                yield from self._other(node)

    def _other(self, node: ast.AST) -> Iterator[Edit]:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, _ = self._span(node)
            yield self._edit(start, start + len("not"), "", "negation")
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            start, end = self._span(node.test)
            yield self._edit(start, end, f"(not ({self._text[start:end]}))", "condition turned round")
        elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            yield self._edit(*self._span(node.value), "None", "returned constant")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield self._edit(*self._span(node.func), _CALLS[node.func.id], "least, most")

    def _operator(self, left: ast.expr, operator: ast.AST, right: ast.expr, kind: str) -> Iterator[Edit]:
        if type(operator) in _OPERATORS:
            old, new = _OPERATORS[type(operator)]
            words = r"\s+".join(re.escape(word) for word in old.split())
            between = re.compile(rf"(?<![\w<>=!]){words}(?![\w<>=])")
            if found := between.search(self._text, self._span(left)[1], self._span(right)[0]):
                yield self._edit(found.start(), found.end(), new, kind)

    def _constant(self, node: ast.Constant) -> Iterator[Edit]:
        start, end = self._span(node)
        if isinstance(node.value, bool):
            yield self._edit(start, end, str(not node.value), "constant")
        elif isinstance(node.value, int):
            yield self._edit(start, end, str(node.value + 1), "constant")
        elif isinstance(node.value, str) and _STATEMENT.search(node.value):
            for one in sql_edits(self._path, self._text[start:end]):
                if '"' not in one.before:  # or it goes beyond one of the literals that make the string
                    yield self._edit(start + one.start, start + one.end, one.new, one.kind)

    def _edit(self, start: int, end: int, new: str, kind: str) -> Edit:
        line = self._text.count("\n", 0, start) + 1
        return Edit(self._path, start, end, new, kind, line, self._text[start:end])

    def _span(self, node: ast.expr) -> tuple[int, int]:
        return (
            self._place(node.lineno, node.col_offset),
            self._place(node.end_lineno or 0, node.end_col_offset or 0),
        )

    def _place(self, line: int, column: int) -> int:
        # Columns of the syntax tree count bytes.
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but docstrings, annotations, decorators, parts of f-strings, and ``strict=`` of zip."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or (isinstance(child, ast.keyword) and child.arg == "strict"):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            yield from _code(child)


def edits(root: Path) -> dict[str, list[Edit]]:
    """All edits of the SQL and of the Python below a folder, by language, in the order of files and places."""
    found: dict[str, list[Edit]] = {"sql": [], "python": []}
    for language, pattern, of_text in (
        ("sql", "sql/*/*.sql", sql_edits),
        ("python", "cbirdb/**/*.py", python_edits),
    ):
        for path in sorted(root.glob(pattern)):
            if path.parent.name == "dba":  # no upgrade applies it
                continue
            every = of_text(str(path.relative_to(root)), path.read_text())
            found[language] += sorted({one.key: one for one in every}.values(), key=lambda one: (one.start, one.new))
    return found
