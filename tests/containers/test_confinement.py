"""Test what each service of docker/compose.yaml may do and see, and that archive and restore survive failures.

No service needs the image of cbirdb here: the database's, with a shell, takes its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.compose_project import Done, Run, clone_into, compose_project, must
from tests.support.database_container import IMAGE, ROOT

SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
CLIENT = 10001
"""The user of the image cbirdb."""
SHELLS = {
    "setup": "docker compose run --rm --no-deps -T --entrypoint sh setup -c",
    "db": "docker compose exec -T db sh -c",
    "restore": "docker compose run --rm --no-deps -T --entrypoint sh restore -c",
    "migrate": f"docker compose run --rm --no-deps -T --user {CLIENT} --entrypoint sh migrate -c",
    "cbirdb": f"docker compose run --rm --no-deps -T --user {CLIENT} --entrypoint sh cbirdb -c",
}
"""Commands that run a line of shell as each service does its work. (cbirdb-gpu is cbirdb with another image.)"""
SEEN = {
    "setup": {"ca.key", "ca.crt", "server.key", "server.crt", "superuser_password", "owner_password", "pgpass"},
    "db": {"ca.crt", "server.key", "server.crt", "superuser_password", "owner_password"},
    "restore": set(),
    "migrate": {"ca.crt", "pgpass"},
    "cbirdb": {"ca.crt", "pgpass"},
}
CHOWN, DAC_OVERRIDE, FOWNER = 1 << 0, 1 << 1, 1 << 3
DATA = "/var/lib/postgresql/18/docker"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start a project's database with archiving on and a base backup."""
    with compose_project(clone_into(tmp_path_factory.mktemp("clone") / "cbirdb"), {"CBIRDB_IMAGE": IMAGE}) as call:
        must(call("docker compose up -d db"))
        wait(call)
        must(psql(call, "ALTER SYSTEM SET archive_mode = on"))
        must(call("docker compose restart db"))
        wait(call)
        must(psql(call, "CREATE TABLE mark (what text)"))
        must(call("docker compose exec -T db pg_basebackup -D /backup/base --checkpoint=fast"))
        yield call


def shell(run: Run, service: str, line: str) -> Done:
    assert "'" not in line
    return run(f"{SHELLS[service]} '{line}'")


def psql(run: Run, statement: str) -> Done:
    return run(f"docker compose exec -T db psql -XqAt <<'SQL'\n{statement}\nSQL")


def wait(run: Run) -> None:
    must(run("docker compose exec -T db sh -c 'until pg_isready -q -h 127.0.0.1; do sleep 0.2; done'"))
    # It answers while it still recovers.
    recovered = 'until [ "$(psql -XqAt -c "SELECT pg_is_in_recovery()" 2>/dev/null)" = f ]; do sleep 0.2; done'
    must(run(f"timeout 60 docker exec $(docker compose ps -q db) sh -c '{recovered}'"))


# -- confinement -------------------------------------------------------------------------------------------------------


def test_these_tests_cover_every_service() -> None:
    assert set(SERVICES) == {*SHELLS, "cbirdb-gpu"}
    assert SERVICES["cbirdb-gpu"]["volumes"] == SERVICES["cbirdb"]["volumes"]


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_drops_capabilities_and_has_limits(service: str) -> None:
    written = SERVICES[service]
    assert written["cap_drop"] == ["ALL"]
    assert written["security_opt"] == ["no-new-privileges:true"]
    assert written["read_only"] is True
    assert written["mem_limit"]
    assert written["pids_limit"]
    assert written.get("cap_add", []) == (["CHOWN", "DAC_OVERRIDE", "FOWNER"] if service == "setup" else [])


@pytest.fixture(scope="module")
def password(run: Run) -> str:
    """Read the superuser's password."""
    found = must(shell(run, "db", "cat /run/cbirdb/superuser_password")).strip()
    assert len(found) == 48
    return found


