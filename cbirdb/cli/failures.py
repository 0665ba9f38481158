"""Implements ``cbirdb failures``: lists failed files."""

from __future__ import annotations

import click

from cbirdb.cli.options import Context, format_option, pass_context
from cbirdb.cli.output import write_rows


@click.command()
@click.option("--stage", type=click.Choice(["ingest", "encode", "import-embeddings"]), help="Only this stage.")
@click.option("--all", "everything", is_flag=True, help="Include failures that were resolved since.")
@format_option
@pass_context
def failures(context: Context, stage: str | None, everything: bool, output_format: str) -> None:
    """List the files that could not be ingested, encoded or imported, with reasons and counts."""
    from psycopg.rows import dict_row

    with context.open_database() as connection:
        rows = (
            connection.cursor(row_factory=dict_row)
            .execute(
                """
                SELECT f.stage, f.dataset, f.encoder, f.source, f.line, f.reason, f.detail, f.occurrences, f.last_at,
                       f.resolved
                FROM cbir.failure_overview AS f
                WHERE (%(stage)s::text IS NULL OR f.stage = %(stage)s) AND (%(everything)s OR NOT f.resolved)
                ORDER BY f.failure_id
                """,
                {"stage": stage, "everything": everything},
            )
            .fetchall()
        )
    write_rows(rows, output_format)
