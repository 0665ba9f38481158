"""Test the pseudonym key: one per database, complete whenever it is read, also when several processes create it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from cbirdb.db.catalogue import check_pseudonym_key
from cbirdb.errors import InputError
from cbirdb.pseudonyms import Pseudonyms
from tests.conftest import Outcome, picture_bytes
from tests.support.official_layouts import write_nih14

Cli = Callable[..., Outcome]


def test_second_of_two_first_ingests_with_another_key_is_refused(dsn: str, connection: psycopg.Connection) -> None:
    with psycopg.connect(dsn, autocommit=True) as first, psycopg.connect(dsn, autocommit=True) as second:
        refused: list[InputError] = []

        def check() -> None:
            try:
                check_pseudonym_key(second, "b" * 32)
            except InputError as error:
                refused.append(error)

        with first.transaction():
            check_pseudonym_key(first, "a" * 32)
            other = threading.Thread(target=check)
            other.start()
            other.join(timeout=1)  # it either waits, or has taken its own key for the first
        other.join()
    assert connection.execute("SELECT fingerprint FROM cbir.pseudonym_key").fetchall() == [("a" * 32,)]
    assert len(refused) == 1


def test_concurrent_creation_of_the_key_gives_everyone_the_same_key(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.key"
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda _, path=path: Pseudonyms.from_file(path, create=True).fingerprint, range(8)))
        assert len(set(made)) == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 20, "something is left beside the keys"


@pytest.mark.parametrize(
    "content",
    [picture_bytes(1, file_format="JPEG"), b"", b"ab", b"x" * 64, b"00" * 5000, "é".encode() * 32],
    ids=["picture", "nothing", "short", "letters", "long", "accents"],
)
def test_file_that_is_no_key_is_refused_with_one_sentence(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.jpeg"
    path.write_bytes(content)
    outcome = cli("ingest", "nih14", write_nih14(tmp_path / "nih"), "--pseudonym-key", path)
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert f"{path} is not a pseudonym key" in outcome.err
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o444])
def test_key_that_others_may_use_is_refused_with_one_sentence_and_the_command_that_mends_it(
    cli: Cli, tmp_path: Path, mode: int
) -> None:
    path, images = tmp_path / "some.key", write_nih14(tmp_path / "nih")
    Pseudonyms.from_file(path, create=True)
    path.chmod(mode)
    outcome = cli("ingest", "nih14", images, "--pseudonym-key", path)
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert f"Others than its owner may read or change the pseudonym key {path}" in outcome.err
    assert f"Run: chmod 600 {path}" in outcome.err
    path.chmod(0o600)
    assert cli("ingest", "nih14", images, "--pseudonym-key", path).code in {0, 4}


def test_secret_that_belongs_to_another_user_is_taken_as_it_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    made = Pseudonyms.from_file(path, create=True).fingerprint
    path.chmod(0o444)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert Pseudonyms.from_file(path, create=False).fingerprint == made
