"""Test refused connections and missing rights: each gives one sentence and exit code 3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run
from cbirdb.db.errors import translated_errors
from cbirdb.db.schema.migrate import upgrade
from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.errors import DatabaseError

PASSWORD = "kein-Geheimnis-7"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Start a server for this file, where ``scram_user`` needs a password."""
    server = EmbeddedServer(tmp_path_factory.mktemp("connection") / "home")
    server.start()
    rules = server.data / "pg_hba.conf"
    rules.write_text("local all scram_user scram-sha-256\n" + rules.read_text())
    with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE scram_user LOGIN PASSWORD '{PASSWORD}'")
        admin.execute("CREATE ROLE stranger LOGIN")
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("CREATE DATABASE bare")
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        upgrade(connection)
    yield server
    server.stop()


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def inner(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return inner


def refused(outcome: tuple[int, str, str]) -> str:
    """Check exit code, stdout and stderr of a refusal; return its one line."""
    code, out, err = outcome
    assert code == 3, err
    assert out == ""
    assert err.startswith("Error: "), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert len(err) < 400, "too long to be one sentence and a hint"
    return err


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("postgresql://me@127.0.0.1:1/x", "No server answers at"),
        ("postgresql://me@127.0.0.1:1,127.0.0.1:2/x", "No server answers at"),
        ("postgresql://me@/x?host=/nowhere/socket", "No server answers at"),
        ("postgresql://me@no-such-host.invalid/x", "host name is unknown"),
        ("postgresql://me@127.0.0.1:port/x", 'invalid integer value "port"'),
        ("host=127.0.0.1 nonsense", "connection string is not valid"),
        ("host=127.0.0.1 colour=blue", "connection string is not valid"),
        ("postgresql://me@[::1/x", "connection string is not valid"),
    ],
)
def test_unreachable_server_gives_the_cause_and_advice(dsn: str, words: str, call: Call) -> None:
    err = refused(call("--dsn", dsn, "db", "status"))
    assert words in err
    assert any(advice in err for advice in ("Check", "looks like", "Write it like"))


@pytest.mark.parametrize(
    "command", ["search --image-id 1 -e tiny-image", "metrics", "db doctor", "db upgrade", "db uri"]
)
def test_every_command_says_that_no_server_answers(command: str, call: Call) -> None:
    assert "No server answers at" in refused(call("--dsn", "host=127.0.0.1 port=1", *command.split()))


def test_unknown_database_is_named(own: EmbeddedServer, call: Call) -> None:
    err = refused(call("--dsn", own.uri("no_such_database"), "db", "status"))
    assert '"no_such_database" does not exist' in err


def test_unknown_role_is_named(own: EmbeddedServer, call: Call) -> None:
    err = refused(call("--dsn", make_conninfo(own.uri(), user="no_such_role"), "db", "status"))
    assert "no_such_role" in err


def test_role_that_may_not_create_roles_is_told_how_others_can(own: EmbeddedServer, call: Call) -> None:
    err = refused(call("--dsn", make_conninfo(own.uri(), user="stranger"), "db", "roles"))
    assert "This role may not create roles." in err
    assert "cbirdb db roles --script | psql" in err


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("SELECT pg_sleep(60)", "The server stopped a statement: canceling statement due to statement timeout."),
        ("SELECT 1 / 0", "The database refused: division by zero."),
    ],
)
def test_failed_statement_becomes_one_sentence(own: EmbeddedServer, statement: str, sentence: str) -> None:
    with (
        psycopg.connect(own.uri(), autocommit=True, options="-c statement_timeout=200ms") as connection,
        pytest.raises(DatabaseError) as caught,
        translated_errors(),
    ):
        connection.execute(statement.encode())
    assert caught.value.message == sentence


def test_wrong_password_is_refused_and_not_printed(own: EmbeddedServer, call: Call) -> None:
    dsn = make_conninfo(own.uri(), user="scram_user", password="wrong-Secret-1")
    err = refused(call("--dsn", dsn, "db", "status"))
    assert "The server refused the password." in err
    assert "Secret" not in err


def test_missing_password_names_pgpassword(own: EmbeddedServer, call: Call) -> None:
    err = refused(call("--dsn", make_conninfo(own.uri(), user="scram_user"), "db", "status"))
    assert "PGPASSWORD" in err


def test_password_of_a_malformed_connection_string_is_not_printed(call: Call) -> None:
    for dsn in (f"postgresql://me:{PASSWORD}@127.0.0.1:port/x", f"host=127.0.0.1 password='{PASSWORD}"):
        assert PASSWORD not in refused(call("--dsn", dsn, "db", "status"))


