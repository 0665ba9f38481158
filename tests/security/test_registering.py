"""Test that what an ingest login writes is never used as a table name, a folder to read, or code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from cbirdb.cli.main import run
from cbirdb.db.catalogue import check_folder
from cbirdb.db.embeddings import find_encoder, register_encoder
from cbirdb.db.known_encoders import known_encoders
from cbirdb.encoders.shipped import SHIPPED
from tests.conftest import Logins, Outcome, new_database, picture_bytes
from tests.support.dicom_archive import archive
from tests.support.two_sites import fill, secure

COMPLETE = {
    "name": "x", "family": "timm_models", "weights": "timm/x", "dim": 5, "embedding": "x", "preprocessing": "x",
    "licence": "x", "training_scheme": "unknown", "citation": "x",
}  # fmt: skip
"""A complete record, which is accepted."""


@pytest.fixture
def database(role_server: str, role_template: str) -> str:
    """Make a database for the test, whose schema the administrators own; yield its name."""
    with new_database(role_server, role_template) as dsn:
        yield psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]


def test_planted_encoder_cannot_make_an_administrator_drop_a_core_table(database: str, logins: Logins) -> None:
    """In this attack cbir_ingest names cbir.setting as an encoder's table, and an administrator drops the encoder."""
    with logins.connect("ingest", database) as attacker, pytest.raises(psycopg.errors.InsufficientPrivilege):
        attacker.execute(
            "INSERT INTO cbir.encoder (name, table_name, dim, precision) VALUES ('old-model', 'setting', 2, 'half')"
        )
    with logins.connect("ingest", database) as attacker:
        attacker.execute("SELECT cbir_internal.register_encoder('old-model', 2, 'half', NULL, NULL, NULL, '{}', '{}')")
    assert run(["--dsn", logins.dsn("admin", database), "encoders", "drop", "old-model", "--yes"]) == 0
    with logins.connect("admin", database) as connection:
        assert connection.execute("SELECT count(*) FROM cbir.setting").fetchone() == (3,)
        assert connection.execute("SELECT to_regclass('cbir.embedding_old_model')").fetchone() == (None,)


def test_encoders_drop_keeps_a_table_without_the_shape_of_embeddings(
    database: str, logins: Logins, capsys: pytest.CaptureFixture[str]
) -> None:
    with logins.connect("admin", database) as connection:
        connection.execute(
            "SELECT cbir_internal.register_encoder('old-model', 2, 'half', NULL, NULL, NULL, '{}', '{}')"
        )
        connection.execute("DROP TABLE cbir.embedding_old_model")
        connection.execute("CREATE TABLE cbir.embedding_old_model (patient text)")
    assert run(["--dsn", logins.dsn("admin", database), "encoders", "drop", "old-model", "--yes"]) == 3
    assert "is not dropped" in capsys.readouterr().err
    with logins.connect("admin", database) as connection:
        assert connection.execute("SELECT to_regclass('cbir.embedding_old_model') IS NULL").fetchone() == (False,)


def test_site_cannot_change_the_golden_embedding_of_an_encoder(database: str, logins: Logins) -> None:
    """A wrong vector of the fixed picture would stop every other site's encoding."""
    with logins.connect("ingest", database) as site:
        register_encoder(
            site, "toy", dim=2, precision="half", spec={}, provenance={"dtype": "float32"}, golden_embedding=[1.0, 0.0]
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            site.execute("UPDATE cbir.encoder SET golden_embedding = '{0,1}'")
        changed = site.execute("SELECT cbir_internal.describe_encoder('toy', 'x', 'y', '{}', '{0,1}')").fetchone()
        site.execute("SELECT cbir_internal.register_encoder('toy', 3, 'single', 'x', 'x', 'x', '{}', '{}', '{0,1,0}')")
        stored = find_encoder(site, "toy")
    assert changed == (False,)
    assert stored is not None
    assert (stored.golden_embedding, stored.dim, stored.precision) == ([1.0, 0.0], 2, "half")


@pytest.mark.parametrize("golden", ["{1}", "{1,1}", "{0,0}", "{NaN,0}", "{NULL,1}"])
def test_golden_embedding_of_wrong_dimension_or_length_is_refused(database: str, logins: Logins, golden: str) -> None:
    with logins.connect("ingest", database) as site, pytest.raises(psycopg.errors.InvalidParameterValue):
        site.execute(
            "SELECT cbir_internal.register_encoder('toy', 2, 'half', NULL, NULL, NULL, '{}', '{}', %s)", [golden]
        )


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "x", "family": "os", "weights": "a/b"},
        {"name": "x", "family": "huggingface", "weights": "https://example.org/model.bin"},
        {"name": "x", "family": "huggingface", "weights": "../../etc"},
        {"name": "x", "family": "huggingface", "weights": "a/b", "options": {"trust_remote_code": True}},
        {"name": "x", "family": "huggingface", "weights": "a/b", "options": {"interpolate_offset": 7}},
        {"name": "y", "family": "huggingface", "weights": "a/b"},
        {"name": "x"},
    ],
)
def test_encoder_record_with_code_or_an_address_is_refused(
    database: str, logins: Logins, spec: dict[str, object]
) -> None:
    with logins.connect("ingest", database) as site, pytest.raises(psycopg.errors.InvalidParameterValue):
        site.execute("SELECT cbir_internal.add_encoder_record('x', %s)", [Jsonb({**COMPLETE, "weights": None, **spec})])


