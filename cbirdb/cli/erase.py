"""Implements ``cbirdb erase``: erases a patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cbirdb.cli.options import Context, confirm, format_option, pass_context, path_map_option
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath, Text
from cbirdb.errors import ExitCode

if TYPE_CHECKING:
    import psycopg

    from cbirdb.erase.patients import Certificate

TABLE = ("certificate_id", "dataset", "erased_at", "login", "removed")
"""Columns of the table; JSON and CSV have all."""


@click.command()
@click.option("--patient", type=Text(), metavar="KEY", help="The patient's pseudonym in cbir.patient.")
@click.option(
    "--patient-id",
    type=Text(),
    metavar="ID",
    help="The patient's number in the dataset, which stays on this machine; - prompts for it.",
)
@click.option("--issuer", type=Text(), metavar="TEXT", help="Issuer of --patient-id, as DICOM files name it.")
@click.option(
    "--pseudonym-key", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Key of the pseudonyms, for --patient-id.  [default: in CBIRDB_HOME]",
)  # fmt: skip
@click.option("--dataset", type=Text(), metavar="NAME", help="Only in this dataset, with --patient or --patient-id.")
@click.option(
    "--certificate", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE",
    help="Also write the certificates to a new file; keep it apart from the backups.",
)  # fmt: skip
@click.option(
    "--from-certificate", "given", type=FilePath(dir_okay=False, path_type=Path), metavar="FILE", multiple=True,
    help="Erase again the patients that a restored backup brought back; may be repeated.",
)  # fmt: skip
@click.option("--reapply", is_flag=True, help="Erase again every patient with a certificate here who is back.")
@click.option("--list", "list_all", is_flag=True, help="List the certificates and erase nothing.")
@click.option(
    "--no-repair", is_flag=True, help="Do not rebuild indexes or VACUUM; the certificate lists the statements to run."
)
@path_map_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@format_option
@pass_context
def erase(
    context: Context,
    patient: str | None,
    patient_id: str | None,
    issuer: str | None,
    pseudonym_key: Path | None,
    dataset: str | None,
    certificate: Path | None,
    given: tuple[Path, ...],
    reapply: bool,
    list_all: bool,
    no_repair: bool,
    path_map: Path | None,
    yes: bool,
    output_format: str,
) -> int:
    """Erase a patient from every table, embedding and stored result, with a certificate.

    The patient cannot be ingested again. Keep the certificate's file apart from the backups: a backup from before the
    erasure does not have it.

    \b
    cbirdb erase --patient-id - --certificate erased-2026-11.json
    cbirdb erase --from-certificate erased-2026-11.json           after restoring a backup
    """  # noqa: D301 (Click wants the character itself)
    from cbirdb.erase import patients as verb

    if sum((patient is not None, patient_id is not None, bool(given) or reapply, list_all)) != 1:
        raise click.UsageError(
            "Give exactly one of --patient, --patient-id, --from-certificate or --reapply, and --list."
        )
    if issuer is not None and patient_id is None:
        raise click.UsageError("--issuer needs --patient-id.")
    if dataset is not None and patient is None and patient_id is None:
        raise click.UsageError("--dataset needs --patient or --patient-id.")
    if certificate is not None:
        verb.check_target(certificate)
    kept = [item for path in given for item in verb.read_certificates(path)]
    with context.open_database() as connection:
        if list_all:
            rows = verb.all_certificates(connection)
        elif given or reapply:
            rows = _erase_again(connection, kept, ask=not yes)
        else:
            people = _people(context, connection, patient, patient_id, issuer, pseudonym_key, dataset)
            rows = _erase(connection, people, ask=not yes)
        # First of all, since the erasure is committed and a later step may fail.
        if certificate is not None:
            verb.write_certificates(certificate, rows)
        write_rows(rows, output_format, columns=TABLE)
        if not list_all:
            verb.forget_paths(connection, path_map or context.settings.path_map, [*rows, *kept])
        left = [] if no_repair or list_all else verb.repair(connection, rows)
    wanted = [statement for row in rows for statement in list(row["to_run"])] if no_repair else left
    for line in _remarks(rows, wanted, list_all=list_all, certificate=certificate):
        context.progress().note(line)
    return int(ExitCode.PARTIAL if left else ExitCode.OK)


def _erase_again(connection: psycopg.Connection, kept: list[Certificate], *, ask: bool) -> list[Certificate]:
    """Erase again everybody who has a certificate and is back.

    :param kept: certificates from files.
    """
    from cbirdb.erase import patients as verb

    verb.check_reapply(connection)
    if ask:
        first = f"Restore {len(kept):,} certificates, and erase" if kept else "Erase"
        confirm(f"{first} again every patient who has a certificate and is back?")
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
    issuer: str | None,
    pseudonym_key: Path | None,
    dataset: str | None,
) -> list[tuple[str, str | None]]:
    """Return pseudonyms with their datasets."""
    from cbirdb.erase import find_pseudonyms
    from cbirdb.pseudonyms import Pseudonyms

    if patient_id is None:
        return [(str(patient), dataset)]
    if patient_id == "-":
        patient_id = click.prompt("Number of the patient", hide_input=True, err=True)
    pseudonyms = Pseudonyms.from_file(pseudonym_key or context.settings.pseudonym_key, create=False)
    return find_pseudonyms(connection, patient_id, pseudonyms, dataset, issuer=issuer or "")


def _remarks(rows: list[dict[str, Any]], wanted: list[str], *, list_all: bool, certificate: Path | None) -> list[str]:
    """Return the remarks after an erasure.

    :param wanted: statements that have not run.
    """
    if list_all:
        return []
    if not rows:
        return ["No patient with a certificate was in the catalogue."]
    lines = [f"The certificates are in {certificate}."] if certificate is not None else []
    if wanted:
        lines.append("Vectors stay in indexes and files until their owner runs these statements:")
        lines += [f"  {statement};" for statement in wanted]
    lines.append("Backups and image files are unchanged.")
    return lines
