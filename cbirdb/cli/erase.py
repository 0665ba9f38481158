"""``cbirdb erase``: a patient's right to be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cbirdb.cli.options import Context, confirm, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath, Text
from cbirdb.errors import ExitCode

if TYPE_CHECKING:
    import psycopg

    from cbirdb.erase.patients import Certificate

TABLE = ("certificate_id", "dataset", "erased_at", "login", "removed")
"""What a table shows of a certificate; JSON and CSV have everything."""


@click.command()
@click.option("--patient", type=Text(), metavar="KEY", help="The patient's pseudonym, as cbir.patient has it.")
@click.option(
    "--patient-id",
    type=Text(),
    metavar="ID",
    help="The dataset's own number of the patient, which stays on this machine; - asks.",
)
@click.option(
    "--pseudonym-key", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Key that the pseudonyms were made with, for --patient-id.  [default: in CBIRDB_HOME]",
)  # fmt: skip
@click.option("--dataset", type=Text(), metavar="NAME", help="Only in this dataset, with --patient or --patient-id.")
@click.option(
    "--certificate", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Also write the certificates to a new file, to be kept apart from the backups.",
)  # fmt: skip
@click.option(
    "--from-certificate", "given", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE", multiple=True,
    help="Erase again what a restored backup brought back; may be repeated.",
)  # fmt: skip
@click.option("--reapply", is_flag=True, help="Erase again whoever has a certificate here and is back.")
@click.option("--list", "list_all", is_flag=True, help="List the certificates; erases nothing.")
@click.option("--no-repair", is_flag=True, help="Do not rebuild indexes and VACUUM; the certificate says what to run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@format_option
@pass_context
def erase(
    context: Context,
    patient: str | None,
    patient_id: str | None,
    pseudonym_key: Path | None,
    dataset: str | None,
    certificate: Path | None,
    given: tuple[Path, ...],
    reapply: bool,
    list_all: bool,
    no_repair: bool,
    yes: bool,
    output_format: str,
) -> int:
    """Erase a patient from every table, embedding and stored result, with a certificate.

    The patient cannot be ingested again. Keep the certificate's file apart from the backups: one that is older than
    the erasure does not know of it.

    \b
    cbirdb erase --patient-id - --certificate erased-2026-11.json
    cbirdb erase --from-certificate erased-2026-11.json           after restoring a backup
    """  # noqa: D301 (Click wants the character itself)
    from cbirdb.erase import patients as verb

    if sum((patient is not None, patient_id is not None, bool(given) or reapply, list_all)) != 1:
        raise click.UsageError("Give one of --patient, --patient-id, --from-certificate or --reapply, and --list.")
    if dataset is not None and patient is None and patient_id is None:
        raise click.UsageError("--dataset goes with --patient and --patient-id.")
    if certificate is not None:
        verb.check_target(certificate)
    kept = [one for path in given for one in verb.read_certificates(path)]
    with context.open_database() as connection:
        if list_all:
            rows = verb.all_certificates(connection)
        elif given or reapply:
            rows = _erase_again(connection, kept, ask=not yes)
        else:
            people = _people(context, connection, patient, patient_id, pseudonym_key, dataset)
            rows = _erase(connection, people, ask=not yes)
        # Before anything else can fail: the erasure is committed.
        if certificate is not None:
            verb.write_certificates(certificate, rows)
        write_rows(rows, output_format, columns=TABLE)
        left = [] if no_repair or list_all else verb.repair(connection, rows)
    wanted = [statement for row in rows for statement in list(row["to_run"])] if no_repair else left
    for line in _remarks(rows, wanted, list_all=list_all, certificate=certificate):
        context.progress().note(line)
    return int(ExitCode.PARTIAL if left else ExitCode.OK)


def _erase_again(connection: psycopg.Connection, kept: list[Certificate], *, ask: bool) -> list[Certificate]:
    """:param kept: certificates of files."""
    from cbirdb.erase import patients as verb

    verb.check_reapply(connection)
    if ask:
        first = f"Put {len(kept):,} certificates back, and erase" if kept else "Erase"
        confirm(f"{first} again whoever has a certificate and is here?")
    return verb.reapply_erasures(connection, kept)


def _erase(connection: psycopg.Connection, people: list[tuple[str, str | None]], *, ask: bool) -> list[Certificate]:
    from cbirdb.erase import patients as verb

    verb.check_people(connection, people)
    if ask:
        confirm("Erase this patient for good?")
    return verb.erase_patients(connection, people)


def _people(
    context: Context,
    connection: psycopg.Connection,
    patient: str | None,
    patient_id: str | None,
    pseudonym_key: Path | None,
    dataset: str | None,
) -> list[tuple[str, str | None]]:
    """Pseudonyms with their datasets."""
    from cbirdb.erase import find_pseudonyms
    from cbirdb.pseudonyms import Pseudonyms

    if patient_id is None:
        return [(str(patient), dataset)]
    if patient_id == "-":
        patient_id = click.prompt("Number of the patient", hide_input=True, err=True)
    pseudonyms = Pseudonyms.from_file(pseudonym_key or context.settings.pseudonym_key, create=False)
    return find_pseudonyms(connection, patient_id, pseudonyms, dataset)


def _remarks(rows: list[dict[str, Any]], wanted: list[str], *, list_all: bool, certificate: Path | None) -> list[str]:
    """:param wanted: statements that have not been run."""
    if list_all:
        return []
    if not rows:
        return ["Nobody who has a certificate was in the catalogue."]
    lines = [f"The certificates are in {certificate}."] if certificate is not None else []
    if wanted:
        lines.append("Vectors stay in indexes and files until their owner has run these:")
        lines += [f"  {statement};" for statement in wanted]
    lines.append("Backups and the image files themselves are not touched.")
    return lines
