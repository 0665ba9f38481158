"""Test arguments of the search functions: injected SQL, unknown names, and values out of range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pgvector import Vector
from psycopg import sql

from tests.support.stored_pictures import PICTURES, Picture, fill, index, put_in_studies, unit

CALLS: dict[str, dict[str, Any]] = {
    "similar_images": {"encoder": "toy", "image_id": 1},
    "similar_studies": {"encoder": "toy", "study_uid": "query"},
    "label_suggestions": {"encoder": "toy", "image_id": 1},
    "explain_match": {"image_a": 1, "image_b": 2},
}
"""The public search functions, and arguments with which they answer."""
STARTS = {"sop_uid": "image_id", "series_uid": "image_id", "study_uid": "image_id"}
"""Arguments that stand in the place of another one of ``CALLS``."""


@pytest.fixture
def known(connection: psycopg.Connection) -> list[int]:
    """Store the images of ``PICTURES`` and put them into studies."""
    ids = fill(connection, unit(len(PICTURES)), PICTURES)
    assert ids[0] == 1
    put_in_studies(connection, ids, ["query", "a", "a", "b", "b", None, None])
    return ids


def call(connection: psycopg.Connection, function: str, **arguments: object) -> list[tuple[Any, ...]]:
    given = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
    )
    statement = sql.SQL("SELECT * FROM cbir.{}({})").format(sql.Identifier(function), given)
    return connection.execute(statement, arguments).fetchall()


def with_argument(function: str, name: str, value: object) -> dict[str, Any]:
    """Return the working arguments with one more, in place of another if only one of the two may be given."""
    arguments = {key: given for key, given in CALLS[function].items() if key != STARTS.get(name)}
    return arguments | {name: value}


def text_arguments(connection: psycopg.Connection) -> Iterator[tuple[str, str]]:
    """Yield the text arguments that the database lists, so that later ones are attacked, too."""
    for function in CALLS:
        row = connection.execute(
            "SELECT proargnames, proargtypes::regtype[]::text[] FROM pg_proc"
            " WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal') AND proname = %s",
            [function],
        ).fetchone()
        assert row is not None
        yield from ((function, name) for name, kind in zip(*row, strict=True) if kind == "text")


PAYLOADS = [
    "'; DROP TABLE cbir.image CASCADE; --",
    "''; DELETE FROM cbir.image; --",
    '"; DELETE FROM cbir.image; --',
    "x' OR '1'='1",
    "' UNION SELECT usename FROM pg_user --",
    "%I %s %L $1 $2 %1$s %%",
    "$$; DROP SCHEMA cbir CASCADE; $$",
    "$x$; DROP SCHEMA cbir CASCADE; $x$",
    "\\'; SELECT pg_sleep(9); --",
    "\\x27; DROP TABLE cbir.label; --",
    "E'\\u0027; DROP TABLE cbir.label; --",
    "\uff07; DROP TABLE cbir.image; --",  # a fullwidth quote, which some encodings fold into a quote
    "\u2019; DROP TABLE cbir.image; --",
    "\u02bc; DROP TABLE cbir.image; --",
    "ß' ✓ \u202e;\u0000"[:-1],
    "/* ; */ DROP TABLE cbir.image",
    "toy\n; DROP TABLE cbir.image;",
    "toy; DROP TABLE cbir.image",
    "cbir.image",
    "{toy}",
    "",
    " ",
    "a" * 100_000,
]


def state(connection: psycopg.Connection) -> dict[str, str]:
    """Return a digest of every table's content and of all functions and roles."""
    tables = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'r' ORDER BY 1"
    ).fetchall()
    found = {}
    for (table,) in tables:
        query = sql.SQL("SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM cbir.{} AS t")
        row = connection.execute(query.format(sql.Identifier(table))).fetchone()
        assert row is not None
        found[table] = row[0]
    objects = connection.execute(
        "SELECT md5(string_agg(pg_get_functiondef(oid), '|' ORDER BY oid)) FROM pg_proc"
        " WHERE pronamespace::regnamespace::text IN ('cbir', 'cbir_internal') AND prokind = 'f' AND prolang <> 13 AND prolang <> 12"
    ).fetchone()
    roles = connection.execute("SELECT string_agg(rolname, ',' ORDER BY 1) FROM pg_roles").fetchone()
    return found | {"functions": str(objects), "roles": str(roles), "tables": str(len(tables))}


