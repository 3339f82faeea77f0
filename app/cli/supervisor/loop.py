"""The supervisor loop: checks its processes, asks `next_steps` and carries it out; and its terminal output."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Protocol

import click

from app.cli.supervisor import decisions as states
from app.cli.supervisor.child import Child
from app.cli.supervisor.decisions import (
    Component,
    Phase,
    ProcessState,
    RestartPolicy,
    SupervisorStep,
    next_steps,
)

TICK_SECONDS = 0.1


class Reporter(Protocol):
    """Receives output lines and phase changes."""

    def changed(
        self, component: Component, state: ProcessState, child: Child | None, code: int | None
    ) -> None:
        """A component's phase changed; `code` if it exited."""

    def line(self, component: str, line: str) -> None:
        """A component printed a line."""


class Supervisor:
    """Keeps `components` alive until a signal arrives or one of them is given up.

    `run` is to be called from the main thread: that one gets the signals, and makes the processes, which on
    Linux die with the thread that created them.
    """

    def __init__(
        self,
        components: Sequence[Component],
        environment: Mapping[str, str],
        logs: Path,
        reporter: Reporter,
        *,
        policy: RestartPolicy | None = None,
        on_processes: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        self.states = {component.name: ProcessState() for component in components}
        self._components = {component.name: component for component in components}
        self._environment, self._logs, self._reporter = environment, logs, reporter
        self._policy = policy or RestartPolicy()
        self._on_processes = on_processes  # gets name -> process id before anything else happens
        self._children: dict[str, Child] = {}
        self._ending = self._hurry = self._hung_up = False
        self._wake = threading.Event()
        self._pipe, self._held = os.pipe()  # see lifeline.py

    @property
    def ready(self) -> bool:
        """Whether every component is ready."""
        return all(state.serving for state in self.states.values())

    @property
    def gave_up(self) -> bool:
        """Whether a component was given up."""
        return any(state.phase is Phase.GAVE_UP for state in self.states.values())

    def stop(self) -> None:
        """Shut down: each process gets SIGTERM when nothing depends on it any more. Called again: kill all."""
        self._ending, self._hurry = True, self._ending
        self._wake.set()

    def renew(self) -> None:
        """Restart, one by one, the components that read the configuration at start."""
        for name, component in self._components.items():
            if component.renewed:
                self.states[name] = replace(self.states[name], stale=True)
        self._wake.set()

    def run(self, *, on_ready: Callable[[], None], on_hangup: Callable[[], None]) -> int:
        """Run until SIGTERM or SIGINT. Returns 0 after a clean end, 1 if a component was given up.

        `on_ready` is called once, when everything is ready; `on_hangup` for each SIGHUP.
        """
        announced = False
        with self._signals():
            while not self._ending or any(state.alive for state in self.states.values()):
                self.tick()
                if self.gave_up and not self._ending:
                    self.stop()
                if self.ready and not announced and not self._ending:
                    announced = True
                    on_ready()
                if self._hung_up:
                    self._hung_up = False
                    on_hangup()
                self._wake.wait(TICK_SECONDS)
                self._wake.clear()
        os.close(self._held)
        os.close(self._pipe)
        return 1 if self.gave_up else 0

    def tick(self) -> None:
        """Check every process once and do what is due."""
        now = time.monotonic()
        for name, child in list(self._children.items()):
            self._look_at(name, child, now)
        if self._hurry:
            for child in self._children.values():
                child.kill()
        for step in next_steps(list(self._components.values()), self.states, now, ending=self._ending):
            self._do(step, now)

    def _look_at(self, name: str, child: Child, now: float) -> None:
        component, state = self._components[name], self.states[name]
        code = child.ended()
        if code is not None:
            del self._children[name]
            child.close()
            after = states.exited(component, state, code, now, ending=self._ending, policy=self._policy)
            self._move(name, after, child, code)
        elif state.phase is Phase.STARTING and not component.once and child.is_ready():
            self._move(name, states.became_ready(state, now), child)

    def _do(self, step: SupervisorStep, now: float) -> None:
        if step.action == "start":
            self._start(self._components[step.name], now)
            return
        child = self._children[step.name]
        if step.action == "kill":
            child.kill()
            return
        child.send(signal.SIGTERM)
        self._move(step.name, states.stop_requested(self.states[step.name], now), child)

    def _start(self, component: Component, now: float) -> None:
        log = self._logs / f"{component.name}.log"
        child = Child(component, self._environment, self._pipe, log, self._reporter.line)
        self._children[component.name] = child
        self._on_processes({name: child.pid for name, child in self._children.items()})
        self._move(component.name, states.started(self.states[component.name], now), child)

    def _move(self, name: str, state: ProcessState, child: Child | None, code: int | None = None) -> None:
        self.states[name] = state
        self._reporter.changed(self._components[name], state, child, code)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        def hangup(_number: int, _frame: FrameType | None) -> None:
            self._hung_up = True
            self._wake.set()

        handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: hangup}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")


class Terminal:
    """Writes to standard output; with `verbose`, every line of every component, prefixed with its name."""

    def __init__(self, names: Iterable[str], *, verbose: bool) -> None:
        names = list(names)
        self._verbose = verbose
        self._width = max(map(len, names), default=0)
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own. Ignores a closed terminal."""
        try:
            click.echo(text)
            sys.stdout.flush()
        except OSError:
            pass

    def line(self, component: str, line: str) -> None:
        """A component printed a line."""
        if self._verbose:
            self._print(component, line)

    def changed(
        self, component: Component, state: ProcessState, child: Child | None, code: int | None
    ) -> None:
        """A component's phase changed."""
        name = component.name
        if state.phase is Phase.READY and (self._verbose or state.failures):
            self._print(name, "ready")
        elif state.phase is Phase.BACKOFF:
            pause = state.again_at - state.since
            self._print_end(name, child, f"{_how(code)}; restarting in {pause:.1f} s")
        elif state.phase is Phase.GAVE_UP:
            self._print_end(name, child, f"{_how(code)}; giving up")

    def _print_end(self, name: str, child: Child | None, what: str) -> None:
        if child is not None and not self._verbose:
            for line in child.tail:
                self._print(name, line)
        self._print(name, what)

    def _print(self, name: str, line: str) -> None:
        prefix = click.style(f"{name:<{self._width}} |", fg=self._colours.get(name))
        self.say(f"{prefix} {line}")


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exited with code {code}"


class Hangup:
    """Knows whether a SIGHUP means that the terminal was closed. Created while the terminal exists."""

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()

    def happened(self) -> bool:
        """Whether there was a terminal and it is gone."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno()) and bool(termios.tcgetattr(sys.stdin.fileno()))
    except (OSError, ValueError, termios.error):
        return False
