"""Test that row-level security hides the other site: the database looks as if its data were not there.

The vectors of the two lie between each other, and an HNSW index covers both. What one site sees is compared, for
every table, view and search function, errors and hints included, with a database that holds its data alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from cbirdb.cli.main import run
from cbirdb.db.embeddings import register_encoder
from tests.conftest import Logins, _database, picture_bytes
from tests.support.two_sites import ABSENT, HIDDEN, IMAGES, answer, evaluated, fill, indexed, probed, secure, vectors


@pytest.fixture(scope="module")
def both(role_server: str, role_template: str, logins: Logins) -> Iterator[str]:
    """Fill a database with both sites, index it, evaluate it apart and together, and secure it; yield its name."""
    for dsn in _database(role_server, role_template):
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
            fill(connection, "b")
            indexed(connection)
            for datasets in (("a",), ("b",), ("a", "b")):
                evaluated(connection, *datasets)
                probed(connection, *datasets)
            secure(connection, logins)
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture(scope="module")
def alone(role_server: str, role_template: str, logins: Logins) -> Iterator[str]:
    """Fill a database with site a alone; yield its name."""
    for dsn in _database(role_server, role_template):
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
            evaluated(connection, "a")
            probed(connection, "a")
            secure(connection, logins)
        yield str(conninfo_to_dict(dsn)["dbname"])


def relations(connection: psycopg.Connection, *kinds: str) -> list[str]:
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind = ANY(%s) ORDER BY 1",
        [list(kinds)],
    )
    return [row[0] for row in found]


# What tells when something was made (as the transactions in a fingerprint do), by whom it is owned, or counts what was ever made.
TIMES = "'{created_at,started_at,finished_at,first_at,last_at,changed_at,granted_at,versions,fingerprint,failure_id}'::text[]"


def test_tables_and_views_look_the_same_as_without_the_other_site(both: str, alone: str, logins: Logins) -> None:
    with logins.connect("site_a", both) as here, logins.connect("site_a", alone) as there:
        names = relations(here, "r", "v")
        assert {"image", "embedding_toy", "search_result", "image_overview", "neighbour", "precision_by_run"} <= set(
            names
        )
        assert {"probe_prediction", "probe_answer", "probe_auc", "probe_by_class", "probe_summary"} <= set(names)
        filled = 0
        for name in names:
            query = f"SELECT to_jsonb(t) - {TIMES} FROM cbir.{name} AS t"
            found = answer(here, query)
            assert found == answer(there, query), name
            filled += isinstance(found, list) and len(found) > 0
    assert filled > 15, "the comparison must have had something to compare"


VECTOR = "[1,0]"
CALLS = [
    call
    for image in (1, HIDDEN, ABSENT)
    for call in (
        f"SELECT * FROM cbir.similar_images('toy', image_id => {image}, k => 10)",
        f"SELECT * FROM cbir.similar_images('toy', image_id => {image}, k => 10, mode => 'approximate')",
        f"SELECT * FROM cbir.similar_images('toy', image_id => {image}, k => 5, without_image => {HIDDEN})",
        f"SELECT * FROM cbir.similar_images('toy', image_id => {image}, k => 50, same_patient => TRUE)",
        f"SELECT * FROM cbir.label_suggestions('toy', image_id => {image}, k => 10)",
        f"SELECT * FROM cbir.explain_match(1, {image})",
        f"SELECT * FROM cbir.explain_match({image}, 2)",
        f"SELECT * FROM cbir.similar_images('toy', image_id => 1, image_ids => ARRAY[2, {image}])",
        f"SELECT * FROM cbir.similar_studies('toy', study_id => {image}, k => 10)",
    )
] + [
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', k => 10000)",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', k => 10, mode => 'approximate')",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', dataset => 'b')",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', dataset => 'c')",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', label => 'XR/b')",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', label => 'XR/c')",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', label => 'XR', k => 50)",
    f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}', study_from => '2026-01-01', k => 50)",
    f"SELECT * FROM cbir.similar_images('none', query => '{VECTOR}')",
    "SELECT * FROM cbir.similar_images('toy', sop_uid => 'study a1.1')",
    "SELECT * FROM cbir.similar_images('toy', sop_uid => 'study b1.1')",
    "SELECT * FROM cbir.similar_images('toy', sop_uid => 'study c1.1')",
    f"SELECT * FROM cbir.label_suggestions('toy', query => '{VECTOR}', k => 50)",
    "SELECT * FROM cbir.similar_studies('toy', study_uid => 'study a1', k => 50)",
    "SELECT * FROM cbir.similar_studies('toy', study_uid => 'study b1', k => 50)",
    "SELECT * FROM cbir.similar_studies('toy', study_uid => 'study c1', k => 50)",
    f"SELECT * FROM cbir_internal.nearest_image('toy', '{VECTOR}', 50)",
    "SELECT * FROM cbir_internal.matching_image(NULL)",
    "SELECT * FROM cbir_internal.protocol_image('paper', 'train')",
    "SELECT * FROM cbir.precision_by('class')",
]  # fmt: skip


def test_approximate_search_is_answered_exactly_where_rows_are_hidden(both: str, logins: Logins) -> None:
    # Whether there is an index is hidden as well; the answer is exact, whatever was asked for.
    with logins.connect("site_a", both) as here:
        found = here.execute(
            "SELECT DISTINCT mode FROM cbir.similar_images('toy', image_id => 1, k => 10, mode => 'approximate')"
        ).fetchall()
    assert found == [("exact",)]


@pytest.mark.parametrize("call", CALLS)
def test_searches_answer_the_same_as_without_the_other_site(both: str, alone: str, logins: Logins, call: str) -> None:
    with logins.connect("site_a", both) as here, logins.connect("site_a", alone) as there:
        assert answer(here, call) == answer(there, call)


def test_hidden_image_and_absent_image_give_the_same_error(both: str, logins: Logins) -> None:
    with logins.connect("site_a", both) as here:
        for call in (
            "SELECT * FROM cbir.similar_images('toy', image_id => {})",
            "SELECT * FROM cbir.label_suggestions('toy', image_id => {})",
            "SELECT * FROM cbir.explain_match(1, {})",
        ):
            hidden, absent = (answer(here, call.format(image)) for image in (HIDDEN, ABSENT))
            assert hidden[0] == absent[0] == "NoDataFound"
            assert [str(text).replace(str(HIDDEN), "?") for text in hidden] == [
                str(text).replace(str(ABSENT), "?") for text in absent
            ]


def test_search_of_a_site_is_complete_and_exact_beside_a_common_index(both: str, logins: Logins) -> None:
    """Through the index, every second neighbour would belong to the other site."""
    for site, first in (("site_a", 1), ("site_b", IMAGES + 1)):
        with logins.connect(site, both) as here:
            rows = here.execute(
                "SELECT image_id, mode, complete FROM cbir.similar_images('toy', query => '[1,0]', k => 20)"
            ).fetchall()
        angles = np.degrees(np.arccos(np.clip(vectors("ab".index(site[-1]))[:, 0], -1, 1)))
        nearest = sorted(range(IMAGES), key=lambda n: (round(angles[n], 6), n))[:20]
        assert [row[0] for row in rows] == [first + n for n in nearest]
        assert {row[1:] for row in rows} == {("exact", True)}


def test_role_without_datasets_sees_no_rows(both: str, logins: Logins) -> None:
    with logins.connect("reader", both) as here:
        for name in relations(here, "r", "v"):
            if name == "encoder_overview" or isinstance(found := answer(here, f"SELECT * FROM cbir.{name}"), tuple):
                continue
            assert found == [], name
        assert answer(here, f"SELECT * FROM cbir.similar_images('toy', query => '{VECTOR}')") == []


def test_administrator_sees_the_data_of_all_sites(both: str, logins: Logins) -> None:
    with logins.connect("admin", both) as here:
        assert here.execute("SELECT count(*) FROM cbir.image").fetchone() == (2 * IMAGES,)
        assert here.execute("SELECT count(*) FROM cbir.search_run").fetchone() == (3,)
        assert here.execute("SELECT count(*) FROM cbir.probe_overview").fetchone() == (3,)
        assert (
            len(here.execute("SELECT * FROM cbir.similar_images('toy', query => '[1,0]', k => 100)").fetchall())
            == 2 * IMAGES
        )


def test_row_security_is_forced_on_every_table_that_belongs_to_datasets(both: str, logins: Logins) -> None:
    with logins.connect("admin", both) as here:
        found = dict(
            here.execute(
                "SELECT relname, relrowsecurity AND relforcerowsecurity FROM pg_class"
                " WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'r'"
            ).fetchall()
        )
        # Whatever leads to a dataset by its foreign keys must be protected, tables to come included.
        edges = here.execute(
            "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint"
            " WHERE contype = 'f' AND connamespace = 'cbir'::regnamespace"
        ).fetchall()
    reached = {"cbir.dataset"}
    while more := {child for child, parent in edges if parent in reached} - reached:
        reached |= more
    reached |= {
        "cbir.search_run",
        "cbir.probe_run",
        "cbir.probe_class",
        "cbir.label",
        "cbir.index_build",
        "cbir.dataset_access",
    }
    assert {name for name, on in found.items() if on} == {name.removeprefix("cbir.") for name in reached}


def test_table_of_a_new_encoder_is_protected_from_the_start(
    role_server: str, role_template: str, logins: Logins
) -> None:
    for dsn in _database(role_server, role_template):
        name = str(conninfo_to_dict(dsn)["dbname"])
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
            fill(connection, "b")
            secure(connection, logins)
        with logins.connect("ingest_a", name) as here:
            register_encoder(here, "later", dim=2, precision="half", spec={}, provenance={})
            own = here.execute("SELECT array_agg(image_id) FROM cbir.image_overview").fetchone()
            store = (
                "SELECT cbir_internal.store_embeddings('later', %s::bigint[], array_fill('[1,0]'::halfvec, ARRAY[%s]))"
            )
            assert here.execute(store, [own and own[0], IMAGES]).fetchone() == (IMAGES,)
            for hidden in (HIDDEN, ABSENT):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                    here.execute(store, [[hidden], 1])
        with logins.connect("site_b", name) as here:
            rows = here.execute("SELECT encoder, embeddings FROM cbir.encoder_status() ORDER BY encoder").fetchall()
            assert rows == [("later", 0), ("toy", IMAGES)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                here.execute("SELECT count(*) FROM cbir.embedding_later")


def test_ingest_of_a_site_writes_only_into_its_own_datasets(
    role_server: str, role_template: str, logins: Logins, class_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for dsn in _database(role_server, role_template):
        name = str(conninfo_to_dict(dsn)["dbname"])
        own = logins.dsn("ingest_a", name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "b")
            secure(connection, logins)
        assert run(["--dsn", own, "ingest", "folder", str(class_folder), "--name", "b", "--moved"]) == 3
        assert run(["--dsn", own, "ingest", "folder", str(class_folder), "--name", "c"]) == 3
        assert "not allowed" in capsys.readouterr().err
        assert run(["--dsn", own, "ingest", "folder", str(class_folder), "--name", "a"]) == 0
        (class_folder / "nodule" / "more.png").write_bytes(picture_bytes(77))
        assert run(["--dsn", own, "ingest", "folder", str(class_folder), "--name", "a"]) == 0
        assert run(["--dsn", own, "encode", "-e", "tiny-image"]) == 0
        with logins.connect("site_a", name) as here:
            query = "SELECT embeddings FROM cbir.encoder_status() WHERE encoder = 'tiny-image'"
            assert here.execute(query).fetchone() == (21,)
            assert here.execute("SELECT dataset FROM cbir.dataset_overview").fetchall() == [("a",)]
        with logins.connect("site_b", name) as here:
            assert here.execute("SELECT count(*) FROM cbir.image_overview").fetchone() == (IMAGES,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                here.execute("INSERT INTO cbir.dataset_access VALUES (%s, 'a')", [logins.names["site_b"]])


def test_row_security_off_shows_everything_and_leaves_no_policy(
    role_server: str, role_template: str, logins: Logins
) -> None:
    for dsn in _database(role_server, role_template):
        name = str(conninfo_to_dict(dsn)["dbname"])
        admin = logins.dsn("admin", name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
        with logins.connect("reader", name) as here:
            for state, seen in (("on", 0), ("off", IMAGES), ("on", 0)):
                assert run(["--dsn", admin, "db", "row-security", state]) == 0
                assert here.execute("SELECT count(*) FROM cbir.image_overview").fetchone() == (seen,)
            assert run(["--dsn", admin, "db", "upgrade"]) == 0
            assert here.execute("SELECT count(*) FROM cbir.image_overview").fetchone() == (0,)
            assert run(["--dsn", admin, "db", "row-security", "off"]) == 0
            assert here.execute("SELECT count(*) FROM pg_policies WHERE schemaname = 'cbir'").fetchone() == (0,)
            assert here.execute("SELECT cbir_internal.rows_are_restricted()").fetchone() == (False,)
            assert here.execute("SELECT count(*) FROM cbir.image").fetchone() == (IMAGES,)


def test_only_an_administrator_erases_a_sites_patient_under_row_security(
    role_server: str, role_template: str, logins: Logins
) -> None:
    for dsn in _database(role_server, role_template):
        name = str(conninfo_to_dict(dsn)["dbname"])
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
            fill(connection, "b")
            evaluated(connection, "a", "b")
            secure(connection, logins)
        with logins.connect("admin", name) as here:
            row = here.execute(
                "SELECT removed ->> 'image', removed ->> 'embedding_toy', (removed ->> 'neighbours')::int > 0, login"
                " FROM cbir.erase_patient('b2')"
            ).fetchone()
            assert row == ("2", "2", True, logins.names["admin"])
        with logins.connect("site_a", name) as here, pytest.raises(psycopg.errors.InsufficientPrivilege):
            here.execute("SELECT * FROM cbir.erase_patient('a1')")


@pytest.fixture
def apart(role_server: str, role_template: str, logins: Logins) -> Iterator[psycopg.Connection]:
    """Connect as superuser to a database for one test, with both sites under row-level security."""
    for dsn in _database(role_server, role_template):
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, "a")
            fill(connection, "b")
            secure(connection, logins)
            # Rights that cbirdb takes back: the policies hold also while somebody has them.
            connection.execute(
                sql.SQL("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA cbir TO {}").format(
                    sql.Identifier(logins.names["ingest_a"])
                )
            )
            yield connection


PLANTED = [
    "INSERT INTO cbir.image (dataset_id, source, {0}_id) VALUES (1, 'planted', {1})",
    "UPDATE cbir.image SET {0}_id = {1} WHERE image_id = 1",
]


@pytest.mark.parametrize("kind", ["patient", "study", "series"])
def test_row_for_a_hidden_patient_study_or_series_is_refused_like_an_absent_one(
    apart: psycopg.Connection, logins: Logins, kind: str
) -> None:
    own, hidden = 2, IMAGES // 2 + 1
    statements = list(PLANTED)
    if kind == "patient":
        statements += [
            "INSERT INTO cbir.study (dataset_id, study_uid, {0}_id) VALUES (1, 'planted', {1})",
            "UPDATE cbir.study SET {0}_id = {1} WHERE study_id = 1",
        ]
    if kind == "study":
        statements += [
            "INSERT INTO cbir.series ({0}_id, series_uid) VALUES ({1}, 'planted')",
            "UPDATE cbir.series SET {0}_id = {1} WHERE series_id = 1",
        ]
    with logins.connect("ingest_a", apart.info.dbname) as here:
        for statement in statements:
            refused = answer(here, statement.format(kind, hidden))
            assert refused[0] == "InsufficientPrivilege"
            assert refused == answer(here, statement.format(kind, ABSENT))
            here.execute(statement.format(kind, own).encode())
    assert apart.execute(f"SELECT count(*) FROM cbir.image WHERE {kind}_id = %s", [hidden]).fetchone() == (2,)


def test_site_is_told_only_of_its_own_erased_files(apart: psycopg.Connection, logins: Logins) -> None:
    for pseudonym in ("a2", "b2"):
        apart.execute("SELECT cbir.erase_patient(%s)", [pseudonym])
    query = "SELECT * FROM cbir_internal.erased_source(%s, ARRAY[%s, %s, 'x'], ARRAY[NULL, NULL, %s])"
    asked = {site: [site, f"study {site}2/1", f"study {site}3/1", f"{site}2"] for site in "ab"}
    with logins.connect("ingest_a", apart.info.dbname) as here:
        assert answer(here, query, *asked["a"]) == [("study a2/1",), ("x",)]
        assert answer(here, query, *asked["b"]) == []
    with logins.connect("admin", apart.info.dbname) as here:
        assert answer(here, query, *asked["b"]) == [("study b2/1",), ("x",)]
        here.execute("SELECT cbir.set_row_security(FALSE)")
    with logins.connect("ingest_a", apart.info.dbname) as here:
        assert answer(here, query, *asked["b"]) == [("study b2/1",), ("x",)]
