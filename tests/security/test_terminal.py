"""Test that file names cannot control the terminal of whoever lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome

NAME = "\x1b[2J\x1b]0;owned\x07\u202egnp.x.png"


def test_control_characters_of_file_names_are_shown_as_escapes(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "x").mkdir(parents=True)
    (root / "x" / NAME).write_bytes(b"no picture")
    done = cli("ingest", "folder", root)
    listed = cli("failures")
    assert (done.code, listed.code) == (4, 0)
    for text in (done.err, listed.out, cli("failures", "--format", "table").out):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "\\x1b[2J" in listed.out
    assert cli("failures", "--format", "json").rows[0]["source"] == f"x/{NAME}", "for programs it is what it is"