@pytest.fixture(scope="module", params=sorted(SHELLS))
def seen(request: pytest.FixtureRequest, run: Run, password: str) -> dict[str, str]:
    """Ask a service what it sees of itself."""
    process = 1 if request.param == "db" else "self"
    questions = {
        "secrets": "find /run/cbirdb -type f 2>/dev/null",
        "with password": f"grep -rlsF {password} /run /etc /data /backup/base /tmp 2>/dev/null",
        "environment": "env",
        "status": f"cat /proc/{process}/status",
        "mounts": "cat /proc/mounts",
        "written": "touch /tmp/x && echo /tmp; touch /etc/x 2>/dev/null && echo /etc",
    }
    answers = must(
        shell(run, request.param, "; ".join(f"echo ==; {question}" for question in questions.values()) + "; true")
    )
    parts = answers.split("==\n")[1:]
    return {"service": request.param, **dict(zip(questions, parts, strict=True))}


def names(lines: str) -> set[str]:
    return {Path(line).name for line in lines.split()}


def test_each_service_sees_only_its_own_secrets(seen: dict[str, str], password: str) -> None:
    own = SEEN[seen["service"]]
    assert names(seen["secrets"]) - {"ca.srl"} == own
    assert names(seen["with password"]) == {"superuser_password"} & own
    assert password not in seen["environment"]


def test_each_service_runs_with_only_the_capabilities_that_it_needs(seen: dict[str, str]) -> None:
    setup = seen["service"] == "setup"
    status = dict(line.split(":", 1) for line in seen["status"].splitlines())
    allowed = CHOWN | DAC_OVERRIDE | FOWNER if setup else 0
    for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) & ~allowed == 0, kind
    assert int(status["NoNewPrivs"]) == 1
    assert (status["Uid"].split()[0] == "0") == setup


def test_each_service_writes_only_into_volumes_and_memory(seen: dict[str, str]) -> None:
    mounts = {line.split()[1]: line.split()[3].split(",") for line in seen["mounts"].splitlines()}
    assert "ro" in mounts["/"]
    assert seen["written"].split() == ["/tmp"]
    if seen["service"] in {"db", "migrate", "cbirdb"}:
        assert "ro" in mounts["/run/cbirdb"]


def megabytes(text: str) -> int:
    """Convert ``1536m``, ``1GB`` or ``${NAME:-6g}`` to megabytes."""
    number, unit = re.fullmatch(r"(?:\$\{\w+:-)?(\d+)([mMgG])[bB]?\}?", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit in "gG" else 1)


def test_default_settings_fit_the_memory_of_the_database() -> None:
    database = SERVICES["db"]
    settings = dict(argument.split("=", 1) for argument in database["command"][2::2])
    builds, shared = (megabytes(settings[name]) for name in ("maintenance_work_mem", "shared_buffers"))
    assert megabytes(database["shm_size"]) > builds
    workers, searches = 3 * megabytes(settings["autovacuum_work_mem"]), 20 * megabytes(settings["work_mem"])
    in_memory = sum(int(re.search(r"size=(\d+)m", mount)[1]) for mount in database["tmpfs"])  # type: ignore[index]
    needed = shared + megabytes(database["shm_size"]) + builds + workers + searches + in_memory
    assert needed <= megabytes(database["mem_limit"])
    # The rest of the memory caches files, as the planner is told.
    assert megabytes(settings["effective_cache_size"]) <= megabytes(database["mem_limit"])


def test_limits_of_memory_and_processes_reach_the_engine(run: Run) -> None:
    form = "'{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}'"
    assert must(run(f"docker inspect -f {form} $(docker compose ps -q db)")).split() == [str(6 * 2**30), "512"]


def test_connections_are_logged_with_role_method_and_address(run: Run) -> None:
    connect = 'psql "host=db dbname=cbirdb user=cbirdb sslmode=verify-full sslrootcert=/run/cbirdb/ca.crt" -XqAtc'
    assert must(shell(run, "cbirdb", f'{connect} "SELECT current_user"')).strip() == "cbirdb"
    log = run("docker logs $(docker compose ps -q db)")
    lines = [line for line in (log.stdout + log.stderr).splitlines() if "cbirdb@cbirdb" in line]
    assert any(
        re.search(r"\d+\.\d+\.\d+\.\d+ cbirdb@cbirdb LOG: +connection authorized: user=cbirdb", x) for x in lines
    )
    assert any("method=scram-sha-256" in line for line in lines)


