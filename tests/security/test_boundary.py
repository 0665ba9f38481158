"""Test that readers learn nothing about hidden rows: not by rights, query plans or counts."""

from __future__ import annotations

import re
import string

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cbirdb.cli.main import run
from tests.conftest import Logins
from tests.support.two_sites import ABSENT, HIDDEN

SITE_ROLES = ("site_a", "reader", "stranger")

PUBLIC = {
    # They compute from their arguments alone, and views or other functions call them as their reader.
    "check_encoder_name", "check_golden_embedding", "check_group", "checked_count", "evaluation_split",
    "folders_overlap", "index_walk", "listed", "modified_precision", "padded", "path_hashes", "plan_search", "query_group",
    "summed",
    # SQL text of policies, without data.
    "acting_expression", "tenant_check", "tenant_condition", "unrestricted_condition",
    # The monitoring views call them as their reader; they read PostgreSQL's own catalogue.
    "acting_role", "rows_are_restricted", "sees_all_rows",
}  # fmt: skip
"""Functions that everybody who may use the schema may call, and why."""


def test_only_the_listed_functions_are_executable_by_everybody(sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as connection:
        found = connection.execute(
            "SELECT DISTINCT proname FROM pg_proc AS p"
            " CROSS JOIN LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner))) AS a"
            " WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal') AND a.grantee = 0"
        ).fetchall()
    assert {name for (name,) in found} == PUBLIC


def test_readers_have_no_right_on_any_table(sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as connection:
        for who in SITE_ROLES:
            found = connection.execute(
                "SELECT c.relname FROM pg_class AS c, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS right_on"
                " WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind IN ('r', 'p')"
                " AND has_any_column_privilege(%s, c.oid, right_on)",
                [logins.names[who]],
            ).fetchall()
            assert found == []


def test_ingest_cannot_call_inner_functions_and_readers_can_call_reader_functions(sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as connection:
        inner = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM cbir_internal.function_audience()"
                " WHERE audience IN ('inner', 'owner', 'admin') AND has_function_privilege(%s, routine, 'EXECUTE')",
                [logins.names["ingest_a"]],
            )
        ]
        assert inner == []
        reading = connection.execute(
            "SELECT count(*) FROM cbir_internal.function_audience() WHERE audience = 'reader'"
            " AND NOT has_function_privilege(%s, routine, 'EXECUTE')",
            [logins.names["site_a"]],
        ).fetchone()
        assert reading == (0,)


@pytest.mark.parametrize(
    "call",
    [
        "SELECT cbir_internal.record_search('similar_images', 'toy', 1, 1, NULL, 'exact', '{1}')",
        "SELECT * FROM cbir_internal.nearest_image('toy', '[1,0]', 50)",
        "SELECT cbir_internal.query_image(NULL, 'study b1.1', NULL)",
        "SELECT cbir_internal.estimated_matches(ROW('b', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::cbir.image_filter)",
        "SELECT * FROM cbir_internal.matching_image(NULL)",
        "SELECT cbir.erase_patient('b1')",
        "SELECT cbir.merge_patients('b1', 'b2')",
        "SELECT cbir_internal.merged_pseudonym('b', '{b1}')",
        "SELECT * FROM cbir.merged_patient",
        "SELECT * FROM cbir.embedding_toy",
    ],
)
def test_reader_cannot_bypass_the_search_functions(sites: str, logins: Logins, call: str) -> None:
    with logins.connect("site_a", sites) as here, pytest.raises(psycopg.errors.InsufficientPrivilege):
        here.execute(call.encode())


def plan(connection: psycopg.Connection, query: str) -> str:
    """Return what EXPLAIN ANALYZE shows, without times and the value asked for."""
    lines = connection.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}".encode()).fetchall()
    text = "\n".join(line for (line,) in lines)
    return re.sub(r"'[^']*'(::\w+)?|(?<=[=<] )\d+(?=\))|Memory: \d+kB|Memory Usage: \d+kB|Buffers: .*", "?", text)


IDENTIFYING = {
    ("image_overview", "source"): ("study b1/1", "study z1/1"),
    ("image_overview", "sop_uid"): ("study b1.1", "study z1.1"),
    ("image_overview", "series_uid"): ("series study b1", "series study z1"),
    ("image_overview", "study_uid"): ("study b1", "study z1"),
    ("image_overview", "patient"): ("b1", "z1"),
    ("image_overview", "dataset"): ("b", "z"),
    ("image_overview", "width"): (500 + HIDDEN, 99),
    ("dataset_overview", "dataset"): ("b", "z"),
    ("dataset_overview", "root"): ("/images/b", "/images/z"),
    ("failure_overview", "source"): ("broken b", "broken z"),
    ("duplicate_image", "source"): ("study b1/1", "study z1/1"),
    ("split_leakage", "dataset_a"): ("b", "z"),
    ("query_hits", "modality"): ("MR", "ZZ"),
    ("run_overview", "started_at"): ("2001-01-01", "2002-01-01"),
}


