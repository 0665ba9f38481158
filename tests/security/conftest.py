"""Provide a database in which two sites are kept apart, and logins of both."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import Logins, new_database
from tests.support.two_sites import evaluated, fill, indexed, probed, secure


@pytest.fixture(scope="module")
def sites(role_server: str, role_template: str, logins: Logins) -> Iterator[str]:
    """Fill, index and evaluate a database with both sites under row-level security; yield its name."""
    with new_database(role_server, role_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
            fill(connection, "b")
            connection.execute("UPDATE cbir.dataset SET root = '/images/' || name")
            connection.execute(
                "UPDATE cbir.image SET sha256 = sha256(convert_to(source, 'UTF8')), width = 500 + image_id"
            )
            connection.execute("UPDATE cbir.image SET modality = 'MR' WHERE source LIKE 'study b%'")
            indexed(connection)
            for datasets in (("a",), ("b",), ("a", "b")):
                evaluated(connection, *datasets)
                probed(connection, *datasets)
            connection.execute("UPDATE cbir.search_run SET started_at = '2001-01-01' WHERE datasets = '{b}'")
            secure(connection, logins)
            connection.execute("ANALYZE")
        yield str(conninfo_to_dict(dsn)["dbname"])