@pytest.mark.parametrize("root", ["/images/b", "/images/b/deeper", "/images", "/"])
@pytest.mark.parametrize("statement", ["INSERT", "UPDATE"])
def test_site_cannot_name_the_folder_of_a_dataset_that_it_does_not_see(
    database: str, logins: Logins, root: str, statement: str
) -> None:
    with psycopg.connect(logins.server, dbname=database, autocommit=True) as connection:
        fill(connection, "b")
        fill(connection, "a")
        connection.execute("UPDATE cbir.dataset SET root = '/images/b' WHERE name = 'b'")
        secure(connection, logins)
        connection.execute(
            "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, 'a2')", [logins.names["ingest_a"]]
        )
    write = {
        "INSERT": "SELECT cbir_internal.store_dataset('a2', 'folder', %s, FALSE)",
        "UPDATE": "SELECT cbir_internal.store_dataset('a', 'test', %s, TRUE)",
    }[statement]
    with logins.connect("ingest_a", database) as site:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not see"):
            site.execute(write, [root])
        for written in ("images/b", "/images/a/../b", "/images//b", "/images/b/", "/images/./b"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="absolute path"):
                site.execute(write, [written])
        site.execute(write, ["/images/bb"])
    with logins.connect("admin", database) as admin:
        admin.execute(write.replace("'a2'", "'a3'"), [root])


