"""Every command explains itself."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from app.cli.root import SECTIONS, group

NAMES = [name for section in SECTIONS.values() for name in section]


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand by its full name."""
    ctx = click.Context(group)
    for name in NAMES:
        command = group.get_command(ctx, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from _below(name, command)


def _below(name: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for sub, found in group.commands.items():
        yield f"{name} {sub}", found
        if isinstance(found, click.Group):
            yield from _below(f"{name} {sub}", found)


def test_the_overview_names_every_command_without_importing_them() -> None:
    check = "import sys, app.cli; app.cli.main()"
    said = subprocess.run([sys.executable, "-c", check, "--help"], capture_output=True, text=True, check=True)
    assert all(name in said.stdout for name in NAMES)
    loaded = "import sys; from app.cli.root import group; print([m for m in sys.modules if m.startswith('celery')])"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_has_help_and_an_example(name: str, command: click.Command) -> None:
    said = CliRunner().invoke(group, [*name.split(), "--help"])
    assert said.exit_code == 0
    assert command.help
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert all(option.help for option in options)
    assert f"penstock {name}" in said.output.split("\n", 1)[1] or name == "simulate-upstream"


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(group, ["nope"]).exit_code == 2
