"""Test that a site's ingest login loads only through functions, and learns nothing of other sites from them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cbirdb.db.schema.roles import ROLES
from tests.conftest import Logins
from tests.support.two_sites import ABSENT, HIDDEN, answer

OWN, OTHER = 1, 2
"""Datasets a and b."""
LOADERS = "SELECT routine FROM cbir_internal.function_audience() WHERE audience IN ('loader', 'ingest')"

QUESTIONS = {
    "stored_images": "SELECT count(*) FROM cbir_internal.stored_images({dataset}, ARRAY['study {site}2/1'])",
    "image_sources": "SELECT count(*) FROM cbir_internal.image_sources({dataset})",
    "images_by_source": "SELECT count(*) FROM cbir_internal.images_by_source('{{{dataset}}}', ARRAY['study {site}2/1'])",
    "repeated_sources": "SELECT count(*) FROM cbir_internal.repeated_sources(ARRAY['{site}'])",
    "known_hashes": "SELECT count(*) FROM cbir_internal.known_hashes(ARRAY[sha256('study {site}2/1')])",
    "encoded_images": "SELECT count(*) FROM cbir_internal.encoded_images('toy', '{{{image}}}')",
    "unencoded_images": "SELECT * FROM cbir_internal.unencoded_images('toy', '{{{dataset}}}')",
    "pending_images": "SELECT count(*) FROM cbir_internal.pending_images('{{toy}}', ARRAY['{site}'], 1, 0, 0, 100)",
    "pending_roots": "SELECT count(*) FROM cbir_internal.pending_roots('{{toy}}', ARRAY['{site}'])",
    "count_pending": "SELECT * FROM cbir_internal.count_pending('{{toy}}', ARRAY['{site}'], 1, 0)",
    "lock_images": "SELECT count(*) FROM cbir_internal.lock_images('{{{dataset}}}', '{{{image}}}')",
    "record_damage": "SELECT cbir_internal.record_damage('{{{image}}}', '{{NULL}}', '{{planted}}')",
    "record_failures": "SELECT cbir_internal.record_failures('ingest', NULL, '{{{dataset}}}', '{{x}}', '{{1}}', '{{x}}', '{{x}}')",
    "resolve_failures": "SELECT cbir_internal.resolve_failures('ingest', NULL, {dataset}, ARRAY['broken {site}'])",
    "resolve_gone_failures": "SELECT cbir_internal.resolve_gone_failures('{{{dataset}}}', now() + interval '1 day')",
    "store_embeddings": "SELECT cbir_internal.store_embeddings('toy', '{{{image}}}', array_fill('[1,0]'::vector, '{{1}}'))",
}
OWN_ANSWERS: dict[str, Any] = {
    "stored_images": [(1,)], "image_sources": [(30,)], "images_by_source": [(1,)], "known_hashes": [(1,)],
    "encoded_images": [(1,)], "count_pending": [(30, 0, [0], [0])], "lock_images": [(1,)], "store_embeddings": [(0,)],
}  # fmt: skip


def asked(login: psycopg.Connection, question: str, **places: object) -> Any:
    """Return the answer and roll back what was written."""
    try:
        return answer(login, QUESTIONS[question].format(**places))
    finally:
        login.rollback()


def test_ingest_login_has_no_right_on_any_table_column_or_sequence(sites: str, logins: Logins) -> None:
    with logins.connect("ingest_a", sites) as site:
        rights = site.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND CASE relkind"
            " WHEN 'r' THEN has_table_privilege(oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER')"
            " OR has_any_column_privilege(oid, 'SELECT,INSERT,UPDATE,REFERENCES')"
            " WHEN 'S' THEN has_sequence_privilege(oid, 'USAGE,SELECT,UPDATE') END"
        ).fetchall()
        assert rights == []
        for table in ("image", "pseudonym_key", "embedding_toy"):
            with site.transaction(), pytest.raises(psycopg.errors.InsufficientPrivilege):
                site.execute(f"LOCK TABLE cbir.{table} IN ACCESS SHARE MODE".encode())


@pytest.mark.parametrize("question", QUESTIONS)
def test_loading_functions_answer_the_same_for_a_hidden_and_an_absent_dataset(
    sites: str, logins: Logins, question: str
) -> None:
    with logins.connect("ingest_a", sites) as site:
        site.autocommit = False
        own = asked(site, question, dataset=OWN, site="a", image=1)
        assert own == OWN_ANSWERS.get(question, own)
        assert not (isinstance(own, tuple) and own[0].endswith(("Error", "Privilege"))), own
        hidden = asked(site, question, dataset=OTHER, site="b", image=HIDDEN)
        assert hidden == asked(site, question, dataset=ABSENT, site="no such site", image=ABSENT)


def test_ingest_login_cannot_change_data_of_another_site(sites: str, logins: Logins) -> None:
    state = (
        "SELECT (SELECT md5(string_agg(i::text, '' ORDER BY image_id)) FROM cbir.image AS i),"
        " (SELECT md5(string_agg(f::text, '' ORDER BY failure_id)) FROM cbir.failure AS f WHERE dataset_id = 2),"
        " (SELECT count(*) FROM cbir.image_label), (SELECT count(*) FROM cbir.embedding_toy),"
        " (SELECT count(*) FROM cbir.patient), (SELECT count(*) FROM cbir.study), (SELECT count(*) FROM cbir.label)"
    )
    with psycopg.connect(logins.server, dbname=sites) as superuser:
        before = superuser.execute(state).fetchone()
    with logins.connect("ingest_a", sites) as site:
        for question in QUESTIONS.values():
            answer(site, question.format(dataset=OTHER, site="b", image=HIDDEN))
        for dataset in (OTHER, ABSENT):
            refused = answer(
                site, "SELECT * FROM cbir_internal.store_images(%s, %s)", dataset,
                Jsonb([{"source": "planted", "pseudonym": "b2", "study_uid": "study b2", "labels": {"planted": 1}}]),
            )  # fmt: skip
            assert refused[0] == "InsufficientPrivilege"
        # Another site's image cannot be replaced as if it were of this one's dataset.
        hidden = Jsonb([{"image_id": HIDDEN, "source": "planted", "labels": {}}])
        assert answer(site, "SELECT * FROM cbir_internal.store_images(%s, %s)", OWN, hidden) == []
    with psycopg.connect(logins.server, dbname=sites) as superuser:
        assert superuser.execute(state).fetchone() == before


def test_only_ingest_and_admin_may_call_loading_functions(sites: str, logins: Logins) -> None:
    with psycopg.connect(logins.server, dbname=sites) as superuser:
        routines = [row[0] for row in superuser.execute(f"{LOADERS} ORDER BY 1::text".encode())]
        assert len(routines) > len(QUESTIONS)
        may = {
            role: [r for r in routines if superuser.execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", [role, r]).fetchone() == (True,)]
            for role in ROLES
        }  # fmt: skip
    assert may["cbir_ingest"] == may["cbir_admin"] == routines
    assert may["cbir_reader"] == may["cbir_auditor"] == []


def test_first_pseudonym_key_is_kept(sites: str, logins: Logins) -> None:
    with logins.connect("ingest_a", sites) as site:
        assert site.execute("SELECT cbir_internal.note_pseudonym_key()").fetchone() == (None,)
        assert site.execute("SELECT cbir_internal.note_pseudonym_key('first')").fetchone() == ("first",)
        assert site.execute("SELECT cbir_internal.note_pseudonym_key('second')").fetchone() == ("first",)
    with psycopg.connect(logins.server, dbname=sites) as superuser:
        assert superuser.execute("SELECT fingerprint FROM cbir.pseudonym_key").fetchall() == [("first",)]
