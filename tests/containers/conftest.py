"""Run servers of the deployed image; only the tests in this folder need a container engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from cbirdb.db.schema.migrate import upgrade
from tests.conftest import Outcome, command_line, picture_bytes
from tests.support.database_container import DatabaseContainer, database_container, require_engine

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.container)


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    require_engine()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``cbirdb`` in this process; tests here name their server and need no other."""
    return command_line(capsys)


@pytest.fixture(scope="module")
def database() -> Iterator[DatabaseContainer]:
    """Start a server for one file, whose tests may restart it."""
    with database_container(shm_size="256m") as server:
        yield server


@pytest.fixture
def own_dsn(database: DatabaseContainer) -> Iterator[str]:
    """Make an up-to-date database on that server; yield the superuser's DSN."""
    with psycopg.connect(database.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE cbirdb")
    with psycopg.connect(database.dsn("cbirdb"), autocommit=True) as connection:
        upgrade(connection)
    yield database.dsn("cbirdb")
    database.wait()
    with psycopg.connect(database.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE cbirdb WITH (FORCE)")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write sixty different pictures in two classes."""
    root = tmp_path_factory.mktemp("sixty") / "pictures"
    for number in range(60):
        path = root / f"class {number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number))
    return root
