"""Write the SQL reference from the files of ``sql/``: no database, and no package beyond Python's own.

On a page, the comment ``<!-- sql: AUDIENCE ... -->`` stands for what those audiences call, grouped by subject. Audiences are
those of ``function_audience.sql``; views are for readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plain_text import escaped, flowing

SQL = Path(__file__).resolve().parents[2] / "sql"
MARK = re.compile(r"<!-- sql: ([a-z ]+) -->")
CREATE = re.compile(
    r"^CREATE (?:OR REPLACE )?(FUNCTION|PROCEDURE|AGGREGATE|VIEW|TYPE) (cbir\w*)\.(\w+)", re.MULTILINE | re.IGNORECASE
)
COMMENT = re.compile(
    r"^COMMENT ON (?:FUNCTION|PROCEDURE|AGGREGATE|VIEW|TYPE) cbir\w*\.(\w+).*?\bIS\s+((?:'(?:[^']|'')*'\s*)+);",
    re.MULTILINE | re.DOTALL,
)
AUDIENCE = re.compile(r"\('(\w+)', '(\w+)'\)")
SECTIONS = ("Title", "Description", "Inputs", "Returns", "Reference", "Note")
ADMINISTRATORS_VIEWS = {"returned_patient"}
"""Views that ``hand_over.sql`` does not give to readers."""
NAME = re.compile(r"\bcbir(?:\\_internal)?\.\w+(?:\\_\w*)*")
TOKENS = re.compile(r"'(?:[^']|'')*'|--[^\n]*|\w+|[^\w\s]")


@dataclass(frozen=True)
class SqlObject:
    """A function, view or type: what its file says about it, and who calls it."""

    kind: str
    schema: str
    name: str
    subject: str
    header: dict[str, str]
    comment: str
    parameters: str
    columns: tuple[tuple[str, str], ...]
    """Names and types of what it returns, or has; views have no types here."""
    returns: str
    audience: str


def subjects(top: Path = SQL) -> list[Path]:
    """Return the folders of ``sql/`` in their order; ``dba`` is not applied by an upgrade and left out."""
    order = top / "order.txt"
    if order.exists():
        names = [line.partition("#")[0].strip() for line in order.read_text().splitlines()]
        return [top / name for name in names if name]
    return sorted(path for path in top.iterdir() if path.is_dir() and path.name != "dba")


def audiences(top: Path = SQL) -> dict[str, str]:
    """Return who calls each function that ``function_audience.sql`` names."""
    (path,) = top.rglob("function_audience.sql")
    return dict(AUDIENCE.findall(path.read_text()))


def objects(top: Path = SQL) -> list[SqlObject]:
    """Read every function, view and type of ``sql/``."""
    named = audiences(top)
    return [made for folder in subjects(top) for path in sorted(folder.glob("*.sql")) for made in _read(path, named)]


def _read(path: Path, named: dict[str, str]) -> Iterator[SqlObject]:
    text = path.read_text()
    comments = {name: "".join(re.findall(r"'((?:[^']|'')*)'", quoted)) for name, quoted in COMMENT.findall(text)}
    for found in CREATE.finditer(text):
        kind, schema, name = found[1].lower(), found[2].lower(), found[3]
        rest = text[found.end() :]
        parameters, returns, columns = "", "", ()
        if kind == "view":
            columns = tuple((column, "") for column in view_columns(rest.partition(";")[0]))
        elif kind == "type":
            columns = _fields(_bracketed(rest)[0])
        else:
            parameters, rest = _bracketed(rest)
            returns, columns = _returned(rest)
        yield SqlObject(
            kind=kind,
            schema=schema,
            name=name,
            subject=path.parent.name,
            header=_header(text),
            comment=comments.get(name, "").replace("''", "'"),
            parameters=parameters,
            columns=columns,
            returns=returns,
            audience=_audience(kind, name, named),
        )


def _audience(kind: str, name: str, named: dict[str, str]) -> str:
    if kind == "view":
        return "admin" if name in ADMINISTRATORS_VIEWS else "reader"
    return named.get(name, "inner")


def _header(text: str) -> dict[str, str]:
    """Return the parts of a file's opening comment by name, without the marks of a comment."""
    parts: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        content = line[2:].removeprefix(" ")
        start, colon, rest = content.partition(":")
        if colon and start in SECTIONS:
            name, parts[start] = start, rest.strip()
        elif name:
            parts[name] += "\n" + content.removeprefix("  ")
    return parts


def _bracketed(text: str) -> tuple[str, str]:
    """Return what stands between the first bracket and the one that closes it, and what comes after that."""
    depth, start = 0, text.index("(")
    for place, character in enumerate(text[start:], start):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[start + 1 : place], text[place + 1 :]
    raise ValueError(f"a bracket is not closed: {text[:60]}")


