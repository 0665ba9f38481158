"""Implements ``cbirdb ingest``: reads dataset files into the catalogue."""

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
    path_map_option,
)
from cbirdb.cli.output import write_parts, write_rows
from cbirdb.cli.values import COUNT, FilePath, Line, Text
from cbirdb.errors import ExitCode

if TYPE_CHECKING:
    from cbirdb.ingest import IngestSummary
    from cbirdb.records import DateOption, PathOption, UidOption


@click.command()
@click.argument("dataset", metavar="DATASET")
@click.argument("path", type=FilePath(path_type=Path))
@click.option("--name", type=Line(), help="The dataset's name here.  [default: the folder's name, or the CSV's column]")
@click.option("--images", type=FilePath(path_type=Path), metavar="DIR", help="Base folder of the file paths in a CSV.")
@click.option("--labels-only", is_flag=True, help="Read the lists but not the images, for import-embeddings.")
@click.option(
    "--pseudonym-key", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Key that pseudonymises patients' ids; created if missing.  [default: in CBIRDB_HOME]",
)  # fmt: skip
@click.option("--split", default="80/10/10", help="Percent of train/val/test, if the files' content decides the split.")
@click.option("--modality", type=Line(), help="Modality of all images, as a DICOM code.")
@click.option("--anatomic-region", type=Line(), help="Anatomic region of all images.")
@click.option(
    "--label-pattern", type=Text(), metavar="REGEX", help="Pattern of the path whose group 'label' is the label."
)
@click.option(
    "--labels", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="dicom: CSV file with labels of UIDs or accession numbers.",
)  # fmt: skip
@click.option(
    "--frames",
    type=Text(),
    default="every",
    metavar="every|first|middle|every:N",
    help="dicom: frames to take of a file.",
)
@click.option(
    "--uids", type=click.Choice(["keep", "hash"]), default="keep", help="dicom: store UIDs, or keyed hashes of them."
)
@click.option(
    "--dates", type=click.Choice(["keep", "shift", "drop"]), default="keep",
    help="dicom: store study dates, shift them by some days per patient, or drop them.",
)  # fmt: skip
@click.option(
    "--paths", type=click.Choice(["opaque", "keep"]), default="opaque",
    help="dicom: name files by keyed hashes of their paths, which may hold patients' names, or by the paths.",
)  # fmt: skip
@path_map_option
@click.option("--limit", type=COUNT, metavar="N", help="Read no more than N images.")
@max_pixels_option
@allow_root_option
@accept_damaged_option
@click.option("--recheck", is_flag=True, help="Also read and decode unchanged files again, to find new damage.")
@click.option("--moved", is_flag=True, help="The dataset is the same, but its folder has moved.")
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
    labels: Path | None,
    frames: str,
    uids: UidOption,
    dates: DateOption,
    paths: PathOption,
    path_map: Path | None,
    limit: int | None,
    max_pixels: int,
    allow_root: tuple[Path, ...],
    accept_damaged: bool,
    recheck: bool,
    moved: bool,
    dry_run: bool,
    output_format: str,
) -> int:
    """Add the images and labels of a dataset to the catalogue.

    DATASET is the layout of the files, one of `cbirdb datasets list`; PATH is their folder or list. Running it again adds new
    images and changes nothing else. `cbirdb failures` lists the files that cannot be read.

    \b
    cbirdb ingest folder /data/xray                       one sub-folder per class
    cbirdb ingest folder busi --label-pattern '(?P<label>[a-z]+) [(]'
    cbirdb ingest paper-csv datasets --images /data       the paper's CSV files
    cbirdb ingest dicom /archive/2026                     DICOM of any kind; reads headers only
    """  # noqa: D301 (Click wants the character itself)
    progress = context.progress()
    with context.database() as database:
        summary = database.ingest(
            dataset, path, name=name, images=images, labels_only=labels_only, pseudonym_key=pseudonym_key, split=split,
            modality=modality, anatomic_region=anatomic_region, label_pattern=label_pattern,
            labels=labels, frames=frames, uids=uids, dates=dates, paths=paths, path_map=path_map, limit=limit,
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
    """Return the rows of a dry run: images by split, modality and label."""
    return [
        {"split": split, "modality": modality, "label": label, "images": count}
        for (split, modality, label), count in sorted(summary.selection.items())
    ]


def _remarks(summary: IngestSummary, *, dry_run: bool) -> list[str]:
    lines = ["Dry run: nothing was written."] if dry_run else []
    lines += summary.describe_failures("read", "ingest")
    if summary.stored_failed:
        lines.append(
            f"{summary.stored_failed:,} of these stay in the catalogue with the embeddings of their earlier content."
            " Restore the files, or remove the dataset: cbirdb datasets drop"
        )
    if summary.damaged:
        lines.append(f"{summary.damaged:,} are damaged and recorded as such (cbir.image.damage).")
    for reason, count in summary.missing_reasons.items():
        lines.append(f"{count:,} are {reason}, such as {', '.join(summary.first_missing)}.")
    for reason, count in summary.excluded_reasons.items():
        lines.append(f"{count:,} left out: {reason}.")
    if summary.duplicate:
        lines.append(
            f"{summary.duplicate:,} have the same content as another image; see the view cbir.duplicate_image."
        )
    if summary.without_label:
        lines.append(f"{summary.without_label:,} have no label: searches find them, but evaluations exclude them.")
    if len(summary.label_names) == 1 and summary.added > 1:
        only = next(iter(summary.label_names))
        lines.append(
            f"All images have the same label, '{only}'. If labels are part of the file names, use --label-pattern."
        )
        lines.append(f"To start over: cbirdb datasets drop {', '.join(summary.datasets)}")
    return lines