@pytest.mark.parametrize(
    ("folder", "free"),
    [("/images/b", False), ("/images/b/deeper", False), ("/images", False), ("/", False), ("/images/bb", True),
     ("/images/M\udcfcller", True)],
)  # fmt: skip
def test_folder_is_compared_with_those_of_hidden_datasets_before_an_ingest(
    database: str, logins: Logins, folder: str, free: bool
) -> None:
    """The server gets hashes: the last name is in Latin-1, which it could not store."""
    with psycopg.connect(logins.server, dbname=database, autocommit=True) as connection:
        fill(connection, "b")
        fill(connection, "a")
        connection.execute("UPDATE cbir.dataset SET root = '/images/b' WHERE name = 'b'")
        secure(connection, logins)
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not see")
    with logins.connect("ingest_a", database) as site, nullcontext() if free else refused:
        check_folder(site, folder, [])


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Make two folders side by side, each with one picture."""
    for name in ("own", "other"):
        (tmp_path / name / "x").mkdir(parents=True)
    (tmp_path / "other" / "x" / "secret.png").write_bytes(picture_bytes(1))
    (tmp_path / "own" / "x" / "mine.png").write_bytes(picture_bytes(2))
    return tmp_path / "own", tmp_path / "other"


@pytest.mark.parametrize("source", ["../other/x/secret.png", "{other}/x/secret.png"])
def test_planted_file_name_cannot_leave_the_dataset_folder(
    cli: Callable[..., Outcome],
    connection: psycopg.Connection,
    tmp_path: Path,
    two_folders: tuple[Path, Path],
    source: str,
) -> None:
    own, other = two_folders
    home = tmp_path / "home"
    cli("--home", home, "ingest", "folder", own)
    connection.execute("UPDATE cbir.image SET source = %s", [source.format(other=other)])
    done = cli("--home", home, "encode", "-e", "tiny-image")
    assert done.code == 4
    assert connection.execute("SELECT reason FROM cbir.failure").fetchall() == [("outside of its folder",)]
    assert connection.execute("SELECT count(*) FROM cbir.embedding_tiny_image").fetchone() == (0,)


def test_encode_reads_only_folders_that_were_named_on_this_machine(
    cli: Callable[..., Outcome], connection: psycopg.Connection, tmp_path: Path, two_folders: tuple[Path, Path]
) -> None:
    own, other = two_folders
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    cli("--home", elsewhere, "ingest", "folder", own)
    refused = cli("--home", here, "encode", "-e", "tiny-image")
    assert refused.code == 1
    assert "--allow-root" in refused.err
    # What another machine's ingest named, or a planted root, does not count here.
    connection.execute("UPDATE cbir.dataset SET root = %s", [str(other)])
    connection.execute("UPDATE cbir.image SET source = 'x/secret.png'")
    assert cli("--home", elsewhere, "encode", "-e", "tiny-image").code == 1
    assert cli("--home", here, "encode", "-e", "tiny-image", "--allow-root", tmp_path).code == 0


def test_incomplete_encoder_record_is_refused(database: str, logins: Logins) -> None:
    with logins.connect("ingest", database) as connection:
        query = "SELECT cbir_internal.add_encoder_record('x', %s)"
        for field, wrong in [("dim", 0), *((name, None) for name in [*COMPLETE][4:]), ("revision", 7)]:
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                connection.execute(query, [Jsonb({**COMPLETE, field: wrong})])
        assert connection.execute(query, [Jsonb(COMPLETE)]).fetchone() == (True,)
        for spec, provenance in [(None, {}), ([], {}), ({}, []), ({"x": "y" * 50000}, {})]:
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                connection.execute(
                    "SELECT cbir_internal.register_encoder('other', 2, 'half', NULL, NULL, NULL, %s, %s)",
                    [Jsonb(spec), Jsonb(provenance)],
                )


def test_stored_record_does_not_replace_a_shipped_encoder(connection: psycopg.Connection) -> None:
    planted = {**SHIPPED["tiny-image"].as_json(), "citation": "planted"}
    connection.execute("INSERT INTO cbir.encoder_record (name, spec) VALUES ('tiny-image', %s)", [Jsonb(planted)])
    assert known_encoders(connection)["tiny-image"] == SHIPPED["tiny-image"]


def test_folder_that_links_into_another_datasets_folder_is_not_read(
    cli: Callable[..., Outcome], connection: psycopg.Connection, tmp_path: Path, two_folders: tuple[Path, Path]
) -> None:
    own, other = two_folders
    cli("--home", tmp_path, "ingest", "folder", own)
    cli("--home", tmp_path, "ingest", "folder", other)
    (own / "link").symlink_to(other)
    connection.execute("UPDATE cbir.dataset SET root = %s WHERE root = %s", [str(own / "link"), str(own)])
    refused = cli("--home", tmp_path, "encode", "-e", "tiny-image")
    assert refused.code == 1
    assert "--allow-root" in refused.err


def test_environment_variable_allows_folders(
    cli: Callable[..., Outcome], tmp_path: Path, two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two_folders
    cli("--home", tmp_path / "elsewhere", "ingest", "folder", own)
    monkeypatch.setenv("CBIRDB_ALLOW_ROOT", f"{other}:{own}")
    assert cli("--home", tmp_path / "here", "encode", "-e", "tiny-image").code == 0
    monkeypatch.setenv("CBIRDB_ALLOW_ROOT", str(tmp_path / "nowhere"))
    missing = cli("--home", tmp_path / "here", "encode", "-e", "tiny-image")
    assert (missing.code, "There is no folder" in missing.err) == (1, True)


def test_empty_allow_root_does_not_mean_the_current_folder(
    cli: Callable[..., Outcome], tmp_path: Path, two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = two_folders
    cli("--home", tmp_path / "elsewhere", "ingest", "folder", own)
    monkeypatch.chdir(own)
    refused = cli("--home", tmp_path / "here", "encode", "-e", "tiny-image", "--allow-root", "")
    assert (refused.code, "it is empty" in refused.err) == (2, True)
    monkeypatch.setenv("CBIRDB_ALLOW_ROOT", f":{tmp_path / 'other'}")
    assert cli("--home", tmp_path / "here", "encode", "-e", "tiny-image").code in (1, 2)


def test_file_of_allowed_folders_is_private_and_refused_when_damaged(
    cli: Callable[..., Outcome], tmp_path: Path, two_folders: tuple[Path, Path]
) -> None:
    own, _ = two_folders
    cli("--home", tmp_path / "home", "ingest", "folder", own)
    file = tmp_path / "home" / "allowed-roots.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert str(own) in file.read_text()
    file.write_text("{")
    broken = cli("--home", tmp_path / "home", "encode", "-e", "tiny-image")
    assert (broken.code, "cannot be read" in broken.err) == (1, True)


def test_symbolic_links_out_of_the_folder_are_followed_only_with_allow_root(
    cli: Callable[..., Outcome], connection: psycopg.Connection, tmp_path: Path, two_folders: tuple[Path, Path]
) -> None:
    own, other = two_folders
    (own / "x" / "file.png").symlink_to(other / "x" / "secret.png")
    (own / "folder").symlink_to(other / "x")
    (own / "x" / "inner.png").symlink_to(own / "x" / "mine.png")
    done = cli("--home", tmp_path / "home", "ingest", "folder", own, "--format", "json")
    assert (done.rows[-1]["added"], done.rows[-1]["failed"]) == (2, 2)
    reasons = connection.execute("SELECT source, reason FROM cbir.failure ORDER BY source").fetchall()
    assert reasons == [("folder", "outside of its folder"), ("x/file.png", "outside of its folder")]
    asked = cli("--home", tmp_path / "home", "ingest", "folder", own, "--allow-root", other, "--format", "json")
    assert (asked.rows[-1]["added"], asked.rows[-1]["failed"]) == (2, 0)


def test_contact_sheet_leaves_out_pictures_that_may_not_be_read_here(
    cli: Callable[..., Outcome], tmp_path: Path, two_folders: tuple[Path, Path]
) -> None:
    own, _ = two_folders
    (own / "x" / "second.png").write_bytes(picture_bytes(3))
    cli("--home", tmp_path / "home", "ingest", "folder", own)
    cli("--home", tmp_path / "home", "encode", "-e", "tiny-image")
    search = ("search", "--image-id", 1, "-e", "tiny-image", "--sheet", tmp_path / "sheet.png")
    assert "left out" not in cli("--home", tmp_path / "home", *search).err
    elsewhere = cli("--home", tmp_path / "elsewhere", *search)
    assert elsewhere.code == 0
    assert "Pictures of own are missing" in elsewhere.err


def test_stored_record_with_an_unknown_family_is_refused(
    connection: psycopg.Connection, cli: Callable[..., Outcome]
) -> None:
    """Even a record that the owner writes is imported only if it names a family of cbirdb."""
    connection.execute(
        sql.SQL("INSERT INTO cbir.encoder_record (name, spec) VALUES ('x', {})").format(
            '{"name": "x", "family": "weights", "weights": "a/b", "dim": 2, "embedding": "", "preprocessing": "",'
            ' "licence": "", "training_scheme": "unknown", "citation": ""}'
        )
    )
    cli("ingest", "folder", ".", "--dry-run")
    refused = cli("encoders", "verify", "x")
    assert refused.code == 1
    assert "names a family that does not exist" in refused.err


def test_site_cannot_ingest_the_dicom_folder_of_a_site_that_it_does_not_see(
    database: str, logins: Logins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server has opaque names of folders; the path map of the machine says which overlap."""
    archive(tmp_path / "b" / "files")
    home = ["--home", str(tmp_path / "home")]
    with psycopg.connect(logins.server, dbname=database, autocommit=True) as connection:
        fill(connection, "a")
        secure(connection, logins)
        connection.execute(
            "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, 'stolen')", [logins.names["ingest_a"]]
        )
    own = ["ingest", "dicom", str(tmp_path / "b" / "files"), "--name", "own"]
    assert run([*home, "--dsn", logins.dsn("admin", database), *own]) == 0
    tries = [("dicom", "b"), ("folder", "b"), ("dicom", "b/files"), ("folder", "b/files"), ("dicom", "b/files/doe")]
    for layout, folder in tries:
        capsys.readouterr()
        stolen = ["ingest", layout, str(tmp_path / folder), "--name", "stolen"]
        assert run([*home, "--dsn", logins.dsn("ingest_a", database), *stolen]) == 3, (layout, folder)
        assert "may not see" in capsys.readouterr().err
    with logins.connect("ingest_a", database) as attacker:
        with psycopg.connect(logins.server, dbname=database) as owner:
            ((root,),) = owner.execute("SELECT root FROM cbir.dataset WHERE name = 'own'").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not see"):
            attacker.execute("SELECT cbir_internal.store_dataset('stolen', 'dicom', %s, FALSE)", [root])