def test_changed_certificate_reaches_the_server(run: Run) -> None:
    show = "openssl x509 -noout -serial -in /run/cbirdb/server.crt"
    before = must(shell(run, "db", show))
    must(run("docker compose run --rm -T --entrypoint rm setup /run/cbirdb/server.crt"))
    must(run("docker compose run --rm -T setup"))
    assert must(shell(run, "db", show)) not in {before, ""}


# -- the archive -------------------------------------------------------------------------------------------------------

ARCHIVE = "bash /etc/cbirdb/archive.sh"


@pytest.fixture
def archive(run: Run) -> Iterator[str]:
    """Make a folder for the test, with a segment beside it."""
    folder = "/backup/try"
    must(shell(run, "db", f"rm -rf {folder}; mkdir -p {folder}/to; head -c 16M /dev/urandom >{folder}/segment"))
    yield folder
    must(shell(run, "db", f"rm -rf {folder}"))


@pytest.mark.parametrize(
    ("program", "then", "left"),
    [
        ("cp", "head -c 5000000 \\$1 >\\$2", []),
        ("sync", "true", []),
        ("mv", "/bin/mv \\$@", ["000000010000000000000042"]),
    ],
    ids=["half a copy", "not on disk", "renamed"],
)
def test_crash_while_archiving_leaves_a_whole_segment_or_none(
    run: Run, archive: str, program: str, then: str, left: list[str]
) -> None:
    name = "000000010000000000000042"
    call = f"{ARCHIVE} {archive}/segment {name} {archive}/to"
    bin_folder = f"{archive}/bin"
    prepare = (
        f'mkdir {bin_folder}; printf "#!/bin/sh\\n{then}\\nkill -9 \\$PPID\\n" >{bin_folder}/{program};'
        f" chmod 755 {bin_folder}/{program}"
    )
    must(shell(run, "db", prepare))
    assert shell(run, "db", f"PATH={bin_folder}:$PATH {call}").returncode == 137
    assert must(shell(run, "db", f"ls {archive}/to")).split() == left
    must(shell(run, "db", call))
    must(shell(run, "db", f"cmp {archive}/segment {archive}/to/{name}"))
    assert must(shell(run, "db", f"ls -A {archive}/to")).split() == [name]


def test_archived_segment_is_accepted_again_and_never_overwritten_by_another(run: Run, archive: str) -> None:
    call = f"{ARCHIVE} {archive}/segment segment {archive}/to"
    must(shell(run, "db", call))
    must(shell(run, "db", call))
    must(shell(run, "db", f"cp {archive}/segment {archive}/first; echo x >>{archive}/segment"))
    refused = shell(run, "db", call)
    assert refused.returncode == 1
    assert "the archive already holds another file under the name segment" in refused.stderr
    must(shell(run, "db", f"cmp {archive}/first {archive}/to/segment"))


def test_server_archives_a_segment_with_the_script(run: Run) -> None:
    done = must(psql(run, "SELECT pg_walfile_name(pg_switch_wal())")).strip()
    must(shell(run, "db", f'timeout 30 sh -c "until [ -s /backup/wal/{done} ]; do sleep 0.2; done"'))
    assert must(psql(run, "SELECT failed_count FROM pg_stat_archiver")).strip() == "0"


# -- restore -----------------------------------------------------------------------------------------------------------

ODD = "It's \"Monday\", 2026-11-24 \\ $(id) `id` %p; 9 o'clock"


def marks(run: Run) -> list[str]:
    return must(psql(run, "SELECT what FROM mark ORDER BY what")).split()


def restore(run: Run, *arguments: str, options: str = "") -> Done:
    """Run ``docker compose run --rm restore``; each argument is one word."""
    words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in arguments)
    return run(f"docker compose run --rm -T {options} restore {words}")


