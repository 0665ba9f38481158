"""Reads the output of ``cbirdb ingest``, and the catalogue after it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import sql

from tests.conftest import Outcome

Cli = Callable[..., Outcome]
TABLES = ("dataset", "image", "label", "image_label", "failure", "encoder")


def ingest(cli: Cli, *arguments: object) -> Outcome:
    return cli("ingest", *arguments, "--format", "json")


def counts(outcome: Outcome) -> dict[str, int]:
    """Return the counts of the last row, without zeros."""
    return {key: value for key, value in outcome.rows[-1].items() if key != "dataset" and value}


def contents(connection: psycopg.Connection) -> dict[str, list[tuple]]:
    """Everything that is in the catalogue, but for the times of failures."""
    found = {}
    for table in TABLES:
        query = sql.SQL("SELECT to_jsonb(t) - 'last_at' - 'occurrences' FROM {} AS t").format(
            sql.Identifier("cbir", table)
        )
        found[table] = sorted(connection.execute(query).fetchall(), key=str)
    return found


def value(connection: psycopg.Connection, query: str, *parameters: object) -> object:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def labels(connection: psycopg.Connection) -> dict[str, dict[str, int]]:
    """Labels with their values by image."""
    found = connection.execute(
        "SELECT i.source, coalesce(jsonb_object_agg(l.name, il.value) FILTER (WHERE l.name IS NOT NULL), '{}')"
        " FROM cbir.image AS i LEFT JOIN cbir.image_label AS il USING (image_id) LEFT JOIN cbir.label AS l USING (label_id)"
        " GROUP BY i.image_id"
    )
    return dict(found.fetchall())


def paper_row(filepath: str, **changes: object) -> dict[str, object]:
    return {
        "filepath": filepath,
        "dataset": "P",
        "split": "train",
        "modality": "XR",
        "anatomic_region": "chest",
        "XR/chest/Normal": 1,
        "XR/chest/Mass": 0,
    } | changes


def open_failures(connection: psycopg.Connection) -> list[tuple[str, str, int]]:
    return connection.execute(
        "SELECT source, reason, occurrences FROM cbir.failure WHERE stage = 'ingest' AND NOT resolved ORDER BY source"
    ).fetchall()
