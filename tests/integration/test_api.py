"""The Python API: what its methods give, what they refuse, and that it says the same as the command line."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import cbirdb
from cbirdb.db.server.embedded import EmbeddedServer
from tests.conftest import Outcome, picture_bytes
from tests.support.waiting import eventually

ENCODER = "tiny-image"
DIM = 1024
Call = Callable[[cbirdb.Database], object]


@pytest.fixture
def db(dsn: str, tmp_path: Path) -> Iterator[cbirdb.Database]:
    with cbirdb.connect(dsn, home=tmp_path / "home") as database:
        yield database


@pytest.fixture
def filled(db: cbirdb.Database, class_folder: Path) -> cbirdb.Database:
    """Twenty pictures of two classes, encoded by tiny-image."""
    assert db.ingest("folder", class_folder, name="twenty", modality="XR", split="50/0/50").added == 20
    (summary,) = db.encode(ENCODER)
    assert summary.encoded == 20
    return db


def test_embedded_server_is_started_and_its_schema_made(tmp_path: Path) -> None:
    try:
        with cbirdb.connect(home=tmp_path) as db:
            assert db.sql("SELECT count(*) AS images FROM cbir.image_overview")[0].images == 0
            assert db.stop_server()
            assert not EmbeddedServer(tmp_path).stop()
            with pytest.raises(cbirdb.InputError, match="This Database is closed"):
                db.sql("SELECT 1")
    finally:
        EmbeddedServer(tmp_path).stop()


def test_server_that_was_named_is_not_stopped(db: cbirdb.Database) -> None:
    with pytest.raises(cbirdb.InputError, match="only the embedded one can be stopped"):
        db.stop_server()
    assert db.sql("SELECT 1 AS one")[0].one == 1


def test_environment_names_server_and_home(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBIRDB_DSN", dsn)
    monkeypatch.setenv("CBIRDB_HOME", str(tmp_path))
    with cbirdb.connect() as db:
        assert db.settings.home_folder == tmp_path
        assert db.sql("SELECT current_database() AS name")[0].name == psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]


def test_search_by_each_kind_of_query_finds_the_image_itself(filled: cbirdb.Database, class_folder: Path) -> None:
    row = filled.sql("SELECT image_id, source FROM cbir.image ORDER BY image_id LIMIT 1")[0]
    image_id, file = row.image_id, class_folder / row.source
    ids, vectors = next(iter(filled.embeddings(ENCODER)))
    by_file = filled.search(image=file, encoder=ENCODER, k=5)
    by_vector = filled.search(vector=7 * vectors[list(ids).index(image_id)], encoder=ENCODER, k=5)
    by_id = filled.search(image_id=image_id, encoder=ENCODER, k=4)
    assert by_file[0].image_id == image_id
    # What is stored is rounded to half precision, a file's vector is not.
    assert [found.image_id for found in by_vector] == [found.image_id for found in by_file]
    assert [found.image_id for found in by_id] == [found.image_id for found in by_file][1:]
    assert by_vector[0].distance == pytest.approx(0, abs=1e-3)
    assert all(found.complete for found in [*by_file, *by_vector, *by_id])


def test_search_by_sop_uid_is_search_by_its_image(filled: cbirdb.Database) -> None:
    image_id = filled.sql(
        "UPDATE cbir.image SET sop_uid = '1.2.3' WHERE source LIKE '%%03.png' RETURNING image_id", []
    )[0]
    found = filled.search(sop_uid="1.2.3", encoder=ENCODER)
    assert found == filled.search(image_id=image_id["image_id"], encoder=ENCODER)


def test_filters_narrow_a_search(filled: cbirdb.Database, class_folder: Path) -> None:
    file = class_folder / "nodule" / "00.png"
    found = filled.search(image=file, encoder=ENCODER, label="normal", dataset="twenty", modality="XR", k=20)
    assert len(found) == 10
    assert {row.labels for row in found} == {("normal",)}
    ids = [row.image_id for row in found][:3]
    assert len(filled.search(image=file, encoder=ENCODER, image_ids=ids, k=20)) == 3


def test_api_finds_what_the_command_line_finds(filled: cbirdb.Database, cli: Callable[..., Outcome]) -> None:
    evaluated = filled.evaluate(ENCODER, k=10)
    printed = cli("search", "-e", ENCODER, "--image-id", 3, "--format", "json").rows
    assert filled.search(image_id=3, encoder=ENCODER).to_dicts() == printed
    for by in ("run", "class"):
        printed = cli("metrics", "-e", ENCODER, "--by", by, "--format", "json").rows
        found = filled.metrics(ENCODER, by=by)
        assert [row["micro_precision"] for row in printed] == [row.micro_precision for row in found]
        assert [row.get("class") for row in printed] == [row.group for row in found]
        assert {row.run for row in found} == {evaluated.run_id}


def test_metrics_with_confidence_have_bounds(filled: cbirdb.Database) -> None:
    filled.evaluate(ENCODER, k=10)
    for row in filled.metrics(ENCODER, cutoffs=[1], confidence=True, resamples=100):
        assert row.micro_low is not None
        assert row.micro_precision is not None
        assert row.micro_high is not None
        assert row.micro_low <= row.micro_precision <= row.micro_high
    assert filled.metrics(ENCODER, cutoffs=[1])[0].micro_low is None


def test_analyse_gives_precision_by_index_size(filled: cbirdb.Database) -> None:
    filled.evaluate(ENCODER, k=10)
    rows = filled.analyse("index-size", encoder=ENCODER, cutoffs=[1])
    assert len(rows) > 0
    assert {"run", "encoder", "n"} <= set(rows.columns)


def test_embeddings_come_in_batches_of_ids_and_unit_vectors(
    filled: cbirdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbirdb.db.read_embeddings.BLOCK_ROWS", 8)
    monkeypatch.setattr("cbirdb.db.read_embeddings.BLOCK_BYTES", 1)
    batches = list(filled.embeddings(ENCODER))
    assert [len(ids) for ids, _ in batches] == [8, 8, 4]
    assert all(ids.dtype == np.int64 and vectors.dtype == np.float32 for ids, vectors in batches)
    vectors = np.concatenate([vectors for _, vectors in batches])
    assert vectors.shape == (20, DIM)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    stored = filled.sql("SELECT image_id FROM cbir.image ORDER BY 1").to_dicts()
    assert sorted(int(i) for ids, _ in batches for i in ids) == [row["image_id"] for row in stored]


def test_database_answers_while_embeddings_are_iterated(filled: cbirdb.Database) -> None:
    for ids, vectors in filled.embeddings(ENCODER):
        assert filled.search(vector=vectors[0], encoder=ENCODER, k=1)[0].image_id == ids[0]


def test_iteration_that_is_given_up_closes_its_connection(filled: cbirdb.Database) -> None:
    batches = filled.embeddings(ENCODER)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    others = (
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'cbirdb' AND pid <> pg_backend_pid()"
    )
    # The server's process ends a moment after the client has closed its socket.
    eventually(lambda: filled.sql(others)[0].n == 0)


def test_contact_sheet_is_drawn_of_a_search(filled: cbirdb.Database, tmp_path: Path) -> None:
    found = filled.search(image_id=1, encoder=ENCODER)
    sheet = tmp_path / "sheet.png"
    assert filled.contact_sheet(sheet, found, title="Similar", image_id=1) == []
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_folder_that_nobody_allowed_here_is_left_out_of_a_sheet(
    filled: cbirdb.Database, dsn: str, tmp_path: Path
) -> None:
    with cbirdb.connect(dsn, home=tmp_path / "other machine") as other:
        found = other.search(image_id=1, encoder=ENCODER)
        assert other.contact_sheet(tmp_path / "sheet.png", found, title="Similar", image_id=1) == ["twenty"]


def test_rows_are_typed_frozen_and_sliced(filled: cbirdb.Database) -> None:
    found = filled.search(image_id=1, encoder=ENCODER, k=5)
    assert isinstance(found[0], cbirdb.SimilarImage)
    assert isinstance(found[1:3], cbirdb.Rows)
    assert [row.rank for row in found[1:3]] == [2, 3]
    assert [row.rank for row in reversed(found)] == [5, 4, 3, 2, 1]
    assert repr(found).startswith("<5 rows: rank, image_id, distance")
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(FrozenInstanceError):
        found[0].rank = 9  # type: ignore[misc]
    row = filled.sql("SELECT 1 AS one, ARRAY['a'] AS list")[0]
    assert (row.one, row["one"], dict(row)) == (1, 1, {"one": 1, "list": ["a"]})
    assert pickle.loads(pickle.dumps(row)) == row
    with pytest.raises(AttributeError, match="no column 'two'"):
        row.two  # noqa: B018
    with pytest.raises(AttributeError, match="cannot be changed"):
        row.one = 2


def test_rows_go_to_pandas_polars_and_arrow(filled: cbirdb.Database) -> None:
    found = filled.search(image_id=1, encoder=ENCODER, k=3)
    nothing = filled.search(image_id=1, encoder=ENCODER, image_ids=[1])
    expected = found.to_dicts()
    assert len(nothing) == 0
    frame = found.to_pandas()
    assert list(frame.columns) == list(found.columns) == list(nothing.to_pandas().columns)
    assert frame["distance"].tolist() == [row["distance"] for row in expected]
    assert found.to_polars().to_dicts() == expected
    assert nothing.to_polars().columns == list(found.columns)
    assert found.to_arrow().to_pylist() == expected
    assert nothing.to_arrow().column_names == list(found.columns)


@pytest.mark.parametrize(
    ("method", "library", "extra"),
    [("to_pandas", "pandas", "pandas"), ("to_polars", "polars", "polars"), ("to_arrow", "pyarrow", "arrow")],
)
def test_library_that_is_not_installed_is_named_with_its_extra(
    method: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(cbirdb.InputError) as raised:
        getattr(cbirdb.Rows((), ("a",)), method)()
    assert raised.value.message.startswith(f"{library} is not installed")
    assert raised.value.hint == f"Install it: pip install 'cbirdb[{extra}]'"


def test_sql_takes_values_as_parameters(db: cbirdb.Database) -> None:
    assert db.sql("SELECT %s::text AS quoted", ["'; DROP"])[0].quoted == "'; DROP"
    assert db.sql("SELECT %(n)s + 1 AS n", {"n": 2})[0].n == 3
    assert db.sql("SET application_name = 'x'") == cbirdb.Rows((), ())
    assert db.sql("SELECT '5%' AS percent")[0].percent == "5%"


UNIT = np.eye(1, DIM, dtype=np.float32)[0]
WRONG: list[tuple[str, Call, type[cbirdb.CbirdbError], str]] = [
    ("unknown encoder", lambda db: db.search(image_id=1, encoder="tiny-imag"), cbirdb.UnknownNameError, "tiny-image"),
    ("unknown encoder to encode", lambda db: db.encode("none"), cbirdb.UnknownNameError, "no encoder named 'none'"),
    ("unknown encoder to iterate", lambda db: db.embeddings("none"), cbirdb.UnknownNameError, "'none'"),
    ("not encoded yet", lambda db: db.search(image_id=1, encoder="biomedclip"), cbirdb.InputError, "no embeddings of"),
    ("no query", lambda db: db.search(encoder=ENCODER), cbirdb.InputError, "exactly one of"),
    ("two queries", lambda db: db.search(image_id=1, sop_uid="1", encoder=ENCODER), cbirdb.InputError, "exactly one"),
    ("no such image", lambda db: db.search(image_id=99, encoder=ENCODER), cbirdb.InputError, "99"),
    ("negative image", lambda db: db.search(image_id=-1, encoder=ENCODER), cbirdb.InputError, "There is no image -1."),
    ("no such file", lambda db: db.search(image="nowhere.png", encoder=ENCODER), cbirdb.InputError, "nowhere.png"),
    (
        "k of none",
        lambda db: db.search(image_id=1, encoder=ENCODER, k=0),
        cbirdb.InputError,
        "must lie between 1 and 10000",
    ),
    ("unknown search mode", lambda db: db.search(image_id=1, encoder=ENCODER, mode="fast"), cbirdb.InputError, "mode"),
    ("unknown split", lambda db: db.search(image_id=1, encoder=ENCODER, split="tets"), cbirdb.InputError, "split"),
    ("unknown dataset", lambda db: db.evaluate(ENCODER, datasets="twnty"), cbirdb.UnknownNameError, "'twenty'"),
    (
        "days turned round",
        lambda db: db.search(image_id=1, encoder=ENCODER, study_from=date(2020, 1, 2), study_to=date(2020, 1, 1)),
        cbirdb.InputError,
        "lies after",
    ),
    ("unknown label", lambda db: db.search(image_id=1, encoder=ENCODER, label="x"), cbirdb.InputError, "label"),
    ("wrong dimension", lambda db: db.search(vector=[1.0] * 5, encoder=ENCODER), cbirdb.InputError, "shape (5,)"),
    ("two vectors", lambda db: db.search(vector=[UNIT, UNIT], encoder=ENCODER), cbirdb.InputError, f"(2, {DIM})"),
    ("words", lambda db: db.search(vector=["a"] * DIM, encoder=ENCODER), cbirdb.InputError, "not an array of numbers"),
    ("NaN", lambda db: db.search(vector=UNIT * np.nan, encoder=ENCODER), cbirdb.InputError, "not a number"),
    (
        "infinite",
        lambda db: db.search(vector=UNIT.astype(float) * 1e300, encoder=ENCODER),
        cbirdb.InputError,
        "infinite",
    ),
    ("zero", lambda db: db.search(vector=np.zeros(DIM), encoder=ENCODER), cbirdb.InputError, "zero vector"),
    ("unknown reader", lambda db: db.ingest("folde", "."), cbirdb.UnknownNameError, "Did you mean 'folder'?"),
    ("no folder", lambda db: db.ingest("folder", "nowhere"), cbirdb.InputError, "nowhere"),
    ("split of 101", lambda db: db.ingest("folder", ".", split="80/10/11"), cbirdb.OptionError, "101 percent"),
    ("unknown mode", lambda db: db.evaluate(ENCODER, mode="fast"), cbirdb.OptionError, "auto, exact, approximate"),
    ("k beyond all", lambda db: db.evaluate(ENCODER, k=0), cbirdb.OptionError, "-k must lie between"),
    ("nothing evaluated", lambda db: db.metrics(ENCODER), cbirdb.InputError, "no finished evaluation run"),
    ("unknown grouping", lambda db: db.metrics(by="clas"), cbirdb.UnknownNameError, "Did you mean 'class'?"),
    ("unknown analysis", lambda db: db.analyse("size"), cbirdb.UnknownNameError, "index-size"),
    ("wrong SQL", lambda db: db.sql("SELEC 1"), cbirdb.DatabaseError, "syntax error"),
    ("same name twice", lambda db: db.sql("SELECT 1 AS a, 2 AS a"), cbirdb.InputError, "same name"),
]


def test_wrong_input_is_one_sentence_and_leaves_the_database_usable(filled: cbirdb.Database) -> None:
    for what, call, kind, said in WRONG:
        with pytest.raises(kind) as raised:
            call(filled)
        assert said in str(raised.value), what
        assert filled.sql("SELECT 1 AS one")[0].one == 1, what


def test_unknown_option_is_a_type_error(filled: cbirdb.Database) -> None:
    with pytest.raises(TypeError, match="depth"):
        filled.evaluate(ENCODER, depth=3)
    with pytest.raises(TypeError, match="not both"):
        filled.evaluate(ENCODER, cbirdb.EvaluationOptions(), k=3)


def test_closed_database_says_so(db: cbirdb.Database) -> None:
    db.close()
    db.close()
    for call in (lambda: db.sql("SELECT 1"), db.open, db.upgrade, lambda: db.embeddings(ENCODER)):
        with pytest.raises(cbirdb.InputError, match="This Database is closed"):
            call()


def test_second_call_at_once_is_refused_and_the_first_ends(db: cbirdb.Database) -> None:
    answers: list[Any] = []
    with psycopg.connect(db.connection.info.dsn, autocommit=True) as other:
        slow = threading.Thread(target=lambda: answers.append(db.sql("SELECT 1 AS one FROM pg_sleep(1.5)")))
        slow.start()
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1.5)'"
            " AND state = 'active' AND pid <> pg_backend_pid()"
        )
        eventually(lambda: other.execute(busy).fetchone() == (1,))
        with pytest.raises(cbirdb.InputError, match="at work already; a Database is for one thread"):
            db.sql("SELECT 2 AS two")
        slow.join()
    assert answers[0][0].one == 1
    assert db.sql("SELECT 2 AS two")[0].two == 2


def test_interrupted_call_leaves_the_database_usable(db: cbirdb.Database) -> None:
    with psycopg.connect(db.connection.info.dsn, autocommit=True) as other:

        def interrupt() -> None:
            # Once the server is at work on it.
            while (
                other.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()"
                ).rowcount
                < 1
            ):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            db.sql("SELECT pg_sleep(60)")
        interrupter.join()
    assert db.sql("SELECT 1 AS one")[0].one == 1


def test_connection_that_was_lost_is_made_again(db: cbirdb.Database) -> None:
    with psycopg.connect(db.connection.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [db.connection.info.backend_pid])
    with pytest.raises(cbirdb.DatabaseError):
        db.sql("SELECT 1 AS one")
    assert db.sql("SELECT 1 AS one")[0].one == 1


def test_schema_of_a_named_server_is_made_by_upgrade(empty_database: str, tmp_path: Path) -> None:
    with cbirdb.connect(empty_database, home=tmp_path) as db:
        with pytest.raises(cbirdb.SchemaError, match="no schema 'cbir' yet"):
            db.sql("SELECT 1")
        db.upgrade()
        db.upgrade()
        assert db.sql("SELECT 1 AS one")[0].one == 1


def test_server_that_is_not_there_is_said_at_connect(tmp_path: Path) -> None:
    with pytest.raises(cbirdb.DatabaseError):
        cbirdb.connect(f"host={tmp_path} dbname=none")


def test_damaged_query_is_refused_or_noted(filled: cbirdb.Database, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpg"
    whole = picture_bytes(1, file_format="JPEG")
    damaged.write_bytes(whole[: len(whole) - 40])
    with pytest.raises(cbirdb.InputError, match="cannot be used"):
        filled.search(image=damaged, encoder=ENCODER)
    assert len(filled.search(image=damaged, encoder=ENCODER, accept_damaged=True, k=3)) == 3


def test_plain_script_runs_once(dsn: str, class_folder: Path, tmp_path: Path) -> None:
    """Worker processes do not run it again, though it has no ``if __name__ == "__main__"``."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, cbirdb\n"
        "print('once', flush=True)\n"
        "with cbirdb.connect(sys.argv[1], home=sys.argv[2]) as db:\n"
        "    print(db.ingest('folder', sys.argv[3]).added, db.encode('tiny-image')[0].encoded)\n"
    )
    done = subprocess.run(
        [sys.executable, script, dsn, tmp_path / "home", class_folder], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == ("once\n20 20\n", "", 0)


def test_package_gives_all_that_it_promises_and_imports_it_late() -> None:
    assert [name for name in cbirdb.__all__ if not hasattr(cbirdb, name)] == []
    program = (
        "import sys, cbirdb; from cbirdb.cli.main import run; run(['--help']);"
        "print([name for name in ('psycopg', 'numpy', 'pandas', 'cbirdb.api') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    program = "import sys, cbirdb; cbirdb.connect; print([n for n in ('numpy', 'torch', 'PIL') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
