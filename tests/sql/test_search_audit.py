"""Test the search audit: it is complete and append-only, and audited roles can neither read it nor switch it off."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import Logins, Outcome
from tests.support.audited_searches import PICTURES, audit, six_pictures
from tests.support.stored_pictures import fill, put_in_studies


@pytest.fixture
def ids(connection: psycopg.Connection) -> list[int]:
    return six_pictures(connection)


CALLS = {
    "similar_images": "SELECT image_id FROM cbir.similar_images('toy', image_id => %(image)s, k => 3, label => 'a')",
    "label_suggestions": "SELECT * FROM cbir.label_suggestions('toy', image_id => %(image)s, k => 3)",
    "similar_studies": "SELECT * FROM cbir.similar_studies('toy', study_id => %(study)s, k => 3)",
    "explain_match": "SELECT * FROM cbir.explain_match(%(image)s, %(other)s)",
}


@pytest.mark.parametrize("function", CALLS)
def test_every_search_function_writes_one_audit_row(
    connection: psycopg.Connection, ids: list[int], function: str
) -> None:
    put_in_studies(connection, ids, ["s0", "s0", "s1", "s1", "s2", "s2"])
    study = connection.execute("SELECT study_id FROM cbir.image WHERE image_id = %s", [ids[0]]).fetchone()
    with connection.transaction():
        connection.execute("SELECT set_config('cbir.purpose', 'tumour board', true)")
        connection.execute(CALLS[function].encode(), {"image": ids[0], "other": ids[2], "study": study and study[0]})
    (row,) = audit(connection)
    assert (row["function"], row["purpose"], row["erased_ids"]) == (function, "tumour board", 0)
    assert row["login"] == row["role"] == connection.info.user
    assert row["returned"]
    assert set(row["returned"]) <= set(ids)


def test_audit_row_holds_the_question_and_the_answer(connection: psycopg.Connection, ids: list[int]) -> None:
    before = time.time()
    found = connection.execute(
        "SELECT image_id FROM cbir.similar_images('toy', image_id => %s, k => 3, label => 'a', image_ids => %s)",
        [ids[0], ids[2:]],
    ).fetchall()
    (row,) = audit(connection)
    assert before - 1 < row["searched_at"].timestamp() < time.time() + 1
    assert (row["encoder"], row["query_image_id"], row["k"], row["mode"]) == ("toy", ids[0], 3, "exact")
    assert row["filter"] == {"label": "a", "image_ids": ids[2:]}
    assert row["returned"] == [image_id for (image_id,) in found]
    assert row["purpose"] is None


def test_purpose_of_the_command_line_applies_to_one_search(
    cli: Callable[..., Outcome], connection: psycopg.Connection, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("search", "--image-id", ids[0], "-e", "toy", "--purpose", "a'; DROP TABLE cbir.image; --").code == 0
    monkeypatch.setenv("CBIRDB_SEARCH_PURPOSE", "ward round")
    assert cli("search", "--image-id", ids[0], "-e", "toy").code == 0
    monkeypatch.delenv("CBIRDB_SEARCH_PURPOSE")
    assert cli("search", "--image-id", ids[0], "-e", "toy").code == 0
    assert [row["purpose"] for row in audit(connection)] == ["a'; DROP TABLE cbir.image; --", "ward round", None]


def test_failed_search_is_not_audited(connection: psycopg.Connection, ids: list[int]) -> None:
    with pytest.raises(psycopg.errors.NoDataFound):
        connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => 10000)")
    assert audit(connection) == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cbir.search_audit SET purpose = 'other'",
        "UPDATE cbir.search_audit SET returned = '{}', erased_ids = 3",
        "UPDATE cbir.search_audit SET query_image_id = NULL, erased_ids = 1",
        "UPDATE cbir.search_audit SET returned = returned || 99, erased_ids = 1",
        "DELETE FROM cbir.search_audit",
        "TRUNCATE cbir.search_audit",
        (
            "INSERT INTO cbir.search_audit (audit_id, login, role, function, returned) OVERRIDING SYSTEM VALUE"
            " SELECT audit_id, 'x', 'x', 'x', '{}' FROM cbir.search_audit ON CONFLICT (audit_id)"
            " DO UPDATE SET login = 'x'"
        ),
    ],
)
def test_superuser_cannot_change_audit_rows_while_the_trigger_is_on(
    connection: psycopg.Connection, ids: list[int], change: str
) -> None:
    connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s, k => 3)", [ids[0]])
    before = audit(connection)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot be changed or deleted"):
        connection.execute(change.encode())
    assert audit(connection) == before


@pytest.mark.parametrize(("name", "table"), [("study_id", "study"), ("without_patient", "patient")])
def test_filter_id_can_be_redacted_only_after_its_row_is_deleted(
    connection: psycopg.Connection, ids: list[int], name: str, table: str
) -> None:
    row = connection.execute(
        "WITH p AS (INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT min(dataset_id), 'p' FROM cbir.dataset"
        " RETURNING patient_id, dataset_id), s AS (INSERT INTO cbir.study (dataset_id, study_uid)"
        " SELECT dataset_id, 's' FROM p RETURNING study_id) SELECT patient_id, study_id FROM p, s"
    ).fetchone()
    assert row is not None
    one = {"patient": row[0], "study": row[1]}[table]
    connection.execute(
        "INSERT INTO cbir.search_audit (login, role, function, filter, returned)"
        " VALUES ('x', 'x', 'similar_studies', jsonb_build_object(%s::text, %s::bigint), '{}')", [name, one],
    )  # fmt: skip
    redact = "UPDATE cbir.search_audit SET filter = jsonb_build_object(%s::text, 'erased')"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot be changed or deleted"):
        connection.execute(redact.encode(), [name])
    connection.execute(f"DELETE FROM cbir.{table}".encode())
    connection.execute(redact.encode(), [name])
    assert [found["filter"] for found in audit(connection)] == [{name: "erased"}]


def test_switching_the_audit_off_is_itself_audited(connection: psycopg.Connection, ids: list[int]) -> None:
    connection.execute("UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'")
    assert len(connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s)", [ids[0]]).fetchall()) == 4
    (row,) = audit(connection)
    assert (row["function"], row["filter"], row["login"]) == ("setting", {"audit": False}, connection.info.user)


def test_changed_setting_records_the_user_and_time_of_the_change(connection: psycopg.Connection) -> None:
    question = "SELECT changed_at, changed_by FROM cbir.setting WHERE name = 'audit'"
    before = connection.execute(question).fetchone()
    connection.execute("UPDATE cbir.setting SET enabled = FALSE, changed_by = 'nobody' WHERE name = 'audit'")
    after = connection.execute(question).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] > before[0]
    assert after[1] == connection.info.user


def test_search_without_purpose_fails_where_one_is_required(
    cli: Callable[..., Outcome], connection: psycopg.Connection, ids: list[int]
) -> None:
    connection.execute("UPDATE cbir.setting SET enabled = TRUE WHERE name = 'purpose_required'")
    connection.execute("SET cbir.purpose = ''")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="requires a purpose") as caught:
        connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s)", [ids[0]])
    assert "cbir.purpose" in str(caught.value.diag.message_hint)
    refused = cli("search", "--image-id", ids[0], "-e", "toy")
    assert (refused.code, "--purpose" in refused.err) == (1, True)
    assert cli("search", "--image-id", ids[0], "-e", "toy", "--purpose", "second opinion").code == 0
    assert [row["function"] for row in audit(connection)] == ["setting", "similar_images"]


BLANK = "".join(
    chr(code)
    for code in (
        *range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF
    )
)  # fmt: skip
"""Unicode's white space, and other characters that show nothing."""
BAD_PURPOSES = {
    **{f"U+{ord(one):04X}": (one, "is white space alone") for one in BLANK},
    "all of it": (BLANK, "is white space alone"),
    "too long": ("x" * 1001, "is 1001 characters long"),
    "too long, of white space": (" " * 1001, "is 1001 characters long"),
    **{
        f"with U+{code:04X}": (f"ward{chr(code)}round", "another control character")
        for code in (1, 9, 10, 13, 27, 0x1F, 0x7F, 0x9B, 0x2028, 0x2029, 0x202E, 0x2066)
    },
}


