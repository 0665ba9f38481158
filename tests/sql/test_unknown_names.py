"""Test that an unknown run, grouping or encoder is an error with a hint, and never an empty answer."""

from __future__ import annotations

import psycopg
import pytest

OF_A_RUN = [
    "SELECT * FROM cbir.precision_by('run', {})",
    "SELECT * FROM cbir.precision_without_leakage({})",
    "SELECT * FROM cbir.precision_by_index_size({})",
    "SELECT * FROM cbir.leakage({})",
    "SELECT * FROM cbir.leaking_image({})",
    "SELECT * FROM cbir.knn_accuracy({}, '{{1}}')",
    "SELECT * FROM cbir.knn_prediction({}, '{{1}}')",
    "SELECT * FROM cbir.anatomy_up_to(5, {})",
    "SELECT * FROM cbir.scored_list('run', {})",
    "SELECT * FROM cbir.paired_precision_cell({0}, {0}, '{{1}}')",
    "SELECT * FROM cbir_internal.indexed_image({})",
]


@pytest.mark.parametrize("call", OF_A_RUN)
@pytest.mark.parametrize("run", ["999", "NULL::bigint"])
def test_unknown_run_is_an_error(connection: psycopg.Connection, call: str, run: str) -> None:
    if run.startswith("NULL") and ("precision_by('run'" in call or "anatomy_up_to" in call):
        assert connection.execute(call.format(run).encode()).fetchall() == [], "of these NULL means all runs"
        return
    with pytest.raises(psycopg.errors.NoDataFound, match=r"there is no finished run (999|NULL)") as caught:
        connection.execute(call.format(run).encode())
    assert caught.value.diag.message_hint == "There are no finished runs yet; run: cbirdb evaluate -e ENCODER"


@pytest.mark.parametrize("call", ["SELECT * FROM cbir.precision_by({})", "SELECT * FROM cbir.scored_list({}, 1)"])
@pytest.mark.parametrize("group", ["'x'", "'Class'", "NULL"])
def test_unknown_grouping_is_an_error(connection: psycopg.Connection, call: str, group: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be grouped by") as caught:
        connection.execute(call.format(group).encode())
    assert "run, class, dataset, modality, anatomic_region" in str(caught.value.diag.message_hint)


@pytest.mark.parametrize(
    "call",
    [
        "SELECT * FROM cbir.similar_images('none', image_id => 1)",
        "SELECT * FROM cbir.similar_studies('none', study_id => 1)",
        "SELECT * FROM cbir.label_suggestions('none', image_id => 1)",
        "SELECT * FROM cbir_internal.nearest_image('none', '[1]')",
    ],
)
def test_unknown_encoder_is_an_error(connection: psycopg.Connection, call: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject, match="there is no encoder"):
        connection.execute(call.encode())


def test_hint_for_an_unknown_run_lists_the_newest_runs_first(connection: psycopg.Connection) -> None:
    connection.execute("SELECT cbir_internal.register_encoder('toy', 2, 'half', NULL, NULL, NULL, '{}', '{}')")
    made = connection.execute(
        "INSERT INTO cbir.search_run (encoder_id, protocol, datasets, query_split, index_split, k, mode, seed,"
        " indexed_images, query_images, versions, finished_at)"
        " SELECT encoder_id, 'paper', '{a}', 'test', 'train', 5, 'exact', 0, 1, 1, '{}', now()"
        " FROM cbir.encoder, generate_series(1, 3) RETURNING run_id"
    ).fetchall()
    with pytest.raises(psycopg.errors.NoDataFound) as caught:
        connection.execute("SELECT * FROM cbir.leakage(999)")
    newest_first = ", ".join(str(run) for (run,) in sorted(made, reverse=True))
    assert caught.value.diag.message_hint == f"Finished runs: {newest_first}."
