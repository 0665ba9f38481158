"""Test the deployed database from its first start: its owner is no superuser and connects by TLS."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trustme
from psycopg.conninfo import make_conninfo

from tests.conftest import Outcome
from tests.support.database_container import PASSWORD, ROOT, DatabaseContainer, database_container

OWNER_PASSWORD = "eines: mit\\ 'Zeichen'"
GROUPS = ("cbir_admin", "cbir_auditor", "cbir_ingest", "cbir_reader", "cbir_search")
Cli = Callable[..., Outcome]


@dataclass(frozen=True)
class Deployed:
    """Hold the server and the folder with certificates that clients may trust."""

    server: DatabaseContainer
    folder: Path

    def dsn(self, user: str = "cbirdb", password: str = OWNER_PASSWORD, **parts: str) -> str:
        """Return a DSN as in compose.yaml, but from outside."""
        checked = {"sslmode": "verify-full", "sslrootcert": str(self.folder / "ca.crt")}
        return self.server.dsn(**{"dbname": "cbirdb", "user": user, "password": password} | checked | parts)

    def superuser(self, statement: str) -> str:
        """Run a statement as a DBA inside the container."""
        return self.server.run("psql", "-XqAt", "-d", "cbirdb", "-c", statement, user="postgres").strip()


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    """Start the image with the settings of ``docker/`` and certificates made for the test."""
    folder = Path(tempfile.mkdtemp(prefix="cbirdb-deployed-"))
    folder.chmod(0o755)
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    stranger.cert_pem.write_to_path(folder / "stranger.crt")
    issued = authority.issue_cert("127.0.0.1", "db")
    issued.private_key_pem.write_to_path(folder / "server.key")
    issued.cert_chain_pems[0].write_to_path(folder / "server.crt")
    (folder / "server.key").chmod(0o600)
    (folder / "owner_password").write_text(OWNER_PASSWORD)
    # Who postgres is inside the image, the image alone knows.
    give = 'chown postgres /run/cbirdb/server.key && exec docker-entrypoint.sh postgres "$@"'
    try:
        with database_container(
            "-c", "hba_file=/etc/cbirdb/pg_hba.conf", "-c", "ssl=on", "-c", "ssl_cert_file=/run/cbirdb/server.crt",
            "-c", "ssl_key_file=/run/cbirdb/server.key",
            environment={"CBIRDB_PASSWORD_FILE": "/run/cbirdb/owner_password"},
            volumes=[
                (folder, "/run/cbirdb", "rw"),
                (ROOT / "docker" / "pg_hba.conf", "/etc/cbirdb/pg_hba.conf", "ro"),
                (ROOT / "docker" / "initdb" / "10-cbirdb.sh", "/docker-entrypoint-initdb.d/10-cbirdb.sh", "ro"),
                (ROOT / "sql" / "dba", "/usr/local/share/cbirdb/dba", "ro"),
                (ROOT / "docker" / "roles.sql", "/etc/cbirdb/roles.sql", "ro"),
            ],
            wait_as={"user": "cbirdb", "password": OWNER_PASSWORD, "dbname": "cbirdb", "sslmode": "require"},
            entrypoint=["/bin/bash", "-c", give],
        ) as server:  # fmt: skip
            yield Deployed(server, folder)
    finally:
        shutil.rmtree(folder)


def test_first_start_makes_owner_groups_database_and_extension(deployed: Deployed) -> None:
    with psycopg.connect(deployed.dsn()) as connection:
        flags = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        ).fetchone()
        groups = connection.execute(
            "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'cbir\\_%' ORDER BY rolname"
        ).fetchall()
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'cbirdb'"
        ).fetchone()
        extension = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        ciphered = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert flags == (False,) * 5
    assert groups == [(name, False) for name in GROUPS]
    assert owner == ("cbirdb",)
    assert extension is not None
    assert ciphered == (True, "TLSv1.3")


def test_server_log_does_not_contain_the_owners_password(deployed: Deployed) -> None:
    assert "Zeichen" not in deployed.server.log()


def test_whole_pipeline_runs_as_the_owner_over_verified_tls(
    deployed: Deployed, cli: Cli, class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBIRDB_DSN", deployed.dsn())
    assert "cbirdb db upgrade" in cli("db", "status").err
    for command in (
        ["db", "upgrade"],
        ["ingest", "folder", class_folder, "--split", "50/0/50"],
        ["encode", "-e", "tiny-image"],
        ["index", "build", "-e", "tiny-image"],
        ["evaluate", "-e", "tiny-image"],
    ):
        outcome = cli("-q", *command)
        assert outcome.code == 0, outcome.err
    found = cli("search", "--image-id", 1, "-e", "tiny-image", "-k", 3, "--format", "json")
    assert [row["rank"] for row in found.rows] == [1, 2, 3]
    assert [row["n"] for row in cli("metrics", "-e", "tiny-image", "--format", "json").rows] == [1, 3, 5, 10]
    doctor = cli("db", "doctor", "--format", "json")
    assert {row["result"] for row in doctor.rows} == {"ok"}
    assert not [row for row in doctor.rows if "superuser" in row["advice"]]
    demo = cli("-q", "demo", "--out", tmp_path / "demo", "--format", "json")
    assert demo.code == 0, demo.err
    assert all(0 < row["micro_precision"] <= 1 for row in demo.rows)


def test_member_of_cbir_reader_can_search_and_cannot_build_an_index(
    deployed: Deployed, cli: Cli, class_folder: Path
) -> None:
    owner = deployed.dsn()
    assert cli("-q", "--dsn", owner, "db", "upgrade").code == 0
    assert cli("-q", "--dsn", owner, "ingest", "folder", class_folder, "--name", "readers").code == 0
    assert cli("-q", "--dsn", owner, "encode", "-e", "tiny-image").code == 0
    deployed.superuser("CREATE ROLE radiologist LOGIN PASSWORD 'eins' IN ROLE cbir_reader")
    reader = deployed.dsn("radiologist", "eins")
    search = cli("-q", "--dsn", reader, "search", "--image-id", 1, "-e", "tiny-image", "-k", 2, "--format", "json")
    assert search.code == 0, search.err
    assert len(search.rows) == 2
    refused = cli("-q", "--dsn", reader, "index", "build", "-e", "tiny-image")
    assert refused.code == 3
    assert refused.err.startswith("Error: This role is not allowed to do that")


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"sslmode": "disable"}, "The server's rules do not admit this role from this address in this way."),
        ({"sslrootcert": "stranger.crt"}, "The server's certificate is not signed by the CA in sslrootcert."),
        ({"sslrootcert": "nowhere.crt"}, "The file with the CA's certificate cannot be read."),
        (
            {"host": "localhost"},
            "The server's certificate is made for another name than the host in the connection string.",
        ),
        ({"password": "falsch"}, "The server refused the password."),
        (
            {"user": "postgres", "password": PASSWORD, "dbname": "postgres"},
            "The server's rules do not admit this role from this address in this way.",
        ),
    ],
    ids=["no encryption", "another CA", "no CA", "another name", "password", "superuser"],
)
def test_refused_connection_gives_the_reason_in_one_sentence(
    deployed: Deployed, cli: Cli, parts: dict[str, str], sentence: str
) -> None:
    if "sslrootcert" in parts:
        parts = {"sslrootcert": str(deployed.folder / parts["sslrootcert"])}
    dsn = make_conninfo(deployed.dsn(), **parts)
    outcome = cli("-q", "--dsn", dsn, "db", "status", "--format", "json")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith(f"Error: {sentence} ")
    assert len(outcome.err.splitlines()) == 1
    assert OWNER_PASSWORD not in outcome.err
    assert json.dumps(OWNER_PASSWORD) not in outcome.err


def test_roles_script_can_be_repeated_and_lets_the_owner_set_role_cbir_search(deployed: Deployed) -> None:
    deployed.superuser("DO $$ BEGIN IF to_regrole('cbir_search') IS NULL THEN CREATE ROLE cbir_search; END IF; END $$")
    for _ in range(2):
        deployed.server.run("psql", "-Xq", "-d", "cbirdb", "-f", "/etc/cbirdb/roles.sql", user="postgres")
    options = deployed.superuser(
        "SELECT inherit_option, set_option, admin_option FROM pg_auth_members"
        " WHERE roleid = 'cbir_search'::regrole AND member = 'cbirdb'::regrole"
    )
    assert options == "f|t|f"