@pytest.mark.parametrize("name", BAD_PURPOSES)
def test_blank_overlong_or_control_character_purpose_is_refused(
    name: str, cli: Callable[..., Outcome], connection: psycopg.Connection, ids: list[int]
) -> None:
    purpose, words = BAD_PURPOSES[name]
    connection.execute("SELECT set_config('cbir.purpose', %s, false)", [purpose])
    for asked in (
        f"SELECT * FROM cbir.similar_images('toy', image_id => {ids[0]})",
        "UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'",
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=words) as caught:
            connection.execute(asked.encode())
        assert purpose not in str(caught.value).split("CONTEXT")[0] or not purpose.strip()
    assert audit(connection) == []
    refused = cli("--dsn", "host=127.0.0.1 port=1", "search", "--image-id", 1, "-e", "toy", "--purpose", purpose)
    assert refused.code == 2, "it is refused before anything is sent"
    assert words.replace("1001", "1,001") in refused.err


def test_purpose_is_stored_unchanged_except_for_surrounding_white_space(
    cli: Callable[..., Outcome], connection: psycopg.Connection, ids: list[int]
) -> None:
    kept = ("x" * 1000, "Prüfung  der \u00a0 Befunde", "相談", "\u06a9\u0647\u200c\u0647\u0627")
    for purpose in kept:
        connection.execute("SELECT set_config('cbir.purpose', %s, false)", [purpose])
        connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s)", [ids[0]])
        assert cli("search", "--image-id", ids[0], "-e", "toy", "--purpose", purpose).code == 0
    connection.execute("SELECT set_config('cbir.purpose', %s, false)", ["\u3000 ward round\u2003"])
    connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s)", [ids[0]])
    assert [row["purpose"] for row in audit(connection)] == [
        *(purpose for purpose in kept for _ in range(2)), "ward round",
    ]  # fmt: skip