@pytest.mark.parametrize(("view", "column"), IDENTIFYING)
@pytest.mark.parametrize("operator", ["=", ">=", "<"])
def test_query_plans_are_the_same_for_a_hidden_and_an_absent_value(
    sites: str, logins: Logins, view: str, column: str, operator: str
) -> None:
    hidden, absent = IDENTIFYING[view, column]
    with logins.connect("site_a", sites) as here:
        # As of large tables, where a condition that may steer an index does.
        here.execute("SET enable_seqscan = off")
        shown = [
            plan(here, f"SELECT * FROM cbir.{view} WHERE {column} {operator} {value!r}") for value in (hidden, absent)
        ]
    if operator == "=":
        assert shown[0] == shown[1]
    # Of a range visible rows may lie on either side; a condition on the column never steers an index.
    assert all(
        f"{column} {operator}" not in line for text in shown for line in text.splitlines() if "Index Cond" in line
    )


def test_hidden_pseudonym_cannot_be_guessed_by_prefix_from_plans(sites: str, logins: Logins) -> None:
    """An attack once took 286 queries: the rows that EXPLAIN ANALYZE removed revealed each next letter."""
    alphabet = string.ascii_lowercase + string.digits
    with logins.connect("site_a", sites) as here:
        for view, column in (
            ("image_overview", "patient"),
            ("image_overview", "sop_uid"),
            ("image_overview", "source"),
        ):
            shown = {
                plan(
                    here, f"SELECT image_id FROM cbir.{view} WHERE {column} >= 'z{letter}' AND {column} < 'z{letter}~'"
                )
                for letter in alphabet
            } | {
                plan(
                    here, f"SELECT image_id FROM cbir.{view} WHERE {column} >= 'b{letter}' AND {column} < 'b{letter}~'"
                )
                for letter in alphabet
            }
            assert len(shown) == 1


def test_plan_of_find_image_shows_only_the_function_call(sites: str, logins: Logins) -> None:
    with logins.connect("site_a", sites) as here:
        shown = plan(here, "SELECT * FROM cbir.find_image(sop_uid => 'study b1.1')")
    assert shown.startswith("Function Scan on find_image")
    assert "Filter" not in shown
    assert "Index" not in shown


@pytest.mark.parametrize(
    "given", [f"image_id => {HIDDEN}", "sop_uid => 'study b1.1'", "study_uid => 'study b1'", "source => 'study b1/1'"]
)
def test_find_image_answers_the_same_for_a_hidden_and_an_absent_image(sites: str, logins: Logins, given: str) -> None:
    with logins.connect("site_a", sites) as here:
        assert here.execute(f"SELECT * FROM cbir.find_image({given})".encode()).fetchall() == []
        assert here.execute(f"SELECT * FROM cbir.find_image(image_id => {ABSENT})".encode()).fetchall() == []
    with logins.connect("site_b", sites) as there:
        assert len(there.execute(f"SELECT * FROM cbir.find_image({given})".encode()).fetchall()) >= 1


def test_set_role_limits_a_superuser_to_the_rows_of_that_role(sites: str, logins: Logins) -> None:
    """A superuser sees all rows; after SET ROLE to a site's role, only that site's."""
    count = "SELECT count(*) FROM cbir.image_overview"
    searched = "SELECT count(*) FROM cbir.similar_images('toy', query => '[1,0]', k => 100)"
    with psycopg.connect(logins.server, dbname=sites, autocommit=True) as superuser:
        for query in (count, searched):
            assert superuser.execute(query.encode()).fetchone() == (60,)
        superuser.execute(f"SET ROLE {logins.names['site_a']}".encode())
        for query in (count, searched):
            assert superuser.execute(query.encode()).fetchone() == (30,)


def test_index_function_of_a_reader_sees_no_hidden_rows_during_analyze(
    sites: str, role_server: str, logins: Logins
) -> None:
    """ANALYZE, autovacuum's too, runs them as the reader, in the session of a superuser."""
    searched = "cbir.similar_images('toy', query => '[1,0]', k => 100)"
    with (
        psycopg.connect(make_conninfo(role_server, dbname=sites), autocommit=True) as superuser,
        logins.connect("site_a", sites) as reader,
    ):
        superuser.execute(f"CREATE SCHEMA scratch AUTHORIZATION {logins.names['site_a']}".encode())
        for statement in (
            "CREATE TABLE scratch.loot (source text)",
            "CREATE TABLE scratch.bait AS SELECT 1 AS x",
            f"""CREATE FUNCTION scratch.look() RETURNS integer LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO scratch.loot SELECT source FROM cbir.image_overview;
                INSERT INTO scratch.loot SELECT source FROM {searched};
                RETURN 1;
            EXCEPTION WHEN insufficient_privilege THEN
                INSERT INTO scratch.loot VALUES (sqlerrm);
                INSERT INTO scratch.loot SELECT source FROM cbir.image_overview;
                RETURN 1;
            END $$""",
            """CREATE FUNCTION scratch.key(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql
            AS 'BEGIN RETURN scratch.look(); END'""",
            "CREATE INDEX ON scratch.bait (scratch.key(x))",
        ):
            reader.execute(statement.encode())
        reader.execute("TRUNCATE scratch.loot")
        superuser.execute("ANALYZE scratch.bait")
        found = {source for (source,) in reader.execute("SELECT source FROM scratch.loot")}
        superuser.execute("DROP SCHEMA scratch CASCADE")
    assert "this function does not run inside VACUUM, ANALYZE, REINDEX, CREATE INDEX or REFRESH" in found
    assert any(source.startswith("study a") for source in found)
    assert not any(source.startswith("study b") for source in found)


