"""A group whose commands are imported when they are used: `penstock --help` stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from app.cli.failure import translate


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command stands (`module:attribute`), and the line that `--help` shows for it."""

    place: str
    line: str

    def load(self) -> click.Command:
        """Import it. Raises ImportError, AttributeError."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """`sections` is what it offers: title -> name -> Lazy, in the order of the help page."""

    def __init__(self, sections: Mapping[str, Mapping[str, Lazy]], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._sections = sections
        self._lazy = {name: lazy for section in sections.values() for name, lazy in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        lazy = self._lazy.get(cmd_name)
        return lazy.load() if lazy else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands section by section, without importing one of them."""
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, lazy.line) for name, lazy in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what went wrong becomes one line with its mend."""
        with translate():
            return super().invoke(ctx)