def test_a_password_is_not_printed_when_no_server_answers(call: Call) -> None:
    assert PASSWORD not in refused(call("--dsn", f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", "db", "status"))


def test_libpq_variables_name_the_server_when_no_dsn_is_given(
    own: EmbeddedServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", str(own.socket_folder))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", "cbirdb")
    code, out, err = call("db", "status", "--format", "json")
    assert (code, [row["what"] for row in json.loads(out)]) == (0, ["server"]), err
    code, out, err = call("db", "uri")
    assert code == 0, err
    monkeypatch.delenv("PGHOST")
    monkeypatch.delenv("PGDATABASE")
    with psycopg.connect(out.strip()) as connection:
        assert connection.info.dbname == "cbirdb"
    monkeypatch.setenv("PGHOST", str(own.socket_folder))
    monkeypatch.setenv("PGDATABASE", "no_such_database")
    assert "no_such_database" in refused(call("db", "status"))


def test_db_uri_does_not_print_the_password_of_the_environment(
    own: EmbeddedServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", str(own.socket_folder))
    monkeypatch.setenv("PGUSER", "scram_user")
    monkeypatch.setenv("PGDATABASE", "cbirdb")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    code, out, err = call("db", "uri")
    assert code == 0, err
    assert PASSWORD not in out


def test_dsn_option_overrides_libpq_variables(own: EmbeddedServer, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "no-such-host.invalid")
    monkeypatch.setenv("PGDATABASE", "no_such_database")
    assert call("--dsn", own.uri(), "db", "status")[0] == 0


def test_commands_leave_a_database_without_schema_alone_and_name_db_upgrade(own: EmbeddedServer, call: Call) -> None:
    for command in ("db status", "metrics", "search --image-id 1 -e tiny-image", "encode -e tiny-image"):
        err = refused(call("--dsn", own.uri("bare"), *command.split()))
        assert "Run: cbirdb db upgrade" in err
    with psycopg.connect(own.uri("bare")) as connection:
        assert connection.execute("SELECT to_regnamespace('cbir')").fetchone() == (None,)


def test_role_that_may_not_create_the_extension_is_told_the_statement_to_ask_for(
    own: EmbeddedServer, call: Call
) -> None:
    err = refused(call("--dsn", make_conninfo(own.uri("bare"), user="stranger"), "db", "upgrade"))
    assert "CREATE EXTENSION vector" in err


def test_old_schema_error_names_its_state_and_db_upgrade(own: EmbeddedServer, call: Call) -> None:
    with psycopg.connect(own.uri("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE aged TEMPLATE cbirdb")
    with psycopg.connect(own.uri("aged"), autocommit=True) as connection:
        connection.execute("COMMENT ON SCHEMA cbir IS 'state 0000 0123456789abcdef'")
    err = refused(call("--dsn", own.uri("aged"), "db", "status"))
    assert "0000 0123456789abcdef" in err
    assert "Run: cbirdb db upgrade" in err


@pytest.mark.parametrize(
    "command",
    [
        "ingest folder FOLDER", "encode -e tiny-image", "import-embeddings -e new FOLDER", "search --image-id 1 -e tiny-image",
        "search --sop-uid 1.2 -e tiny-image", "index build -e tiny-image", "index status -e tiny-image",
        "index drop -e tiny-image", "evaluate -e tiny-image", "metrics", "failures", "encoders drop tiny-image --yes",
        "db status", "db upgrade", "demo --out FOLDER/out",
    ],
)  # fmt: skip
def test_role_without_privileges_is_refused_by_every_command(
    command: str, own: EmbeddedServer, call: Call, class_folder: Path
) -> None:
    if command.startswith("import"):
        import h5py

        with h5py.File(class_folder / "x.h5", "w") as file:
            file["a.png"] = [1.0, 0.0]
        command += "/x.h5"
    dsn = make_conninfo(own.uri(), user="stranger")
    assert "not allowed" in refused(call("--dsn", dsn, *command.replace("FOLDER", str(class_folder)).split()))
    with psycopg.connect(own.uri()) as connection:
        assert connection.execute("SELECT count(*) FROM cbir.dataset").fetchone() == (0,)


def test_role_with_read_rights_cannot_ingest(own: EmbeddedServer, call: Call, class_folder: Path) -> None:
    with psycopg.connect(own.uri(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader_role; CREATE ROLE reader_role LOGIN")
        connection.execute(
            "GRANT USAGE ON SCHEMA cbir TO reader_role; GRANT SELECT ON ALL TABLES IN SCHEMA cbir TO reader_role;"
            " GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cbir, cbir_internal TO reader_role"
        )
    dsn = make_conninfo(own.uri(), user="reader_role")
    assert call("--dsn", dsn, "db", "status")[0] == 0
    assert "not allowed" in refused(call("--dsn", dsn, "ingest", "folder", class_folder))
    with psycopg.connect(own.uri()) as connection:
        assert connection.execute("SELECT count(*) FROM cbir.dataset").fetchone() == (0,)


def test_lost_connection_during_ingest_gives_one_sentence(
    own: EmbeddedServer, call: Call, class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cbirdb.ingest import inspect_files

    outcome_of = inspect_files._outcome

    def outcome_after_the_connection_is_gone(look: Future) -> object:
        with psycopg.connect(own.uri("postgres"), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cbirdb'")
        return outcome_of(look)

    monkeypatch.setattr(inspect_files, "_outcome", outcome_after_the_connection_is_gone)
    assert "Run the same command again" in refused(call("-q", "--dsn", own.uri(), "ingest", "folder", class_folder))
