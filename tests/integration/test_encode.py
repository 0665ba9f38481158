"""Test that ``cbirdb encode`` stores one unit vector per image, and a failure for every image without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from PIL import Image

from cbirdb.encode import EncodeSummary
from cbirdb.encoders.base import Encoder
from cbirdb.encoders.shipped import TINY_IMAGE
from cbirdb.encoders.tiny_image import TinyImage
from cbirdb.errors import EncoderError, InputError
from cbirdb.pixels import read_rgb
from tests.conftest import Outcome, picture_bytes, write_csv
from tests.support.encode_checks import MeanOfQuarters, open_failures, vectors
from tests.support.encode_checks import encode as encode_with

pytestmark = pytest.mark.also_by_a_site

Cli = Callable[..., Outcome]


def run(cli: Cli, *arguments: object) -> Outcome:
    return cli("encode", "-e", "tiny-image", *arguments, "--format", "json")


def counts(outcome: Outcome) -> dict[str, int]:
    """Return the counts of the last row that are not zero."""
    return {key: value for key, value in outcome.rows[-1].items() if key != "encoder" and value}


def encode(connection: psycopg.Connection, encoder: Encoder, **options: object) -> EncodeSummary:
    """Run the verb with one encoder."""
    (summary,) = encode_with(connection, [encoder], **options)
    return summary


@pytest.fixture
def ingested(cli: Cli, class_folder: Path) -> Path:
    """Ingest the twenty pictures."""
    assert cli("ingest", "folder", class_folder).code == 0
    return class_folder


@pytest.mark.parametrize(("precision", "component"), [("half", np.float16), ("single", np.float32)])
def test_every_image_gets_the_normalised_vector_of_the_encoder(
    cli: Cli, connection: psycopg.Connection, ingested: Path, precision: str, component: type
) -> None:
    outcome = run(cli, "--precision", precision, "--batch-size", 7)
    assert (outcome.code, counts(outcome)) == (0, {"encoded": 20})
    stored = vectors(connection)
    assert len(stored) == 20
    encoder = TinyImage(TINY_IMAGE)
    for source, found in stored.items():
        raw = encoder.encode(encoder.preprocess(read_rgb(ingested / source))[None])[0].astype(np.float64)
        expected = (raw / np.sqrt((raw * raw).sum())).astype(np.float32).astype(component)
        # PostgreSQL prints the shortest decimals that give the same number back.
        np.testing.assert_allclose(found.astype(component), expected, rtol=2e-3 if precision == "half" else 1e-6)
        assert (found.astype(component) == expected).mean() > 0.99
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), "halfvec(1024)"), (("--precision", "half"), "halfvec(1024)"), (("--precision", "single"), "vector(1024)")],
)
def test_precision_sets_the_column_type_and_vectors_are_stored_inline(
    cli: Cli, connection: psycopg.Connection, ingested: Path, arguments: tuple[str, ...], expected: str
) -> None:
    run(cli, *arguments)
    found = connection.execute(
        "SELECT format_type(atttypid, atttypmod), attstorage, attnotnull FROM pg_attribute"
        " WHERE attrelid = 'cbir.embedding_tiny_image'::regclass AND attname = 'embedding'"
    ).fetchone()
    assert found == (expected, "p", True)


@pytest.mark.parametrize("precision", ["half", "single"])
@pytest.mark.parametrize("bad", ["zero", "twice", "nearly"])
def test_database_refuses_a_vector_that_is_not_of_unit_length(
    cli: Cli, connection: psycopg.Connection, ingested: Path, precision: str, bad: str
) -> None:
    run(cli, "--precision", precision, "--limit", 1)
    first = {"zero": 0.0, "twice": 2.0, "nearly": 0.98}[bad]
    vector = str([first] + [0] * 1023)
    with pytest.raises(psycopg.errors.CheckViolation, match="unit_norm"):
        connection.execute("UPDATE cbir.embedding_tiny_image SET embedding = %s", [vector])


def test_second_encode_changes_nothing(cli: Cli, connection: psycopg.Connection, ingested: Path) -> None:
    run(cli)
    written = "SELECT image_id, xmin::text FROM cbir.embedding_tiny_image ORDER BY 1"
    before = connection.execute(written).fetchall()
    assert counts(run(cli)) == {"already_there": 20}
    assert connection.execute(written).fetchall() == before
    assert connection.execute("SELECT count(*) FROM cbir.encoder").fetchone() == (1,)


def test_only_new_images_are_encoded(cli: Cli, connection: psycopg.Connection, ingested: Path) -> None:
    run(cli)
    (ingested / "nodule" / "new.png").write_bytes(picture_bytes(100))
    cli("ingest", "folder", ingested)
    assert counts(run(cli)) == {"encoded": 1, "already_there": 20}
    assert "nodule/new.png" in vectors(connection)


def test_limit_caps_an_encode_and_the_next_run_does_the_rest(cli: Cli, ingested: Path) -> None:
    assert counts(run(cli, "--limit", 3))["encoded"] == 3
    assert counts(run(cli)) == {"encoded": 17, "already_there": 3}


def test_encode_dataset_encodes_only_that_dataset(
    cli: Cli, connection: psycopg.Connection, ingested: Path, tmp_path: Path
) -> None:
    (tmp_path / "other" / "n").mkdir(parents=True)
    (tmp_path / "other" / "n" / "x.png").write_bytes(picture_bytes(100))
    cli("ingest", "folder", tmp_path / "other")
    assert counts(run(cli, "--dataset", "other")) == {"encoded": 1}
    assert list(vectors(connection)) == ["n/x.png"]


# --- failures -----------------------------------------------------------------------------------------------------


def test_blank_picture_fails_for_no_direction_and_the_others_are_encoded(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    Image.new("L", (30, 30), 90).save(class_folder / "nodule" / "blank.png")
    cli("ingest", "folder", class_folder)
    outcome = run(cli)
    assert (outcome.code, counts(outcome)) == (4, {"encoded": 20, "failed": 1})
    assert open_failures(connection) == [("nodule/blank.png", "no direction", 1)]
    assert "zero vector" in outcome.err
    assert counts(run(cli)) == {"already_there": 20, "failed": 1}
    assert open_failures(connection) == [("nodule/blank.png", "no direction", 2)]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "file not found"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(picture_bytes(1)[:1000]), "truncated"),
    ],
    ids=["deleted", "emptied", "cut"],
)
def test_file_spoilt_after_ingest_fails_until_it_is_restored(
    cli: Cli, connection: psycopg.Connection, ingested: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    path = ingested / "nodule" / "00.png"
    data = path.read_bytes()
    spoil(path)
    outcome = run(cli)
    assert (outcome.code, counts(outcome)) == (4, {"encoded": 19, "failed": 1})
    assert open_failures(connection) == [("nodule/00.png", reason, 1)]
    path.write_bytes(data)
    outcome = run(cli)
    assert (outcome.code, counts(outcome)) == (0, {"encoded": 1, "already_there": 19})
    assert open_failures(connection) == []


@pytest.mark.parametrize(
    ("bad", "detail"), [(np.nan, "not a number"), (np.inf, "infinite"), (-np.inf, "infinite"), (0.0, "zero vector")]
)
def test_embedding_without_direction_fails_and_the_rest_of_the_batch_is_stored(
    connection: psycopg.Connection, ingested: Path, bad: float, detail: str
) -> None:
    def spoil(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        rows[1] = bad
        return rows

    encoder = MeanOfQuarters(spoil)
    summary = encode(connection, encoder, batch_size=10)
    assert encoder.batches == [1, 10, 10]  # the golden picture comes first
    assert (summary.encoded, summary.failed, summary.failure_reasons) == (18, 2, {"no direction": 2})
    found = connection.execute("SELECT source, detail FROM cbir.failure ORDER BY source").fetchall()
    assert found == [(f"{name}.png", f"the embedding is a {detail}") for name in ("nodule/01", "normal/11")]
    stored = vectors(connection, "embedding_quarters")
    assert set(stored).isdisjoint(source for source, _ in found)
    for source, vector in stored.items():
        raw = encoder.preprocess(read_rgb(ingested / source)).reshape(4)
        np.testing.assert_allclose(vector, raw / np.linalg.norm(raw), atol=1e-3)


def test_encode_finishes_when_every_file_fails(cli: Cli, connection: psycopg.Connection, ingested: Path) -> None:
    for path in ingested.rglob("*.png"):
        path.unlink()
    outcome = run(cli, "--batch-size", 6)
    assert (outcome.code, counts(outcome)) == (4, {"failed": 20})
    assert connection.execute("SELECT count(*) FROM cbir.embedding_tiny_image").fetchone() == (0,)


def test_encode_counts_and_skips_images_ingested_without_files(
    cli: Cli, connection: psycopg.Connection, ingested: Path, tmp_path: Path
) -> None:
    row = {"filepath": "a.png", "dataset": "P", "split": "train", "modality": "XR", "anatomic_region": "chest", "N": 1}
    cli("ingest", "paper-csv", write_csv(tmp_path / "p.csv", [row, row | {"filepath": "b.png"}]))
    outcome = run(cli)
    assert (outcome.code, counts(outcome)) == (0, {"encoded": 20, "without_file": 2})
    assert "2 belong to datasets that were ingested without their images" in outcome.err
    assert open_failures(connection) == []


# --- what does not fit what is stored ------------------------------------------------------------------------------


def test_encode_refuses_a_precision_other_than_the_stored_one(cli: Cli, ingested: Path) -> None:
    run(cli, "--precision", "single")
    refused = run(cli, "--precision", "half")
    assert refused.code == 1
    assert "single precision, not half" in refused.err
    assert refused.out == ""
    assert counts(run(cli)) == {"already_there": 20}


@pytest.mark.parametrize(
    ("made", "words"),
    [({"preprocessing_sha256": "c" * 64}, "preprocessing"), ({"weights_sha256": "c" * 64}, "weights")],
)
def test_encode_refuses_other_weights_or_preprocessing_than_the_stored_ones(
    connection: psycopg.Connection, ingested: Path, made: dict[str, str], words: str
) -> None:
    encode(connection, MeanOfQuarters(), limit=5)
    with pytest.raises(EncoderError, match=words) as refused:
        encode(connection, MeanOfQuarters(**made))
    assert "cbirdb encoders drop quarters" in str(refused.value)
    assert len(vectors(connection, "embedding_quarters")) == 5
    assert encode(connection, MeanOfQuarters()).encoded == 15


def test_encode_refuses_another_dimension_under_the_same_name(connection: psycopg.Connection, ingested: Path) -> None:
    encode(connection, MeanOfQuarters())
    other = MeanOfQuarters()
    other.spec = replace(other.spec, dim=5)
    with pytest.raises(InputError, match="has 4 dimensions in this database, not 5"):
        encode(connection, other)


def test_encoder_name_that_differs_only_in_punctuation_is_refused(
    connection: psycopg.Connection, ingested: Path
) -> None:
    first, second = MeanOfQuarters(), MeanOfQuarters()
    first.spec = replace(first.spec, name="my-quarters")
    second.spec = replace(second.spec, name="my.quarters")
    encode(connection, first)
    with pytest.raises(InputError, match="would share the table embedding_my_quarters"):
        encode(connection, second)


def test_encoder_row_records_what_made_the_vectors(connection: psycopg.Connection, ingested: Path) -> None:
    assert isinstance(encode(connection, MeanOfQuarters()), EncodeSummary)
    found = connection.execute(
        "SELECT table_name, dim, precision, weights_sha256, preprocessing_sha256, licence, spec->>'embedding',"
        " provenance->>'dtype' FROM cbir.encoder"
    ).fetchone()
    assert found == ("embedding_quarters", 4, "half", "a" * 64, "b" * 64, "Apache-2.0", "means", "float32")


def test_open_search_transaction_does_not_block_encode(
    dsn: str, connection: psycopg.Connection, ingested: Path
) -> None:
    encode(connection, MeanOfQuarters(), limit=5)
    connection.execute("SET lock_timeout = '2s'")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM cbir.embedding_quarters")  # its transaction stays open
        assert encode(connection, MeanOfQuarters()).encoded == 15


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-e", "tiny-imag"), "Did you mean 'tiny-image'?"),
        (("-e", "tiny-image", "-e", "resnet5"), "Did you mean 'resnet50'?"),
        (("-e", "tiny-image", "--dataset", "image"), "Did you mean 'images'?"),
    ],
)
def test_unknown_name_gives_one_sentence_with_the_nearest_known_name(
    cli: Cli, connection: psycopg.Connection, ingested: Path, arguments: tuple[str, ...], words: str
) -> None:
    outcome = cli("encode", *arguments)
    assert outcome.code == 1
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""
    assert connection.execute("SELECT count(*) FROM cbir.encoder").fetchone() == (0,)


def test_encode_of_an_empty_database_names_the_ingest_command(cli: Cli, connection: psycopg.Connection) -> None:
    outcome = run(cli)
    assert outcome.code == 1
    assert outcome.err == "Error: There are no images in this database yet. Run: cbirdb ingest folder PATH\n"
    assert connection.execute("SELECT count(*) FROM cbir.encoder").fetchone() == (0,)


@pytest.mark.parametrize("option", [("--batch-size", 0), ("--limit", 0), ("--precision", "double")], ids=str)
def test_option_out_of_range_exits_with_code_2(cli: Cli, option: tuple[object, ...]) -> None:
    assert run(cli, *option).code == 2
