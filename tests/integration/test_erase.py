"""Test the erasure of a patient: no column keeps a trace, others keep their data, and nothing undoes it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cbirdb.db.server.embedded import EmbeddedServer
from cbirdb.pseudonyms import Pseudonyms
from tests.conftest import Outcome, picture_bytes
from tests.support.official_layouts import NIH_ROWS, write_key, write_nih14
from tests.support.probes import stored_probe, sure_answers

Cli = Callable[..., Outcome]
PATIENT = "1"
"""A patient of NIH's table with two images."""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_nih14(tmp_path / "nih")


@pytest.fixture
def pseudonym(cli: Cli, connection: psycopg.Connection, root: Path, key: Path) -> str:
    """Encode, import, index, search and evaluate six images of four patients; return a pseudonym."""
    broken = root / "images" / NIH_ROWS[1][0]
    broken.write_bytes(b"")
    assert cli("ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih").code == 4
    broken.write_bytes(picture_bytes(1))
    assert cli("ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih").code == 0
    assert cli("encode", "-e", "tiny-image").code == 0
    imported(cli, root.parent / "vectors.h5", NIH_ROWS)
    connection.execute("UPDATE cbir.image SET split = CASE WHEN image_id % 3 = 0 THEN 'test' ELSE 'train' END")
    # Labels that images share: one each for the paper's protocol, some two, so that relevance changes with an erasure.
    connection.execute("DELETE FROM cbir.image_label")
    connection.execute("INSERT INTO cbir.label (name) VALUES ('a'), ('b')")
    connection.execute(
        "INSERT INTO cbir.image_label (image_id, label_id) SELECT image_id, label_id FROM cbir.image JOIN cbir.label"
        " ON name = ANY((ARRAY['{a}', '{a,b}', '{a}', '{a}', '{b}', '{a,b}'])[image_id]::text[])"
    )
    assert cli("index", "build", "-e", "tiny-image", "--method", "hnsw").code == 0
    for protocol in ("paper", "any-label"):
        assert cli(
            "evaluate", "-e", "tiny-image", "--mode", "exact", "--protocol", protocol, "-k", 5, "--index-split", "train"
        ).code == 0  # fmt: skip
    classes, answers = sure_answers(connection, ["nih"])
    stored_probe(connection, "tiny-image", ["nih"], classes, answers)
    for image_id in ids(connection):
        connection.execute("SELECT * FROM cbir.similar_images('tiny-image', image_id => %s)", [image_id])
        connection.execute(
            "SELECT * FROM cbir.similar_images('tiny-image', image_id => %s, image_ids => %s)",
            [image_id, ids(connection)],
        )
    pseudonym = Pseudonyms.from_file(key, create=False).of("nih", PATIENT)
    assert cli("search", "--image-id", 6, "-e", "tiny-image", "-k", 1, "--purpose", f"case of {pseudonym}").code == 0
    return pseudonym


def imported(cli: Cli, path: Path, rows: Any) -> Outcome:
    with h5py.File(path, "w") as file:
        for number, (image, *_) in enumerate(rows):
            file[f"images/{image}"] = np.eye(8, dtype=np.float32)[number]
    return cli("import-embeddings", "-e", "imported", path, "--format", "json")


def ids(connection: psycopg.Connection, pseudonym: str | None = None) -> list[int]:
    found = connection.execute(
        "SELECT image_id FROM cbir.image LEFT JOIN cbir.patient USING (patient_id)"
        " WHERE %s::text IS NULL OR pseudonym = %s ORDER BY 1",
        [pseudonym, pseudonym],
    )
    return [row[0] for row in found]


# Columns of ids of other things than images, patients, studies and series: their numbers say nothing.
OTHER_NUMBERS = {"run_id", "label_id", "dataset_id", "encoder_id", "index_build_id", "failure_id", "audit_id"} | {
    "probe_id",
    "predicted_label_id",
}


