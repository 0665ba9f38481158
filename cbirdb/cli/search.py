"""Implements ``cbirdb search``: finds similar images."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cbirdb.cli.options import (
    Context,
    accept_damaged_option,
    allow_root_option,
    device_option,
    encoder_option,
    format_option,
    pass_context,
    path_map_option,
    weights_option,
)
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import COUNT, LARGEST_BIGINT, FilePath, Purpose, Text
from cbirdb.limits import LARGEST_K

if TYPE_CHECKING:
    from cbirdb.progress import Progress
    from cbirdb.search.similar_images import Mode

TABLE = ("rank", "image_id", "distance", "labels", "dataset", "source")
"""Columns of the table; JSON and CSV have all."""
QUERY = ("image_id", "sop_uid", "series_uid", "study_uid", "frame")
"""Options that name an image of the database."""
DAY = click.DateTime(["%Y-%m-%d"])


def _day(_context: click.Context, _parameter: click.Parameter, moment: datetime | None) -> date | None:
    """Return the day of a moment."""
    return moment.date() if moment is not None else None


@click.command()
@click.option(
    "--image", type=FilePath(path_type=Path), metavar="FILE", help="A picture that need not be in the database."
)
@click.option("--image-id", type=COUNT, metavar="N", help="An image of the database.")
@click.option("--sop-uid", type=Text(), metavar="UID", help="An image of the database, by its SOP instance UID.")
@click.option("--series-uid", type=Text(), metavar="UID", help="The only image of this series, or with --sop-uid.")
@click.option("--study-uid", type=Text(), metavar="UID", help="The only image of this study, or with --sop-uid.")
@click.option("--frame", type=COUNT, metavar="N", help="Frame of a file with several, from 1.")
@encoder_option
@click.option("-k", type=click.IntRange(1, LARGEST_K), default=10, help="Number of images.")
@click.option("--dataset", type=Text(), help="Only images of this dataset.")
@click.option("--modality", type=Text(), help="Only images of this modality.")
@click.option("--anatomic-region", type=Text(), help="Only images of this anatomic region.")
@click.option("--label", type=Text(), help="Only images with this label or one below it.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Only images of this split.")
@click.option("--study-from", type=DAY, callback=_day, help="Only studies of this day or later.")
@click.option("--study-to", type=DAY, callback=_day, help="Only studies of this day or earlier.")
@click.option("--laterality", type=click.Choice(["L", "R", "B", "U"]), help="Only images of this side.")
@click.option("--view", type=Text(), help="Only images of this view: PA, LATERAL, ...")
@click.option("--image-type", type=Text(), help="Only images with this value in their image type: ORIGINAL, ...")
@click.option("--manufacturer", type=Text(), help="Only images from devices of this manufacturer.")
@click.option("--body-part", type=Text(), help="Only images with this code of the body part: CHEST, ...")
@click.option(
    "--images",
    "image_ids",
    callback=lambda _context, _parameter, text: parse_ids(text),
    metavar="N,N,...",
    help="Only these images of the database, by their ids.",
)
@click.option("--same-patient", is_flag=True, help="Include images of the query's own patient.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "exact", "approximate"]),
    default="auto",
    help="auto: the mode that is expected to be faster; exact without an index.",
)
@click.option(
    "--sheet", type=FilePath(path_type=Path), metavar="PNG", help="Also draw a contact sheet of query and results."
)
@click.option(
    "--sheet-font",
    type=FilePath(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="TrueType or OpenType font of the sheet, for labels in other than Latin letters.",
)
@click.option(
    "--hide-burned-in", is_flag=True,
    help="Leave out of the sheet pictures that may show a name: those whose BurnedInAnnotation is not NO.",
)  # fmt: skip
@click.option("--purpose", type=Purpose(), metavar="TEXT", help="Reason of the search, for the audit of searches.")
@allow_root_option
@path_map_option
@accept_damaged_option
@weights_option
@device_option
@format_option
@pass_context
def search(
    context: Context,
    /,
    image: Path | None,
    encoder: str,
    k: int,
    same_patient: bool,
    mode: Mode,
    sheet: Path | None,
    sheet_font: Path | None,
    hide_burned_in: bool,
    purpose: str | None,
    allow_root: tuple[Path, ...],
    path_map: Path | None,
    accept_damaged: bool,
    weights: Path | None,
    allow_other_weights: bool,
    device: str,
    output_format: str,
    **chosen: Any,
) -> None:
    """Find the images most similar to a file, or to an image of the database."""
    from cbirdb.search.contact_sheet import check_target
    from cbirdb.search.sheet_font import SheetFont

    _check_query(image, chosen)
    context.allowed_roots(allow_root, path_map)  # a folder that is not there is said first
    if sheet is not None:
        check_target(sheet)
        SheetFont(sheet_font).of(14)  # an unreadable font is said before the search
    elif sheet_font is not None:
        raise click.UsageError("--sheet-font goes with --sheet.")
    query = {name: chosen[name] for name in QUERY}
    progress = context.progress()
    with context.database() as database:
        found = database.search(
            image=image, encoder=encoder, k=k, same_patient=same_patient, mode=mode, purpose=purpose,
            accept_damaged=accept_damaged, weights=weights, allow_other_weights=allow_other_weights, device=device, progress=progress, **chosen,
        )  # fmt: skip
        if sheet is not None:
            refused = database.contact_sheet(
                sheet, found, title=f"Most similar images, {encoder}", image=image, hide_burned_in=hide_burned_in,
                allow_roots=allow_root, path_map=path_map, font=sheet_font, **query,
            )  # fmt: skip
            _tell_sheet(progress, sheet, refused)
    write_rows(found.to_dicts(), output_format, columns=TABLE)
    progress.note(_remark(len(found), k, found[0].mode if found else ""))


def _check_query(image: Path | None, chosen: Mapping[str, Any]) -> None:
    """Check what a search starts from, and the order of its dates."""
    by_uid = any(chosen[name] is not None for name in ("sop_uid", "series_uid", "study_uid"))
    if sum((image is not None, chosen["image_id"] is not None, by_uid)) != 1:
        raise click.UsageError("Give one of --image, --image-id and --sop-uid (or the other UIDs).")
    if chosen["frame"] is not None and chosen["image_id"] is not None:
        raise click.UsageError("--frame goes with --image or a UID; an image id names one frame.")
    first, last = chosen["study_from"], chosen["study_to"]
    if first is not None and last is not None and first > last:
        raise click.UsageError(f"--study-from ({first}) lies after --study-to ({last}).")


def _tell_sheet(progress: Progress, sheet: Path, refused: list[str]) -> None:
    """Say where the contact sheet is, and which pictures may not be read here."""
    if refused:
        progress.note(
            f"Pictures of {', '.join(refused)} are missing: their folders are not allowed on this machine."
            " Allow one: --allow-root DIR"
        )
    progress.note(f"The contact sheet is {sheet}.")


def _remark(found: int, k: int, mode: str) -> str:
    if found == 0:
        return "No image passes these filters."
    return (
        f"Found by {mode} search." if found == k else f"There are only {found:,} such images, found by {mode} search."
    )


def parse_ids(text: str | None) -> tuple[int, ...] | None:
    """Parse image ids: ``3, 17`` -> (3, 17).

    :raises click.BadParameter: when the text has another form.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 19 and int(part) <= LARGEST_BIGINT for part in parts):
        raise click.BadParameter(f"'{text}' is not a list of image ids such as 3,17,42.")
    return tuple(int(part) for part in parts)
