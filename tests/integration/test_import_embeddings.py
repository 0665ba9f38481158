"""Test ``cbirdb import-embeddings`` with small HDF5 files in the authors' form, good and bad, on a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import sql

from tests.conftest import Outcome
from tests.support.published_vectors import DIM, NAMES, add_images, unit, write

pytestmark = pytest.mark.also_by_a_site

Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _images(connection: psycopg.Connection) -> None:
    add_images(connection, "nih14", NAMES)


def load(cli: Cli, *arguments: object) -> tuple[int, dict[str, Any], str]:
    outcome = cli("import-embeddings", "-e", "paper", "--format", "json", *arguments)
    assert outcome.code in {0, 4}, outcome.err
    return outcome.code, {name: value for name, value in outcome.rows[0].items() if name != "encoder"}, outcome.err


def stored(connection: psycopg.Connection) -> dict[str, NDArray[np.float32]]:
    rows = connection.execute(
        "SELECT source, embedding::vector::real[] FROM cbir.embedding_paper JOIN cbir.image USING (image_id)"
    )
    return {source: np.array(vector, dtype=np.float32) for source, vector in rows}


def state(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Return every table with its rows."""
    tables = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'r'"
        " AND relname <> 'dataset_access' ORDER BY 1"
    ).fetchall()
    return [
        (
            name,
            connection.execute(
                sql.SQL("SELECT t::text FROM cbir.{} AS t ORDER BY 1").format(sql.Identifier(name))
            ).fetchall(),
        )
        for (name,) in tables
    ]


COUNTS = {"added": 0, "already_there": 0, "normalised": 0, "unknown": 0, "missing": 0, "failed": 0}


def test_single_precision_keeps_every_bit_of_a_published_vector(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = dict(zip(NAMES, unit(), strict=True))
    file = write(tmp_path / "nih14.h5", vectors)
    code, counts, _ = load(cli, file, "--precision", "single")
    assert (code, counts) == (0, COUNTS | {"added": 10})
    found = stored(connection)
    assert set(found) == set(vectors)
    assert all(found[name].tobytes() == vectors[name].tobytes() for name in vectors)
    row = connection.execute("SELECT dim, precision FROM cbir.encoder WHERE name = 'paper'").fetchone()
    assert row == (DIM, "single")


def test_default_precision_is_half_rounded_to_the_nearest(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = dict(zip(NAMES, unit(), strict=True))
    load(cli, write(tmp_path / "a.h5", vectors))
    assert all((value == vectors[name].astype(np.float16)).all() for name, value in stored(connection).items())


def test_second_import_keeps_stored_vectors_and_adds_only_new_ones(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = unit()
    first = write(tmp_path / "a.h5", dict(zip(NAMES[:6], vectors[:6], strict=True)))
    second = write(tmp_path / "b.h5", dict(zip(NAMES[4:], -vectors[4:], strict=True)))
    code, counts, said = load(cli, first)
    assert (code, counts) == (4, COUNTS | {"added": 6, "missing": 4})
    assert "4 images of the same datasets have no vector" in said
    before = stored(connection)
    assert load(cli, first)[1] == COUNTS | {"already_there": 6, "missing": 4}
    code, counts, _ = load(cli, first, second)
    assert (code, counts) == (0, COUNTS | {"added": 4, "already_there": 8})
    after = stored(connection)
    assert all((after[name] == before[name]).all() for name in before)
    assert len(after) == 10


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.ones(DIM + 1, np.float32), "wrong vector"),
        (np.float32(1.0), "wrong vector"),
        (np.ones((DIM, 2), np.float32), "wrong vector"),
        (np.array([b"x"] * DIM), "wrong vector"),
        (np.ones(DIM, np.complex64), "wrong vector"),
        (np.full(DIM, np.nan, np.float32), "no direction"),
        (np.full(DIM, np.inf, np.float32), "no direction"),
        (np.zeros(DIM, np.float32), "no direction"),
        (np.full(DIM, 1e300, np.float64), "no direction"),
    ],
)
def test_one_bad_vector_is_reported_and_the_others_are_stored(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, bad: Any, reason: str
) -> None:
    vectors = dict(zip(NAMES, unit(), strict=True)) | {NAMES[3]: bad}
    code, counts, said = load(cli, write(tmp_path / "a.h5", vectors))
    assert (code, counts) == (4, COUNTS | {"added": 9, "missing": 1, "failed": 1})
    assert reason in said
    assert NAMES[3] in said
    failures = connection.execute(
        "SELECT f.stage, d.name, f.source, f.reason, f.resolved FROM cbir.failure AS f JOIN cbir.dataset AS d USING (dataset_id)"
    ).fetchall()
    assert failures == [("import-embeddings", "nih14", NAMES[3], reason, False)]
    # The mended file: the failure is settled and kept.
    code, counts, _ = load(cli, write(tmp_path / "a.h5", vectors | {NAMES[3]: unit()[3]}))
    assert (code, counts) == (0, COUNTS | {"added": 1, "already_there": 9})
    assert connection.execute("SELECT resolved FROM cbir.failure").fetchall() == [(True,)]


