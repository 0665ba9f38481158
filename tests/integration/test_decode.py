"""Test pictures that crash, hang or overload their decoder: each becomes a failure, and the others are encoded."""

from __future__ import annotations

import gc
import multiprocessing
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image

from cbirdb.encoders.base import Encoder
from cbirdb.pixels import read_rgb
from cbirdb.vectors.normalize import l2_normalize
from tests.conftest import Outcome, picture, picture_bytes
from tests.support.encode_checks import encode, marked_picture, open_failures, vectors
from tests.support.worker_encoders import MARKS, Failing, Flat, Projection, Quarters

Cli = Callable[..., Outcome]
BOUND_S = 120.0
"""Limit: far longer than any step here takes, far shorter than a decoder that hangs."""


@pytest.fixture
def with_marks(cli: Cli, class_folder: Path) -> Path:
    """Ingest twenty ordinary pictures and, between them, one for each mark."""
    for number, mark in enumerate(MARKS):
        marked_picture(100 + number, mark).save(class_folder / "nodule" / f"05 {mark}.png")
    assert cli("ingest", "folder", class_folder).code == 0
    return class_folder


def test_pictures_that_break_the_decoder_fail_and_all_others_are_encoded(
    connection: psycopg.Connection, with_marks: Path
) -> None:
    began = time.monotonic()
    encoder = Projection(preprocess=Quarters(obeys=list(MARKS)))
    (summary,) = encode(connection, [encoder], timeout_s=1)
    assert time.monotonic() - began < BOUND_S
    assert (summary.encoded, summary.failed) == (20, len(MARKS))
    found = connection.execute("SELECT source, reason, detail FROM cbir.failure WHERE stage = 'encode'").fetchall()
    reasons = {
        source.removeprefix("nodule/05 ").removesuffix(".png"): (reason, detail) for source, reason, detail in found
    }
    died = "the process that read it ended"
    assert reasons == {
        "abort": ("crashed the decoder", f"{died} (signal 6, Aborted)"),
        "segfault": ("crashed the decoder", f"{died} (signal 11, Segmentation fault)"),
        "leave": ("crashed the decoder", f"{died} (exit code 5)"),
        "sleep": ("timed out", "it took longer than 1 seconds"),
        "refuse": ("preprocessing", "ValueError: it is not to my taste"),
        "refuse in binary": ("preprocessing", reasons["refuse in binary"][1]),
        "other shape": ("preprocessing", "the input has the shape (3, 4), not (4, 4)"),
        "no memory": ("preprocessing", "MemoryError: "),
    }
    assert reasons["refuse in binary"][1].startswith("ValueError: a")
    check_vectors(connection, with_marks, encoder)
    assert multiprocessing.active_children() == []


def check_vectors(connection: psycopg.Connection, folder: Path, encoder: Encoder) -> None:
    """Check that each stored vector is what the encoder makes of that picture alone."""
    preprocess = Quarters()
    stored = vectors(connection, f"embedding_{encoder.spec.name}")
    for source, vector in stored.items():
        expected, _ = l2_normalize(encoder.encode(preprocess(read_rgb(folder / source))[None]))
        np.testing.assert_allclose(vector, expected[0], atol=1e-3, err_msg=source)


