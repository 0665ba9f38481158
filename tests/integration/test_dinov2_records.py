"""Test what a stored DINOv2 answers to a record that resizes its position embeddings in the other way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

pytest.importorskip("torch")

from tests.conftest import Outcome
from tests.support.small_weights import write_small_dinov2

Cli = Callable[..., Outcome]


@pytest.fixture
def stored(cli: Cli, class_folder: Path, tmp_path: Path) -> None:
    """Encode with the way of newer transformers, as cbirdb did before it had the choice."""
    weights = write_small_dinov2(tmp_path / "weights")
    assert cli("encoders", "add", "mine", "--loader", "hf", "--weights", weights).code == 0
    assert cli("ingest", "folder", class_folder).code == 0
    assert cli("encode", "-e", "mine").code == 0


def set_offset(connection: psycopg.Connection, offset: str) -> None:
    connection.execute(
        "UPDATE cbir.encoder_record SET spec = jsonb_set(spec, '{options,interpolate_offset}', %s::jsonb)", [offset]
    )


def test_record_without_the_option_goes_on_with_its_stored_embeddings(
    cli: Cli, connection: psycopg.Connection, stored: None
) -> None:
    (spec,) = connection.execute("SELECT spec -> 'options' FROM cbir.encoder_record").fetchone() or ()
    assert spec == {}
    assert cli("encode", "-e", "mine").code == 0


def test_embeddings_of_the_other_interpolation_are_refused_with_what_changed_and_what_to_do(
    cli: Cli, connection: psycopg.Connection, stored: None
) -> None:
    set_offset(connection, "0.1")
    refused = cli("encode", "-e", "mine")
    assert refused.code == 1
    assert (
        "The stored embeddings of 'mine' were computed with position embeddings interpolated to the exact size, without"
        " an offset; its record now says with the offset 0.1."
    ) in refused.err
    assert "cbirdb encoders drop mine" in refused.err
