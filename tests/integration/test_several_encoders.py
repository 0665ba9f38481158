"""Test several encoders in one run: each image is read once, and each encoder stores what it would store alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cbirdb.encode import decode
from cbirdb.encoders.base import Provenance
from tests.conftest import Outcome, picture, picture_bytes
from tests.support.encode_checks import encode, marked_picture
from tests.support.worker_encoders import Projection, Quarters

Cli = Callable[..., Outcome]


def stored(connection: psycopg.Connection, encoder: str) -> dict[str, str]:
    """Return source -> vector, as PostgreSQL prints it."""
    return dict(
        connection.execute(
            f"SELECT i.source, e.embedding::text FROM cbir.embedding_{encoder} AS e JOIN cbir.image AS i USING (image_id)"
        ).fetchall()
    )


def failures(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    return connection.execute(
        "SELECT e.name, f.source, f.reason FROM cbir.failure AS f JOIN cbir.encoder AS e USING (encoder_id)"
        " WHERE stage = 'encode' AND NOT resolved ORDER BY 1, 2"
    ).fetchall()


@pytest.fixture
def ingested(cli: Cli, class_folder: Path) -> Path:
    """Ingest the twenty pictures."""
    assert cli("ingest", "folder", class_folder).code == 0
    return class_folder


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_encoders_run_together_store_the_same_as_alone(
    connection: psycopg.Connection, ingested: Path, batch_size: int
) -> None:
    """Two of the encoders share their preprocessing; the third has larger inputs."""
    kinds = [("first", 4, 6), ("second", 4, 3), ("third", 9, 5)]
    alone = [Projection(f"alone-{name}", side=side, dim=dim, seed=name) for name, side, dim in kinds]
    together = [Projection(f"together-{name}", side=side, dim=dim, seed=name) for name, side, dim in kinds]
    for encoder in alone:
        encode(connection, [encoder])
    summaries = encode(connection, together, batch_size=batch_size)
    assert [(summary.encoder, summary.encoded) for summary in summaries] == [
        (encoder.spec.name, 20) for encoder in together
    ]
    for name, _, _ in kinds:
        assert len(stored(connection, f"together_{name}")) == 20
        assert stored(connection, f"together_{name}") == stored(connection, f"alone_{name}")
    sizes = together[0].batches[1:]  # the golden picture came first
    assert sum(sizes) == 20
    assert max(sizes) == min(batch_size, 20)


@pytest.mark.parametrize(("sides", "prepared"), [((4, 4), [20]), ((4, 5), [20, 20])], ids=["same", "other"])
def test_each_image_is_read_once_and_preprocessed_once_per_preprocessing(
    connection: psycopg.Connection, ingested: Path, tmp_path: Path, sides: tuple[int, int], prepared: list[int]
) -> None:
    log = tmp_path / "log"
    encoders = [
        Projection(name, side=side, preprocess=Quarters(log=log, name=f"-{name}", side=side))
        for name, side in zip("ab", sides, strict=True)
    ]
    summaries = encode(connection, encoders)
    assert [summary.encoded for summary in summaries] == [20, 20]
    entries = Counter(log.read_text().split())
    reads = {entry: count for entry, count in entries.items() if entry.startswith("read:")}
    assert reads == {f"read:{number:02}.png": 1 for number in range(20)}
    assert [count for entry, count in entries.items() if entry not in reads] == prepared


def test_image_is_preprocessed_only_for_encoders_that_lack_it(
    connection: psycopg.Connection, ingested: Path, tmp_path: Path
) -> None:
    """The first encoder has images 0 to 4, the second has 3, 7 and 8, the third has none."""
    log = tmp_path / "log"
    alone = [Projection(name, side=side) for name, side in zip("abc", (4, 5, 6), strict=True)]
    encode(connection, [alone[0]], limit=5)
    encode(connection, [alone[1]])
    encode(connection, [alone[2]])
    expected = {name: stored(connection, name) for name in "bc"}
    connection.execute("TRUNCATE cbir.embedding_c")
    connection.execute(
        "DELETE FROM cbir.embedding_b WHERE image_id NOT IN"
        " (SELECT image_id FROM cbir.image WHERE source ~ '/(03|07|08).png')"
    )
    together = [
        Projection(name, side=side, preprocess=Quarters(log=log, name=f"-{name}", side=side))
        for name, side in zip("abc", (4, 5, 6), strict=True)
    ]
    summaries = encode(connection, together, batch_size=4)
    assert [(summary.encoded, summary.already_there) for summary in summaries] == [(15, 5), (17, 3), (20, 0)]
    entries = Counter(log.read_text().split())
    assert [entries[f"prepared-{name}"] for name in "abc"] == [15, 17, 20]
    assert sum(count for entry, count in entries.items() if entry.startswith("read:")) == 20
    assert {name: stored(connection, name) for name in "bc"} == expected
    encode(connection, [Projection("whole", side=4, seed="a")])
    assert stored(connection, "a") == stored(connection, "whole")


def test_preprocessing_failure_of_one_encoder_does_not_fail_the_other(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    marked_picture(100, "refuse").save(class_folder / "nodule" / "05 refuse.png")
    marked_picture(101, "other shape").save(class_folder / "nodule" / "06 shape.png")
    (class_folder / "nodule" / "07 cut.png").write_bytes(picture_bytes(102))
    cli("ingest", "folder", class_folder)
    (class_folder / "nodule" / "07 cut.png").write_bytes(picture_bytes(102)[:1000])
    picky = Projection("picky", side=4, preprocess=Quarters(obeys=["refuse", "other shape"], side=4))
    lenient = Projection("lenient", side=5)
    for encoders in ([picky, lenient], [lenient, picky]):
        summaries = {summary.encoder: summary for summary in encode(connection, encoders)}
        assert (summaries["picky"].failed, summaries["lenient"].failed) == (3, 1)
        assert failures(connection) == [
            ("lenient", "nodule/07 cut.png", "truncated"),
            ("picky", "nodule/05 refuse.png", "preprocessing"),
            ("picky", "nodule/06 shape.png", "preprocessing"),
            ("picky", "nodule/07 cut.png", "truncated"),
        ]
        assert (len(stored(connection, "picky")), len(stored(connection, "lenient"))) == (20, 22)
        connection.execute("TRUNCATE cbir.embedding_picky, cbir.embedding_lenient, cbir.failure")


def test_picture_without_direction_fails_only_for_that_encoder(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    grey = picture(0).point(lambda _: 90)
    grey.save(class_folder / "nodule" / "grey.png")
    cli("ingest", "folder", class_folder)
    from cbirdb.encoders.shipped import TINY_IMAGE
    from cbirdb.encoders.tiny_image import TinyImage

    tiny, projection = encode(connection, [TinyImage(TINY_IMAGE), Projection()])
    assert (tiny.encoded, tiny.failed) == (20, 1)
    assert (projection.encoded, projection.failed) == (21, 0)
    assert failures(connection) == [("tiny-image", "nodule/grey.png", "no direction")]


def test_failure_is_resolved_only_for_the_encoder_that_succeeded(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    marked_picture(100, "abort").save(class_folder / "nodule" / "x.png")
    cli("ingest", "folder", class_folder)
    encode(connection, [Projection(name, preprocess=Quarters(obeys=["abort"])) for name in "ab"])
    assert [row[:2] for row in failures(connection)] == [("a", "nodule/x.png"), ("b", "nodule/x.png")]
    encode(connection, [Projection("b")])
    assert [row[:2] for row in failures(connection)] == [("a", "nodule/x.png")]


def test_limit_counts_images_and_not_embeddings(connection: psycopg.Connection, ingested: Path) -> None:
    encoders = [Projection("a"), Projection("b", side=5)]
    assert [summary.encoded for summary in encode(connection, encoders, limit=3, batch_size=2)] == [3, 3]
    encode(connection, [encoders[0]], limit=4)  # 3 to 6
    summaries = encode(connection, encoders, limit=6, batch_size=4)  # 3 to 8, of which a lacks 7 and 8
    assert [(summary.encoded, summary.already_there) for summary in summaries] == [(2, 7), (6, 3)]
    assert [summary.encoded for summary in encode(connection, encoders)] == [11, 11]


def test_inputs_beyond_the_memory_limit_make_smaller_batches(
    connection: psycopg.Connection, ingested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = [Projection("a"), Projection("b", side=8)]
    pair = 4 * (4 * 4 + 8 * 8)
    monkeypatch.setattr(decode, "MEMORY_LIMIT", decode.SLOTS * 3 * pair + 1)
    assert [summary.encoded for summary in encode(connection, encoders, batch_size=10, limit=12)] == [12, 12]
    assert encoders[1].batches[1:] == [3, 3, 3, 3]
    monkeypatch.setattr(decode, "MEMORY_LIMIT", 1)
    assert [summary.encoded for summary in encode(connection, encoders)] == [8, 8]
    assert encoders[1].batches[5:] == [1] * 8


def test_preprocessings_with_equal_hash_and_different_shape_are_kept_apart(
    connection: psycopg.Connection, ingested: Path
) -> None:
    made = Provenance(weights_sha256=None, preprocessing_sha256="e" * 64)
    encoders = [Projection("a", provenance=made), Projection("b", side=5, provenance=made)]
    assert [summary.encoded for summary in encode(connection, encoders)] == [20, 20]


def test_encoder_named_twice_runs_once(cli: Cli, connection: psycopg.Connection, ingested: Path) -> None:
    outcome = cli("encode", "-e", "tiny-image", "-e", "tiny-image", "--format", "json")
    assert (outcome.code, [row["encoded"] for row in outcome.rows]) == (0, [20])


def test_image_that_fails_for_all_encoders_is_counted_for_each(
    cli: Cli, ingested: Path, connection: psycopg.Connection
) -> None:
    for number in range(3):
        (ingested / "nodule" / f"{number:02}.png").unlink()
    summaries = encode(connection, [Projection("a"), Projection("b", side=5)], batch_size=3)
    for summary in summaries:
        assert (summary.encoded, summary.failed, summary.failure_reasons) == (17, 3, {"file not found": 3})
        assert len(summary.first_failures) == 3
