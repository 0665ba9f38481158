"""Test that an option's earlier name works like the new one, warns, and is in no help text."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from cbirdb.cli.evaluate import evaluate
from cbirdb.cli.index import audit, build
from cbirdb.cli.renamed_option import RenamedOption

WARNING = "Warning: --old-name is now --new-name, and the next release will refuse the old name.\n"


@click.group()
@click.option("--quiet", is_flag=True)
def top(quiet: bool) -> None:
    """Hold the command."""


@top.command()
@click.option(
    "--new-name", cls=RenamedOption, old="--old-name", type=click.IntRange(0, 9), default=5, envvar=["T_NEW_NAME"]
)
@click.pass_context
def show(ctx: click.Context, new_name: int) -> None:
    """Print the value and its source."""
    source = ctx.get_parameter_source("new_name")
    click.echo(f"{new_name} {source.name if source else None}")


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(top, arguments, env=environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "shown", "warning"),
    [
        ([], {}, "5 DEFAULT\n", ""),
        (["--new-name", "1"], {}, "1 COMMANDLINE\n", ""),
        (["--old-name", "2"], {}, "2 COMMANDLINE\n", WARNING),
        (["--old-name=2"], {}, "2 COMMANDLINE\n", WARNING),
        (["--old-name", "2", "--new-name", "1"], {}, "1 COMMANDLINE\n", WARNING),
        (["--new-name", "1", "--old-name", "2"], {}, "1 COMMANDLINE\n", WARNING),
        ([], {"T_NEW_NAME": "3"}, "3 ENVIRONMENT\n", ""),
        ([], {"T_OLD_NAME": "4"}, "4 ENVIRONMENT\n", WARNING.replace("--old-name", "T_OLD_NAME").replace("--new-name", "T_NEW_NAME")),
        ([], {"T_NEW_NAME": "3", "T_OLD_NAME": "4"}, "3 ENVIRONMENT\n", ""),
        (["--old-name", "2"], {"T_NEW_NAME": "3"}, "2 COMMANDLINE\n", WARNING),
        (["--new-name", "1"], {"T_OLD_NAME": "4"}, "1 COMMANDLINE\n", ""),
    ],
)  # fmt: skip
def test_earlier_name_gives_the_value_and_warns_once(
    arguments: list[str], environment: dict[str, str], shown: str, warning: str
) -> None:
    result = call("show", *arguments, **environment)
    assert (result.exit_code, result.stdout, result.stderr) == (0, shown, warning)


def test_quiet_hides_the_warning() -> None:
    result = call("--quiet", "show", "--old-name", "2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 COMMANDLINE\n", "")


def test_bad_value_under_the_earlier_name_names_the_new_one() -> None:
    result = call("show", "--old-name", "10")
    assert result.exit_code == 2
    assert "Invalid value for '--new-name': 10 is not in the range" in result.stderr


def test_help_shows_only_the_new_name() -> None:
    shown = call("show", "--help").stdout
    assert "--new-name" in shown
    assert "old" not in shown


@pytest.mark.parametrize("command", [audit, build, evaluate], ids=["audit", "build", "evaluate"])
def test_floor_zeros_is_the_earlier_name_of_max_share_without_hit(command: click.Command) -> None:
    option = next(option for option in command.params if option.name == "max_share_without_hit")
    assert isinstance(option, RenamedOption)
    assert (option.opts, option.old) == (["--max-share-without-hit"], "--floor-zeros")
