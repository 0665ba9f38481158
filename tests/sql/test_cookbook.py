"""Run every block of docs/sql.md on generated phantoms with patients, studies and a few faults."""

from __future__ import annotations

import csv
import io
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.classify import LinearOptions, classify_linear
from cbirdb.db.embeddings import find_encoder
from cbirdb.demo import demo
from cbirdb.demo.phantoms import write_phantoms
from cbirdb.encode.load import load_encoders
from cbirdb.encoders.base import LoadOptions

DOCS = Path(__file__).resolve().parents[2] / "docs" / "sql.md"
BLOCKS = re.findall(r"^### (.*?)\n\n```sql\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
COLUMNS = {
    "Which images resemble this one?": "rank image_id similarity labels source mode complete",
    "Which MR images of the last five years?": "rank image_id similarity labels study_uid study_date",
    "Which resemble the image that the PACS shows, by its UID?": "rank sop_uid similarity labels",
    "Which originals of one side and view, from one manufacturer?": "rank image_id similarity sop_uid",
    "Which are nearest to a vector, here the mean of a class?": "rank image_id similarity labels",
    "Which of my own cohort?": "rank image_id similarity labels",
    "The nearest image to each of several?": "image_id labels nearest_image_id similarity nearest_labels",
    "Which studies resemble this one?": "rank study_uid study_date similarity query_image_id image_id labels",
    "What might this be?": "label votes vote_share class_precision class_queries run_id remark",
    "Why these two?": "encoder distance shared_labels labels_of_a_only labels_of_b_only same_patient same_modality"
    " identical_file",
    "How many images of what?": "dataset split modality anatomic_region images",
    "What does DICOM say of a study's images?": "series_uid sop_uid frame modality_code body_part laterality view image_type"
    " manufacturer burned_in_annotation",
    "Which files are copies of others?": "image_id sop_uid frame source replaced_by",
    "How many images carry each label?": "label positive uncertain",
    "Who are the encoders?": "name dim precision family licence table_name created_at",
    "Which images have no embedding yet?": "image_id dataset source reason",
    "What could not be read or encoded, and why?": "stage reason files times last_at",
    "How big are the tables and indexes?": "name about_rows table_size index_size",
    "What state are the vector indexes in?": "encoder method parameters search_settings rows_indexed built_at valid size",
    "What does the latest run say?": "run_id encoder n micro_precision macro_precision queries classes mode ann_recall"
    " not_final",
    "Which classes are worst?": "class precision_at_5 queries",
    "P@N by class, as CSV?": "encoder class n micro_precision queries",
    "What did a run find for one query?": "rank image_id distance relevant labels",
    "Which classes are taken for which?": "class taken_for nearest_neighbours",
    "Which classes does a linear probe take for which?": "class taken_for images",
    "How good is a linear probe, in all and by class?": "class precision recall f1 auc queries accuracy balanced_accuracy"
    " macro_auc",
    "Which files stand on both sides of a split?": "sha256 image_id dataset source split",
    "Which patients are in train and in test?": "dataset patient train test",
    "Which neighbours are nearly the query itself?": "query_image_id image_id distance identical_file same_patient",
}


@pytest.fixture(scope="module")
def phantoms(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection]:
    """Fill the demo's database, and add patients, studies, damaged files and copies."""
    name = f"cbirdb_cookbook_{uuid.uuid4().hex[:8]}"
    dsn = make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, dsn, tmp_path_factory.mktemp("cookbook"))
            yield connection
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def fill(connection: psycopg.Connection, dsn: str, out: Path) -> None:
    folder = out / "phantoms"
    write_phantoms(folder)
    chest = folder / "train" / "XR" / "chest" / "normal"
    shutil.copyfile(min(chest.glob("*.png")), folder / "test" / "XR" / "chest" / "normal" / "copy.png")
    (chest / "damaged.png").write_bytes(b"no picture")
    (chest / "grey.png").write_bytes(grey())
    encoders = load_encoders(connection, ["tiny-image"], LoadOptions(weights=None, store=out, device="cpu"))
    demo(connection, encoders, out, connect=lambda: psycopg.connect(dsn, autocommit=True))
    stored = find_encoder(connection, "tiny-image")
    assert stored is not None
    # So strongly regularised that it confuses some.
    classify_linear(connection, stored, LinearOptions(grid=[0.01]))
    # The folder's layout knows no patients: two images a study, two studies a patient, and now and then a third.
    connection.execute(
        """
        INSERT INTO cbir.patient (dataset_id, pseudonym, sex)
        SELECT d.dataset_id, format('patient %s', n), CASE n % 2 WHEN 0 THEN 'F' ELSE 'M' END
        FROM cbir.dataset AS d, generate_series(0, 59) AS n;
        INSERT INTO cbir.study (dataset_id, patient_id, study_uid, study_date, age_years)
        SELECT p.dataset_id, p.patient_id, format('2.25.%s', n), current_date - 10 * n, 20 + n % 60
        FROM generate_series(0, 600) AS n INNER JOIN cbir.patient AS p ON p.pseudonym = format('patient %s', n / 2 % 60);
        UPDATE cbir.image AS i SET study_id = st.study_id, patient_id = st.patient_id,
            sop_uid = format('%s.%s', st.study_uid, i.image_id % 2)
        FROM cbir.study AS st WHERE st.study_uid = format('2.25.%s', i.image_id / 2);
        INSERT INTO cbir.series (study_id, series_uid) SELECT st.study_id, st.study_uid || '.9' FROM cbir.study AS st;
        UPDATE cbir.image AS i SET series_id = se.series_id, modality_code = 'CR', body_part = 'CHEST', view = 'PA',
            laterality = CASE i.image_id % 2 WHEN 0 THEN 'L' ELSE 'R' END, image_type = '{ORIGINAL,PRIMARY}',
            manufacturer = 'Siemens', burned_in_annotation = 'NO'
        FROM cbir.series AS se WHERE se.study_id = i.study_id;
        UPDATE cbir.image SET replaced_by = 1 WHERE source LIKE '%grey.png';
        """
    )
    connection.execute("ANALYZE")


def grey() -> bytes:
    """Return a picture of one grey, which tiny-image cannot encode."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (32, 32), 128).save(buffer, format="PNG")
    return buffer.getvalue()


def test_cookbook_and_test_list_the_same_questions() -> None:
    assert [question for question, _ in BLOCKS] == list(COLUMNS)
    assert len(BLOCKS) == DOCS.read_text().count("```sql")


@pytest.mark.xdist_group("cookbook")
@pytest.mark.parametrize(("question", "block"), BLOCKS, ids=[question for question, _ in BLOCKS])
def test_cookbook_block_runs_and_returns_rows(phantoms: psycopg.Connection, question: str, block: str) -> None:
    cursor = phantoms.cursor()
    if block.startswith("COPY"):
        with cursor.copy(block.encode()) as copying:
            lines = list(csv.reader(io.StringIO(b"".join(bytes(part) for part in copying).decode())))
        columns, rows = lines[0], lines[1:]
    else:
        rows = list(cursor.execute(block.encode()).fetchall())
        assert cursor.description is not None
        columns = [column.name for column in cursor.description]
    assert columns == COLUMNS[question].split()
    assert rows
    # Something is known in every column somewhere, but where nothing can be.
    unknown = {
        name for place, name in enumerate(columns) if all(row[place] is None or row[place] == "" for row in rows)
    }
    assert unknown <= {"licence", "remark", "not_final"}