def test_next_run_retries_failures_and_resolves_those_that_succeed(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    marked_picture(100, "abort").save(class_folder / "nodule" / "x.png")
    cli("ingest", "folder", class_folder)
    crashing = Projection(preprocess=Quarters(obeys=["abort"]))
    encode(connection, [crashing])
    encode(connection, [crashing])
    assert open_failures(connection) == [("nodule/x.png", "crashed the decoder", 2)]
    (summary,) = encode(connection, [Projection()])  # the decoder has been mended
    assert (summary.encoded, summary.already_there, summary.failed) == (1, 20, 0)
    assert open_failures(connection) == []


def test_encode_finishes_when_every_picture_crashes_the_decoder(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    for path in class_folder.rglob("*.png"):
        marked_picture(int(path.stem), "segfault").save(path)
    cli("ingest", "folder", class_folder)
    (summary,) = encode(connection, [Projection(preprocess=Quarters(obeys=["segfault"]))], batch_size=6)
    assert (summary.encoded, summary.failed, summary.failure_reasons) == (0, 20, {"crashed the decoder": 20})
    assert multiprocessing.active_children() == []


def test_timeout_applies_to_each_image_and_not_to_the_batch(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    for number in (3, 12):
        path = next(class_folder.rglob(f"{number:02}.png"))
        marked_picture(number, "sleep").save(path)
    cli("ingest", "folder", class_folder)
    (summary,) = encode(connection, [Projection(preprocess=Quarters(obeys=["sleep"]))], timeout_s=1, batch_size=20)
    assert (summary.encoded, summary.failure_reasons) == (18, {"timed out": 2})


def test_encoder_error_ends_the_run_and_finished_batches_are_kept(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    cli("ingest", "folder", class_folder)
    with pytest.raises(RuntimeError, match="the device is gone"):
        encode(connection, [Failing(good_batches=3)], batch_size=4)
    kept = len(vectors(connection, "embedding_failing"))
    assert kept in (8, 12)  # of the three good batches, the last may still have been waited for
    assert multiprocessing.active_children() == []
    (summary,) = encode(connection, [Projection("failing")])
    assert (summary.encoded, summary.already_there) == (20 - kept, kept)


def test_encoder_may_return_its_input_array(connection: psycopg.Connection, cli: Cli, class_folder: Path) -> None:
    cli("ingest", "folder", class_folder)
    encoder = Flat()
    encode(connection, [encoder], connect_s=0.5)  # so that batches wait to be written while others are decoded
    assert len(vectors(connection, "embedding_flat")) == 20
    check_vectors(connection, class_folder, encoder)


def test_encode_leaves_no_open_files_and_no_processes(
    connection: psycopg.Connection, cli: Cli, class_folder: Path
) -> None:
    cli("ingest", "folder", class_folder)
    marked_picture(0, "abort").save(class_folder / "nodule" / "00.png")
    encoder = Projection(preprocess=Quarters(obeys=["abort"]))

    def run() -> int:
        encode(connection, [encoder])
        assert multiprocessing.active_children() == []
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    first = run()
    assert [run() for _ in range(3)] == [first] * 3


# --- pictures that are too large -------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """Return a black one-bit PNG of side x side pixels: some kilobytes that decode to gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_decompression_bomb_is_too_large_for_ingest_and_encode(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    explosive = bomb(20_000)
    assert len(explosive) < 100_000
    (class_folder / "nodule" / "bomb.png").write_bytes(explosive)
    began = time.monotonic()
    outcome = cli("ingest", "folder", class_folder, "--format", "json")
    assert (outcome.code, outcome.rows[0]["added"], outcome.rows[0]["failed"]) == (4, 20, 1)
    assert "1 too large" in outcome.err
    (class_folder / "nodule" / "00.png").write_bytes(explosive)  # after it was looked at
    outcome = cli("encode", "-e", "tiny-image", "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (4, 19, 1)
    assert time.monotonic() - began < BOUND_S
    found = connection.execute("SELECT stage, source, reason, detail FROM cbir.failure ORDER BY stage").fetchall()
    assert [row[:3] for row in found] == [
        ("encode", "nodule/00.png", "too large"),
        ("ingest", "nodule/bomb.png", "too large"),
    ]
    assert all("safe to decode" in row[3] for row in found)


def test_max_pixels_sets_the_largest_picture_that_encode_reads(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    Image.effect_noise((20, 20), 50).save(class_folder / "nodule" / "small.png")
    cli("ingest", "folder", class_folder)
    outcome = cli("encode", "-e", "tiny-image", "--max-pixels", 1000, "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (4, 1, 20)
    assert "20 could not be encoded by tiny-image (20 too large)" in outcome.err
    assert {reason for _, reason, _ in open_failures(connection)} == {"too large"}
    outcome = cli("encode", "-e", "tiny-image", "--max-pixels", 48 * 40, "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (0, 20, 0)
    assert open_failures(connection) == []


def test_picture_replaced_by_a_pipe_or_a_folder_is_unreadable(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    cli("ingest", "folder", class_folder)
    pipe, folder = class_folder / "nodule" / "00.png", class_folder / "nodule" / "01.png"
    pipe.unlink()
    os.mkfifo(pipe)
    folder.unlink()
    folder.mkdir()
    outcome = cli("encode", "-e", "tiny-image", "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (4, 18, 2)
    assert [row[:2] for row in open_failures(connection)] == [
        ("nodule/00.png", "unreadable"),
        ("nodule/01.png", "unreadable"),
    ]


def test_pictures_of_extreme_shapes_are_encoded(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    for name, size in {"row": (5000, 1), "column": (1, 5000), "dot": (1, 1)}.items():
        picture(7, size=size).save(class_folder / "nodule" / f"{name}.png")
    (class_folder / "nodule" / "copy.jpg").write_bytes(picture_bytes(3, file_format="JPEG"))
    cli("ingest", "folder", class_folder)
    (summary,) = encode(connection, [Projection()])
    assert (summary.encoded, summary.failed) == (24, 0)
