"""Encode and search with weights that are not the encoder's own, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

pytest.importorskip("torch")

import cbirdb
from cbirdb.encoders.base import hash_files
from cbirdb.encoders.shipped import SHIPPED
from tests.conftest import Outcome
from tests.support.small_weights import SPEC, write_small_resnet

Cli = Callable[..., Outcome]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the record of ``resnet50`` hold the weights of a small model."""
    folder = write_small_resnet(tmp_path / "own")
    spec = replace(SPEC, files={"model.safetensors": hash_files([folder / "model.safetensors"])})
    monkeypatch.setitem(SHIPPED, "resnet50", spec)
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_small_resnet(tmp_path / "other", number=1)


@pytest.fixture
def name(other: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> str:
    return f"resnet50@{hash_files([other / 'model.safetensors'])[:8]}"


def encoders(connection: psycopg.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT encoder FROM cbir.encoder_overview ORDER BY 1").fetchall()]


def test_other_weights_are_encoded_searched_and_verified_under_their_own_name(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, own: Path, other: Path, name: str
) -> None:
    assert cli("ingest", "folder", class_folder).code == 0
    refused = cli("encode", "-e", "resnet50", "--weights", other)
    assert (refused.code, refused.out) == (1, "")
    assert f"under the name {name}: --allow-other-weights" in refused.err
    assert encoders(connection) == []

    allowed = ("--weights", other, "--allow-other-weights")
    (row,) = cli("encode", "-e", "resnet50", *allowed, "--format", "json").rows
    assert (row["encoder"], row["failed"]) == (name, 0)
    assert cli("encode", "-e", "resnet50", "--weights", own).code == 0
    assert encoders(connection) == ["resnet50", name]
    assert connection.execute("SELECT licence FROM cbir.encoder WHERE name = %s", [name]).fetchone() == ("unknown",)

    query = next(class_folder.rglob("*.png"))
    for arguments in [("-e", "resnet50", *allowed), ("-e", name, "--weights", other)]:
        first = cli("search", "--image", query, "-k", 1, "--format", "json", *arguments)
        assert (first.code, len(first.rows)) == (0, 1), first.err
    assert cli("search", "--image", query, "-k", 1, "-e", name, "--weights", own).code == 1

    assert cli("encoders", "verify", name, "--weights", other).code == 0
    assert cli("encoders", "verify", "resnet50", *allowed).code == 0
    own_rows = cli("encoders", "verify", "resnet50", "--weights", own, "--format", "json").rows
    assert {row["check"]: row["ok"] for row in own_rows}["owners' weights"] == "ok"
    assert cli("encoders", "show", name).code == 0
    assert cli("encoders", "drop", name, "--yes").code == 0
    assert encoders(connection) == ["resnet50"]


def test_python_encodes_and_searches_with_other_weights(
    dsn: str, class_folder: Path, other: Path, name: str, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CBIRDB_HOME", str(tmp_path / "home"))
    with cbirdb.connect(dsn) as database:
        database.ingest("folder", class_folder)
        (summary,) = database.encode("resnet50", weights=other, allow_other_weights=True)
        assert summary.encoder == name
        query = next(class_folder.rglob("*.png"))
        found = database.search(image=query, encoder="resnet50", k=3, weights=other, allow_other_weights=True)
        assert len(found) == 3