def traces(connection: psycopg.Connection, numbers: dict[str, set[int]], words: set[str]) -> list[str]:
    """List the columns of all tables that hold one of these ids (by the kind in the column's name) or texts."""
    found = []
    columns = connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a JOIN pg_class AS c"
        " ON c.oid = a.attrelid WHERE c.relnamespace = 'cbir'::regnamespace AND c.relkind = 'r' AND a.attnum > 0"
        " AND NOT a.attisdropped"
    ).fetchall()
    for table, column, kind in columns:
        where = sql.SQL("{}").format(sql.Identifier(column))
        source = sql.SQL("cbir.{}").format(sql.Identifier(table))
        if kind == "bigint" and column.endswith("_id") and column not in OTHER_NUMBERS:
            wanted = numbers[column.removeprefix("query_").removeprefix("former_").removesuffix("_id")]
            condition = sql.SQL("{} = ANY({})").format(where, list(wanted))
        elif kind == "bigint[]":
            condition = sql.SQL("{} && {}::bigint[]").format(where, list(numbers["image"]))
        elif kind == "jsonb" and column == "filter":
            condition = sql.SQL(
                "EXISTS (SELECT FROM jsonb_array_elements({} -> 'image_ids') AS i WHERE i::bigint = ANY({}))"
            )
            condition = condition.format(where, list(numbers["image"]))
        elif kind in ("text", "jsonb", "text[]"):
            condition = sql.SQL("strpos({}::text, ANY_WORD) > 0").format(where)
            condition = sql.SQL("EXISTS (SELECT FROM unnest({}::text[]) AS w WHERE strpos({}::text, w) > 0)").format(
                list(words), where
            )
        else:
            continue
        row = connection.execute(sql.SQL("SELECT count(*) FROM {} WHERE {}").format(source, condition)).fetchone()
        if row and row[0]:
            found.append(f"{table}.{column}")
    return found


def marks(connection: psycopg.Connection, pseudonym: str) -> tuple[dict[str, set[int]], set[str]]:
    """Return everything that names this patient: ids by kind; pseudonym, file names and study keys."""
    rows = connection.execute(
        "SELECT i.image_id, i.patient_id, i.study_id, i.series_id, i.source, s.study_uid FROM cbir.image AS i"
        " JOIN cbir.patient AS p USING (patient_id) JOIN cbir.study AS s USING (study_id) WHERE p.pseudonym = %s",
        [pseudonym],
    ).fetchall()
    assert len(rows) == 2
    numbers = {
        kind: {row[n] for row in rows if row[n]} for n, kind in enumerate(("image", "patient", "study", "series"))
    }
    return numbers, {pseudonym} | {row[4] for row in rows} | {row[5] for row in rows}


def everything(connection: psycopg.Connection) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    names = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'cbir'::regnamespace AND relkind = 'r'"
    ).fetchall()
    return {
        name: connection.execute(
            sql.SQL("SELECT to_jsonb(t) FROM cbir.{} AS t").format(sql.Identifier(name))
        ).fetchall()
        for (name,) in names
    }


def test_erase_removes_the_patient_from_every_column_and_keeps_all_others(
    cli: Cli, connection: psycopg.Connection, pseudonym: str
) -> None:
    numbers, words = marks(connection, pseudonym)
    before = everything(connection)
    seen = traces(connection, numbers, words)
    assert {
        "search_result.neighbour_ids",
        "probe_prediction.image_id",
        "search_audit.returned",
        "search_audit.purpose",
        "failure.source",
        "embedding_tiny_image.image_id",
    } <= {*seen}
    outcome = cli("erase", "--patient", pseudonym, "--yes", "--format", "json")
    assert outcome.code == 0
    assert traces(connection, numbers, words) == []
    after = everything(connection)
    for table in ("image", "image_label", "patient", "study", "embedding_tiny_image", "embedding_imported", "failure"):
        assert all(row in before[table] for row in after[table]), table
    assert [len(after[t]) for t in ("image", "patient", "embedding_tiny_image", "embedding_imported")] == [4, 3, 4, 4]
    assert len(after["search_audit"]) == len(before["search_audit"])

    (certificate,) = outcome.rows
    removed = certificate["removed"]
    assert {name: removed[name] for name in ("image", "patient", "study", "failure")} == {
        "image": 2, "patient": 1, "study": 2, "failure": 1,
    }  # fmt: skip
    for table in (
        "image",
        "image_label",
        "study",
        "embedding_tiny_image",
        "embedding_imported",
        "failure",
        "search_result",
        "probe_prediction",
    ):
        assert removed[table] == len(before[table]) - len(after[table]), table
    assert removed["neighbours"] == sum(
        len(numbers["image"] & set(row["neighbour_ids"])) for (row,) in before["search_result"]
        if row["query_image_id"] not in numbers["image"]
    )  # fmt: skip
    assert certificate["login"] == connection.info.user
    assert pseudonym not in outcome.out + outcome.err
    assert not any(word in outcome.out + outcome.err for word in words)


