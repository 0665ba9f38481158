"""Test that ingest, encode and search refuse damaged images unless asked to accept them, and then record the damage."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import psycopg
from PIL import Image

from tests.conftest import picture, picture_bytes
from tests.fuzz.damage import cut_and_closed, other_height_png, wrong_crc
from tests.fuzz.pictures import deep, encoded, smooth
from tests.support.catalogue_checks import Cli, counts, ingest, open_failures, value

DAMAGE = "SELECT source, damage FROM cbir.image WHERE damage IS NOT NULL ORDER BY source"


def damaged_bytes() -> bytes:
    """Return a JPEG that was cut and closed: its end is present and half of it is missing."""
    return cut_and_closed(encoded(smooth(), "JPEG"), random.Random(3))


def program(dsn: str, *arguments: object) -> tuple[int, str]:
    """Run the program as users do; return its exit code and stderr, including that of its worker processes."""
    command = [Path(sys.executable).with_name("cbirdb"), "--dsn", dsn, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def spoil(path: Path) -> None:
    """Change a file as a failing disk does: size and time stay the same."""
    before, data = path.stat(), bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 9] = bytes(9)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_ingest_refuses_damaged_images_as_corrupt(cli: Cli, connection: psycopg.Connection, class_folder: Path) -> None:
    for name, data in {
        "half.jpg": damaged_bytes(),
        "crc.png": wrong_crc(picture_bytes(50), random.Random(1)),
        "height.png": other_height_png(picture_bytes(51), random.Random(1)),
    }.items():
        (class_folder / "nodule" / name).write_bytes(data)
    outcome = ingest(cli, "folder", class_folder)
    assert (outcome.code, counts(outcome)) == (4, {"added": 20, "failed": 3})
    assert [(source, reason) for source, reason, _ in open_failures(connection)] == [
        ("nodule/crc.png", "corrupt"),
        ("nodule/half.jpg", "corrupt"),
        ("nodule/height.png", "corrupt"),
    ]


def test_accepted_image_is_marked_damaged_until_its_file_is_repaired(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    path = class_folder / "nodule" / "half.jpg"
    path.write_bytes(damaged_bytes())
    outcome = ingest(cli, "folder", class_folder, "--accept-damaged")
    assert (outcome.code, counts(outcome)) == (0, {"added": 21})
    assert "1 are damaged and recorded as such" in outcome.err
    assert connection.execute(DAMAGE).fetchall() == [
        ("nodule/half.jpg", "libjpeg: Corrupt JPEG data: premature end of data segment")
    ]
    assert counts(ingest(cli, "folder", class_folder)) == {"unchanged": 21}
    path.write_bytes(encoded(smooth(), "JPEG"))
    assert counts(ingest(cli, "folder", class_folder)) == {"unchanged": 20, "updated": 1}
    assert connection.execute(DAMAGE).fetchall() == []


def test_encode_accepts_damaged_images_that_ingest_accepted(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    (class_folder / "nodule" / "half.jpg").write_bytes(damaged_bytes())
    ingest(cli, "folder", class_folder, "--accept-damaged")
    outcome = cli("encode", "-e", "tiny-image", "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (0, 21, 0)


def test_encode_refuses_files_damaged_since_ingest_unless_accept_damaged_is_given(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    path = class_folder / "nodule" / "new.jpg"
    path.write_bytes(encoded(smooth(), "JPEG"))
    ingest(cli, "folder", class_folder)
    path.write_bytes(damaged_bytes())
    outcome = cli("encode", "-e", "tiny-image", "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (4, 20, 1)
    failures = "SELECT source, reason FROM cbir.failure WHERE stage = 'encode' AND NOT resolved"
    assert connection.execute(failures).fetchall() == [("nodule/new.jpg", "corrupt")]
    assert connection.execute(DAMAGE).fetchall() == []
    outcome = cli("encode", "-e", "tiny-image", "--accept-damaged", "--format", "json")
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["failed"]) == (0, 1, 0)
    assert [source for source, _ in connection.execute(DAMAGE)] == ["nodule/new.jpg"]
    assert connection.execute(failures).fetchall() == []


def test_search_refuses_a_damaged_query_unless_accept_damaged_is_given(
    cli: Cli, connection: psycopg.Connection, class_folder: Path, tmp_path: Path
) -> None:
    ingest(cli, "folder", class_folder)
    cli("encode", "-e", "tiny-image")
    query = tmp_path / "query.jpg"
    query.write_bytes(damaged_bytes())
    outcome = cli("search", "--image", query, "-e", "tiny-image", "-k", 3)
    assert (outcome.code, outcome.out) == (1, "")
    assert "cannot be used: corrupt" in outcome.err
    outcome = cli(
        "search", "--image", query, "-e", "tiny-image", "-k", 3, "--accept-damaged", "--format", "json",
        "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    assert (outcome.code, len(outcome.rows)) == (0, 3)
    assert "The query is damaged: libjpeg: Corrupt JPEG data" in outcome.err
    assert (tmp_path / "sheet.png").is_file()


def test_recheck_finds_damage_although_size_and_time_are_unchanged(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    ingest(cli, "folder", class_folder)
    cli("encode", "-e", "tiny-image")
    spoil(class_folder / "nodule" / "00.png")
    assert ingest(cli, "folder", class_folder).code == 0
    outcome = ingest(cli, "folder", class_folder, "--recheck")
    assert (outcome.code, counts(outcome)) == (4, {"unchanged": 19, "failed": 1})
    assert open_failures(connection) == [("nodule/00.png", "corrupt", 1)]
    assert "1 of these stay in the catalogue" in outcome.err
    assert value(connection, "SELECT count(*) FROM cbir.embedding_tiny_image") == 20


def test_recheck_of_intact_images_reports_all_unchanged(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    ingest(cli, "folder", class_folder)
    assert ingest(cli, "folder", class_folder, "--recheck").code == 0
    assert counts(ingest(cli, "folder", class_folder, "--recheck")) == {"unchanged": 20}


def test_recheck_fails_on_accepted_damage_unless_accept_damaged_is_given_again(
    cli: Cli, connection: psycopg.Connection, class_folder: Path
) -> None:
    (class_folder / "nodule" / "half.jpg").write_bytes(damaged_bytes())
    ingest(cli, "folder", class_folder, "--accept-damaged")
    assert ingest(cli, "folder", class_folder, "--recheck").code == 4
    outcome = ingest(cli, "folder", class_folder, "--recheck", "--accept-damaged")
    assert (outcome.code, counts(outcome)) == (0, {"unchanged": 21})
    assert open_failures(connection) == []


def test_two_hundred_damaged_files_are_summarised_in_a_few_lines(dsn: str, class_folder: Path) -> None:
    """Python's warnings and libtiff's own messages to stderr are silent in every process."""
    transparent = picture(1).convert("P")
    for number in range(50):
        rng = random.Random(number)
        tiff = bytearray(encoded(deep(), "TIFF", compression="tiff_lzw"))
        tiff[600:640] = rng.randbytes(40)
        fax = bytearray(encoded(smooth().convert("1"), "TIFF", compression="group4"))
        fax[100:140] = rng.randbytes(40)
        for suffix, data in (
            ("lzw.tif", bytes(tiff)),
            ("fax.tif", bytes(fax)),
            ("half.jpg", cut_and_closed(encoded(smooth(), "JPEG"), rng)),
            ("crc.png", wrong_crc(encoded(transparent, "PNG", transparency=bytes(range(100))), rng)),
        ):
            (class_folder / "nodule" / f"{number}{suffix}").write_bytes(data)
    code, heard = program(dsn, "ingest", "folder", class_folder)
    assert code == 4
    assert "200 could not be read" in heard
    assert len(heard.splitlines()) < 12
    assert not re.search("tempfile.tif|Warning", heard)


def test_transparent_palette_is_encoded_without_a_warning(dsn: str, class_folder: Path) -> None:
    Image.effect_noise((40, 40), 50).convert("P").save(class_folder / "nodule" / "p.png", transparency=bytes(range(90)))
    assert program(dsn, "ingest", "folder", class_folder)[0] == 0
    code, heard = program(dsn, "encode", "-e", "tiny-image")
    assert code == 0
    assert not re.search("Transparency|Warning", heard)