def test_site_that_names_the_path_of_a_folder_with_an_opaque_name_gets_no_picture(
    database: str, logins: Logins, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server cannot know that the path is another site's; the machine that reads it does."""
    files = archive(tmp_path / "b" / "files")
    command = ["--home", str(tmp_path / "home"), "--dsn", logins.dsn("admin", database)]
    with psycopg.connect(logins.server, dbname=database, autocommit=True) as connection:
        fill(connection, "a")
        secure(connection, logins)
        connection.execute(
            "INSERT INTO cbir.dataset_access (role_name, dataset) VALUES (%s, 'stolen')", [logins.names["ingest_a"]]
        )
    assert run([*command, "ingest", "dicom", str(files), "--name", "own"]) == 0
    with logins.connect("ingest_a", database) as attacker:
        ((dataset, *_),) = attacker.execute(
            "SELECT * FROM cbir_internal.store_dataset('stolen', 'dicom', %s, FALSE)", [str(files)]
        ).fetchall()
        picture = Jsonb([{"source": "doe/slice0", "labels": {}, "frame": 0}])
        attacker.execute("SELECT cbir_internal.store_images(%s, %s)", [dataset, picture])
    assert run([*command, "encode", "-e", "tiny-image", "--dataset", "own"]) == 0
    assert run([*command, "encode", "-e", "tiny-image", "--dataset", "stolen"]) == 1
    assert "not allowed on this machine" in capsys.readouterr().err