@pytest.mark.parametrize("with_index", [False, True])
def test_text_arguments_are_never_executed(connection: psycopg.Connection, known: list[int], with_index: bool) -> None:
    if with_index:
        index(connection)
    arguments = list(text_arguments(connection))
    assert {function for function, _ in arguments} == {"similar_images", "similar_studies", "label_suggestions"}
    assert len(arguments) == 3 * 13 + 4  # two of them take further UIDs
    before = state(connection)
    for payload in PAYLOADS:
        for function, name in arguments:
            # Nothing has such a name, so a sentence says so: neither an answer nor an error of syntax.
            with pytest.raises(
                (psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue, psycopg.errors.NoDataFound)
            ) as caught:
                call(connection, function, **with_argument(function, name, payload))
            assert caught.value.diag.message_hint, (function, name, payload)
        assert state(connection) == before, payload


@pytest.mark.parametrize("function", [name for name in CALLS if name != "explain_match"])
@pytest.mark.parametrize(
    ("argument", "value", "kind", "message", "hint"),
    [
        ("encoder", "toi", psycopg.errors.UndefinedObject, 'no encoder "toi"', "Encoders here: toy."),
        ("encoder", None, psycopg.errors.UndefinedObject, 'no encoder "NULL"', "Encoders here: toy."),
        ("dataset", "three", psycopg.errors.UndefinedObject, 'no dataset "three"', "Known: one, two."),
        ("dataset", "One", psycopg.errors.UndefinedObject, 'no dataset "One"', "Known: one, two."),
        ("modality", "XX", psycopg.errors.UndefinedObject, 'no modality "XX"', "Known: CT, MR, XR."),
        ("anatomic_region", "leg", psycopg.errors.UndefinedObject, 'no anatomic region "leg"', "abd, chest, knee, wall."),
        ("label", "XR/ches", psycopg.errors.UndefinedObject, 'no label "XR/ches"', "100%/x_y, CT/abd, CT/abd/a, XR/chest,"),
        ("label", "XR/ches_", psycopg.errors.UndefinedObject, "no label", "XR/chestwall."),
        ("label", "%", psycopg.errors.UndefinedObject, "no label", "XR/chestwall."),
        ("label", "XR/", psycopg.errors.UndefinedObject, "no label", "XR/chestwall."),
        ("split", "valid", psycopg.errors.UndefinedObject, 'no split "valid"', "Known: train, val, test."),
        ("mode", "fast", psycopg.errors.InvalidParameterValue, 'no search mode "fast"', "auto, exact, approximate"),
        ("mode", None, psycopg.errors.InvalidParameterValue, "no search mode", "auto, exact, approximate"),
        ("k", 0, psycopg.errors.InvalidParameterValue, "k must lie between 1 and 10000, not 0", "default"),
        ("k", -1, psycopg.errors.InvalidParameterValue, "not -1", "default"),
        ("k", 10_001, psycopg.errors.InvalidParameterValue, "not 10001", "default"),
        ("k", 3_000_000_000, psycopg.errors.InvalidParameterValue, "not 3000000000", "default"),
        ("k", None, psycopg.errors.InvalidParameterValue, "not NULL", "default"),
    ],
)  # fmt: skip
def test_unknown_argument_value_is_refused_and_the_hint_lists_known_ones(
    connection: psycopg.Connection,
    known: list[int],
    function: str,
    argument: str,
    value: object,
    kind: type[psycopg.Error],
    message: str,
    hint: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(connection, function, **with_argument(function, argument, value))
    assert hint in (caught.value.diag.message_hint or "")


@pytest.mark.parametrize("function", [name for name in CALLS if name != "explain_match"])
def test_study_from_after_study_to_is_refused_and_equal_days_are_accepted(
    connection: psycopg.Connection, known: list[int], function: str
) -> None:
    dates = with_argument(function, "study_from", "2020-06-02")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"study_from .* lies after study_to") as caught:
        call(connection, function, **dates | {"study_to": "2020-06-01"})
    assert caught.value.diag.message_hint
    call(connection, function, **dates | {"study_to": "2020-06-02"})


