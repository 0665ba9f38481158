"""Test ``cbirdb encode`` while others replace files, erase patients and drop datasets: nothing stale is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from cbirdb.datasets.base import ReadOptions
from cbirdb.db.catalogue import drop_dataset
from cbirdb.db.schema.roles import set_row_security
from cbirdb.encode import EncodeOptions, EncodeSummary
from cbirdb.encode import run as verb
from cbirdb.ingest import ingest
from cbirdb.pixels import read_rgb
from cbirdb.pseudonyms import Pseudonyms
from tests.conftest import Logins, Outcome, picture_bytes
from tests.support.catalogue_checks import open_failures
from tests.support.encode_checks import MeanOfQuarters, quarters, vectors
from tests.support.official_layouts import NIH_ROWS, write_nih14

Cli = Callable[..., Outcome]


class Interrupted(MeanOfQuarters):
    """Call a function in its first batch, after the files were read and before it returns embeddings."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile: Callable[[], object] | None = meanwhile

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(batch) > 1 and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return super().encode(batch)


def encode(dsn: str, meanwhile: Callable[[], object] = lambda: None, **options: object) -> EncodeSummary:
    def connect() -> psycopg.Connection:
        return psycopg.connect(dsn, autocommit=True)

    with connect() as connection:
        (summary,) = verb.encode(connection, [Interrupted(meanwhile)], EncodeOptions(**options), connect=connect)
    return summary


