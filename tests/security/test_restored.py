"""Test a restore that gave everything to one owner: nobody sees more than before, and one upgrade repairs it."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run
from cbirdb.db.server.embedded import EmbeddedServer
from tests.conftest import Logins

READER_CALLS = [
    "SELECT * FROM cbir.similar_images('toy', query => '[1,0]')",
    "SELECT * FROM cbir.similar_images('toy', image_id => 37)",
    "SELECT * FROM cbir.similar_studies('toy', study_uid => 'study b1')",
    "SELECT * FROM cbir.label_suggestions('toy', query => '[1,0]')",
    "SELECT * FROM cbir.explain_match(1, 37)",
    "SELECT * FROM cbir.find_image(sop_uid => 'study b1.1')",
    "SELECT * FROM cbir.precision_by('class')",
    "SELECT * FROM cbir.precision_by_index_size(2)",
    "SELECT * FROM cbir.precision_without_leakage(2)",
    "SELECT * FROM cbir.leakage(2)",
    "SELECT * FROM cbir.leaking_image(2)",
    "SELECT * FROM cbir.knn_accuracy(2, '{1}')",
    "SELECT * FROM cbir.knn_prediction(2, '{1}')",
    "SELECT * FROM cbir.anatomy_up_to(5)",
    "SELECT * FROM cbir.scored_list('run', 2)",
    "SELECT * FROM cbir.paired_precision_cell(2, 3, '{1}')",
    "SELECT * FROM cbir.encoder_status()",
    "SELECT * FROM cbir.dataset_status()",
]
"""Each function that readers call, with something of the other site's in it."""


@pytest.fixture(scope="module")
def restored(role_server: str, sites: str, logins: Logins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Restore a dump with --no-owner as a member of cbir_admin who is no superuser; yield the database's name."""
    dump = tmp_path_factory.mktemp("dump") / "sites.dump"
    name = f"cbirdb_restored_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(role_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO cbir_admin").format(sql.Identifier(name)))
        with psycopg.connect(make_conninfo(role_server, dbname=name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        bin_folder = EmbeddedServer(dump.parent).psql().parent
        subprocess.run(
            [
                bin_folder / "pg_dump",
                "-Fc",
                "--schema=cbir",
                "--schema=cbir_internal",
                "-f",
                dump,
                "-d",
                make_conninfo(role_server, dbname=sites),
            ],
            check=True,
        )
        subprocess.run(
            [bin_folder / "pg_restore", "--no-owner", "--exit-on-error", "-d", logins.dsn("admin", name), dump],
            check=True,
        )
        yield name
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_this_file_tries_every_function_that_readers_call(restored: str, logins: Logins) -> None:
    with logins.connect("admin", restored) as connection:
        names = {
            name
            for (name,) in connection.execute(
                "SELECT name FROM cbir_internal.function_audience() WHERE audience = 'reader'"
            )
        }
    assert names == {call.removeprefix("SELECT * FROM cbir.").partition("(")[0] for call in READER_CALLS}


@pytest.mark.parametrize("call", READER_CALLS)
def test_restored_function_refuses_a_site_until_the_upgrade(restored: str, logins: Logins, call: str) -> None:
    with logins.connect("site_a", restored) as here, pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        here.execute(call.encode())
    assert caught.value.diag.message_hint == "After a restore, the owner of schema cbir must run: cbirdb db upgrade"


def test_restored_views_show_a_site_only_its_own_rows(restored: str, logins: Logins) -> None:
    with logins.connect("site_a", restored) as here:
        assert here.execute("SELECT DISTINCT dataset FROM cbir.image_overview").fetchall() == [("a",)]
        assert here.execute("SELECT count(*) FROM cbir.failure_overview").fetchone() == (1,)
        assert here.execute("SELECT DISTINCT run_id FROM cbir.neighbour").fetchall() == [(1,)]


def test_one_upgrade_after_a_restore_makes_searches_answer_as_before(
    restored: str, sites: str, logins: Logins, capsys: pytest.CaptureFixture[str]
) -> None:
    own = logins.dsn("admin", restored)
    assert run(["--dsn", own, "db", "doctor"]) == 4
    assert "does not run as its owner" in (told := capsys.readouterr().out) or "it belongs to" in told
    assert run(["--dsn", own, "db", "upgrade"]) == 0
    with logins.connect("site_a", restored) as here, logins.connect("site_a", sites) as before:
        for call in READER_CALLS:
            assert _answer(here, call) == _answer(before, call)


def _answer(connection: psycopg.Connection, call: str) -> object:
    try:
        return connection.execute(call.encode()).fetchall()
    except psycopg.Error as error:
        return error.diag.message_primary