@pytest.mark.parametrize("function", ["similar_images", "label_suggestions"])
def test_missing_or_invalid_query_image_is_refused_with_a_hint(
    connection: psycopg.Connection, known: list[int], function: str
) -> None:
    vector = Vector(unit(1)[0]).to_text()
    invalid, missing = psycopg.errors.InvalidParameterValue, psycopg.errors.NoDataFound
    for arguments, kind, message, hint in (
        ({}, invalid, "give exactly one of image_id, a UID and query, not none", "image_id => 42"),
        ({"image_id": None, "sop_uid": None}, invalid, "not none", "image_id => 42"),
        ({"image_id": 1, "sop_uid": "1.2.0"}, invalid, "not several", "image_id => 42"),
        ({"image_id": 1, "query": vector}, invalid, "not several", "image_id => 42"),
        ({"image_id": 10**9}, missing, "no image 1000000000", "There are 7 images, with ids from 1 to 7"),
        ({"image_id": -1}, missing, "no image -1", "There are 7 images, with ids from 1 to 7"),
        ({"sop_uid": "9.9.9"}, missing, "no image has this UID", "7 of 7 images have a SOP instance UID"),
        ({"query": "[1,2]"}, invalid, "must have 8 dimensions, not 2", "No encoder here has this number"),
        ({"query": str([0] * 8)}, invalid, "must not consist of zeros", "compares directions"),
        ({"image_id": 1, "without_image": 2}, invalid, "work only with a query vector", "same_patient"),
        ({"image_id": 1, "without_patient": 2}, invalid, "work only with a query vector", "same_patient"),
    ):
        with pytest.raises(kind, match=message) as caught:
            call(connection, function, encoder="toy", **arguments)
        assert hint in (caught.value.diag.message_hint or ""), message
        # Servers log errors, and a UID leads to a patient.
        assert "9.9.9" not in str(caught.value)


def test_hint_names_the_encoder_whose_dimension_a_vector_has(connection: psycopg.Connection, known: list[int]) -> None:
    connection.execute(
        "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('b', 'embedding_b', 2, 'half')"
    )
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="8 dimensions, not 2") as caught:
        call(connection, "similar_images", encoder="toy", query="[1,2]")
    assert caught.value.diag.message_hint == "Encoders here with 2 dimensions: b."


def test_uid_of_several_images_is_refused_and_the_hint_lists_them(
    connection: psycopg.Connection, known: list[int]
) -> None:
    connection.execute("UPDATE cbir.image SET sop_uid = '1.2.0' WHERE image_id = ANY(%s)", [known[4:6]])
    for function in ("similar_images", "label_suggestions"):
        with pytest.raises(psycopg.errors.CardinalityViolation, match="3 images have this UID") as caught:
            call(connection, function, encoder="toy", sop_uid="1.2.0")
        assert caught.value.diag.message_hint == "Give image_id => one of 1, 5, 6."


def test_long_list_of_names_is_shortened_in_the_hint(connection: psycopg.Connection, known: list[int]) -> None:
    connection.execute(
        "INSERT INTO cbir.label (name) SELECT format('MR/%s', lpad(n::text, 3, '0')) FROM generate_series(1, 500) n"
    )
    with pytest.raises(psycopg.errors.UndefinedObject) as caught:
        call(connection, "similar_images", encoder="toy", image_id=1, label="nothing")
    hint = caught.value.diag.message_hint or ""
    assert hint.startswith("Known: 100%/x_y, CT/abd, CT/abd/a, MR/001, ")
    assert hint.endswith("MR/017 and 487 more.")


