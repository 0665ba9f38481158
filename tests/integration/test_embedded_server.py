"""Test the embedded server: what it survives, who can connect, and where its files may lie."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from cbirdb.db.extension import extension_version
from cbirdb.db.known_defects import missing_fixes, on_embedded_server
from cbirdb.db.schema.migrate import current_state, installed_state
from cbirdb.db.schema.roles import ROLES, create_roles, existing_roles
from cbirdb.db.schema.sql_objects import ROLES_SCRIPT, repository_folder
from cbirdb.db.server.embedded import LONGEST_SOCKET_FOLDER, EmbeddedServer
from cbirdb.db.server.tuning import server_settings
from tests.support.waiting import eventually

PROGRAM = Path(sysconfig.get_path("scripts")) / "cbirdb"


def environment(home: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "CBIRDB_"))}
    return clean | {"CBIRDB_HOME": str(home)} | more


def cbirdb(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments], env=environment(home, **more), capture_output=True, text=True, timeout=120
    )


def one_sentence(done: subprocess.CompletedProcess[str]) -> None:
    assert done.stdout == ""
    # As root, that folders above the home were opened for the server's user is said before.
    said = [line for line in done.stderr.splitlines() if "allowing other users to enter" not in line]
    assert [line[:7] for line in said] == ["Error: "], done.stderr


def postmaster(server: EmbeddedServer) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Start a server that the tests of this file only read."""
    server = EmbeddedServer(tmp_path_factory.mktemp("embedded") / "home")
    done = cbirdb(server.home, "db", "start")
    assert done.returncode == 0, done.stderr
    yield server
    server.stop()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Provide a server that is not started yet and is stopped at the end."""
    server = EmbeddedServer(tmp_path / "home")
    yield server
    server.stop()


def test_db_start_creates_server_database_and_schema(running: EmbeddedServer) -> None:
    assert running.running()
    with psycopg.connect(running.uri()) as connection:
        assert current_state(connection) == installed_state()


def test_second_start_keeps_the_running_server(running: EmbeddedServer) -> None:
    before = postmaster(running)
    done = cbirdb(running.home, "db", "start")
    assert (done.returncode, done.stdout) == (0, "")
    assert postmaster(running) == before


def test_db_start_warns_of_fixes_that_the_server_lacks(running: EmbeddedServer) -> None:
    with psycopg.connect(running.uri()) as connection:
        lacking = missing_fixes(extension_version(connection) or "")
        assert on_embedded_server(connection)
    said = cbirdb(running.home, "db", "start").stderr
    assert said.startswith(f"Warning: {lacking} ") if lacking else "Warning" not in said


def test_only_the_owner_can_open_socket_folder_data_and_log(running: EmbeddedServer) -> None:
    for path, mode in ((running.socket_folder, 0o700), (running.data, 0o700), (running.log_file, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_server_log_omits_the_uid_of_a_failed_statement(running: EmbeddedServer) -> None:
    with psycopg.connect(running.uri()) as connection, pytest.raises(psycopg.errors.UndefinedFunction):
        connection.execute("SELECT * FROM nowhere('2.25.4711')")
    log = running.log_file.read_text()
    assert "nowhere" in log, "the error itself is there"
    assert "2.25.4711" not in log


def test_embedded_server_listens_on_no_network_port(running: EmbeddedServer) -> None:
    with psycopg.connect(running.uri()) as connection:
        assert connection.execute("SELECT current_setting('listen_addresses')").fetchone() == ("",)
    psutil = pytest.importorskip("psutil")
    assert [c for c in psutil.Process(postmaster(running)).net_connections("inet") if c.status == "LISTEN"] == []


def test_embedded_server_does_not_run_as_root(running: EmbeddedServer) -> None:
    assert Path(f"/proc/{postmaster(running)}").stat().st_uid != 0


def test_memory_and_worker_settings_fit_this_machine(running: EmbeddedServer) -> None:
    wanted = server_settings(running.data)
    with psycopg.connect(running.uri()) as connection:
        for name in ("shared_buffers", "maintenance_work_mem", "effective_cache_size"):
            row = connection.execute(
                "SELECT pg_size_bytes(current_setting(%s)) = pg_size_bytes(%s)", [name, wanted[name]]
            ).fetchone()
            assert row == (True,), name
        for name in ("max_parallel_workers", "max_parallel_maintenance_workers", "max_connections"):
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == (wanted[name],)
        # from the free space of the disk, which changes meanwhile
        source = "SELECT sourcefile LIKE '%/cbirdb.conf' FROM pg_settings WHERE name = 'max_wal_size'"
        assert connection.execute("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL").fetchone() == (0,)
        assert connection.execute(source).fetchone() == (True,)


def test_db_uri_prints_one_line_that_psycopg_connects_with(running: EmbeddedServer) -> None:
    done = cbirdb(running.home, "db", "uri")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    with psycopg.connect(done.stdout.strip()) as connection:
        assert connection.info.dbname == "cbirdb"


def test_db_psql_passes_arguments_and_exit_code_on(running: EmbeddedServer) -> None:
    done = cbirdb(running.home, "db", "psql", "-At", "-c", "SELECT 1")
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert cbirdb(running.home, "db", "psql", "-c", "SELECT nonsense").returncode == 1


def test_psql_options_override_the_connection_that_db_psql_supplies(running: EmbeddedServer) -> None:
    def who(*arguments: str) -> str:
        done = cbirdb(running.home, "db", "psql", "-XAtc", "SELECT current_user, current_database()", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with psycopg.connect(running.uri("postgres"), autocommit=True) as admin:
        admin.execute("CREATE ROLE nora LOGIN")
    usual = who()
    assert usual.endswith("|cbirdb")
    for arguments in (("-U", "nora"), ("-Unora",), ("--username=nora",), ("cbirdb", "nora")):
        assert who(*arguments) == "nora|cbirdb"
    for arguments in (("-d", "postgres"), ("--dbname=postgres",), ("postgres",)):
        assert who(*arguments) == usual.replace("|cbirdb", "|postgres")
    assert who("-d", "dbname=postgres user=nora") == "nora|postgres"
    for option, value in (("-h", "/nowhere"), ("-p", "1")):
        done = cbirdb(running.home, "db", "psql", option, value, "-c", "SELECT 1")
        assert done.returncode == 2, "psql connected to another server than it was told to"
        assert value in done.stderr


def test_db_psql_passes_the_password_only_to_its_own_user_and_server(running: EmbeddedServer) -> None:
    """Another user or another server than the connection string's does not get it."""
    with psycopg.connect(running.uri("cbirdb")) as connection:
        host, user = connection.info.host, connection.info.user
    dsn = f"host={host} dbname=cbirdb user={user} password=secret"
    shown = ("-XAtc", r"\! echo -n $PGPASSWORD")
    assert cbirdb(running.home, "--dsn", dsn, "db", "psql", *shown).stdout == "secret"
    for own in (("-U", user), ("-h", host), ("-p", "5432")):
        done = cbirdb(running.home, "--dsn", dsn, "db", "psql", *own, *shown)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_db_psql_as_the_first_command_creates_the_schema(fresh: EmbeddedServer) -> None:
    done = cbirdb(fresh.home, "db", "psql", "-At", "-c", "SELECT count(*) FROM cbir.image")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_db_status_of_an_empty_database_lists_only_the_server(running: EmbeddedServer) -> None:
    done = cbirdb(running.home, "db", "status", "--format", "json")
    assert (done.returncode, [row["what"] for row in json.loads(done.stdout)]) == (0, ["server"])