def test_results_after_an_erasure_equal_an_evaluation_without_the_patient(
    cli: Cli, connection: psycopg.Connection, pseudonym: str
) -> None:
    """Compared with the same evaluation after the erasure, whose lists have room for every image."""
    cli("erase", "--patient", pseudonym, "--yes")
    stored = connection.execute(
        "SELECT run_id, protocol, erased_images, erased_neighbours FROM cbir.search_run ORDER BY run_id"
    ).fetchall()
    results = (
        "SELECT r.query_image_id, r.label_id, r.relevant_count, r.neighbour_ids, r.distances, r.hits,"
        " (SELECT array_agg((l.label_id, l.relevant_count, l.hits) ORDER BY l.label_id) FROM cbir.search_result_label AS l"
        "  WHERE (l.run_id, l.query_image_id) = (r.run_id, r.query_image_id))"
        " FROM cbir.search_result AS r WHERE r.run_id = %s ORDER BY 1"
    )
    assert len(stored) == 2
    for run_id, protocol, images, neighbours in stored:
        assert images > 0
        assert neighbours > 0
        again = cli(
            "evaluate", "-e", "tiny-image", "--mode", "exact", "--protocol", protocol, "-k", 5, "--format", "json"
        ).rows[0]["run"]  # fmt: skip
        old = connection.execute(results.encode(), [run_id]).fetchall()
        assert old
        assert old == connection.execute(results.encode(), [again]).fetchall()
    shown = cli("metrics", "--run", stored[0][0], "-n", 1)
    assert f"{stored[0][3]:,} entries removed from its lists" in shown.err


def test_erase_by_patient_id_needs_the_right_key_and_does_not_print_the_id(
    cli: Cli, connection: psycopg.Connection, pseudonym: str, key: Path
) -> None:
    connection.execute("ALTER DATABASE " + connection.info.dbname + " SET log_statement = 'none'")
    refused = cli("erase", "--patient-id", "no such number", "--pseudonym-key", key, "--yes")
    assert (refused.code, "no such number" in refused.err) == (1, False)
    other = key.with_name("other.key")
    Pseudonyms.from_file(other, create=True)
    assert cli("erase", "--patient-id", PATIENT, "--pseudonym-key", other, "--yes").code == 1
    assert len(ids(connection)) == 6
    outcome = cli("erase", "--patient-id", PATIENT, "--pseudonym-key", key, "--yes", "--format", "json")
    assert outcome.code == 0
    assert outcome.rows[0]["removed"]["image"] == 2
    assert ids(connection, pseudonym) == []


def test_erased_patient_cannot_return_by_ingest_import_insert_or_a_new_dataset(
    cli: Cli, connection: psycopg.Connection, pseudonym: str, root: Path, key: Path
) -> None:
    numbers, words = marks(connection, pseudonym)
    assert cli("erase", "--patient", pseudonym, "--yes").code == 0
    again = cli("ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih", "--format", "json")
    assert again.code == 0
    assert (again.rows[-1]["added"], again.rows[-1]["excluded"]) == (0, 2)
    assert "2 left out: erased patient." in again.err
    assert cli("encode", "-e", "tiny-image", "--format", "json").rows[0]["encoded"] == 0
    vectors = imported(cli, root.parent / "again.h5", NIH_ROWS)
    assert (vectors.rows[0]["added"], vectors.rows[0]["unknown"]) == (0, 0)
    assert "2 left out: erased patient." in vectors.err
    dataset = connection.execute("SELECT dataset_id FROM cbir.dataset").fetchone()
    for table, column, values in (
        ("patient", "pseudonym", {pseudonym}), ("image", "source", words & {f"images/{row[0]}" for row in NIH_ROWS}),
    ):  # fmt: skip
        assert values
        for value in values:
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="erased") as caught:
                connection.execute(
                    sql.SQL("INSERT INTO cbir.{} (dataset_id, {}) VALUES (%s, %s)").format(
                        sql.Identifier(table), sql.Identifier(column)
                    ),
                    [dataset and dataset[0], value],
                )
            assert value not in str(caught.value)
    assert traces(connection, numbers, words) == []
    # The dataset may even be dropped and ingested anew.
    assert cli("datasets", "drop", "nih", "--yes").code == 0
    anew = cli("ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih", "--format", "json")
    assert (anew.rows[-1]["added"], anew.rows[-1]["excluded"]) == (4, 2)


