"""Lets an option that was renamed work under its earlier name for one release, with a warning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource


class RenamedOption(click.Option):
    """An option whose earlier name, and its environment variable, still work but are in no help text.

    Pass the earlier name as ``old="--earlier-name"``, and remove it one release later.
    """

    def __init__(self, *settings: Any, old: str, **more: Any) -> None:
        super().__init__(*settings, **more)
        self.old = old
        self._place = f"old:{old}"

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser accept the earlier name and keep its value apart."""
        super().add_to_parser(parser, ctx)
        parser.add_option(self, [self.old], self._place, nargs=self.nargs)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Return the value of the new name, else that of the earlier one."""
        new = self.opts[0]
        if self._place in opts:
            _warn(ctx, self.old, new)
            opts = {self.name or "": opts[self._place], **opts}
        value, source = super().consume_value(ctx, opts)
        if source not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            for variable in self.envvar if isinstance(self.envvar, list) else []:
                old = variable.removesuffix(_as_variable(new)) + _as_variable(self.old)
                if os.environ.get(old):
                    _warn(ctx, old, variable)
                    return os.environ[old], ParameterSource.ENVIRONMENT
        return value, source


def _as_variable(option: str) -> str:
    """Return the part of an environment variable that an option gives: ``--top-k`` -> ``TOP_K``."""
    return option.lstrip("-").upper().replace("-", "_")


def _warn(ctx: click.Context, old: str, new: str) -> None:
    if not ctx.find_root().params.get("quiet"):
        click.echo(f"Warning: {old} is now {new}, and the next release will refuse the old name.", err=True)
