"""Implements ``cbirdb encoders fetch`` and ``cbirdb encoders verify``: the files of encoders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cbirdb.cli.options import Context, device_option, format_option, pass_context, weights_option
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath
from cbirdb.errors import DatabaseError, EncoderError, ExitCode

if TYPE_CHECKING:
    from cbirdb.encoders.spec import EncoderSpec

WORDS = {True: "ok", False: "DIFFERS", None: "not compared"}
"""Results of a comparison."""


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="All encoders that can be fetched.")
@click.option(
    "--to", type=FilePath(file_okay=False, path_type=Path), metavar="DIR",
    help="Parent of a new folder per encoder; becomes an offline bundle.  [default: the folder in CBIRDB_HOME that"
    " `encode` reads]",
)  # fmt: skip
@format_option
@pass_context
def fetch(context: Context, names: tuple[str, ...], everything: bool, to: Path | None, output_format: str) -> int:
    """Download encoders' configurations and weights. What an earlier attempt left is continued.

    For machines without internet, fetch with --to on another one, copy the folder, check the copy with `encoders verify
    --bundle DIR`, and pass it as --weights.
    """
    from cbirdb.encoders.bundle import write_bundle
    from cbirdb.encoders.fetch import fetch as run

    if bool(names) == everything:
        raise click.UsageError("Missing argument 'NAME...': name encoders, or give --all, not both.")
    specs = _fetchable(context) if everything else [find_spec(context, name) for name in dict.fromkeys(names)]
    progress = context.progress()
    rows = []
    downloaded = 0
    for spec in specs:
        try:
            fetched = run(spec, to or context.settings.weights_folder, progress=progress)
        except EncoderError as error:
            if not everything:
                raise
            progress.note(str(error))  # such as terms of its owners that nobody has accepted yet
            continue
        downloaded += fetched.package is None
        commits = ", ".join(f"{source} at {commit[:12]}" for source, commit in fetched.commits.items())
        rows.append({
            "encoder": spec.name, "files": len(fetched.files), "mb": fetched.size_bytes / 1e6,
            "folder": str(fetched.folder), "source": f"came with package {fetched.package}" if fetched.package else commits,
        })  # fmt: skip
    if to is not None and downloaded:
        write_bundle(to)
    write_rows(rows, output_format)
    return int(ExitCode.OK if len(rows) == len(specs) else ExitCode.PARTIAL)


@click.command()
@click.argument("name", required=False)
@click.option(
    "--bundle", type=FilePath(path_type=Path), metavar="DIR",
    help="Check every file of this folder of `encoders fetch --to` instead; needs no database.",
)  # fmt: skip
@weights_option
@device_option
@format_option
@pass_context
def verify(
    context: Context,
    name: str | None,
    bundle: Path | None,
    weights: Path | None,
    allow_other_weights: bool,
    device: str,
    output_format: str,
) -> int:
    """Check that an encoder is unchanged: its files, and its embedding of one fixed picture.

    Compares files with the checksums of their download. Compares weights, preprocessing and the embedding of a fixed
    picture with those of the first `encode` into this database.
    """
    if bundle is not None:
        if name is not None or weights is not None:
            raise click.UsageError("--bundle checks a whole folder: it goes without NAME and --weights.")
        return _verify_bundle(bundle, output_format)
    if name is None:
        raise click.UsageError("Missing argument 'NAME'.")
    from cbirdb.db.known_encoders import known_encoders
    from cbirdb.encode.verify import verify_encoder
    from cbirdb.encoders.registry import get_spec

    with context.open_database() as connection:
        spec = get_spec(name, known_encoders(connection))
        options = context.load_options(weights, device, allow_other_weights=allow_other_weights)
        checks = verify_encoder(connection, spec, options, context.progress())
    write_rows([{**asdict(check), "ok": WORDS[check.ok]} for check in checks], output_format)
    return int(ExitCode.PARTIAL if any(check.ok is False for check in checks) else ExitCode.OK)


def _verify_bundle(bundle: Path, output_format: str) -> int:
    from cbirdb.encoders.bundle import verify_bundle

    checks = verify_bundle(bundle)
    write_rows([{**asdict(check), "ok": WORDS[check.ok]} for check in checks], output_format)
    return int(ExitCode.OK if all(check.ok for check in checks) else ExitCode.PARTIAL)


def _fetchable(context: Context) -> list[EncoderSpec]:
    """Return the encoders whose files come from the hub or an address."""
    from cbirdb.encoders.packages import is_package
    from cbirdb.encoders.shipped import SHIPPED
    from cbirdb.encoders.weights import is_local

    known = {**added_specs(context), **SHIPPED}.values()
    return [spec for spec in known if spec.weights and not is_local(spec) and not is_package(spec)]


def find_spec(context: Context, name: str) -> EncoderSpec:
    """Return an encoder's record; ask the database only for names that are not shipped."""
    from cbirdb.encoders.registry import get_spec
    from cbirdb.encoders.shipped import SHIPPED

    return get_spec(name, {} if name.partition("@")[0] in SHIPPED else added_specs(context))


def added_specs(context: Context) -> dict[str, EncoderSpec]:
    """Return the records added to the database. If no database can be reached, return none and say so."""
    from cbirdb.db.known_encoders import added_encoders
    from cbirdb.db.server.embedded import EmbeddedServer

    if context.settings.embedded and not EmbeddedServer(context.settings.home_folder).exists():
        return {}  # nothing can have been added, and a list should not create a database
    try:
        with context.open_database() as connection:
            return added_encoders(connection)
    except DatabaseError as error:
        context.progress().note(f"Listing only the encoders that ship with cbirdb: {error}")
        return {}
