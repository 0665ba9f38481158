"""``cbirdb ingest``: dataset files -> catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import (
    Context,
    accept_damaged_option,
    allow_root_option,
    format_option,
    max_pixels_option,
    pass_context,
)
from cbirdb.cli.output import write_parts, write_rows
from cbirdb.cli.values import COUNT, FilePath, Line, Text
from cbirdb.errors import ExitCode

if TYPE_CHECKING:
    from cbirdb.ingest import IngestSummary


@click.command()
@click.argument("dataset", metavar="DATASET")
@click.argument("path", type=FilePath(path_type=Path))
@click.option("--name", type=Line(), help="The dataset's name here.  [default: the folder's name, or the CSV's column]")
@click.option(
    "--images", type=FilePath(path_type=Path), metavar="DIR", help="Folder that a CSV's file paths are relative to."
)
@click.option(
    "--labels-only", is_flag=True, help="Take what the lists say and leave the images alone, for import-embeddings."
)
@click.option(
    "--pseudonym-key", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Key that patients' ids are pseudonymised with; made if it is not there.  [default: in CBIRDB_HOME]",
)  # fmt: skip
@click.option("--split", default="80/10/10", help="Percent of train/val/test, where the split comes from the content.")
@click.option("--modality", type=Line(), help="Modality of all images, as a DICOM code.")
@click.option("--anatomic-region", type=Line(), help="Anatomic region of all images.")
@click.option("--label-pattern", type=Text(), metavar="REGEX", help="Label from the path, by a group named 'label'.")
@click.option("--limit", type=COUNT, metavar="N", help="Look at no more than N images.")
@max_pixels_option
@allow_root_option
@accept_damaged_option
@click.option(
    "--recheck", is_flag=True, help="Read and decode unchanged files again, too: finds damage of what is stored."
)
@click.option("--moved", is_flag=True, help="The dataset is the same, its folder lies elsewhere now.")
@click.option("--dry-run", is_flag=True, help="Read everything, write nothing.")
@format_option
@pass_context
def ingest(
    context: Context,
    dataset: str,
    path: Path,
    name: str | None,
    images: Path | None,
    labels_only: bool,
    pseudonym_key: Path | None,
    split: str,
    modality: str | None,
    anatomic_region: str | None,
    label_pattern: str | None,
    limit: int | None,
    max_pixels: int,
    allow_root: tuple[Path, ...],
    accept_damaged: bool,
    recheck: bool,
    moved: bool,
    dry_run: bool,
    output_format: str,
) -> int:
    """Bring the images and labels of a dataset into the catalogue.

    DATASET is the layout of the files, one of `cbirdb datasets list`; PATH is where they are. Running it again
    adds what is new and changes nothing else. What cannot be read is listed by `cbirdb failures`.

    \b
    cbirdb ingest folder /data/xray                       one sub-folder per class
    cbirdb ingest folder busi --label-pattern '(?P<label>[a-z]+) [(]'
    cbirdb ingest paper-csv datasets --images /data       the paper's CSV files
    """  # noqa: D301 (Click wants the character itself)
    progress = context.progress()
    with context.database() as database:
        summary = database.ingest(
            dataset, path, name=name, images=images, labels_only=labels_only, pseudonym_key=pseudonym_key, split=split,
            modality=modality, anatomic_region=anatomic_region, label_pattern=label_pattern, limit=limit,
            max_pixels=max_pixels, allow_roots=allow_root, accept_damaged=accept_damaged, recheck=recheck, moved=moved,
            dry_run=dry_run, progress=progress,
        )  # fmt: skip
    for line in _remarks(summary, dry_run=dry_run):
        progress.note(line)
    if dry_run:
        write_parts([_selection(summary), [summary.row()]], output_format)
    else:
        write_rows([summary.row()], output_format)
    return int(ExitCode.PARTIAL if summary.failed else ExitCode.OK)


def _selection(summary: IngestSummary) -> list[dict[str, object]]:
    """What would be ingested: by split, modality and label."""
    return [
        {"split": split, "modality": modality, "label": label, "images": count}
        for (split, modality, label), count in sorted(summary.selection.items())
    ]


def _remarks(summary: IngestSummary, *, dry_run: bool) -> list[str]:
    lines = ["Dry run: nothing was written."] if dry_run else []
    lines += summary.describe_failures("read", "ingest")
    if summary.stored_failed:
        lines.append(
            f"{summary.stored_failed:,} of these are in the catalogue and stay there, with the embeddings of what they"
            " were. Restore the files, or take the dataset back: cbirdb datasets drop"
        )
    if summary.damaged:
        lines.append(f"{summary.damaged:,} are damaged and recorded as such (cbir.image.damage).")
    for reason, count in summary.missing_reasons.items():
        lines.append(f"{count:,} are {reason}, such as {', '.join(summary.first_missing)}.")
    for reason, count in summary.excluded_reasons.items():
        lines.append(f"{count:,} left out: {reason}.")
    if summary.duplicate:
        lines.append(f"{summary.duplicate:,} have the content of another image; see the view cbir.duplicate_image.")
    if summary.without_label:
        lines.append(f"{summary.without_label:,} carry no label: they can be found, but take no part in evaluations.")
    if len(summary.label_names) == 1 and summary.added > 1:
        only = next(iter(summary.label_names))
        lines.append(f"All images carry the same label, '{only}'; if it stands in the file names, use --label-pattern.")
        lines.append(f"To start over: cbirdb datasets drop {', '.join(summary.datasets)}")
    return lines
