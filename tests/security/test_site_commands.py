"""Test that commands of a site's reader work without table rights and show only the site's own data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run
from tests.conftest import Logins
from tests.support.two_sites import IMAGES, answer

READS = [
    ("db", "status"),
    ("db", "doctor"),
    ("metrics", "-n", "1,5"),
    ("metrics", "--by", "class", "-n", "1"),
    ("metrics", "--by", "index-size", "-n", "1", "--run", "1"),
    ("metrics", "--by", "anatomy", "-n", "1", "--run", "1"),
    ("metrics", "--confidence", "--resamples", "100", "-n", "1"),
    ("leakage", "-e", "toy", "-n", "1"),
    ("leakage", "-e", "toy", "--causes"),
    ("failures",),
    ("encoders", "list"),
    ("search", "-e", "toy", "--image-id", "1"),
    ("search", "-e", "toy", "--sop-uid", "study a1.1"),
    ("search", "-e", "toy", "--image-id", "1", "--label", "XR/shared", "--dataset", "a"),
    ("search", "-e", "toy", "--sop-uid", "study a1.1", "--sheet", "SHEET"),
]


@pytest.mark.parametrize("command", READS, ids=" ".join)
def test_commands_of_a_sites_reader_show_nothing_of_another_site(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    words = [str(tmp_path / "sheet.png") if word == "SHEET" else word for word in command]
    assert run(["--dsn", logins.dsn("site_a", sites), *words]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert "study b" not in shown.out
    assert "broken b" not in shown.out
    assert "XR/b" not in shown.out


@pytest.mark.parametrize(("login", "may"), [("site_a", "read"), ("ingest_a", "read, ingest")])
def test_doctor_says_what_the_login_of_a_site_may_do(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str], login: str, may: str
) -> None:
    assert run(["--dsn", logins.dsn(login, sites), "db", "doctor", "--format", "csv"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Privileges")]
    assert f"{logins.names[login]} may {may}" in line.replace('"', "").partition(",This role")[0].split(",ok,")[1:]


def test_db_status_counts_only_what_the_site_sees(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--dsn", logins.dsn("site_a", sites), "db", "status", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("dataset")] == ['dataset,a,"30 images, 2 labels, read by test"']
    assert [line for line in lines if line.startswith("encoder")] == [
        'encoder,toy,"30 embeddings, 2 dimensions, single precision"'
    ]
    assert len([line for line in lines if line.startswith("run")]) == 1
    assert not [line for line in lines if line.startswith("index")]


@pytest.mark.parametrize(
    "command",
    [
        ("search", "-e", "toy", "--image-id", "37"),
        ("search", "-e", "toy", "--sop-uid", "study b1.1"),
        ("search", "-e", "toy", "--image-id", "1", "--dataset", "b"),
        ("metrics", "--run", "2"),
    ],
    ids=" ".join,
)
def test_commands_say_that_hidden_data_does_not_exist(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert run(["--dsn", logins.dsn("site_a", sites), *command]) == 1
    assert re.search(r"(There|there) is no|No image has", capsys.readouterr().err)


def test_administrator_audits_an_index_over_the_vectors_of_all_sites(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--dsn", logins.dsn("admin", sites), "index", "audit", "-e", "toy", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sample"], row["self_retrieval"], row["passed"]) == (2 * IMAGES, 1, True)
    assert row["answered_exactly"] == 0, "the audit measured exact searches"
    with logins.connect("admin", sites) as admin:
        stored = admin.execute("SELECT sample, recall_at_10, passed FROM cbir.index_audit").fetchall()
    assert stored == [(2 * IMAGES, row["recall_10"], True)]


@pytest.mark.parametrize("login", ["site_a", "ingest_a"])
def test_site_can_neither_audit_an_index_nor_read_its_audit(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str], login: str
) -> None:
    assert run(["--dsn", logins.dsn("admin", sites), "index", "audit", "-e", "toy"]) == 0
    with logins.connect("admin", sites) as admin:
        before = admin.execute("SELECT index_build_id, audit FROM cbir.index_build").fetchall()
    capsys.readouterr()
    assert run(["--dsn", logins.dsn(login, sites), "index", "audit", "-e", "toy"]) == 3
    refused = capsys.readouterr()
    assert refused.out == ""
    assert "not allowed" in refused.err
    with logins.connect("admin", sites) as admin:
        assert admin.execute("SELECT index_build_id, audit FROM cbir.index_build").fetchall() == before
    with logins.connect(login, sites) as site:
        assert answer(site, "SELECT * FROM cbir.index_audit") == []


def test_audit_by_a_restricted_role_with_table_rights_names_row_level_security(
    sites: str, logins: Logins, role_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, site = "SELECT ON cbir.embedding_toy, cbir.index_build, cbir.encoder", logins.names["site_a"]
    with psycopg.connect(make_conninfo(role_server, dbname=sites), autocommit=True) as superuser:
        superuser.execute(f"GRANT {tables} TO {site}".encode())
        try:
            assert run(["--dsn", logins.dsn("site_a", sites), "index", "audit", "-e", "toy"]) == 1
        finally:
            superuser.execute(f"REVOKE {tables} FROM {site}".encode())
    assert "Row-level security hides images from this role" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [("evaluate", "-e", "toy"), ("erase", "--patient", "a1", "--yes"), ("index", "build", "-e", "toy")],
    ids=" ".join,
)
def test_commands_of_administrators_are_refused_to_a_site(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert run(["--dsn", logins.dsn("site_a", sites), *command]) == 3
    assert "not allowed" in capsys.readouterr().err