def test_hints_of_an_empty_database_say_that_there_is_nothing(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject) as caught:
        call(connection, "similar_images", encoder="toy", image_id=1)
    assert caught.value.diag.message_hint == "There are no encoders yet; run: cbirdb encode -e tiny-image"
    fill(connection, unit(1))
    connection.execute("DELETE FROM cbir.image")
    with pytest.raises(psycopg.errors.NoDataFound) as caught:
        call(connection, "similar_images", encoder="toy", image_id=1)
    assert caught.value.diag.message_hint == "There are no images; cbir.image_overview lists them."
    with pytest.raises(psycopg.errors.UndefinedObject) as caught:
        call(connection, "similar_images", encoder="toy", query=str([1] * 8), label="a")
    assert caught.value.diag.message_hint == "There is none yet."


@pytest.mark.parametrize("function", list(CALLS))
def test_search_is_recorded_once_with_what_it_returned(
    connection: psycopg.Connection, known: list[int], function: str
) -> None:
    connection.execute(
        "CREATE TABLE seen (function_name text, encoder text, image bigint, k int, modality text, mode text, ids bigint[])"
    )
    connection.execute(
        """
        CREATE OR REPLACE FUNCTION cbir_internal.record_search(
            function_name text, encoder text, query_image_id bigint, k integer, filter cbir.image_filter, mode text,
            returned bigint[], same_patient boolean DEFAULT NULL, without_image bigint DEFAULT NULL,
            without_patient bigint DEFAULT NULL, study_id bigint DEFAULT NULL, m integer DEFAULT NULL
        ) RETURNS void LANGUAGE sql AS $$
            INSERT INTO public.seen VALUES ($1, $2, $3, $4, ($5).modality, $6, $7)
        $$
        """
    )
    filters: dict[str, object] = {} if function == "explain_match" else {"modality": "XR", "k": 2}
    rows = call(connection, function, **CALLS[function], **filters)
    seen = connection.execute("SELECT * FROM seen").fetchall()
    assert len(seen) == 1
    if function == "explain_match":
        assert seen[0] == (function, None, known[0], None, None, None, [known[1]])
        return
    assert seen[0][:6] == (function, "toy", known[0], 2, "XR", "exact")
    if function == "label_suggestions":
        assert seen[0][6] == [known[n] for n in (1, 2)] or seen[0][6] == [known[n] for n in (2, 1)]
    else:
        column = 1 if function == "similar_images" else 5
        assert seen[0][6] == [row[column] for row in rows]
        assert len(rows) >= 1
    # A search that finds nothing is a search, too.
    assert call(connection, function, **CALLS[function], image_ids=[]) == []
    last = connection.execute("SELECT ids FROM seen").fetchall()
    assert [row[0] for row in last][1:] == [[]]


@pytest.mark.parametrize("function", list(CALLS))
@pytest.mark.parametrize("with_index", [False, True])
def test_search_without_audit_works_in_a_read_only_transaction(
    connection: psycopg.Connection, known: list[int], function: str, with_index: bool
) -> None:
    """The audit row is the only thing that a search writes."""
    connection.execute("UPDATE cbir.setting SET enabled = FALSE WHERE name = 'audit'")
    if with_index:
        index(connection)
    before = call(connection, function, **CALLS[function])
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        assert call(connection, function, **CALLS[function]) == before
    assert before


@pytest.mark.parametrize("function", ["similar_images", "similar_studies", "label_suggestions"])
def test_search_describes_rows_without_scanning_whole_tables(connection: psycopg.Connection, function: str) -> None:
    pictures = [Picture(labels=(f"label {n % 7}",)) for n in range(4000)]
    known = fill(connection, unit(4000), pictures)
    put_in_studies(connection, known, ["query", *[f"study {n % 2000}" for n in range(3999)]])
    index(connection)
    connection.execute("VACUUM ANALYZE")

    def read_whole() -> list[tuple[Any, ...]]:
        connection.execute("SELECT pg_stat_force_next_flush()")
        return connection.execute(
            "SELECT relname, seq_scan FROM pg_stat_user_tables"
            " WHERE schemaname = 'cbir' AND relname IN ('image', 'image_label') ORDER BY 1"
        ).fetchall()

    before = read_whole()
    assert len(before) == 2
    rows = call(connection, function, **CALLS[function])
    assert rows
    assert "approximate" in rows[0]
    assert read_whole() == before