def test_acting_role_ignores_the_search_path_of_the_caller(sites: str, role_server: str, logins: Logins) -> None:
    with psycopg.connect(make_conninfo(role_server, dbname=sites), autocommit=True) as superuser:
        superuser.execute("CREATE SCHEMA scratch")
        superuser.execute(
            "CREATE FUNCTION scratch.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'postgres'::text$$"
        )
        superuser.execute("GRANT USAGE ON SCHEMA scratch TO PUBLIC")
        with logins.connect("site_a", sites) as reader:
            reader.execute("SET search_path = scratch, pg_catalog")
            assert reader.execute("SELECT cbir_internal.acting_role()").fetchone() == (logins.names["site_a"],)
            assert reader.execute("SELECT count(*) FROM cbir.table_size").fetchone() == (0,)
        superuser.execute("DROP SCHEMA scratch CASCADE")


def test_row_policies_use_only_built_in_functions(sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as connection:
        ours = {
            name
            for (name,) in connection.execute(
                "SELECT proname FROM pg_proc WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal')"
            )
        }
        policies = connection.execute(
            "SELECT qual || coalesce(with_check, '') FROM pg_policies WHERE schemaname = 'cbir'"
        ).fetchall()
    assert len(policies) > 20
    for (text,) in policies:
        assert not set(re.findall(r"(\w+)\(", text)) & ours


@pytest.mark.parametrize("who", ["site_a", "reader", "ingest_a", "ingest", "admin", "auditor", "stranger"])
def test_functions_and_policies_agree_that_only_the_administrator_is_unrestricted(
    sites: str, logins: Logins, who: str
) -> None:
    with logins.connect("admin", sites) as owner:
        row = owner.execute("SELECT cbir_internal.unrestricted_condition()").fetchone()
        owner.execute(f"GRANT USAGE ON SCHEMA cbir TO {logins.names['stranger']}".encode())
    with logins.connect(who, sites) as here:
        by_policy, by_function = (
            here.execute(f"SELECT {row[0] if row else ''}, cbir_internal.sees_all_rows()".encode()).fetchone() or ()
        )
    assert by_policy == by_function == (who == "admin")


def test_row_security_revokes_and_names_rights_granted_by_a_site(role_server: str, sites: str, logins: Logins) -> None:
    with logins.connect("admin", sites) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary or ""))
        name = logins.names["stranger"]
        for statement in (
            f"GRANT SELECT ON cbir.image TO {name}",
            f"GRANT SELECT (pseudonym) ON cbir.patient TO {name}",
            f"GRANT EXECUTE ON FUNCTION cbir_internal.record_search TO {name}",
        ):
            connection.execute(statement.encode())
        connection.execute("SELECT cbir.set_row_security(TRUE)")
        for what in ("SELECT on cbir.image from", "SELECT (pseudonym) on cbir.patient from", "record_search("):
            assert any(what in notice and name in notice for notice in notices), what
        assert connection.execute(
            "SELECT has_any_column_privilege(%s, 'cbir.patient', 'SELECT')", [name]
        ).fetchone() == (False,)


def test_db_upgrade_names_the_rights_that_it_revokes(
    sites: str, logins: Logins, capsys: pytest.CaptureFixture[str]
) -> None:
    name = logins.names["stranger"]
    with logins.connect("admin", sites) as connection:
        connection.execute(f"GRANT SELECT ON cbir.study TO {name}".encode())
    assert run(["--dsn", logins.dsn("admin", sites), "db", "upgrade"]) == 0
    assert f"revoked: SELECT on cbir.study from {name}" in capsys.readouterr().err


def test_row_security_needs_the_role_cbir_search(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On a server without cbirdb's roles."""
    assert run(["--dsn", dsn, "db", "row-security", "on"]) == 1
    message = capsys.readouterr().err
    assert "needs the role cbir_search" in message
    assert "db roles --script" in message
