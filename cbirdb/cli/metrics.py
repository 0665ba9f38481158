"""Implements ``cbirdb metrics``: shows P@N."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cbirdb.cli.options import (
    Context,
    cutoffs_option,
    format_option,
    pass_context,
    refuse_options,
    resamples_option,
)
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import COUNT, Text
from cbirdb.errors import OptionError
from cbirdb.metrics.analyses import ANALYSES
from cbirdb.metrics.precision import GROUPS
from cbirdb.metrics.probes import PROBE_FIGURES

if TYPE_CHECKING:
    from cbirdb.api import PrecisionRow, Rows


@click.command()
@click.option("-e", "--encoder", type=Text(), metavar="NAME", help="Only this encoder.")
@click.option(
    "--by",
    type=click.Choice([*GROUPS, *ANALYSES, *PROBE_FIGURES]),
    default="run",
    help="run: all queries together; class to anatomic-region: a row per group of queries; index-size: random parts of the"
    " index; anatomy: how often neighbours share the anatomy and the finding; linear, linear-class: linear probes, in all"
    " and by class.",
)
@cutoffs_option
@click.option("--run", type=COUNT, metavar="ID", help="This run, or linear probe.  [default: each encoder's latest]")
@click.option(
    "--confidence", is_flag=True,
    help="Add 95 % confidence intervals, bootstrapped by patient.",
)  # fmt: skip
@resamples_option
@click.option(
    "--compare-paper", is_flag=True, help="Show this database's figures beside the paper's Table 1, cell by cell."
)
@format_option
@pass_context
def metrics(
    context: Context,
    encoder: str | None,
    by: str,
    cutoffs: str,
    run: int | None,
    confidence: bool,
    resamples: int,
    seed: int,
    compare_paper: bool,
    output_format: str,
) -> None:
    """Show precision at N: micro is the mean over queries, macro the mean over classes.

    Of linear probes it shows accuracy, balanced accuracy, F1 and area under the ROC curve (--by linear).
    """
    if compare_paper:
        _check_alone("compare_paper", beside=("encoder", "output_format"))
        _compare(context, encoder, output_format)
        return
    if by in PROBE_FIGURES:
        refuse_options(f"--by {by}", {"cutoffs"})
        _show_probes(context, by, encoder, run, confidence, resamples, seed, output_format)
        return
    from cbirdb.metrics.precision import describe_runs

    wanted = parse_cutoffs(cutoffs)
    if confidence and by in ANALYSES:
        raise OptionError(f"--confidence is not available for --by {by}.", hint=f"It is for {', '.join(GROUPS)}.")
    progress = context.progress()
    with context.database() as database:
        if by in ANALYSES:
            rows = database.analyse(by, encoder=encoder, cutoffs=wanted, run=run).to_dicts()
        else:
            found = database.metrics(
                encoder, by=by, cutoffs=wanted, run=run, confidence=confidence, resamples=resamples, seed=seed,
                progress=progress,
            )  # fmt: skip
            rows = _printed(found, by, confidence=confidence)
        if confidence:
            progress.note(f"Intervals of 95 %: {resamples:,} resamples of whole patients, seed {seed}.")
        runs = {row["run"] for row in rows}
        for line in describe_runs(database.connection, runs):
            progress.note(line)
    if undetermined := sum(row.get("undetermined", 0) for row in rows):
        progress.note(
            f"{undetermined:,} query and index-part combinations skipped: too few stored neighbours. To store more:"
            " cbirdb evaluate -k 1000"
        )
    # Omit columns that the lines above state for a whole run; intervals replace the deviations.
    omitted = {"mode", "ann_recall"} | ({"micro_std", "macro_std"} if confidence or by in ANALYSES else set())
    omitted |= {"run", "encoder"} if len(runs) == 1 else set()
    write_rows(rows, output_format, columns=[name for name in rows[0] if name not in omitted] if rows else None)


def _printed(found: Rows[PrecisionRow], by: str, *, confidence: bool) -> list[dict[str, Any]]:
    """Name the group after what it is, and leave out what was not asked for."""
    bounds = [name for name in found.columns if name.endswith(("_low", "_high"))]
    left_out = ({"group"} if by == "run" else set()) | (set() if confidence else set(bounds))
    return [
        {by.replace("-", "_") if name == "group" else name: row[name] for name in row if name not in left_out}
        for row in found.to_dicts()
    ]


def _check_alone(option: str, *, beside: tuple[str, ...]) -> None:
    """Refuse other options on the command line, which would have no effect."""
    names = {parameter.name or "" for parameter in click.get_current_context().command.params}
    refuse_options(f"--{option.replace('_', '-')}", names - {option, *beside})


def _show_probes(
    context: Context,
    by: str,
    encoder: str | None,
    probe: int | None,
    confidence: bool,
    resamples: int,
    seed: int,
    output_format: str,
) -> None:
    from cbirdb.metrics.probes import describe_probes, probe_figures

    progress = context.progress()
    with context.open_database() as connection:
        rows = probe_figures(
            connection, by, encoder=encoder, probe=probe, confidence=confidence, resamples=resamples, seed=seed,
            progress=progress,
        )  # fmt: skip
        probes = {row["probe"] for row in rows}
        for line in describe_probes(connection, probes):
            progress.note(line)
    if confidence:
        progress.note(f"Intervals of 95 %: {resamples:,} resamples of whole patients, seed {seed}.")
    omitted = {"probe", "encoder"} if len(probes) == 1 else set()
    write_rows(rows, output_format, columns=[name for name in rows[0] if name not in omitted])


def _compare(context: Context, encoder: str | None, output_format: str) -> None:
    from cbirdb.metrics.paper_table import compare_with_paper, describe_comparison

    with context.open_database() as connection:
        rows = compare_with_paper(connection, encoder=encoder)
        for line in describe_comparison(connection, rows):
            context.progress().note(line)
    write_rows(rows, output_format, columns=("encoder", "mean", "n", "here", "paper", "difference"))


def parse_cutoffs(text: str) -> list[int]:
    """Parse numbers and ranges: ``1,3,5-7`` -> [1, 3, 5, 6, 7].

    :raises OptionError: when the text has another form.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        first, last = _number(low), _number(high if dash else low)
        if first is None or last is None or last < first:
            raise OptionError(f"'{text}' is not a list of numbers.", hint="Give -n 1,3,5,10 or -n 1-100.")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def _number(text: str) -> int | None:
    """Return a number of up to five digits above 0 (no run keeps more neighbours); None for anything else."""
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 5 else None
