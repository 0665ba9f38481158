"""Test the search functions as applications call them: parameter types, drivers, and connection poolers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine, text

from tests.support.stored_pictures import PICTURES, fill, index, put_in_studies, unit

NAMED = "SELECT image_id FROM cbir.similar_images($1, image_id => $2, k => $3, modality => $4)"
FILTERED = (
    "SELECT image_id FROM cbir.similar_images(encoder => $1, sop_uid => $2, dataset => $3, label => $4, split => $5,"
    " study_from => $6, study_to => $7, image_ids => $8, same_patient => $9, mode => $10, anatomic_region => $11)"
)
GIVEN = ("one", "XR", "train", date(2020, 1, 1), date(2020, 12, 31), [1, 2, 3, 4], True, "exact", "chest")


@pytest.fixture
def known(connection: psycopg.Connection) -> list[int]:
    ids = fill(connection, unit(len(PICTURES)), PICTURES)
    put_in_studies(connection, ids, [None, "query", "query", None, "b", "b", None])
    index(connection)
    return ids


def ids(rows: Any) -> list[int]:
    return [row[0] for row in rows]


@pytest.mark.parametrize("texts", ["text", "varchar", "unknown"])
@pytest.mark.parametrize("numbers", ["smallint", "integer", "bigint", "unknown"])
def test_parameter_types_that_drivers_send_need_no_cast(
    connection: psycopg.Connection, known: list[int], texts: str, numbers: str
) -> None:
    """PREPARE names parameter types as the wire protocol does; JDBC's setString sends varchar, setLong bigint."""
    expected = ids(connection.execute("SELECT image_id FROM cbir.similar_images('toy', 1, k => 3, modality => 'XR')"))
    assert len(expected) == 2
    connection.execute(f"PREPARE named ({texts}, {numbers}, {numbers}, {texts}) AS {NAMED}")
    assert ids(connection.execute("EXECUTE named('toy', 1, 3, 'XR')")) == expected
    connection.execute(
        f"PREPARE studies ({texts}, {texts}, {numbers}, {numbers}) AS SELECT study_uid FROM"
        " cbir.similar_studies($1, study_uid => $2, k => $3, m => $4)"
    )
    assert ids(connection.execute("EXECUTE studies('toy', 'query', 10, 2)")) == ids(
        connection.execute("SELECT study_uid FROM cbir.similar_studies('toy', 'query', m => 2)")
    )
    connection.execute(
        f"PREPARE pair ({numbers}, {numbers}) AS SELECT encoder FROM cbir.explain_match(image_a => $1, image_b => $2)"
    )
    assert ids(connection.execute("EXECUTE pair(1, 2)")) == ["toy"]
    dates = "unknown" if texts == "unknown" else "date"
    lists = "unknown" if numbers == "unknown" else f"{numbers}[]"
    flag = "unknown" if texts == "unknown" else "boolean"
    connection.execute(
        f"PREPARE filtered ({', '.join([texts] * 5)}, {dates}, {dates}, {lists}, {flag}, {texts}, {texts}) AS {FILTERED}"
    )
    assert ids(
        connection.execute(
            "EXECUTE filtered('toy', '1.2.1', 'one', 'XR', 'train', '2020-01-01', '2020-12-31', '{1,2,3,4}', 'true',"
            " 'exact', 'chest')"
        )
    ) == [1]


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("text", "query => $1"),
        ("real[]", "query => $1"),
        ("timestamp", "query => '[1,0,0,0,0,0,0,0]', study_from => $1"),
        ("text", "image_id => $1"),
        ("numeric", "image_id => $1"),
    ],
)
def test_parameters_that_the_documentation_lists_need_a_cast(
    connection: psycopg.Connection, known: list[int], kind: str, call: str
) -> None:
    """As docs/sql.md lists them; each works with the cast."""
    value = {
        "text": "1" if "image_id" in call else Vector(unit(1)[0]).to_text(),
        "real[]": "{1,0,0,0,0,0,0,0}",
        "timestamp": "2020-01-01 10:00",
        "numeric": "1",
    }[kind]
    with pytest.raises(psycopg.errors.UndefinedFunction):
        connection.execute(f"PREPARE bare ({kind}) AS SELECT * FROM cbir.similar_images('toy', {call})")
    target = "date" if "study_from" in call else ("bigint" if "image_id" in call else "vector")
    cast = call.replace("$1", f"$1::{target}")
    connection.execute(f"PREPARE cast_ ({kind}) AS SELECT * FROM cbir.similar_images('toy', {cast})")
    assert connection.execute(sql.SQL("EXECUTE cast_({})").format(sql.Literal(value))).fetchall()


