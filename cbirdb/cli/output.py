"""Writes rows to stdout, as a table for people or as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from cbirdb.names import escape_controls

Row = Mapping[str, Any]


LONG_TEXTS = {"advice", "detail", "embedding", "labels", "parameters", "source", "value", "what"}
"""Columns that a table may fold; it never folds a number or a short word."""


def write_rows(rows: Sequence[Row], output_format: str, *, columns: Sequence[str] | None = None) -> None:
    """Write rows that all have the keys of the first.

    :param columns: columns of the table, if not all; JSON and CSV always have all.
    """
    if output_format == "json":
        click.echo(json.dumps([dict(row) for row in rows], indent=1, default=str, ensure_ascii=False, allow_nan=False))
    elif output_format == "csv":
        _write_csv(rows)
    else:
        _write_table([{name: row[name] for name in columns or row} for row in rows])


def write_parts(parts: Sequence[Sequence[Row]], output_format: str) -> None:
    """Write rows of several kinds, one kind after the other; as JSON they are one array."""
    if output_format == "json":
        write_rows([row for rows in parts for row in rows], output_format)
        return
    for number, rows in enumerate(parts):
        if number and output_format == "csv":
            click.echo()
        write_rows(rows, output_format)


def _write_csv(rows: Sequence[Row]) -> None:
    if not rows:
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_cell_for_csv(value) for value in row.values()] for row in rows)


def _cell_for_csv(value: Any) -> Any:
    return "|".join(map(str, value)) if isinstance(value, list | tuple) else value


def _write_table(rows: Sequence[Row]) -> None:
    """Write a table, or one line per value if the terminal is too narrow."""
    if not rows:
        click.echo("(no rows)")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, value in rows[0].items():
        table.add_column(
            name, justify="right" if _is_number(value) else "left", overflow="fold", no_wrap=name not in LONG_TEXTS
        )
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        # A file or a pipe has no width, so nothing may be cut or folded.
        console.width = 500
    if Measurement.get(console, console.options.update(width=500), table).minimum > console.width:
        _write_records(rows)
        return
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _write_records(rows: Sequence[Row]) -> None:
    widest = max(len(name) for name in rows[0])
    for row in rows:
        for name, value in row.items():
            click.echo(f"{name:<{widest}}  {_cell(value)}")
        click.echo()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return escape_controls(", ".join(map(str, value)))
    if hasattr(value, "strftime") and hasattr(value, "hour"):
        return str(value.strftime("%Y-%m-%d %H:%M"))
    return escape_controls(str(value))
