"""What the supervisor tells the terminal: little, unless something is wrong or all was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from app.cli.supervisor.child import Child
from app.cli.supervisor.component import Component
from app.cli.supervisor.state import Phase, ProcessState

_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")


class Terminal:
    """Writes to standard output. With `verbose` every line of every component, its name before it."""

    def __init__(self, names: Iterable[str], *, verbose: bool) -> None:
        names = list(names)
        self._verbose = verbose
        self._width = max(map(len, names), default=0)
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}

    def say(self, text: str) -> None:
        """Write a line of the supervisor's own. A terminal that went away is no reason to stop."""
        try:
            click.echo(text)
            sys.stdout.flush()
        except OSError:
            pass

    def line(self, component: str, line: str) -> None:
        """A component wrote a line."""
        if self._verbose:
            self._tell(component, line)

    def changed(
        self, component: Component, state: ProcessState, child: Child | None, code: int | None
    ) -> None:
        """A component came into another phase."""
        name = component.name
        if state.phase is Phase.READY and (self._verbose or state.failures):
            self._tell(name, "ready")
        elif state.phase is Phase.BACKOFF:
            pause = state.again_at - state.since
            self._tell_end(name, child, f"{_how(code)}; it is started again in {pause:.1f} s")
        elif state.phase is Phase.GAVE_UP:
            self._tell_end(name, child, f"{_how(code)} and cannot be made to work")

    def _tell_end(self, name: str, child: Child | None, what: str) -> None:
        if child is not None and not self._verbose:
            for line in child.tail:
                self._tell(name, line)
        self._tell(name, what)

    def _tell(self, name: str, line: str) -> None:
        prefix = click.style(f"{name:<{self._width}} |", fg=self._colours.get(name))
        self.say(f"{prefix} {line}")


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"ended by signal {-code}"
    return f"ended with exit code {code}"