PLAIN = [
    "SELECT * FROM cbir.similar_images('toy', 1)",
    "SELECT * FROM cbir.similar_images('toy', 1, 3)",
    "SELECT * FROM cbir.similar_images('toy', image_id => 1)",
    "SELECT * FROM cbir.similar_images('toy', image_id => '1')",
    "SELECT * FROM cbir.similar_images('toy', sop_uid => '1.2.0')",
    "SELECT * FROM cbir.similar_images('toy', query => '[1,0,0,0,0,0,0,0]')",
    "SELECT * FROM cbir.similar_images('toy', query => '{vector}'::vector, k => 2)",
    "SELECT * FROM cbir.similar_images('toy', query => (SELECT embedding FROM cbir.embedding_toy WHERE image_id = 1))",
    "SELECT * FROM cbir.similar_images(k => 2, encoder => 'toy', image_id => 1, study_from => '2020-01-01')",
    "SELECT * FROM cbir.similar_images('toy', 1, image_ids => '{2,3}')",
    "SELECT * FROM cbir.similar_images('toy', 1, image_ids => ARRAY(SELECT image_id FROM cbir.image))",
    "SELECT * FROM cbir.similar_images('toy', 1, study_from => current_date - interval '50 years')",
    "SELECT * FROM cbir.similar_studies('toy', 'query')",
    "SELECT * FROM cbir.similar_studies('toy', study_uid => 'query', k => 1, m => 2)",
    "SELECT * FROM cbir.similar_studies('toy', study_id => (SELECT study_id FROM cbir.study WHERE study_uid = 'query'))",
    "SELECT * FROM cbir.label_suggestions('toy', 1)",
    "SELECT * FROM cbir.label_suggestions('toy', image_id => 1, k => 5)",
    "SELECT * FROM cbir.label_suggestions('toy', sop_uid => '1.2.0')",
    "SELECT * FROM cbir.explain_match(1, 2)",
    "SELECT o.image_id, s.image_id FROM cbir.image_overview o, cbir.similar_images('toy', o.image_id, 2) s",
]


@pytest.mark.parametrize("statement", PLAIN)
def test_plain_calls_resolve_without_casts(connection: psycopg.Connection, known: list[int], statement: str) -> None:
    statement = statement.replace("{vector}", Vector(unit(1)[0]).to_text())
    if "interval" in statement:  # date minus interval is a timestamp
        with pytest.raises(psycopg.errors.UndefinedFunction):
            connection.execute(statement)
        statement = statement.replace(
            "current_date - interval '50 years'", "(current_date - interval '50 years')::date"
        )
    assert connection.execute(statement).fetchall()


def test_psycopg_binds_parameters_prepared_or_not_as_text_or_binary(
    connection: psycopg.Connection, known: list[int]
) -> None:
    named = "SELECT image_id FROM cbir.similar_images(%s, image_id => %s, k => %s, modality => %s)"
    filtered = FILTERED
    for number in range(11, 0, -1):
        filtered = filtered.replace(f"${number}", "%s")
    expected = ids(connection.execute(named, ["toy", 1, 3, "XR"]))
    assert len(expected) == 2
    for prepare in (False, True):
        for binary in (False, True):
            for _ in range(3):
                assert ids(connection.execute(named, ["toy", 1, 3, "XR"], prepare=prepare, binary=binary)) == expected
                found = connection.execute(filtered, ["toy", "1.2.1", *GIVEN], prepare=prepare, binary=binary)
                assert ids(found) == [1]
                everything = connection.execute(
                    "SELECT * FROM cbir.similar_images('toy', query => %s::vector)",
                    [Vector(unit(1)[0]).to_text()],
                    prepare=prepare,
                    binary=binary,
                ).fetchall()
                assert len(everything) == len(PICTURES)
    nothing = ["toy", "1.2.1", *[None] * 8, None]
    nothing[9] = "auto"
    assert len(ids(connection.execute(filtered, nothing))) == len(PICTURES) - 1
    with psycopg.ClientCursor(connection) as client_side:
        assert ids(client_side.execute(named, ["toy", 1, 3, "XR"])) == expected
        assert ids(client_side.execute(filtered, ["toy", "1.2.1", *GIVEN])) == [1]
    for value in (np.int64(1), np.int32(1)):
        assert ids(connection.execute(named, ["toy", value, 3, "XR"])) == expected


def test_sqlalchemy_binds_parameters(connection: psycopg.Connection, dsn: str, known: list[int]) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    expected = ids(connection.execute("SELECT image_id FROM cbir.similar_images('toy', 1, k => 3, modality => 'XR')"))
    named = text("SELECT * FROM cbir.similar_images(:encoder, image_id => :image, k => :k, modality => :modality)")
    with engine.connect() as session:
        for _ in range(8):  # psycopg prepares a statement when it comes the sixth time
            rows = session.execute(named, {"encoder": "toy", "image": 1, "k": 3, "modality": "XR"}).all()
            assert [row.image_id for row in rows] == expected
        several = session.execute(
            text(
                "SELECT image_id FROM cbir.similar_images(:encoder, sop_uid => :uid, study_from => :first,"
                " image_ids => :ids, same_patient => :same)"
            ),
            {"encoder": "toy", "uid": "1.2.1", "first": date(2020, 1, 1), "ids": [1, 2, 3], "same": True},
        ).all()
        assert sorted(row.image_id for row in several) == [1, 3]
        studies = session.execute(
            text("SELECT study_uid, labels FROM cbir.similar_studies(:encoder, :uid, m => :m)"),
            {"encoder": "toy", "uid": "query", "m": 2},
        ).all()
        assert sorted(row.study_uid for row in studies) == sorted(
            ids(connection.execute("SELECT study_uid FROM cbir.similar_studies('toy', 'query')"))
        )
    engine.dispose()


