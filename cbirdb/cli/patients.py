"""Implements ``cbirdb patients``: merges patients."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import Context, confirm, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath, Text
from cbirdb.errors import ExitCode

if TYPE_CHECKING:
    import psycopg

    from cbirdb.patients.merge import Merged, Pair


@click.group()
def patients() -> None:
    """Make one patient of two who turned out to be one person."""


@patients.command()
@click.option("--from", "goes", type=Text(), metavar="KEY", help="Pseudonym, in cbir.patient, of the patient who goes.")
@click.option("--into", "stays", type=Text(), metavar="KEY", help="Pseudonym of the patient who stays.")
@click.option(
    "--from-id",
    type=Text(),
    metavar="ID",
    help="Number, in the dataset, of the patient who goes; it stays on this machine; - prompts for it.",
)
@click.option("--into-id", type=Text(), metavar="ID", help="Number of the patient who stays; - prompts for it.")
@click.option("--issuer", type=Text(), metavar="TEXT", help="Issuer of both numbers, as DICOM files name it.")
@click.option("--from-issuer", type=Text(), metavar="TEXT", help="Issuer of --from-id alone.")
@click.option("--into-issuer", type=Text(), metavar="TEXT", help="Issuer of --into-id alone.")
@click.option(
    "--pseudonym-key", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Key of the pseudonyms, for numbers.  [default: in CBIRDB_HOME]",
)  # fmt: skip
@click.option("--dataset", type=Text(), metavar="NAME", help="Only in this dataset.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@format_option
@pass_context
def merge(
    context: Context,
    goes: str | None,
    stays: str | None,
    from_id: str | None,
    into_id: str | None,
    issuer: str | None,
    from_issuer: str | None,
    into_issuer: str | None,
    pseudonym_key: Path | None,
    dataset: str | None,
    yes: bool,
    output_format: str,
) -> int:
    """Give a patient's studies and images to another, because both are one person.

    It lasts: a later ingest of the first patient's files stores them with the other. It cannot be undone.

    \b
    cbirdb patients merge --from 0a1b2c... --into 3d4e5f...
    cbirdb patients merge --from-id - --into-id - --dataset ct
    """  # noqa: D301 (Click wants the character itself)
    from cbirdb.patients.merge import Pair, foretell, merge_patients

    by_key, by_number = (
        [value is not None for value in (goes, stays)],
        [value is not None for value in (from_id, into_id)],
    )
    if not (all(by_key) and not any(by_number)) and not (all(by_number) and not any(by_key)):
        raise click.UsageError("Give --from and --into, or --from-id and --into-id.")
    issuers = (from_issuer or issuer or "", into_issuer or issuer or "")
    if any(issuers) and not all(by_number):
        raise click.UsageError("--issuer, --from-issuer and --into-issuer need --from-id and --into-id.")
    with context.open_database() as connection:
        if from_id is not None and into_id is not None:
            pairs = _pairs_of_numbers(context, connection, (from_id, into_id), issuers, pseudonym_key, dataset)
        else:
            pairs = [Pair(str(goes), str(stays), dataset)]
        foretold = foretell(connection, pairs)
        if not yes:
            confirm(_question(foretold), no="Nothing was merged.")
        write_rows([asdict(row) for row in merge_patients(connection, pairs)], output_format)
    return int(ExitCode.OK)


def _pairs_of_numbers(
    context: Context,
    connection: psycopg.Connection,
    numbers: tuple[str, str],
    issuers: tuple[str, str],
    pseudonym_key: Path | None,
    dataset: str | None,
) -> list[Pair]:
    from cbirdb.patients.merge import Number, find_pairs
    from cbirdb.pseudonyms import Pseudonyms

    asked = [
        click.prompt(f"Number of the patient who {verb}", hide_input=True, err=True) if number == "-" else number
        for number, verb in zip(numbers, ("goes", "stays"), strict=True)
    ]
    goes, stays = (Number(number, issuer) for number, issuer in zip(asked, issuers, strict=True))
    pseudonyms = Pseudonyms.from_file(pseudonym_key or context.settings.pseudonym_key, create=False)
    return find_pairs(connection, goes, stays, pseudonyms, dataset)


def _question(foretold: list[Merged]) -> str:
    images, studies = sum(row.images for row in foretold), sum(row.studies for row in foretold)
    names = ", ".join(row.dataset for row in foretold)
    return f"Give the patient's images ({images:,}) and studies ({studies:,}) in {names} to the other patient for good?"
