"""One supervised process: start, readiness, signals and its log file."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from app.cli.supervisor import lifeline
from app.cli.supervisor.decisions import Component

MOST_BYTES = 10_000_000  # then NAME.log replaces NAME.log.1


class LogFile:
    """Appends lines to a size-limited file, unbuffered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append a line. Raises OSError if the disk is full."""
        if self._file.tell() >= MOST_BYTES:
            self._file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


TAIL_LINES = 25
Echo = Callable[[str, str], None]  # (component, line)


class Child:
    """A process in its own session, so that Ctrl-C reaches only the supervisor.

    It belongs to the main thread; its reader thread appends to `tail` alone.
    """

    def __init__(
        self, component: Component, environment: Mapping[str, str], pipe: int, log: Path, echo: Echo
    ):
        self.component = component
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)  # its last output lines
        self._log, self._echo = log, echo
        self._ready, said = os.pipe()
        os.set_blocking(self._ready, False)
        try:
            self._process = _spawn(component, environment, pipe, said)
        except OSError:
            os.close(self._ready)
            raise
        finally:
            os.close(said)
        self._reader = threading.Thread(target=self._read, name=f"log {component.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, also its session and group id."""
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code (negative: the signal) if it has exited; kills the rest of its group."""
        code = self._process.poll()
        if code is not None:
            self.kill()
            self._reader.join(timeout=2)
        return code

    def is_ready(self) -> bool:
        """Whether it has reported ready, or its probe succeeds."""
        if self.component.probe is not None:
            return self.component.probe()
        try:
            return os.read(self._ready, 1) != b""
        except BlockingIOError:
            return False

    def send(self, which: signal.Signals) -> None:
        """Send a signal to the process, not to its children."""
        if self._process.poll() is None:
            self._process.send_signal(which)

    def kill(self) -> None:
        """SIGKILL the process and everything it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS: a group of zombies
            pass

    def close(self) -> None:
        """Close the readiness pipe after the process has exited."""
        os.close(self._ready)

    def _read(self) -> None:
        """Copy its output to the log and `echo`. A full disk costs the log, never the process."""
        output = self._process.stdout
        assert output is not None  # noqa: S101 - we asked for a pipe
        with output, closing(LogFile(self._log)) as log:
            for line in output:
                with suppress(OSError):
                    log.write(line)
                text = line.decode(errors="replace").rstrip()
                self.tail.append(text)
                self._echo(self.component.name, text)


def _spawn(
    component: Component, environment: Mapping[str, str], pipe: int, said: int
) -> subprocess.Popen[bytes]:
    ours = {
        lifeline.LIFELINE: str(pipe),
        lifeline.SUPERVISOR: str(os.getpid()),
        lifeline.READY: str(said),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        component.command,
        env={**{k: v for k, v in environment.items() if k not in component.hidden}, **component.env, **ours},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(pipe, said),
        start_new_session=True,
    )