def test_first_vector_of_the_wrong_length_does_not_set_the_dimension(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = dict(zip(NAMES, unit(), strict=True)) | {min(NAMES): np.ones(2, np.float32)}
    code, counts, _ = load(cli, write(tmp_path / "a.h5", vectors))
    assert (code, counts) == (4, COUNTS | {"added": 9, "missing": 1, "failed": 1})


def test_vectors_of_other_length_are_normalised_and_counted(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = unit()
    scaled = vectors * np.array([1, 3, 1e-3, 1e4, 1, 1, 1, 1, 1, 1.5], np.float32)[:, None]
    code, counts, said = load(
        cli, write(tmp_path / "a.h5", dict(zip(NAMES, scaled, strict=True))), "--precision", "single"
    )
    assert (code, counts) == (0, COUNTS | {"added": 10, "normalised": 4})
    assert "4 vectors were scaled to unit length" in said
    found = stored(connection)
    assert np.allclose([found[name] for name in NAMES], vectors, atol=1e-6)


def test_names_without_image_and_images_without_vector_are_counted(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = dict(zip(["nih14/other.png", "lonely", *NAMES[:7]], unit(9), strict=True))
    code, counts, said = load(cli, write(tmp_path / "a.h5", vectors))
    assert (code, counts) == (4, COUNTS | {"added": 7, "unknown": 2, "missing": 3})
    assert "2 names match no image of the database, such as lonely, nih14/other.png" in said
    assert NAMES[7] in said
    reasons = connection.execute("SELECT source, reason FROM cbir.failure ORDER BY 1").fetchall()
    assert reasons == [("lonely", "unknown image"), ("nih14/other.png", "unknown image")]


def test_several_kinds_of_bad_vectors_are_each_counted_once(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    vectors: dict[str, Any] = dict(zip(NAMES, unit(), strict=True))
    vectors[NAMES[1]] = np.ones(3, np.float32)
    vectors[NAMES[2]] = np.full(DIM, np.nan, np.float32)
    vectors[NAMES[3]] = np.zeros(DIM, np.float32)
    vectors[NAMES[4]] = vectors[NAMES[4]] * 5
    vectors["nobody.png"] = unit()[0]
    del vectors[NAMES[9]]
    code, counts, _ = load(cli, write(tmp_path / "a.h5", vectors))
    assert (code, counts) == (
        4,
        {"added": 6, "already_there": 0, "normalised": 1, "unknown": 1, "missing": 4, "failed": 3},
    )
    assert set(stored(connection)) == {NAMES[n] for n in (0, 4, 5, 6, 7, 8)}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.dtype(">f4"), np.dtype(">f8")])
@pytest.mark.parametrize("shape", [(DIM,), (1, DIM)])
def test_other_number_types_and_shapes_are_read_correctly(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, dtype: Any, shape: tuple[int, ...]
) -> None:
    vectors = {name: vector.astype(dtype).reshape(shape) for name, vector in zip(NAMES, unit(), strict=True)}
    code, counts, _ = load(cli, write(tmp_path / "a.h5", vectors), "--precision", "single")
    assert (code, counts["added"], counts["failed"]) == (0, 10, 0)
    found = stored(connection)
    assert np.allclose([found[name] for name in NAMES], unit(), atol=1e-3 if dtype == np.float16 else 1e-7)


def test_import_in_several_batches_loses_no_vector(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbirdb.ingest.embeddings.BATCH", 3)
    file = write(tmp_path / "a.h5", dict(zip(NAMES, unit(), strict=True)))
    assert load(cli, file)[1] == COUNTS | {"added": 10}
    assert load(cli, file)[1] == COUNTS | {"already_there": 10}


def not_hdf5(folder: Path) -> Path:
    (folder / "a.h5").write_text("filepath,dataset\n")
    return folder / "a.h5"


def empty_file(folder: Path) -> Path:
    (folder / "a.h5").touch()
    return folder / "a.h5"


def truncated(folder: Path) -> Path:
    path = write(folder / "a.h5", dict(zip(NAMES, unit(), strict=True)))
    path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (not_hdf5, "is not a readable HDF5 file"),
        (empty_file, "is not a readable HDF5 file"),
        (truncated, "is not a readable HDF5 file"),
        (lambda folder: folder, "is not a readable HDF5 file"),
        (lambda folder: folder / "missing.h5", "There is no file"),
        (lambda folder: write(folder / "a.h5", {}), "There is no vector in these files"),
        (lambda folder: write(folder / "a.h5", {"x": np.zeros(0)}), "There is no vector in these files"),
    ],
    ids=["text", "empty", "truncated", "folder", "missing", "no images", "no numbers"],
)
def test_unreadable_file_is_refused_and_nothing_is_stored(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, make: Callable[[Path], Path], sentence: str
) -> None:
    good = write(tmp_path / "good.h5", dict(zip(NAMES, unit(), strict=True)))
    before = state(connection)
    files = (make(tmp_path),) if "no vector" in sentence else (good, make(tmp_path))
    outcome = cli("import-embeddings", "-e", "paper", *files)
    assert outcome.code == 1
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out
    assert state(connection) == before


@pytest.mark.parametrize(
    ("encoder", "options", "dim", "sentence"),
    [
        ("paper", (), DIM + 1, f"The encoder 'paper' has {DIM} dimensions in this database, not {DIM + 1}"),
        ("paper", ("--precision", "single"), DIM, "are stored in half precision, not single"),
        ("paper.", (), DIM, "would share the table embedding_paper"),
        ("resnet50", (), DIM, f"The vectors have {DIM} dimensions, the encoder 'resnet50' makes 1000"),
        ("!", (), DIM, "'!' is not a valid encoder name"),
        ("paper", ("--dataset", "nih41"), DIM, "Did you mean 'nih14'"),
        ("new", (), 4001, "4001 dimensions"),
    ],
)
def test_import_that_does_not_fit_the_encoder_is_refused_and_changes_nothing(
    cli: Cli,
    connection: psycopg.Connection,
    tmp_path: Path,
    encoder: str,
    options: tuple[str, ...],
    dim: int,
    sentence: str,
) -> None:
    load(cli, write(tmp_path / "a.h5", dict(zip(NAMES, unit(), strict=True))))
    before = state(connection)
    file = write(tmp_path / "b.h5", dict(zip(NAMES, unit(dim=dim), strict=True)))
    outcome = cli("import-embeddings", "-e", encoder, file, *options)
    assert outcome.code in {1, 3}
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
    assert state(connection) == before


def test_name_in_two_datasets_is_refused_until_dataset_is_given(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    add_images(connection, "copy", NAMES[8:])
    file = write(tmp_path / "a.h5", dict(zip(NAMES, unit(), strict=True)))
    before = state(connection)
    outcome = cli("import-embeddings", "-e", "paper", file)
    assert outcome.code == 1
    assert "--dataset" in outcome.err
    assert state(connection) == before

    code, counts, _ = load(cli, file, "--dataset", "nih14")
    assert (code, counts) == (0, COUNTS | {"added": 10})
    datasets = connection.execute(
        "SELECT DISTINCT d.name FROM cbir.embedding_paper JOIN cbir.image USING (image_id) JOIN cbir.dataset AS d USING (dataset_id)"
    ).fetchall()
    assert datasets == [("nih14",)]


def test_broken_and_circular_links_do_not_stop_the_import(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "links.h5", {NAMES[0]: unit()[0]})
    with h5py.File(file, "a") as opened:
        opened[NAMES[1]] = h5py.SoftLink("/nowhere")
        opened[NAMES[2]] = h5py.ExternalLink("nowhere.h5", "/x")
        opened[NAMES[3]] = h5py.Empty("f4")
        opened["round"] = h5py.SoftLink("/")
        opened["type"] = np.dtype("f4")
    code, counts, _ = load(cli, file)
    assert (code, counts["added"], counts["failed"], counts["unknown"]) == (4, 1, 3, 2)


INSIDE = "A file is damaged inside: "
DAMAGED_PARTS = {
    "signature of the file": (b"\x89HDF", "is not a readable HDF5 file."),
    "tree of a group": (b"TREE", INSIDE),
    "node of names": (b"SNOD", INSIDE),
    "heap of names": (b"HEAP", INSIDE),
}
"""The mark that begins each part of an HDF5 file, and the message when it is damaged."""


def damaged(folder: Path) -> tuple[Path, bytearray]:
    """Write a file of vectors; return its path and its bytes, which the test damages and writes again."""
    file = write(folder / "damaged.h5", dict(zip(NAMES, unit(), strict=True)))
    return file, bytearray(file.read_bytes())


def assert_refused(cli: Cli, file: Path, words: str = "") -> None:
    outcome = cli("import-embeddings", "-e", "paper", file)
    assert (outcome.code, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("Error: ")
    assert words in outcome.err


@pytest.mark.parametrize("part", DAMAGED_PARTS)
def test_file_with_damaged_structure_is_refused(cli: Cli, tmp_path: Path, part: str) -> None:
    mark, words = DAMAGED_PARTS[part]
    file, content = damaged(tmp_path)
    content[content.index(mark)] ^= 0xFF
    file.write_bytes(content)
    assert_refused(cli, file, words)


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_file_that_was_cut_off_is_refused(cli: Cli, tmp_path: Path, kept: float) -> None:
    file, content = damaged(tmp_path)
    file.write_bytes(content[: int(kept * len(content))])
    assert_refused(cli, file, "is not a readable HDF5 file.")


@pytest.mark.parametrize("seed", range(6))
def test_file_with_damage_in_many_places_is_refused(cli: Cli, tmp_path: Path, seed: int) -> None:
    file, content = damaged(tmp_path)
    for place in np.random.default_rng(seed).integers(600, len(content), len(content) // 50):
        content[place] ^= 0xFF
    file.write_bytes(content)
    assert_refused(cli, file)


@pytest.mark.parametrize(
    ("number", "code", "counts"),
    [(np.nan, 4, {"added": 9, "missing": 1, "failed": 1}), (2.0, 0, {"added": 10, "normalised": 1})],
    ids=["no number", "another number"],
)
def test_damage_within_a_vector_affects_that_vector_alone(
    cli: Cli, tmp_path: Path, number: float, code: int, counts: dict[str, int]
) -> None:
    file, content = damaged(tmp_path)
    start = content.index(unit()[0].tobytes())
    content[start : start + 4] = np.float32(number).tobytes()
    file.write_bytes(content)
    assert load(cli, file)[:2] == (code, COUNTS | counts)


def test_failure_is_resolved_once_its_image_is_ingested(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    file = write(tmp_path / "early.h5", {"late.png": unit()[0]})
    assert load(cli, file)[1]["unknown"] == 1
    add_images(connection, "late", ["late.png"])
    assert load(cli, file)[1]["added"] == 1
    assert connection.execute("SELECT count(*) FROM cbir.failure WHERE NOT resolved").fetchone() == (0,)


def test_search_for_an_image_without_imported_vector_names_import_embeddings(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    load(cli, write(tmp_path / "one.h5", {NAMES[0]: unit()[0]}))
    row = connection.execute("SELECT image_id FROM cbir.image WHERE source = %s", [NAMES[1]]).fetchone()
    assert row is not None
    outcome = cli("search", "--image-id", row[0], "-e", "paper")
    assert (outcome.code, "cbirdb import-embeddings -e paper FILE.h5" in outcome.err) == (1, True)
