"""Test failures of removed files, rows and lists: only a run that has looked at everything resolves them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from cbirdb.db.failures import resolve_gone
from tests.conftest import Outcome, picture_bytes, write_csv
from tests.support.catalogue_checks import paper_row

Cli = Callable[..., Outcome]


def unresolved(connection: psycopg.Connection) -> list[str]:
    found = connection.execute("SELECT source FROM cbir.failure WHERE NOT resolved").fetchall()
    return sorted(source for (source,) in found)


@pytest.fixture
def broken(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> Path:
    """Ingest a folder of twenty-two files, two of which are damaged."""
    for name in ("x.png", "y.png"):
        (class_folder / "nodule" / name).write_bytes(b"")
    assert cli("ingest", "folder", class_folder).code == 4
    assert unresolved(connection) == ["nodule/x.png", "nodule/y.png"]
    return class_folder


def test_next_whole_run_resolves_the_failure_of_a_removed_file(
    cli: Cli, connection: psycopg.Connection, broken: Path
) -> None:
    (broken / "nodule" / "x.png").unlink()
    assert cli("ingest", "folder", broken).code == 4
    assert unresolved(connection) == ["nodule/y.png"]
    (broken / "nodule" / "y.png").rename(broken / "normal" / "y.png")
    (broken / "normal" / "y.png").write_bytes(picture_bytes(90))
    assert cli("ingest", "folder", broken).code == 0
    assert unresolved(connection) == []
    assert connection.execute("SELECT count(*) FROM cbir.failure").fetchone() == (2,)


@pytest.mark.parametrize("option", [("--limit", 3), ("--dry-run",)], ids=["limit", "dry run"])
def test_limited_or_dry_run_resolves_no_failure(
    cli: Cli, connection: psycopg.Connection, broken: Path, option: tuple[object, ...]
) -> None:
    (broken / "nodule" / "x.png").unlink()
    cli("ingest", "folder", broken, *option)
    assert unresolved(connection) == ["nodule/x.png", "nodule/y.png"]


def test_ingest_leaves_failures_of_another_dataset_open(
    cli: Cli, connection: psycopg.Connection, broken: Path, tmp_path: Path
) -> None:
    (tmp_path / "other" / "n").mkdir(parents=True)
    (tmp_path / "other" / "n" / "a.png").write_bytes(picture_bytes(91))
    assert cli("ingest", "folder", tmp_path / "other").code == 0
    assert unresolved(connection) == ["nodule/x.png", "nodule/y.png"]


def test_failures_in_an_unreadable_folder_stay_open(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'folder')")
    row = connection.execute("SELECT dataset_id, now() FROM cbir.dataset").fetchone()
    assert row is not None
    dataset_id, began = row
    old = datetime(2026, 1, 1, tzinfo=UTC)
    for source, reason, at in (
        ("a/x.png", "corrupt", old), ("ab/x.png", "corrupt", old), ("b/x.png", "corrupt", old),
        ("b/y.png", "corrupt", began), ("a", "unreadable", began),
    ):  # fmt: skip
        connection.execute(
            "INSERT INTO cbir.failure (stage, dataset_id, source, reason, detail, last_at)"
            " VALUES ('ingest', %s, %s, %s, '', %s)",
            [dataset_id, source, reason, at],
        )
    resolve_gone(connection, [dataset_id], began)
    assert unresolved(connection) == ["a", "a/x.png", "b/y.png"]


@pytest.fixture
def lists(cli: Cli, connection: psycopg.Connection, tmp_path: Path) -> Path:
    """Ingest two of the paper's lists of one dataset, each with a wrong row, and a third file that is no list."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for name in ("a", "b"):
        write_csv(
            folder / f"{name}.csv", [paper_row(f"{name}.png"), paper_row(f"{name}_bad.png", split="nonsense")]
        )  # fmt: skip
    (folder / "c.csv").write_text("x,y\n1,2\n")
    assert cli("ingest", "paper-csv", folder).code == 4
    assert unresolved(connection) == [f"{folder}/c.csv", "a_bad.png", "b_bad.png"]
    return folder


def test_run_of_the_whole_folder_resolves_failures_of_removed_lists_and_rows(
    cli: Cli, connection: psycopg.Connection, lists: Path
) -> None:
    (lists / "c.csv").unlink()
    write_csv(lists / "a.csv", [paper_row("a.png")])
    assert cli("ingest", "paper-csv", lists / "a.csv").code == 0
    assert unresolved(connection) == [f"{lists}/c.csv", "a_bad.png", "b_bad.png"], "one list is not the whole dataset"
    assert cli("ingest", "paper-csv", lists).code == 4
    assert unresolved(connection) == ["b_bad.png"]


def test_failed_rows_of_an_unreadable_list_stay_open(cli: Cli, connection: psycopg.Connection, lists: Path) -> None:
    (lists / "c.csv").unlink()
    (lists / "a.csv").write_text("x,y\n1,2\n")
    assert cli("ingest", "paper-csv", lists).code == 4
    assert unresolved(connection) == [f"{lists}/a.csv", "a_bad.png", "b_bad.png"]
