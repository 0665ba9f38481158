"""Test what an erasure removes from the search audit: ids and pseudonyms of the patient, and nothing else."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.audited_searches import audit, six_pictures


@pytest.fixture
def ids(connection: psycopg.Connection) -> list[int]:
    return six_pictures(connection)


def test_erasure_redacts_ids_of_the_patient_in_filters_and_no_others(
    connection: psycopg.Connection, ids: list[int]
) -> None:
    connection.execute(
        "UPDATE cbir.study SET patient_id = i.patient_id FROM cbir.image AS i WHERE i.study_id = study.study_id"
    )
    (patient, *studies) = connection.execute(
        "SELECT patient_id, array_agg(study_id ORDER BY study_id) FROM cbir.image WHERE patient_id ="
        " (SELECT patient_id FROM cbir.patient WHERE pseudonym = 'p1') GROUP BY 1"
    ).fetchone() or (0, [])
    other = connection.execute("SELECT patient_id FROM cbir.patient WHERE pseudonym = 'p0'").fetchone()
    vector = "SELECT * FROM cbir.similar_images('toy', query => '[1,0]', k => 1, {} => {})"
    for what, number in (
        ("without_patient", patient), ("without_patient", other and other[0]), ("without_image", ids[2]),
        ("without_image", ids[5]),
    ):  # fmt: skip
        connection.execute(vector.format(what, number).encode())
    for study in (*studies[0], 1):
        connection.execute("SELECT * FROM cbir.similar_studies('toy', study_id => %s, k => 1, m => 2)", [study])
    before = audit(connection)
    removed = connection.execute("SELECT removed FROM cbir.erase_patient('p1')").fetchone()
    after = audit(connection)
    assert [row["filter"] for row in after] == [
        {"without_patient": "erased"}, {"without_patient": other and other[0]}, {"without_image": "erased"},
        {"without_image": ids[5]}, {"study_id": "erased", "m": 2}, {"study_id": "erased", "m": 2},
        {"study_id": 1, "m": 2},
    ]  # fmt: skip
    gone = {ids[2], ids[3]}
    counted = [
        (row["query_image_id"] in gone)
        + len(gone & set(row["returned"]))
        + (row["filter"].get("without_image") in gone)
        for row in before
    ]
    assert [row["erased_ids"] for row in after] == counted
    assert removed is not None
    assert removed[0]["search_audit_redacted"] == sum(was != now for was, now in zip(before, after, strict=True))


GONE = [100, 101]
"""No images, as if they had been dropped."""
FORGED = [
    "returned = '{1,2,3}', filter = '{\"image_ids\": [1, 100]}', erased_ids = 2",
    "returned = '{1,2,3,1}', filter = '{\"image_ids\": [1]}', erased_ids = 3",
    "returned = '{2,1,3}', filter = '{\"image_ids\": [1]}', erased_ids = 3",
    "returned = '{1,2,3}', filter = '{\"image_ids\": [1]}', erased_ids = 1001",
    "returned = '{1,2,3}', filter = '{\"image_ids\": [1]}', erased_ids = 2",
    "returned = '{1,2}', filter = '{\"image_ids\": [1]}', erased_ids = 4",
    "returned = '{1,2,3}', filter = '{}', erased_ids = 4",
    "returned = '{1,2,3}', filter = '{\"image_ids\": [99]}', erased_ids = 4",
    "returned = '{1,2,3}', filter = '{\"image_ids\": [1]}', erased_ids = 3, purpose = 'x'",
    "filter = '{\"image_ids\": []}', erased_ids = 3",
    "searched_at = searched_at",
]


@pytest.mark.parametrize("change", FORGED)
def test_audit_guard_allows_only_the_change_that_an_erasure_makes(
    connection: psycopg.Connection, ids: list[int], change: str
) -> None:
    assert set(GONE).isdisjoint(ids)
    connection.execute(
        "INSERT INTO cbir.search_audit (login, role, function, filter, returned)"
        " VALUES ('x', 'x', 'x', '{\"image_ids\": [1, 100, 101]}', '{1,100,2,3}')"
    )
    before = audit(connection)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot be changed or deleted"):
        connection.execute(f"UPDATE cbir.search_audit SET {change}".encode())
    assert audit(connection) == before
    connection.execute(
        "UPDATE cbir.search_audit SET returned = '{1,2,3}', filter = '{\"image_ids\": [1]}', erased_ids = 3"
    )


SAID = {
    "p1": "erased",
    "P1, please": "erased, please",
    "compare p1_p1 with p10 and xp1": "compare erased_erased with p10 and xp1",
    "p2 and p1's mother": "p2 and erased's mother",
    "tumour board": "tumour board",
}
"""Purposes, and what an erasure of p1 makes of them."""


def searched_for(connection: psycopg.Connection, purposes: object, image: int) -> None:
    for purpose in purposes:  # type: ignore[attr-defined]
        connection.execute("SELECT set_config('cbir.purpose', %s, false)", [purpose])
        connection.execute("SELECT * FROM cbir.similar_images('toy', image_id => %s, k => 1)", [image])
    connection.execute("SET cbir.purpose = ''")


def test_erasure_removes_the_pseudonym_from_purposes_and_keeps_other_words(
    connection: psycopg.Connection, ids: list[int]
) -> None:
    connection.execute("UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'")
    connection.execute("UPDATE cbir.setting SET enabled = TRUE WHERE name = 'audit'")
    searched_for(connection, SAID, ids[0])
    erased = connection.execute("SELECT removed, to_run FROM cbir.erase_patient('p1')").fetchone()
    assert [row["purpose"] for row in audit(connection)[2:]] == list(SAID.values())
    assert erased is not None
    assert erased[0]["search_audit_redacted"] >= sum(said != left for said, left in SAID.items())
    assert "VACUUM (ANALYZE) cbir.search_audit" in erased[1]


def test_generated_pseudonym_is_redacted_within_a_word_too(connection: psycopg.Connection, ids: list[int]) -> None:
    pseudonym = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    connection.execute("UPDATE cbir.patient SET pseudonym = %s WHERE pseudonym = 'p1'", [pseudonym])
    searched_for(connection, [f"pat{pseudonym.upper()}x", f"({pseudonym})", pseudonym[:31]], ids[0])
    connection.execute("SELECT * FROM cbir.erase_patient(%s)", [pseudonym])
    assert [row["purpose"] for row in audit(connection)] == ["paterasedx", "(erased)", pseudonym[:31]]


@pytest.mark.parametrize("pseudonym", ["a.b", "a|b", "(a", "[a]", "a\\1", "a+", "^a$", "site/7 x", "é*"])
def test_pseudonym_with_pattern_characters_is_matched_literally(
    connection: psycopg.Connection, ids: list[int], pseudonym: str
) -> None:
    connection.execute("UPDATE cbir.patient SET pseudonym = %s WHERE pseudonym = 'p1'", [pseudonym])
    searched_for(connection, [f"for {pseudonym} again", "axb a b aa"], ids[0])
    connection.execute("SELECT * FROM cbir.erase_patient(%s)", [pseudonym])
    assert [row["purpose"] for row in audit(connection)] == ["for erased again", "axb a b aa"]


def test_second_erasure_redacts_purposes_written_since(connection: psycopg.Connection, ids: list[int]) -> None:
    first = connection.execute("SELECT * FROM cbir.erase_patient('p1')").fetchall()
    assert connection.execute("SELECT * FROM cbir.erase_patient('p1')").fetchall() == first
    searched_for(connection, ["was p1 erased?"], ids[0])
    again = connection.execute("SELECT certificate_id, removed FROM cbir.erase_patient('p1')").fetchall()
    assert [row["purpose"] for row in audit(connection)] == ["was erased erased?"]
    assert [row[0] for row in again] == [row[0] for row in first]
    assert again[0][1]["search_audit_redacted"] == 1


def test_purpose_can_lose_only_the_pseudonym_of_an_erased_patient(
    connection: psycopg.Connection, ids: list[int]
) -> None:
    """Whoever may update the table, as its owner may, and names anything else as erased, changes no row."""
    connection.execute("SELECT * FROM cbir.erase_patient('p1')")
    searched_for(connection, ["p1 and p2 at the tumour board"], ids[0])
    before = audit(connection)
    for named, purpose in (
        ("", "erased and p2 at the tumour board"),
        ("p2", "p1 and erased at the tumour board"),
        ("tumour", "p1 and p2 at the erased board"),
        ("P1", "erased and p2 at the tumour board"),
        ("p1", "p1 and p2 at the tumour board"),
        ("p1", "erased"),
        ("p1", "erased and erased at the tumour board"),
        ("p1", "erased and p2 at the tumour board, late"),
        ("p1", None),
    ):
        connection.execute("SELECT set_config('cbir.erased_pseudonym', %s, false)", [named])
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot be changed or deleted"):
            connection.execute("UPDATE cbir.search_audit SET purpose = %s", [purpose])
        assert audit(connection) == before
    connection.execute("SET cbir.erased_pseudonym = 'p1'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot be changed or deleted"):
        connection.execute("UPDATE cbir.search_audit SET purpose = 'erased and p2 at the tumour board', k = 2")
    connection.execute("UPDATE cbir.search_audit SET purpose = 'erased and p2 at the tumour board'")
