"""Commands as an operator starts them: `penstock ...` in a process, in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import urllib3

CHECKOUT = Path(__file__).parents[2]
PATIENCE = 180.0  # seconds: how slow a machine may be, not what is tested
_OURS = ("PENSTOCK_", "FLOWER_", "DATABASE_URL", "REDIS_URL", "DEEPSEEK_API_KEY", "UPSTREAM")


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would point a command at something else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **more}


def command(*arguments: str) -> list[str]:
    """The command line of `penstock ARGUMENTS`."""
    return [sys.executable, "-P", "-m", "app.cli", *arguments]


def penstock(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Running:
    """A command that stays, and what it has printed so far (in `said`)."""

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._output = cwd / f"{arguments[0]}-{time.monotonic_ns()}.out"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command(*arguments),
                cwd=cwd,
                env=env or environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """Everything printed so far."""
        return self._output.read_text(errors="replace")

    def until(self, text: str, within: float = PATIENCE) -> str:
        """Wait until it has printed `text`; gives back everything printed."""
        wait_until(lambda: text in self.said or self.process.poll() is not None, within, lambda: self.said)
        assert text in self.said, self.said
        return self.said

    def becomes(self, condition: Callable[[], Any], within: float = PATIENCE) -> None:
        """Wait until the condition is true; fails at once when the process has ended."""
        wait_until(lambda: self.process.poll() is not None or condition(), within, lambda: self.said)
        assert self.process.poll() is None, self.said

    def end(self, how: signal.Signals = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Signal it; gives back its exit code."""
        self.process.send_signal(how)
        return self.process.wait(within)

    def family(self) -> list[psutil.Process]:
        """Itself and everything that it started, and those in turn."""
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        family = self.family() if self.process.poll() is None else []
        for process in family:
            with suppress(psutil.NoSuchProcess):  # it died with the one before
                process.kill()
        self.process.wait(PATIENCE)


def wait_until(
    condition: Callable[[], Any], within: float = PATIENCE, told: Callable[[], str] = lambda: ""
) -> Any:
    """The condition's first true value. Fails the test after `within` seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {within} s; {told()}")


def http(method: str, url: str, **what: Any) -> urllib3.BaseHTTPResponse | None:
    """One request; None while nobody answers."""
    try:
        return urllib3.request(method, url, retries=False, timeout=PATIENCE, **what)
    except urllib3.exceptions.HTTPError:
        return None


def survivors(processes: list[psutil.Process], within: float = 60) -> list[psutil.Process]:
    """Those that are still alive after `within` seconds; a zombie is dead."""

    def alive() -> list[psutil.Process]:
        return [p for p in processes if lives(p)]

    deadline = time.monotonic() + within
    while time.monotonic() < deadline and alive():
        time.sleep(0.05)
    return alive()


def lives(process: psutil.Process) -> bool:
    """Whether a process runs. It may end between any two questions about it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