def exchange(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (root / name).write_bytes(picture_bytes(1000 + number))


def assert_all_of_present_files(connection: psycopg.Connection, root: Path, number: int) -> None:
    stored = vectors(connection, "embedding_quarters")
    assert len(stored) == number
    for source, vector in stored.items():
        raw = quarters(read_rgb(root / source)).reshape(4)
        np.testing.assert_allclose(vector, raw / np.linalg.norm(raw), atol=1e-3, err_msg=source)


@pytest.fixture
def ingested(cli: Cli, class_folder: Path) -> Path:
    assert cli("ingest", "folder", class_folder).code == 0
    return class_folder


def test_file_replaced_during_encode_keeps_no_embedding_of_the_old_picture(
    dsn: str, connection: psycopg.Connection, ingested: Path
) -> None:
    def replace() -> None:
        exchange(ingested, ["nodule/00.png", "nodule/03.png", "normal/15.png"])
        with psycopg.connect(dsn, autocommit=True) as other:
            assert ingest(other, "folder", ingested).updated == 3

    summary = encode(dsn, replace, batch_size=5)
    # The third lies in a batch that had been read, or in one that was not: its old picture is not there in either case.
    assert summary.changed in {2, 3}
    assert summary.encoded + summary.changed == 20
    assert (summary.already_there, summary.failed) == (0, 0)
    assert_all_of_present_files(connection, ingested, summary.encoded)
    assert encode(dsn).encoded == summary.changed
    assert_all_of_present_files(connection, ingested, 20)


def test_encode_waits_for_an_uncommitted_replacement_and_skips_the_file(
    dsn: str, connection: psycopg.Connection, ingested: Path
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(dsn) as holder:
        finisher = threading.Thread(target=lambda: (_wait_for(connection, waiting), holder.commit()))

        def replace() -> None:
            holder.execute("UPDATE cbir.image SET sha256 = %s WHERE source = 'nodule/01.png'", [bytes(32)])
            finisher.start()

        summary = encode(dsn, replace)
        finisher.join()
    assert (summary.encoded, summary.changed) == (19, 1)
    assert "nodule/01.png" not in vectors(connection, "embedding_quarters")


def _wait_for(connection: psycopg.Connection, query: str) -> None:
    deadline = time.monotonic() + 60
    while connection.execute(query).fetchone() == (0,):
        assert time.monotonic() < deadline, "nobody waits for a lock"
        time.sleep(0.01)


def test_ingest_of_a_replaced_file_waits_for_encode_and_removes_its_embedding(
    dsn: str, connection: psycopg.Connection, ingested: Path
) -> None:
    encode(dsn, limit=1)  # makes the table
    ingests: list[threading.Thread] = []
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(dsn) as holder:
        # The encode can lock its images, and then not write.
        holder.execute("LOCK TABLE cbir.embedding_quarters IN SHARE ROW EXCLUSIVE MODE")

        def replace() -> None:
            exchange(ingested, ["nodule/01.png"])
            with psycopg.connect(dsn, autocommit=True) as other:
                ingest(other, "folder", ingested)

        def release() -> None:
            _wait_for(connection, waiting)
            ingests.append(threading.Thread(target=replace))
            ingests[0].start()
            _wait_for(connection, waiting.replace("count(*)", "greatest(count(*) - 1, 0)"))
            holder.rollback()

        releaser = threading.Thread(target=release)
        releaser.start()
        encode(dsn)
        releaser.join()
        ingests[0].join()
    encode(dsn)
    assert_all_of_present_files(connection, ingested, 20)


@pytest.fixture
def nih(dsn: str, tmp_path: Path) -> Path:
    root = write_nih14(tmp_path / "nih")
    key = tmp_path / "key"
    with psycopg.connect(dsn, autocommit=True) as connection:
        ingest(
            connection, "nih14", root, options=ReadOptions(name="nih"),
            pseudonyms=lambda create: Pseudonyms.from_file(key, create=create),
        )  # fmt: skip
    return root


def test_patient_erased_during_encode_is_left_out_and_the_others_are_encoded(
    dsn: str, connection: psycopg.Connection, nih: Path, tmp_path: Path
) -> None:
    (nih / "images" / NIH_ROWS[0][0]).write_bytes(b"")  # one of the patient's has failed by then

    def erase() -> None:
        pseudonym = Pseudonyms.from_file(tmp_path / "key", create=False).of("nih", "1")
        connection.execute("SELECT cbir.erase_patient(%s, 'nih')", [pseudonym])

    summary = encode(dsn, erase)
    assert (summary.encoded, summary.failed, summary.changed) == (4, 0, 2)
    assert open_failures(connection) == []
    assert set(vectors(connection, "embedding_quarters")) == {f"images/{row[0]}" for row in NIH_ROWS[2:]}


def test_dataset_dropped_during_encode_is_left_out_and_the_others_are_encoded(
    cli: Cli, dsn: str, connection: psycopg.Connection, ingested: Path, tmp_path: Path
) -> None:
    for number in range(3):
        path = tmp_path / "other" / "n" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(200 + number))
    assert cli("ingest", "folder", tmp_path / "other").code == 0
    (ingested / "nodule" / "02.png").write_bytes(b"")
    summary = encode(dsn, lambda: drop_dataset(connection, "images"), batch_size=32)
    assert (summary.encoded, summary.failed, summary.changed) == (3, 0, 20)
    assert connection.execute("SELECT count(*) FROM cbir.failure").fetchone() == (0,)


def test_encode_reports_images_replaced_while_it_ran(cli: Cli, dsn: str, ingested: Path) -> None:
    assert cli("encode", "-e", "tiny-image", "--limit", 1).code == 0  # makes the table
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        holder.execute("UPDATE cbir.image SET sha256 = %s WHERE source = 'nodule/01.png'", [bytes(32)])
        finisher = threading.Thread(target=lambda: (_wait_for(watcher, waiting), holder.commit()))
        finisher.start()
        outcome = cli("encode", "-e", "tiny-image", "--format", "json")
        finisher.join()
    assert (outcome.code, outcome.rows[0]["encoded"], outcome.rows[0]["already_there"]) == (0, 18, 1)
    assert "1 were replaced or removed while tiny-image encoded them" in outcome.err


@pytest.mark.parametrize("row_security", [False, True])
def test_ingest_role_may_encode_with_and_without_row_security(
    role_database: str, logins: Logins, class_folder: Path, row_security: bool
) -> None:
    database = psycopg.conninfo.conninfo_to_dict(role_database)["dbname"]
    with logins.connect("admin", database) as admin:
        set_row_security(admin, enabled=row_security)
        admin.execute(
            "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, 'images')", [logins.names["ingest_a"]]
        )
    with logins.connect("ingest_a", database) as connection:
        ingest(connection, "folder", class_folder)
    assert encode(logins.dsn("ingest_a", database)).encoded == 20


def test_images_ingested_during_encode_are_encoded_and_counted(
    cli: Cli, dsn: str, connection: psycopg.Connection, ingested: Path
) -> None:
    encode(dsn, limit=4)

    def add() -> None:
        for number in range(7):
            (ingested / "normal" / f"new{number}.png").write_bytes(picture_bytes(300 + number))
        with psycopg.connect(dsn, autocommit=True) as other:
            ingest(other, "folder", ingested)

    summary = encode(dsn, add, batch_size=4)
    assert (summary.encoded, summary.already_there, summary.failed, summary.changed) == (23, 4, 0, 0)
