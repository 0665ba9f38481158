"""Write the reference of the command line from the Click commands themselves.

On a page, the comment ``<!-- commands: NAME ... -->`` stands for these commands of ``cbirdb`` with all their sub-commands; the name
``cbirdb`` stands for what comes before any command.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cbirdb.cli.main import cbirdb as program
from plain_text import escaped, flowing

CLI = Path(__file__).resolve().parents[2] / "cbirdb" / "cli"
MARK = re.compile(r"<!-- commands: ([a-z -]+) -->")


def page(names: list[str]) -> str:
    """Return Markdown about these commands."""
    top = click.Context(program, info_name="cbirdb", **program.context_settings)
    text: list[str] = []
    for name in names:
        if name == "cbirdb":
            text.extend(_command(top, level=2, nested=False))
        else:
            command = program.get_command(top, name)
            if command is None:
                raise ValueError(f"there is no command {name}")
            text.extend(_command(_context(command, name, top), level=2))
    return "\n".join(text)


def _context(command: click.Command, name: str, parent: click.Context) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _command(context: click.Context, *, level: int, nested: bool = True) -> Iterator[str]:
    command = context.command
    path = context.command_path
    yield f"({path.replace(' ', '-')})="
    yield f"{'#' * level} `{path}`\n"
    yield from _paragraphs(command.help or command.short_help or "")
    yield f"```text\n{path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            yield _option(option, context)
    if nested and isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _command(_context(child, name, context), level=level + 1)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):  # Click keeps the lines of such a paragraph
            yield "```text\n" + paragraph.removeprefix("\b").strip("\n") + "\n```\n"
        else:
            yield escaped(flowing(paragraph)) + "\n"


def _option(option: click.Option, context: click.Context) -> str:
    names, text = option.get_help_record(context) or ("", "")
    variables = [option.envvar] if isinstance(option.envvar, str) else [*(option.envvar or [])]
    if not variables and context.parent is None and option.name not in {"help", "version"}:
        variables = [f"{context.auto_envvar_prefix}_{option.name}".upper()]
    variable = f" — {', '.join(f'`{name}`' for name in variables)}" if variables else ""
    return f"`{names}`{variable}\n: {escaped(flowing(text))}\n"


def _fill(app: Any, docname: str, source: list[str]) -> None:
    def fill(found: re.Match[str]) -> str:
        for path in CLI.glob("*.py"):
            app.env.note_dependency(str(path), docname=docname)
        return page(found[1].split())

    source[0] = MARK.sub(fill, source[0])


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
