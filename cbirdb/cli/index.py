"""Implements ``cbirdb index``: manages vector indexes."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from cbirdb.cli.options import Context, encoder_option, floor_options, format_option, pass_context
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import COUNT
from cbirdb.errors import ExitCode
from cbirdb.index.methods import METHODS, IndexMethod

if TYPE_CHECKING:
    import psycopg

    from cbirdb.db.embeddings import StoredEncoder
    from cbirdb.db.index_builds import IndexBuild
    from cbirdb.index import Choice, Floor
    from cbirdb.progress import Progress

TABLE = ("build", "method", "parameters", "search", "rows", "index_mb", "seconds", "built_at")
"""Columns of the table; JSON and CSV have all."""
TRIAL_TABLE = (
    "method", "settings", "recall_10", "p1_10", "zeros_10", "recall_100", "p50_ms", "build_s", "whole_build_s",
    "whole_p50_ms", "whole_memory_mb", "cost_s",
)  # fmt: skip


@click.group()
def index() -> None:
    """Build, drop, audit and show vector indexes."""


SEED = click.IntRange(0, 2**63 - 1)
SAMPLE = click.IntRange(1, 100_000_000)


@index.command()
@encoder_option
@click.option(
    "--method",
    type=click.Choice(["auto", *METHODS]),
    default="auto",
    help="auto: the cheapest method that passes on a sample.",
)
@click.option("--m", type=int, help="HNSW: neighbours per element and layer.  [default: 16]")
@click.option("--ef-construction", type=int, help="HNSW: candidates while building.  [default: 128]")
@click.option("--ef-search", type=int, help="hnsw: candidates of a search for 10 images; recorded.  [default: 100]")
@click.option("--rerank", type=int, help="bit-hnsw: candidates that are compared exactly; recorded.  [default: 200]")
@click.option("--lists", type=int, help="ivfflat: number of lists.  [default: square root of the rows]")
@click.option("--probes", type=int, help="ivfflat: lists read in a search for 10 images; recorded.  [default: 10]")
@click.option(
    "--at-100", type=int,
    help="Value of --ef-search, --rerank or --probes for 100 images; recorded.  [default: derived from that for 10]",
)  # fmt: skip
@click.option("--sample", type=SAMPLE, default=50_000, help="auto: vectors on which methods are tried.")
@click.option(
    "--searches", type=COUNT, default=100_000,
    help="auto: expected searches per build; picks the method with the least total time for build and searches.",
)  # fmt: skip
@click.option("--seed", type=SEED, default=0, help="Seed of that sample and of the audit's.")
@click.option(
    "--allow-ivfflat", is_flag=True,
    help="Allow IVFFlat even if the server's pgvector is older than 0.8.7, whose IVFFlat builds can overflow a buffer.",
)  # fmt: skip
@click.option("--audit/--no-audit", "audited", default=True, help="Audit the index after the build.")
@floor_options
@format_option
@pass_context
def build(
    context: Context,
    /,
    encoder: str,
    method: str,
    sample: int,
    searches: int,
    seed: int,
    allow_ivfflat: bool,
    audited: bool,
    floor_recall: float,
    max_share_without_hit: float,
    output_format: str,
    **options: int | None,
) -> int:
    """Build the encoder's index on cosine distance, replacing the present one, and audit it.

    Options of HNSW alone imply --method hnsw. Exit code 4: under auto, the index in use is below the floor.
    """
    from cbirdb.db.known_encoders import stored_encoder
    from cbirdb.index import Floor, build_chosen, build_index, choose_method

    given = {name: value for name, value in options.items() if value is not None}
    automatic = method == "auto" and not given
    _refuse_unused_options(automatic=automatic, audited=audited)
    floor = Floor(floor_recall, max_share_without_hit)
    chosen = _method(method, given)
    progress = context.progress()
    recorded, missed = None, None
    with context.open_database() as connection:
        stored = stored_encoder(connection, encoder)
        if automatic:
            choice = choose_method(
                connection, stored, rows=sample, seed=seed, floor=floor, searches=searches, allow_ivfflat=allow_ivfflat,
                progress=progress,
            )  # fmt: skip
            _note_trials(choice, progress)
            chosen, recorded = choice.method, choice.json()
        if automatic and audited:
            built, missed = build_chosen(
                connection, stored, choice, connect=context.connect, seed=seed, floor=floor, allow_ivfflat=allow_ivfflat,
                progress=progress,
            )  # fmt: skip
        else:
            built = build_index(
                connection, stored, chosen, connect=context.connect, choice=recorded, allow_ivfflat=allow_ivfflat,
                progress=progress,
            )  # fmt: skip
        if audited and not automatic:
            built, missed = _audit(connection, stored, built, seed, floor, progress)
    write_rows([built.row()], output_format, columns=TABLE)
    if missed:
        progress.note(f"Approximate results are not final: {missed}.")
        if automatic:
            return int(ExitCode.PARTIAL)
    return int(ExitCode.OK)


def _audit(
    connection: psycopg.Connection,
    stored: StoredEncoder,
    built: IndexBuild,
    seed: int,
    floor: Floor,
    progress: Progress,
) -> tuple[IndexBuild, str | None]:
    """Audit a build; return it with its audit, and the reason if it is below the floor."""
    from cbirdb.db.index_builds import NoIndexError
    from cbirdb.index import audit_index

    try:
        built, measured = audit_index(connection, stored, seed=seed, floor=floor, progress=progress)
    except NoIndexError as error:
        progress.note(f"The index was not audited: {error}")
        return built, None
    return built, measured.below(floor)


def _refuse_unused_options(*, automatic: bool, audited: bool) -> None:
    """Refuse options on the command line that would have no effect."""
    unused = set() if automatic else {"sample", "searches"}
    unused |= set() if automatic or audited else {"seed", "floor_recall", "max_share_without_hit"}
    context = click.get_current_context()
    for name in sorted(unused):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            use = "is for --method auto" if name in ("sample", "searches") else "is for auto and for audits"
            raise click.UsageError(f"--{name.replace('_', '-')} {use}; omit it.")


def _method(name: str, given: dict[str, int]) -> IndexMethod:
    """Return the method of that name with the given options.

    :raises click.UsageError: for another method's option.
    """
    kind = METHODS["hnsw" if name == "auto" else name]
    for option in given:
        if option not in {field.name for field in fields(kind)}:
            raise click.UsageError(
                f"--{option.replace('_', '-')} is not an option of {kind.name}; choose another --method."
            )
    return kind(**given)


def _note_trials(choice: Choice, progress: Progress) -> None:
    """Print the measurements, one line each, and mark the chosen method."""
    for trial in choice.trials:
        row = trial.row()
        mark = "-> " if trial is choice.chosen else "   "
        words = ", ".join(f"{name} {_short(row[name])}" for name in TRIAL_TABLE[2:])
        fails = "" if trial.passed else f"; not good enough: {choice.aim.missed_by(trial.measured)}"
        fails += "" if trial.whole.fits else "; does not fit maintenance_work_mem"
        progress.note(f"{mark}{row['method']} {row['settings']}: {words}{fails}")
    progress.note(
        f"Measured on {choice.rows:,} vectors. whole_ and cost_s are estimates for all {choice.whole_rows:,}:"
        f" cost_s is the time to build and to search {choice.searches:,} times."
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@index.command()
@encoder_option
@click.option("--sample", type=SAMPLE, default=1000, help="Stored vectors to search for.")
@click.option("--seed", type=SEED, default=0, help="Seed of the sample.")
@floor_options
@format_option
@pass_context
def audit(
    context: Context,
    encoder: str,
    sample: int,
    seed: int,
    floor_recall: float,
    max_share_without_hit: float,
    output_format: str,
) -> int:
    """Measure the recall of searches through the index, and store it with the index.

    Exit code 4: the index is below the floor.
    """
    from cbirdb.db.known_encoders import stored_encoder
    from cbirdb.index import Floor, audit_index

    floor = Floor(floor_recall, max_share_without_hit)
    with context.open_database() as connection:
        stored = stored_encoder(connection, encoder)
        built, measured = audit_index(
            connection, stored, sample=sample, seed=seed, floor=floor, progress=context.progress()
        )
    missed = measured.below(floor)
    row = {"build": built.index_build_id, "method": built.method, **measured.row(), "passed": missed is None}
    write_rows([row], output_format)
    if missed:
        context.progress().note(f"The index of '{encoder}': {missed}. Run: cbirdb index build -e {encoder}")
    return int(ExitCode.PARTIAL if missed else ExitCode.OK)


@index.command()
@encoder_option
@pass_context
def drop(context: Context, encoder: str) -> None:
    """Drop the encoder's index; searches are exact then."""
    from cbirdb.db.known_encoders import stored_encoder
    from cbirdb.index import drop_index

    with context.open_database() as connection:
        drop_index(connection, stored_encoder(connection, encoder), progress=context.progress())
    click.echo(f"Dropped the index of '{encoder}'.", err=True)


@index.command()
@encoder_option
@format_option
@pass_context
def status(context: Context, encoder: str, output_format: str) -> None:
    """Show the index in use: its build parameters, its search settings and its audit."""
    from cbirdb.db.index_builds import current_build
    from cbirdb.db.known_encoders import stored_encoder
    from cbirdb.errors import InputError

    with context.open_database() as connection:
        current = current_build(connection, stored_encoder(connection, encoder))
    if current is None:
        raise InputError(
            f"The encoder '{encoder}' has no vector index.", hint=f"Build one: cbirdb index build -e {encoder}"
        )
    row = current.row()
    write_rows([row], output_format, columns=TABLE)
    context.progress().note(
        f"Audit {row['audit']}." if current.audit else f"Not audited yet. Run: cbirdb index audit -e {encoder}"
    )
