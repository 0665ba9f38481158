"""Implements ``cbirdb failures``: lists failed files."""

from __future__ import annotations

from pathlib import Path

import click

from cbirdb.cli.options import Context, format_option, pass_context, path_map_option
from cbirdb.cli.output import write_rows


@click.command()
@click.option("--stage", type=click.Choice(["ingest", "encode", "import-embeddings"]), help="Only this stage.")
@click.option("--all", "everything", is_flag=True, help="Include failures that were resolved since.")
@click.option(
    "--show-paths", is_flag=True, help="Add the paths of files with opaque names. They may hold patients' names."
)
@path_map_option
@format_option
@pass_context
def failures(
    context: Context, stage: str | None, everything: bool, show_paths: bool, path_map: Path | None, output_format: str
) -> None:
    """List the files that could not be ingested, encoded or imported, with reasons and counts."""
    from psycopg.rows import dict_row

    with context.open_database() as connection:
        rows = (
            connection.cursor(row_factory=dict_row)
            .execute(
                """
                SELECT f.stage, f.dataset, f.encoder, f.source, f.line, f.reason, f.detail, f.occurrences, f.last_at,
                       f.resolved, d.root
                FROM cbir.failure_overview AS f LEFT JOIN cbir.dataset_overview AS d ON d.dataset = f.dataset
                WHERE (%(stage)s::text IS NULL OR f.stage = %(stage)s) AND (%(everything)s OR NOT f.resolved)
                ORDER BY f.failure_id
                """,
                {"stage": stage, "everything": everything},
            )
            .fetchall()
        )
    if show_paths:
        from cbirdb.path_map import PathMap

        with PathMap.open(path_map or context.settings.path_map, read_only=True) as paths:
            for row in rows:
                row["path"] = paths.shown(row["root"] or "", row["source"].partition("#")[0])
    for row in rows:
        del row["root"]
    write_rows(rows, output_format)