def test_second_erase_returns_the_first_certificate(cli: Cli, connection: psycopg.Connection, pseudonym: str) -> None:
    first = cli("erase", "--patient", pseudonym, "--yes", "--format", "json").rows
    second = cli("erase", "--patient", pseudonym, "--dataset", "nih", "--yes", "--format", "json").rows
    listed = cli("erase", "--list", "--format", "json").rows
    assert first == second == listed
    assert connection.execute("SELECT count(*) FROM cbir.erasure_certificate").fetchone() == (1,)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--patient", "feedface"), 1, "no patient with this pseudonym"),
        (("--patient", "feedface", "--dataset", "nih"), 1, "in dataset"),
        (("--patient", "x", "--dataset", "hih"), 1, "Did you mean 'nih'?"),
        (("--patient", "x", "--patient-id", "y"), 2, "Give exactly one of"),
        ((), 2, "Give exactly one of"),
        (("--from-certificate", "absent.json"), 1, "no file"),
        (("--patient", "x", "--certificate", "/"), 2, "directory"),
    ],
)
def test_bad_input_erases_nothing(
    cli: Cli, connection: psycopg.Connection, pseudonym: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = everything(connection)
    outcome = cli("erase", *arguments, "--yes")
    assert outcome.code == code
    assert says in outcome.err
    assert "feedface" not in outcome.err
    assert everything(connection) == before


def test_error_at_the_end_of_an_erasure_undoes_all_of_it(connection: psycopg.Connection, pseudonym: str) -> None:
    before = everything(connection)
    connection.execute(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'"
    )
    connection.execute(
        "CREATE TRIGGER fail BEFORE INSERT ON cbir.erasure_certificate FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )
    with pytest.raises(psycopg.errors.RaiseException):
        connection.execute("SELECT * FROM cbir.erase_patient(%s)", [pseudonym])
    assert everything(connection) == before


def test_erased_vectors_leave_the_index_file_after_its_repair(
    cli: Cli, connection: psycopg.Connection, pseudonym: str
) -> None:
    row = connection.execute("SELECT index_name FROM cbir.index_build WHERE dropped_at IS NULL").fetchone()
    assert row is not None
    (vector,) = connection.execute(
        "SELECT embedding::text FROM cbir.embedding_tiny_image WHERE image_id = %s", [ids(connection, pseudonym)[0]]
    ).fetchone() or ("",)
    stored = np.array(json.loads(vector), dtype="<f2").tobytes()[:64]

    def in_file(relation: str) -> bool:
        """Tell whether the vector's bytes are in the relation's file on disk."""
        connection.execute("CHECKPOINT")
        found = connection.execute(
            "SELECT position(%s::bytea IN pg_read_binary_file(pg_relation_filepath(%s)))", [stored, relation]
        ).fetchone()
        return bool(found and found[0])

    assert in_file(f"cbir.{row[0]}")
    certificate = cli("erase", "--patient", pseudonym, "--yes", "--no-repair", "--format", "json")
    wanted = [f"REINDEX INDEX CONCURRENTLY cbir.{row[0]}", "VACUUM (ANALYZE) cbir.embedding_tiny_image"]
    assert set(wanted) <= set(certificate.rows[0]["to_run"])
    assert all(f"{statement};" in certificate.err for statement in wanted)
    assert in_file(f"cbir.{row[0]}"), "deleted rows stay in an index until it is repaired"
    for statement in certificate.rows[0]["to_run"]:
        connection.execute(statement)
    assert not in_file(f"cbir.{row[0]}")
    other = connection.execute("SELECT pseudonym FROM cbir.patient ORDER BY 1 LIMIT 1").fetchone()
    file = "SELECT pg_relation_filenode(%s)"
    before = connection.execute(file.encode(), [f"cbir.{row[0]}"]).fetchone()
    assert cli("erase", "--patient", other and other[0], "--yes").code == 0
    assert connection.execute(file.encode(), [f"cbir.{row[0]}"]).fetchone() != before, "the command repairs by itself"
    assert connection.execute(
        "SELECT vacuum_count > 1 FROM pg_stat_user_tables WHERE relid = 'cbir.embedding_tiny_image'::regclass"
    ).fetchone() == (True,)
    found = connection.execute(
        "SELECT mode FROM cbir.similar_images('tiny-image', image_id => %s)", [ids(connection)[0]]
    )
    assert found.fetchall()


@pytest.fixture
def restored(server: str, dsn: str, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """Provide a function that restores a dump into a new database and returns its DSN."""
    made: list[str] = []

    def restore(dump: Path) -> str:
        name = f"{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}_restored_{len(made)}"
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made.append(name)
        target = make_conninfo(server, dbname=name)
        subprocess.run([program(request, "pg_restore"), "-d", target, "--exit-on-error", dump], check=True)
        return target

    yield restore
    with psycopg.connect(server, autocommit=True) as admin:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def program(request: pytest.FixtureRequest, name: str) -> str:
    """Find a program of the server's version: the embedded server's, or with --pg-dsn the one on the PATH."""
    if request.config.getoption("--pg-dsn"):
        return name
    socket_folder = psycopg.conninfo.conninfo_to_dict(request.getfixturevalue("server"))["host"]
    return str(EmbeddedServer(Path(str(socket_folder)).parent).psql().with_name(name))


def test_kept_certificate_erases_the_patient_from_a_restored_older_dump(
    cli: Cli, connection: psycopg.Connection, dsn: str, pseudonym: str, root: Path, key: Path, tmp_path: Path,
    restored: Callable[[Path], str], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    numbers, words = marks(connection, pseudonym)
    older, newer, kept = tmp_path / "older.dump", tmp_path / "newer.dump", tmp_path / "certificate.json"
    dump = [program(request, "pg_dump"), "-d", dsn, "--format=custom", "--schema=cbir*", "--extension=vector", "-f"]
    subprocess.run([*dump, older], check=True)
    assert cli("erase", "--patient", pseudonym, "--yes", "--certificate", kept).code == 0
    assert pseudonym not in kept.read_text()
    assert cli("erase", "--patient", pseudonym, "--yes", "--certificate", kept).code == 1
    subprocess.run([*dump, newer], check=True)

    # A dump from after the erasure: nobody is back, and ingest still leaves them out.
    target = restored(newer)
    with psycopg.connect(target, autocommit=True) as there:
        assert traces(there, numbers, words) == []
    ingest = cli("--dsn", target, "ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih", "--format", "json")
    assert (ingest.rows[-1]["added"], ingest.rows[-1]["excluded"]) == (0, 2)
    assert cli("--dsn", target, "db", "doctor").code == 0

    # A dump from before it: the patient is back, until the certificate that was kept apart is applied.
    target = restored(older)
    with psycopg.connect(target, autocommit=True) as there:
        assert traces(there, numbers, words)
        applied = cli("--dsn", target, "erase", "--from-certificate", kept, "--yes", "--format", "json")
        assert applied.code == 0
        assert [row["removed"]["image"] for row in applied.rows] == [2]
        assert traces(there, numbers, words) == []
        old = json.loads(kept.read_text())[0]["certificate_id"]
        found = there.execute("SELECT certificate_id::text FROM cbir.erasure_certificate").fetchall()
        assert (old,) in found
        assert len(found) == 2
    ingest = cli("--dsn", target, "ingest", "nih14", root, "--pseudonym-key", key, "--name", "nih", "--format", "json")
    assert (ingest.rows[-1]["added"], ingest.rows[-1]["excluded"]) == (0, 2)


def test_doctor_finds_a_restored_erased_patient_and_reapply_erases_them(
    cli: Cli, connection: psycopg.Connection, pseudonym: str
) -> None:
    numbers, words = marks(connection, pseudonym)
    connection.execute("CREATE TABLE public.rescued AS SELECT * FROM cbir.patient WHERE pseudonym = %s", [pseudonym])
    assert cli("erase", "--patient", pseudonym, "--yes").code == 0
    assert cli("erase", "--reapply", "--yes", "--format", "json").rows == []
    # As a restore of single tables with triggers off does it.
    connection.execute("SET session_replication_role = replica")
    connection.execute("INSERT INTO cbir.patient OVERRIDING SYSTEM VALUE SELECT * FROM public.rescued")
    connection.execute(
        "INSERT INTO cbir.image (dataset_id, source) SELECT dataset_id, %s FROM public.rescued",
        [min(word for word in words if word.endswith(".png"))],
    )
    connection.execute("SET session_replication_role = origin")
    doctor = cli("db", "doctor", "--format", "json")
    assert doctor.code == 4
    (failed,) = [row for row in doctor.rows if row["result"] == "FAILED"]
    assert (failed["check"], "2 back" in failed["detail"]) == ("Erased patients", True)
    assert len(cli("erase", "--reapply", "--yes", "--format", "json").rows) == 2
    assert traces(connection, numbers, words) == []
    assert cli("db", "doctor").code == 0