def test_restore_reaches_a_moment_and_a_restore_point_of_any_name(run: Run) -> None:
    must(psql(run, "INSERT INTO mark VALUES ('a')"))
    must(psql(run, f"SELECT pg_create_restore_point($x${ODD}$x$)"))
    must(psql(run, "INSERT INTO mark VALUES ('b')"))
    moment = must(psql(run, "SELECT now()")).strip()
    must(psql(run, "INSERT INTO mark VALUES ('c')"))
    must(psql(run, "SELECT pg_switch_wal()"))
    must(run("docker compose stop db"))
    for target, expected in ((("time", moment), ["a", "b"]), (("name", ODD), ["a"])):
        said = must(restore(run, *target))
        assert re.search(rf"What was there before is in {DATA}\.before-\d+T\d+\.", said)
        must(run("docker compose up -d db"))
        wait(run)
        assert marks(run) == expected
        must(run("docker compose stop db"))
    must(run("docker compose up -d db"))
    wait(run)


REFUSED = {
    'name ""': "the target name is empty",
    "name " + "n" * 64: "PostgreSQL does not take this target",
    "time yesterday": "PostgreSQL does not take this target",
    "time 2026-13-24": "PostgreSQL does not take this target",
    "point x": "docker compose run --rm restore latest",
    "name two words": "docker compose run --rm restore latest",
    "latest please": "docker compose run --rm restore latest",
    "": "docker compose run --rm restore latest",
}


def test_restore_refuses_an_invalid_target_and_changes_nothing(run: Run) -> None:
    before = must(shell(run, "db", f"ls {DATA}/..")).split()
    calls = "; ".join(f"bash /restore.sh {target} 2>&1; echo code $?; echo ==" for target in REFUSED)
    answers = must(shell(run, "restore", calls)).split("==\n")
    for (target, said), answer in zip(REFUSED.items(), answers, strict=False):
        assert said in answer, target
        assert answer.endswith("code 2\n"), target
    assert must(shell(run, "db", f"ls {DATA}/..")).split() == before


def test_restore_beside_a_running_server_is_refused(run: Run) -> None:
    refused = restore(run, "latest")
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr


@pytest.fixture
def stopped(run: Run) -> Iterator[list[str]]:
    """Stop the database for the test; check afterwards that its content is unchanged."""
    before = marks(run)
    must(run("docker compose stop db"))
    yield before
    must(run("docker compose up -d db"))
    wait(run)
    assert marks(run) == before


def test_restore_whose_copy_fails_says_that_the_database_is_unchanged(run: Run, stopped: list[str]) -> None:
    must(shell(run, "restore", "chmod 000 /backup/base/PG_VERSION"))
    try:
        failed = restore(run, "latest")
    finally:
        must(shell(run, "restore", "chmod 600 /backup/base/PG_VERSION"))
    assert failed.returncode == 1
    assert f"The database is in {DATA}, as it was before." in failed.stderr
    assert "docker.restoring" not in must(shell(run, "restore", f"ls {DATA}/.."))


@pytest.mark.parametrize(
    ("fails_at", "said"),
    [(2, f"The database is in {DATA}, as it was before."), (0, f"move it back to {DATA}")],
    ids=["the new one cannot take its place", "nor can the old one go back"],
)
def test_restore_that_fails_half_way_says_where_the_database_is(
    run: Run, stopped: list[str], fails_at: int, said: str
) -> None:
    program = (
        "#!/bin/sh\\necho >>/tmp/calls\\ncalls=\\$(wc -l </tmp/calls)\\n"
        f'[ \\$calls != {fails_at} ] && [ \\$calls = 1 -o {fails_at} != 0 ] && exec /bin/mv \\"\\$@\\"\\nexit 1\\n'
    )
    must(shell(run, "restore", f'mkdir -p /backup/bin; printf "{program}" >/backup/bin/mv; chmod 755 /backup/bin/mv'))
    path = "/backup/bin:/usr/lib/postgresql/18/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    failed = restore(run, "latest", options=f"-e PATH={path}")
    must(shell(run, "restore", "rm -r /backup/bin"))
    assert failed.returncode == 1
    assert said in failed.stderr
    if fails_at == 0:
        aside = re.search(r"(\S+\.before-\S+): move it back", failed.stderr)
        assert aside
        must(shell(run, "restore", f"mv -T {aside[1]} {DATA}"))
