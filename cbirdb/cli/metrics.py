"""``cbirdb metrics``: P@N."""

from __future__ import annotations

import click

from cbirdb.cli.options import Context, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.errors import InputError


@click.command()
@click.option("-e", "--encoder", metavar="NAME", help="Only this encoder.")
@click.option(
    "--by",
    type=click.Choice(["run", "class", "dataset", "modality", "anatomic-region"]),
    default="run",
    help="One result for all queries, or for each group of them.",
)
@click.option("-n", "cutoffs", default="1,3,5,10", metavar="N,N,...", help="The N of P@N; a range is 1-10.")
@click.option("--run", type=int, metavar="ID", help="This run.  [default: each encoder's latest]")
@click.option("--compare-paper", is_flag=True, help="This database's figures beside the paper's Table 1, cell by cell.")
@format_option
@pass_context
def metrics(
    context: Context,
    encoder: str | None,
    by: str,
    cutoffs: str,
    run: int | None,
    compare_paper: bool,
    output_format: str,
) -> None:
    """Show precision at N: micro is the mean over queries, macro the mean over classes."""
    if compare_paper:
        _compare(context, encoder, output_format)
        return
    from cbirdb.metrics import describe_runs
    from cbirdb.metrics import metrics as read

    wanted = parse_cutoffs(cutoffs)
    with context.open_database() as connection:
        rows = read(connection, by=by, cutoffs=wanted, encoder=encoder, run=run)
        runs = {row["run"] for row in rows}
        for line in describe_runs(connection, runs):
            context.progress().note(line)
    # What the lines above say is the same in every row of a run.
    said = {"mode", "ann_recall"} | ({"run", "encoder"} if len(runs) == 1 else set())
    write_rows(rows, output_format, columns=[name for name in rows[0] if name not in said] if rows else None)


def _compare(context: Context, encoder: str | None, output_format: str) -> None:
    from cbirdb.paper_table import compare_with_paper, describe_comparison

    with context.open_database() as connection:
        rows = compare_with_paper(connection, encoder=encoder)
        for line in describe_comparison(connection, rows):
            context.progress().note(line)
    write_rows(rows, output_format, columns=("encoder", "mean", "n", "here", "paper", "difference"))


def parse_cutoffs(text: str) -> list[int]:
    """``1,3,5-7`` -> [1, 3, 5, 6, 7].

    :raises InputError: when it is something else.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        first, last = _number(low), _number(high if dash else low)
        if first is None or last is None or last < first:
            raise InputError(f"'{text}' is not a list of numbers.", hint="Give -n 1,3,5,10 or -n 1-100.")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def _number(text: str) -> int | None:
    """Up to five digits, since no run keeps more neighbours; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else None