def _fields(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.split(None, 1) for part in _split(text)]
    return tuple((name, " ".join(kind.split())) for name, kind in pairs)


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _returned(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the type that a function gives, and the columns of a table."""
    found = re.match(r"\s*RETURNS\s+(TABLE|[^\n]+)", text)
    if not found:
        return "", ()
    if found[1].startswith("TABLE"):
        return "", _fields(_bracketed(text)[0])
    return found[1].strip(), ()


def view_columns(text: str) -> list[str]:
    """Return the names of a view's columns: those of its first SELECT outside of any bracket; none for a ``*``."""
    columns: list[list[str]] = []
    depth, reading = 0, False
    for word in TOKENS.findall(text):
        if word.startswith("--"):
            continue
        if depth == 0 and word.upper() == "SELECT" and not columns:
            reading, columns = True, [[]]
            continue
        if depth == 0 and word.upper() == "FROM" and reading:
            break
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        if not reading:
            continue
        if word == "," and depth == 0:
            columns.append([])
        else:
            columns[-1].append(word)
    names = [column[-1] for column in columns]
    return [] if "*" in names else names


def page(wanted: Iterable[str], top: Path = SQL) -> str:
    """Return Markdown about what these audiences call, subject by subject; internal helpers stay out."""
    made = objects(top)
    types = {item.name: item for item in made if item.kind == "type"}
    # The schema cbir_internal holds helpers, whoever may call them.
    audience = set(wanted)
    shown = [item for item in made if item.kind != "type" and item.schema == "cbir" and item.audience in audience]
    linked = {item.name for item in shown}
    text = []
    for subject in dict.fromkeys(item.subject for item in shown):
        text.append(f"## {re.sub(r'^[0-9]+_', '', subject).capitalize()}\n")
        within = sorted((item for item in shown if item.subject == subject), key=lambda item: item.name)
        text.extend(_entry(item, types, linked) for item in within)
    return "\n".join(text)


def _entry(item: SqlObject, types: dict[str, SqlObject], linked: set[str]) -> str:
    returned = re.search(r"cbir\w*\.(\w+)", item.returns)
    row = types.get(returned[1]) if returned else None
    columns = item.columns or (row.columns if row else ())
    kind = item.kind.capitalize() + ("" if item.audience == "reader" else f", called by {item.audience}")
    parts = [f"({_anchor(item.name)})=\n### `{item.schema}.{item.name}`\n"]
    parts.append(f"*{kind}.* {_plain(item.comment, linked)}\n")
    if item.kind != "view":
        parts.append(f"```sql\n{_signature(item)}\n```\n")
    parts.extend(_prose(item.header.get("Description", ""), linked))
    if item.header.get("Inputs"):
        parts.append(f"**Inputs:** {_plain(flowing(item.header['Inputs']), linked)}\n")
    if item.header.get("Reference"):
        parts.append(f"**Source of the definition:** {_plain(flowing(item.header['Reference']), linked)}\n")
    if columns:
        names = ", ".join(f"`{name}`" + (f" {kind}" if kind else "") for name, kind in columns)
        parts.append(f"**Columns:** {names}\n")
    return "\n".join(parts)


def _signature(item: SqlObject) -> str:
    parameters = _split(item.parameters)
    name = f"{item.schema}.{item.name}"
    listed = ", ".join(parameters)
    if len(listed) > 70:
        listed = "\n    " + ",\n    ".join(parameters) + "\n"
    returns = item.returns or ("TABLE (...)" if item.columns else "")
    return f"{name}({listed})" + (f"\nRETURNS {returns}" if returns else "")


def _prose(text: str, linked: set[str]) -> Iterator[str]:
    """Yield paragraphs; lines that are set in from the rest are examples or lists, and stay as they are."""
    lines = text.splitlines()
    while lines:
        inset = lines[0].startswith("  ")
        taken = []
        while lines and lines[0].startswith("  ") == inset:
            taken.append(lines.pop(0))
        if inset:
            language = "sql" if any("SELECT" in line for line in taken) else "text"
            yield f"```{language}\n" + "\n".join(line.removeprefix("  ") for line in taken) + "\n```\n"
        elif "".join(taken).strip():
            yield _plain(flowing("\n".join(taken)), linked) + "\n"


def _plain(text: str, linked: set[str]) -> str:
    """Escape marks of Markdown; names of objects become code, with a link where they are shown."""

    def code(found: re.Match[str]) -> str:
        name = found[0].replace("\\", "")
        short = name.partition(".")[2]
        return f"[`{name}`](#{_anchor(short)})" if short in linked else f"`{name}`"

    pieces = re.split(r"(`[^`]*`)", escaped(text))
    return "".join(piece if piece.startswith("`") else NAME.sub(code, piece) for piece in pieces)


def _anchor(name: str) -> str:
    return f"sql-{name.replace('_', '-')}"


def _fill(app: Any, docname: str, source: list[str]) -> None:
    def fill(found: re.Match[str]) -> str:
        for path in SQL.rglob("*.sql"):
            app.env.note_dependency(str(path), docname=docname)
        return page(found[1].split())

    source[0] = MARK.sub(fill, source[0])


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
