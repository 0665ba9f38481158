"""Implements ``cbirdb classify``: kNN classification by the stored neighbours, and linear probes of the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cbirdb.cli.evaluate import no_part
from cbirdb.cli.options import (
    Context,
    dataset_option,
    encoder_option,
    format_option,
    pass_context,
    refuse_options,
)
from cbirdb.cli.output import write_rows
from cbirdb.errors import ExitCode, OptionError

if TYPE_CHECKING:
    from cbirdb.classify import LinearOptions, LinearSummary
    from cbirdb.progress import Progress


@click.command()
@encoder_option
@click.option(
    "--method", type=click.Choice(["knn", "linear"]), default="knn",
    help="knn: the most frequent class of the k nearest images. linear: a logistic regression on the embeddings.",
)  # fmt: skip
@click.option(
    "--by",
    type=click.Choice(["balanced-accuracy", "accuracy"]),
    default="balanced-accuracy",
    help="Choose k, or C, by this accuracy on the validation images: the mean over classes, or over images.",
)
@dataset_option
@click.option(
    "--grid", metavar="C,C,...", help="Of linear: values of C to try.  [default: 0.01, 0.1 and so on to 10000]"
)
@click.option(
    "--split-seed", type=click.IntRange(0, 2**63 - 1), default=0,
    help="Of linear: seed that draws a tenth of the training patients as val, for a dataset without val.",
)  # fmt: skip
@click.option(
    "--exclude-patient", is_flag=True,
    help="Of linear: use a patient's images in the last of train, val and test only.  [default: in each]",
)  # fmt: skip
@format_option
@pass_context
def classify(
    context: Context,
    encoder: str,
    method: str,
    by: str,
    datasets: tuple[str, ...],
    grid: str | None,
    split_seed: int,
    exclude_patient: bool,
    output_format: str,
) -> int:
    """Classify test images by their nearest neighbours or a linear probe, with k or C chosen on validation images.

    knn reads two runs of the paper's protocol: cbirdb evaluate -e NAME, and the same with --query-split val. linear
    reads the embeddings, with the images of the same protocol, and stores its predictions: cbirdb metrics --by linear
    shows all figures. Exit code 4: the fit did not converge. It is stored, but metrics report it as not final.
    """
    if method == "linear":
        from cbirdb.classify import LinearOptions

        options = LinearOptions(
            datasets=datasets, criterion="accuracy" if by == "accuracy" else "balanced_accuracy", split_seed=split_seed,
            same_patient=not exclude_patient, **({} if grid is None else {"grid": _parse_grid(grid)}),
        )  # fmt: skip
        return _by_probe(context, encoder, options, output_format)
    refuse_options("--method knn", {"datasets", "grid", "split_seed", "exclude_patient"})
    _by_neighbours(context, encoder, by, output_format)
    return int(ExitCode.OK)


def _by_neighbours(context: Context, encoder: str, by: str, output_format: str) -> None:
    from cbirdb.metrics.analyses import classify as run
    from cbirdb.metrics.precision import describe_runs

    criterion = by.replace("-", "_")
    progress = context.progress()
    with context.open_database() as connection:
        rows = run(connection, encoder, criterion=criterion)
        for line in describe_runs(connection, {rows[0]["val_run"], rows[0]["test_run"]}):
            progress.note(line)
    chosen = next(row for row in rows if row["chosen"])
    progress.note(
        f"k = {chosen['k']} is best on val ({by.replace('-', ' ')} {chosen[f'val_{criterion}']:.4f}); with it"
        f" test reaches {chosen[f'test_{criterion}']:.4f}."
    )
    write_rows(
        rows, output_format,
        columns=("k", "val_balanced_accuracy", "val_accuracy", "test_balanced_accuracy", "test_accuracy", "chosen"),
    )  # fmt: skip


def _by_probe(context: Context, encoder: str, options: LinearOptions, output_format: str) -> int:
    from cbirdb.classify import classify_linear
    from cbirdb.db.known_encoders import stored_encoder
    from cbirdb.metrics.probes import Probe, describe_probes, overall

    progress = context.progress()
    with context.open_database() as connection:
        summary = classify_linear(connection, stored_encoder(connection, encoder), options, progress=progress)
        (test,) = overall(connection, Probe(summary.probe_id, encoder))
        for line in describe_probes(connection, {summary.probe_id}):
            progress.note(line)
    _note_summary(progress, summary, options)
    names = ("balanced_accuracy", "accuracy", "macro_auc")
    rows = [
        {
            "probe": summary.probe_id,
            **candidate.row(),
            # Test is predicted once, with the chosen C.
            **{f"test_{name}": test[name] if candidate is summary.chosen else None for name in names},
            "chosen": candidate is summary.chosen,
        }
        for candidate in summary.candidates
    ]
    write_rows(
        rows, output_format,
        columns=(
            "c", "val_balanced_accuracy", "val_accuracy", *(f"test_{name}" for name in names), "iterations", "chosen",
        ),
    )  # fmt: skip
    return int(ExitCode.PARTIAL if summary.not_final else ExitCode.OK)


def _note_summary(progress: Progress, summary: LinearSummary, options: LinearOptions) -> None:
    """Print the remarks about a probe, one line each."""
    members = summary.members
    if members.left_out:
        progress.note(f"{no_part(members.left_out)} because of their labels: none, several, or an uncertain one.")
    if members.not_encoded:
        progress.note(f"{no_part(members.not_encoded)} because there is no embedding.")
    if members.shared:
        effect = "took part" if options.same_patient else "were left out"
        progress.note(f"{members.shared:,} train and val images {effect} whose patient has images in a later split.")
    if members.without_patient:
        progress.note(
            f"The patients of {members.without_patient:,} images are not known: some may have images in several splits."
        )
    if summary.unknown_classes:
        progress.note(
            f"{summary.unknown_images:,} test images count as wrong, because val or test has classes without train"
            f" images: {', '.join(summary.unknown_classes)}."
        )
    if _ends_at_the_grid(summary, options):
        progress.note(f"The best C, {summary.chosen.c:g}, lies at an end of the grid: --grid can widen it.")


def _ends_at_the_grid(summary: LinearSummary, options: LinearOptions) -> bool:
    """Test if a C beyond the grid may be better; the smallest of equal ones is chosen, which alone says nothing."""
    values = [getattr(candidate, options.criterion) for candidate in summary.candidates]
    place = summary.candidates.index(summary.chosen)
    return len(values) > 1 and (place == len(values) - 1 or (place == 0 and values[1] < values[0]))


def _parse_grid(text: str) -> list[float]:
    """Parse numbers: ``0.1,1,10`` -> [0.1, 1.0, 10.0].

    :raises OptionError: when the text has another form.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"'{text}' is not a list of numbers.", hint="Give --grid 0.1,1,10 for example.") from None
