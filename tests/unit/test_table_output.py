"""Tables print every cell as it is: no markup, no emoji, no colour."""

from __future__ import annotations

import pytest

from cbirdb.cli.output import write_rows


@pytest.mark.parametrize("text", ["[bold]a[/bold]", ":smile:", "[red]", "12 'x' True http://a.b/c"])
def test_cell_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    write_rows([{"name": text, "n": 1}], "table")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f" {text} ") for line in lines), lines
    assert "\x1b" not in "".join(lines)