def test_embedded_server_passes_every_doctor_check(running: EmbeddedServer) -> None:
    done = cbirdb(running.home, "db", "doctor", "--format", "csv")
    assert done.returncode == 0, done.stdout
    results = [line.split(",")[1] for line in done.stdout.splitlines()[1:]]
    assert results == ["ok"] * 10


@pytest.mark.parametrize("missing", ["schema", "extension"])
def test_doctor_names_a_missing_schema_or_extension_and_db_upgrade(running: EmbeddedServer, missing: str) -> None:
    name = f"without_{missing}"
    with psycopg.connect(running.uri("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    if missing == "schema":
        with psycopg.connect(running.uri(name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
    done = cbirdb(running.home, "--dsn", running.uri(name), "db", "doctor")
    assert (done.returncode, done.stderr) == (4, "")
    failed = {line.split("  ")[0].strip() for line in done.stdout.splitlines() if "FAILED" in line}
    assert "Schema cbir" in failed
    assert ("pgvector version" in failed) == (missing == "extension")
    assert ("Nearest-neighbour query" in failed) == (missing == "extension")
    assert "cbirdb db upgrade" in done.stdout


@pytest.mark.parametrize("variable", ["PGPORT", "PGUSER", "PGPASSWORD", "PGOPTIONS", "PGSSLMODE", "PGDATA"])
def test_stray_libpq_variable_does_not_divert_from_the_embedded_server(running: EmbeddedServer, variable: str) -> None:
    values = {"PGPORT": "1", "PGOPTIONS": "-c search_path=nowhere", "PGSSLMODE": "require", "PGDATA": "/nowhere"}
    done = cbirdb(running.home, "db", "status", "--format", "json", **{variable: values.get(variable, "nobody")})
    assert (done.returncode, [row["what"] for row in json.loads(done.stdout)]) == (0, ["server"]), done.stderr


def test_db_start_and_stop_refuse_a_server_named_by_pghost(running: EmbeddedServer) -> None:
    for command in ("start", "stop"):
        done = cbirdb(running.home, "db", command, PGHOST=str(running.socket_folder))
        assert done.returncode == 3
        one_sentence(done)
    assert running.running()


def test_two_processes_can_start_a_new_server_at_once(fresh: EmbeddedServer) -> None:
    both = [
        subprocess.Popen([PROGRAM, "db", "start"], env=environment(fresh.home), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    with psycopg.connect(fresh.uri()) as connection:
        assert current_state(connection) == installed_state()


def test_roles_that_another_session_is_creating_are_waited_for(fresh: EmbeddedServer) -> None:
    """Both sessions have seen that the roles are missing; the second one meets the first one's when it commits."""
    fresh.start()
    script = repository_folder("sql") / ROLES_SCRIPT
    with (
        psycopg.connect(fresh.uri()) as first,
        psycopg.connect(fresh.uri(), autocommit=True) as second,
        psycopg.connect(fresh.uri(), autocommit=True) as observer,
        ThreadPoolExecutor(1) as threads,
    ):
        assert existing_roles(second) == []
        first.execute(script.read_bytes())
        late = threads.submit(create_roles, second, script)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        eventually(lambda: observer.execute(waiting, [second.info.backend_pid]).fetchone() == (1,))
        first.commit()
        late.result(timeout=30)
        assert existing_roles(second) == list(ROLES)


def test_data_and_settings_survive_stop_and_start(fresh: EmbeddedServer) -> None:
    fresh.start()
    with psycopg.connect(fresh.uri(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        connection.execute("ALTER SYSTEM SET work_mem = '77MB'")
    done = cbirdb(fresh.home, "db", "stop")
    assert (done.returncode, done.stdout) == (0, "")
    assert not fresh.running()
    assert not (fresh.data / "postmaster.pid").exists()
    assert cbirdb(fresh.home, "db", "stop").returncode == 0
    # A pid file that names a process long gone proves nothing.
    gone = subprocess.Popen(["true"])
    gone.wait()
    (fresh.data / "postmaster.pid").write_text(f"{gone.pid}\n{fresh.data}\n0\n5432\n{fresh.socket_folder}\n\n\n")
    fresh.start()
    with psycopg.connect(fresh.uri()) as connection:
        assert connection.execute("SELECT seven, current_setting('work_mem') FROM kept").fetchone() == (7, "77MB")


def test_committed_rows_survive_a_killed_server(fresh: EmbeddedServer) -> None:
    fresh.start()
    with psycopg.connect(fresh.uri(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
    os.kill(postmaster(fresh), signal.SIGKILL)
    done = cbirdb(fresh.home, "db", "psql", "-At", "-c", "SELECT seven FROM kept")
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def test_start_waits_for_processes_that_outlive_a_killed_server(fresh: EmbeddedServer) -> None:
    """The recovery process does so for seconds, while it does not check whether its server is alive."""
    fresh.start()
    killed = postmaster(fresh)
    children = Path(f"/proc/{killed}/task/{killed}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    starting = subprocess.Popen(
        [PROGRAM, "db", "start"], env=environment(fresh.home), stderr=subprocess.PIPE, text=True
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            starting.wait(4)
    finally:
        os.kill(int(children[0]), signal.SIGCONT)
    _, err = starting.communicate(timeout=60)
    assert starting.returncode == 0, err
    assert postmaster(fresh) != killed


def test_half_made_data_folder_is_recreated(fresh: EmbeddedServer) -> None:
    (fresh.data / "base").mkdir(parents=True)
    (fresh.data / "base" / "1").write_text("half")
    fresh.data.chmod(0o700)
    done = cbirdb(fresh.home, "db", "status", "--format", "json")
    assert (done.returncode, [row["what"] for row in json.loads(done.stdout)]) == (0, ["server"]), done.stderr


def test_next_start_creates_a_missing_database(fresh: EmbeddedServer) -> None:
    fresh.start()
    with psycopg.connect(fresh.uri("postgres"), autocommit=True) as admin:
        admin.execute("DROP DATABASE cbirdb")
    assert cbirdb(fresh.home, "db", "status").returncode == 0


@pytest.mark.parametrize(
    "name",
    ["Åsa's home - 影像", "per%41cent", "co,mma", 'quo"te', "dollar$HOME", r"back\nslash", "x" * 120],
    ids=["space, quote, unicode", "percent", "comma", "double quote", "dollar", "backslash", "too long for a socket"],
)
def test_home_of_any_name_works_or_is_refused_before_it_is_made(name: str, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / name)
    done = cbirdb(server.home, "db", "psql", "-At", "-c", "SELECT 1")
    try:
        if any(character in name for character in ',"$`\\\n'):
            assert done.returncode == 3
            one_sentence(done)
            assert "--home" in done.stderr  # says what to do, instead of showing PostgreSQL's confusion
            assert not server.home.exists()
        else:
            assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
            assert len(os.fsencode(server.socket_folder)) <= LONGEST_SOCKET_FOLDER
            assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
    finally:
        server.stop()


def test_planted_link_in_the_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("x" * 120))
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    victim.chmod(0o755)
    before = victim.stat()
    server.socket_folder.symlink_to(victim)
    try:
        done = cbirdb(server.home, "db", "start")
        assert (victim.stat().st_uid, victim.stat().st_mode) == (before.st_uid, before.st_mode)
        assert done.returncode == 3
        one_sentence(done)
    finally:
        server.stop()
        server.socket_folder.unlink()


def test_home_below_a_file_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = cbirdb(tmp_path / "file" / "home", "db", "start")
    assert done.returncode == 3
    one_sentence(done)
    assert "--home" in done.stderr


def test_home_that_is_a_file_is_refused_as_a_wrong_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = cbirdb(tmp_path / "file", "db", "start")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
