"""Test ingest of official layouts and evaluation under both protocols, on worked examples."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Outcome
from tests.support.official_layouts import write_chexpert, write_mimic, write_nih14, write_radimagenet

Cli = Callable[..., Outcome]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "pseudonym.key"


def ingest(cli: Cli, name: str, path: Path, key: Path, *arguments: object) -> Outcome:
    return cli("ingest", name, path, "--pseudonym-key", key, *arguments, "--format", "json")


def rows(connection: psycopg.Connection, query: str, *parameters: object) -> list[tuple]:
    return connection.execute(query.encode(), parameters).fetchall()


def test_ingest_stores_patients_studies_and_views_under_pseudonyms(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    outcome = ingest(cli, "nih14", write_nih14(tmp_path / "nih"), key)
    assert (outcome.code, outcome.rows[-1]["added"]) == (0, 6)
    found = rows(
        connection, "SELECT patient, patient_sex, patient_age_years, view FROM cbir.image_overview ORDER BY source"
    )
    assert [row[1:] for row in found] == [
        ("M", 57, "PA"), ("M", 58, "PA"), ("M", 80, "AP"), ("F", 74, "PA"), ("F", None, "PA"), ("M", 82, "AP"),
    ]  # fmt: skip
    assert found[0][0] == found[1][0] != found[2][0]
    assert all(len(pseudonym) == 32 for pseudonym, *_ in found)
    assert rows(connection, "SELECT count(*) FROM cbir.study") == [(6,)]


def test_second_ingest_changes_nothing_and_updates_a_corrected_row(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    root = write_nih14(tmp_path / "nih")
    ingest(cli, "nih14", root, key)
    before = rows(connection, "SELECT image_id, xmin::text, patient_id FROM cbir.image ORDER BY 1")
    again = ingest(cli, "nih14", root, key).rows[-1]
    assert (again["unchanged"], again["added"], again["updated"]) == (6, 0, 0)
    assert rows(connection, "SELECT image_id, xmin::text, patient_id FROM cbir.image ORDER BY 1") == before
    table = root / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace(",57,M,PA", ",59,M,AP"))
    assert ingest(cli, "nih14", root, key).rows[-1]["updated"] == 1
    assert rows(
        connection, "SELECT view, patient_age_years FROM cbir.image_overview WHERE source LIKE %s", "%00000001_000.png"
    ) == [("AP", 59)]


def test_new_pseudonym_key_is_private_and_another_key_is_refused(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    ingest(cli, "nih14", write_nih14(tmp_path / "nih"), key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    text = key.read_text().strip()
    for (dump,) in rows(connection, "SELECT to_jsonb(p)::text FROM cbir.pseudonym_key AS p"):
        assert text not in dump
    other = tmp_path / "other.key"
    refused = ingest(cli, "chexpert", write_chexpert(tmp_path / "c"), other)
    assert (refused.code, other.exists()) == (1, False)
    assert "There is no pseudonym key" in refused.err
    other.write_text("ab" * 32)
    other.chmod(0o600)
    refused = ingest(cli, "chexpert", tmp_path / "c" / "CheXpert-v1.0-small", other)
    assert refused.code == 1
    assert "with another key" in refused.err
    assert rows(connection, "SELECT name FROM cbir.dataset") == [("nih14",)]


def test_dataset_without_patients_creates_no_pseudonym_key(cli: Cli, class_folder: Path, key: Path) -> None:
    assert ingest(cli, "folder", class_folder, key).code == 0
    assert not key.exists()


@pytest.mark.parametrize("content", ["", "not hexadecimal", "abcd"])
def test_file_that_is_no_key_is_refused_with_one_sentence(cli: Cli, tmp_path: Path, key: Path, content: str) -> None:
    key.write_text(content)
    refused = ingest(cli, "nih14", write_nih14(tmp_path / "nih"), key)
    assert refused.code == 1
    assert "is not a pseudonym key" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_dry_run_counts_images_by_split_modality_and_label(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    outcome = ingest(cli, "chexpert", write_chexpert(tmp_path), key, "--dry-run")
    *selection, summary = outcome.rows
    assert summary["added"] == 7
    assert {"split": "train", "modality": "XR", "label": "XR/chest/Edema", "images": 5} in selection
    assert {"split": "val", "modality": "XR", "label": "XR/chest/Edema", "images": 1} in selection
    assert rows(connection, "SELECT count(*) FROM cbir.image") == [(0,)]


def test_missing_images_are_counted_and_named_once(cli: Cli, tmp_path: Path, key: Path) -> None:
    root = write_radimagenet(tmp_path / "r")
    (root / "radiology_ai" / "US" / "liver" / "usn053022.png").unlink()
    outcome = ingest(cli, "radimagenet", root, key)
    assert (outcome.code, outcome.rows[-1]["missing"], outcome.rows[-1]["added"]) == (0, 1, 4)
    assert outcome.err.count("radiology_ai/US/liver/usn053022.png") == 1


# --- which images take part -----------------------------------------------------------------------------------------


def taking_part(connection: psycopg.Connection, protocol: str, split: str, seed: int = 0) -> dict[str, list[str]]:
    """Return the images of a split with the labels that count."""
    return dict(
        rows(
            connection,
            """
            SELECT i.source, array_agg(l.name ORDER BY l.name)
            FROM cbir_internal.protocol_image(%s, %s, NULL, %s) AS p
            INNER JOIN cbir.image AS i USING (image_id)
            CROSS JOIN unnest(p.label_ids) AS x (label_id) INNER JOIN cbir.label AS l USING (label_id)
            GROUP BY i.source
            """,
            protocol, split, seed,
        )
    )  # fmt: skip


def test_chexpert_images_with_exactly_one_finding_take_part_in_the_papers_protocol(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    ingest(cli, "chexpert", write_chexpert(tmp_path), key)
    # valid.csv is the test split; an uncertain value, two findings, and devices that are no finding:
    assert taking_part(connection, "paper", "test") == {
        "valid/patient64541/study1/view1_frontal.jpg": ["XR/chest/Edema"]
    }
    trained = taking_part(connection, "paper", "train") | taking_part(connection, "paper", "val")
    assert trained == {
        "train/patient00001/study1/view1_frontal.jpg": ["XR/chest/No Finding"],
        "train/patient00002/study2/view1_frontal.jpg": ["XR/chest/Edema"],
        "train/patient00002/study2/view2_lateral.jpg": ["XR/chest/Edema"],
        "train/patient00004/study1/view1_frontal.jpg": ["XR/chest/Edema"],
    }
    any_label = taking_part(connection, "any-label", "train") | taking_part(connection, "any-label", "val")
    assert any_label["train/patient00003/study1/view1_frontal.jpg"] == ["XR/chest/Edema", "XR/chest/Fracture"]
    assert any_label["train/patient00002/study1/view1_frontal.jpg"] == ["XR/chest/Edema"]


def test_mimic_protocol_counts_only_positive_labels(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    ingest(cli, "mimic-cxr", write_mimic(tmp_path / "m"), key)
    assert taking_part(connection, "paper", "train") == {
        "files/p10/p10000032/s50414267/02aa804e.jpg": ["XR/chest/No Finding"],
        "files/p10/p10000032/s53189527/2a2277a9.jpg": ["XR/chest/Edema"],  # beside an uncertain one
    }
    assert taking_part(connection, "paper", "val") == {}  # it has two
    assert len(taking_part(connection, "any-label", "val")) == 1


def test_one_tenth_of_the_patients_is_val_and_the_seed_changes_which(
    cli: Cli, connection: psycopg.Connection, tmp_path: Path, key: Path
) -> None:
    ingest(cli, "nih14", write_nih14(tmp_path / "nih"), key)
    connection.execute(
        """
        INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, md5(n::text)
        FROM cbir.dataset, generate_series(1, 2000) AS n
        """
    )
    shares = {}
    for seed in (0, 1):
        ((share,),) = rows(
            connection,
            "SELECT avg((cbir_internal.evaluation_split('nih14', 'train', pseudonym, %s) = 'val')::int)::float FROM cbir.patient",
            seed,
        )
        shares[seed] = share
        assert 0.07 < share < 0.13
    differing = rows(
        connection,
        "SELECT count(*) FROM cbir.patient WHERE cbir_internal.evaluation_split('nih14', 'train', pseudonym, 0)"
        " <> cbir_internal.evaluation_split('nih14', 'train', pseudonym, 1)",
    )
    assert differing[0][0] > 100


def test_evaluation_split_is_inlined_into_protocol_image(connection: psycopg.Connection) -> None:
    """A call per image would be fifteen times as slow as an expression in the statement."""
    plan = rows(connection, "EXPLAIN (VERBOSE) SELECT * FROM cbir_internal.protocol_image('paper', 'train')")
    assert any("md5" in line for (line,) in plan)
    assert not any("evaluation_split(" in line for (line,) in plan)


# --- what is relevant -----------------------------------------------------------------------------------------------


@pytest.fixture
def four_images(connection: psycopg.Connection) -> None:
    """Store a query q (A and B, patient p) and indexed images c (C), b (B, patient p), a (A), nearest first."""
    connection.execute("INSERT INTO cbir.dataset (name, reader) VALUES ('d', 'paper-csv')")
    connection.execute("INSERT INTO cbir.label (name) VALUES ('A'), ('B'), ('C')")
    connection.execute("INSERT INTO cbir.patient (dataset_id, pseudonym) SELECT dataset_id, 'p' FROM cbir.dataset")
    connection.execute(
        "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('two', 'embedding_two', 2, 'single')"
    )
    connection.execute("SELECT cbir_internal.create_embedding_table('two')")
    for source, split, labels, patient, angle in (
        ("q", "test", "AB", True, 0.0), ("c", "train", "C", False, 0.1), ("b", "train", "B", True, 0.2),
        ("a", "train", "A", False, 0.3),
    ):  # fmt: skip
        connection.execute(
            """
            WITH new AS (
                INSERT INTO cbir.image (dataset_id, patient_id, source, split)
                SELECT dataset_id, CASE WHEN %(patient)s THEN patient_id END, %(source)s, %(split)s FROM cbir.patient
                RETURNING image_id
            ), labelled AS (
                INSERT INTO cbir.image_label (image_id, label_id)
                SELECT image_id, label_id FROM new, cbir.label WHERE name = ANY(string_to_array(%(labels)s, NULL))
            )
            INSERT INTO cbir.embedding_two
            SELECT image_id, format('[%%s,%%s]', cos(%(angle)s::float), sin(%(angle)s::float))::vector FROM new
            """,
            {"source": source, "split": split, "labels": labels, "patient": patient, "angle": angle},
        )


def evaluate(cli: Cli, *arguments: object) -> dict:
    outcome = cli("evaluate", "-e", "two", "-k", 3, *arguments, "--format", "json")
    assert outcome.code == 0, outcome.err
    return outcome.rows[-1]


def precision(cli: Cli, *arguments: object) -> dict[int, tuple[float, float]]:
    found = cli("metrics", "-e", "two", "-n", "1-3", *arguments, "--format", "json").rows
    return {row["n"]: (row["micro_precision"], row["macro_precision"]) for row in found}


def test_any_label_protocol_gives_the_precision_worked_by_hand(
    cli: Cli, connection: psycopg.Connection, four_images: None
) -> None:
    """Neighbours in order c, b, a. Relevant (shares A or B): no, yes, yes; of 2 relevant, n is at most 2."""
    assert evaluate(cli, "--protocol", "any-label")["queries"] == 1
    # micro: P@1 = 0/1, P@2 = 1/2, P@3 = P@2. Class A: 1 relevant, P@n = hit at rank 1 = 0; class B likewise.
    assert precision(cli) == {1: (0.0, 0.0), 2: (0.5, 0.0), 3: (0.5, 0.0)}
    assert rows(connection, "SELECT relevant_count, hits FROM cbir.search_result") == [(2, [0, 1, 2])]
    assert rows(
        connection,
        "SELECT l.name, r.relevant_count, r.hits FROM cbir.search_result_label AS r JOIN cbir.label AS l USING (label_id)"
        " ORDER BY 1",
    ) == [("A", 1, [0, 0, 1]), ("B", 1, [0, 1, 1])]


def test_exclude_patient_leaves_out_images_of_the_query_patient(
    cli: Cli, connection: psycopg.Connection, four_images: None
) -> None:
    """Without b, the neighbours are c and a; one is relevant, so n is at most 1."""
    row = evaluate(cli, "--protocol", "any-label", "--exclude-patient")
    assert row["short_queries"] == 0
    assert rows(connection, "SELECT relevant_count, hits FROM cbir.search_result") == [(1, [0, 1])]
    # B has no indexed carrier left: it has no precision and is left out of the mean over classes.
    assert precision(cli) == {1: (0.0, 0.0), 2: (0.0, 0.0), 3: (0.0, 0.0)}
    assert {row["class"] for row in cli("metrics", "-e", "two", "-n", 1, "--by", "class", "--format", "json").rows} == {
        "A"
    }


def test_run_stores_protocol_definition_seed_and_patient_option(
    cli: Cli, connection: psycopg.Connection, four_images: None
) -> None:
    evaluate(cli, "--protocol", "any-label", "--exclude-patient", "--split-seed", 7)
    ((protocol, definition, seed, same),) = rows(
        connection, "SELECT protocol, definition, split_seed, same_patient FROM cbir.search_run"
    )
    assert (protocol, seed, same) == ("any-label", 7, False)
    assert "shares one" in definition


def test_papers_protocol_leaves_out_a_query_with_two_labels(cli: Cli, four_images: None) -> None:
    outcome = cli("evaluate", "-e", "two", "-k", 3)
    assert outcome.code == 1
    assert "exactly one label" in outcome.err