QUERIES = [
    ("SELECT * FROM cbir.similar_images('toy', image_id => %s, k => 4, mode => 'approximate')", [1]),
    ("SELECT * FROM cbir.similar_images('toy', query => %s::vector, k => 4)", [Vector(unit(1)[0]).to_text()]),
    ("SELECT * FROM cbir.similar_studies('toy', study_uid => %s, m => 2)", ["query"]),
    ("SELECT * FROM cbir.label_suggestions('toy', sop_uid => %s)", ["1.2.3"]),
    ("SELECT * FROM cbir.explain_match(%s, 2)", [1]),
]


def test_answers_do_not_depend_on_earlier_settings_of_the_session(
    connection: psycopg.Connection, dsn: str, known: list[int]
) -> None:
    """As behind a pooler in transaction mode, the next transaction runs on another session."""
    expected = [connection.execute(query, values).fetchall() for query, values in QUERIES]
    assert all(expected)
    with psycopg.connect(dsn, prepare_threshold=None) as one, psycopg.connect(dsn, prepare_threshold=None) as other:
        sessions = [one, other]
        one.execute("SET hnsw.ef_search = 1")  # somebody else's, left on the session
        other.execute("SET search_path = pg_catalog")
        other.execute("SET enable_indexscan = off")
        one.commit()
        other.commit()
        for number in range(6):
            for turn, ((query, values), rows) in enumerate(zip(QUERIES, expected, strict=True)):
                session = sessions[(number + turn) % 2]
                vector_path = "SET LOCAL search_path = public" if "::vector" in query else "SELECT 1"
                session.execute(vector_path)
                assert session.execute(query, values).fetchall() == rows
                session.commit()
            for session in sessions[: number % 3]:
                session.autocommit = True
                session.execute("DISCARD ALL")
                session.autocommit = False


@pytest.fixture
def pooled(dsn: str, tmp_path: Path) -> Iterator[str]:
    """Start a real PgBouncer in transaction mode before the test's database; yield its DSN."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed; sessions are changed by hand in the test above")
    behind = conninfo_to_dict(dsn)
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    folder.chmod(0o777)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = " ".join(f"{key}={behind[key]}" for key in ("host", "port", "dbname", "user") if key in behind)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npooled = {target}\n[pgbouncer]\nauth_type = any\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "unix_socket_dir =\npool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\n"
    )
    # It refuses to run as root; the embedded server's socket is its owner's alone.
    socket_folder = Path(str(behind["host"]))
    user = socket_folder.owner() if socket_folder.is_absolute() else "nobody"
    as_user = ["-u", user] if os.geteuid() == 0 else []
    running = subprocess.Popen([program, "-q", *as_user, folder / "pgbouncer.ini"])
    address = make_conninfo("", host="127.0.0.1", port=port, dbname="pooled", user="anybody", connect_timeout=5)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(address).close()
                break
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield address
    finally:
        running.terminate()
        running.wait()
        shutil.rmtree(folder)


def test_answers_through_pgbouncer_in_transaction_mode_are_the_same(
    connection: psycopg.Connection, pooled: str, known: list[int]
) -> None:
    expected = [connection.execute(query, values).fetchall() for query, values in QUERIES]
    clients = [psycopg.connect(pooled, autocommit=True, prepare_threshold=None) for _ in range(4)]
    # Three transactions at once, so that the pooler opens three sessions and goes round between them.
    for client in clients[:3]:
        client.execute("BEGIN")
    sessions = {client.execute("SELECT pg_backend_pid()").fetchone() for client in clients[:3]}
    for client in clients[:3]:
        client.execute("COMMIT")
    assert len(sessions) == 3
    used = set()
    for turn in range(6):
        # Sessions that others hold are not the one that answers.
        for holder in clients[: turn % 3]:
            holder.execute("BEGIN")
            holder.execute("SELECT 1")
        used.add(clients[3].execute("SELECT pg_backend_pid()").fetchone())
        for (query, values), rows in zip(QUERIES, expected, strict=True):
            assert clients[3].execute(query, values).fetchall() == rows
        for holder in clients[: turn % 3]:
            holder.execute("COMMIT")
    assert used <= sessions
    assert len(used) > 1
    for client in clients:
        client.close()