def test_rolled_back_search_leaves_a_log_message_without_ids(connection: psycopg.Connection, ids: list[int]) -> None:
    connection.execute("SET client_min_messages = debug1")
    said: list[tuple[str, str]] = []
    connection.add_notice_handler(lambda one: said.append((str(one.message_primary), str(one.context))))
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT set_config('cbir.purpose', 'of p1', true)")
        connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s, k => 3)", [ids[3]])
    connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s, k => 3)", [ids[3]])
    (row,) = audit(connection)
    user = connection.info.user
    lines = [(message, context) for message, context in said if message.startswith("cbirdb search")]
    assert [message for message, _ in lines] == [
        f"cbirdb search {number}: similar_images by {user} as {user}"
        for number in (row["audit_id"] - 1, row["audit_id"])
    ]
    # The context is the functions' own text, with names of variables in it and no values.
    assert not any("of p1" in context or re.search(r"image_id\W+[0-9]", context) for _, context in lines)


def test_reader_cannot_switch_off_the_log_message(role_database: str, logins: Logins) -> None:
    with logins.connect("reader", str(conninfo_to_dict(role_database)["dbname"])) as reader:
        for level in ("log_min_messages = warning", "log_min_messages = DEFAULT", "log_destination = stderr"):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CantChangeRuntimeParam)):
                reader.execute(f"SET {level}".encode())


def test_audited_search_in_a_read_only_transaction_explains_the_refusal(
    connection: psycopg.Connection, ids: list[int]
) -> None:
    query = "SELECT * FROM cbir.similar_images('toy', image_id => %s)"
    connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="audit") as caught:
        connection.execute(query.encode(), [ids[0]])
    assert "cbir.setting" in str(caught.value.diag.message_hint)
    connection.execute("SET default_transaction_read_only = off")
    connection.execute("UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'")
    connection.execute("SET default_transaction_read_only = on")
    assert connection.execute(query.encode(), [ids[0]]).fetchall()


def test_reader_cannot_evade_the_audit_of_its_login(role_database: str, logins: Logins) -> None:
    """Session settings, SET ROLE and a table of the same name do not help."""
    with psycopg.connect(role_database, autocommit=True) as owner:
        angles = np.radians(np.arange(6) * 10)
        ids = fill(owner, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), PICTURES)
        with logins.connect("reader", str(conninfo_to_dict(role_database)["dbname"])) as reader:
            reader.execute("SET cbir.audit = off")
            reader.execute("SET cbir.purpose = 'curiosity'")
            reader.execute("CREATE TEMPORARY TABLE search_audit (LIKE cbir.setting)")
            reader.execute("CREATE TEMPORARY TABLE setting (name text, enabled boolean)")
            reader.execute("SET search_path = pg_temp, cbir, public")
            reader.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s)", [ids[0]])
            reader.execute("SET ROLE cbir_reader")
            reader.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s)", [ids[0]])
        rows = audit(owner)
    name = logins.names["reader"]
    assert [(row["login"], row["role"], row["purpose"]) for row in rows] == [
        (name, name, "curiosity"), (name, "cbir_reader", "curiosity"),
    ]  # fmt: skip


ASKED = {
    "SELECT * FROM cbir.similar_images('toy', image_id => 1, same_patient => TRUE)": {"same_patient": True},
    "SELECT * FROM cbir.similar_images('toy', query => '[1,0]', without_image => 1, without_patient => 2, label => 'a')": {
        "label": "a", "without_image": 1, "without_patient": 2,
    },
    "SELECT * FROM cbir.label_suggestions('toy', query => '[1,0]', without_image => 3, same_patient => FALSE)": {
        "without_image": 3
    },
    "SELECT * FROM cbir.similar_studies('toy', study_id => 2, m => 2, same_patient => TRUE)": {
        "study_id": 2, "m": 2, "same_patient": True,
    },
    "SELECT * FROM cbir.similar_studies('toy', study_uid => 'study 0')": {"study_id": 1, "m": 1},
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED)
def test_audit_row_holds_the_exclusions_and_the_study_asked_about(
    connection: psycopg.Connection, ids: list[int], asked: str
) -> None:
    assert ids == [1, 2, 3, 4, 5, 6]
    connection.execute(
        "UPDATE cbir.study SET patient_id = i.patient_id FROM cbir.image AS i WHERE i.study_id = study.study_id"
    )
    connection.execute(asked.encode())
    assert [row["filter"] for row in audit(connection)] == [ASKED[asked]]
