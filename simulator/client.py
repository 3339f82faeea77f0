"""The simulator for tests and benchmarks: a process on a free port, with its controls as methods."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic_core import to_jsonable_python

from simulator.config import SimulatorConfig, to_plain
from simulator.faults import Fault

_ROOT = Path(__file__).resolve().parents[1]
_COMMAND = ("-m", "simulator", "--stop-with-stdin")
_READY = "listening on "
_STOP_SECONDS = 5.0


class SimulatorControl:
    """A running simulator's controls, over HTTP."""

    def __init__(self, url: str) -> None:
        """`url` without a path, such as `http://127.0.0.1:8089`."""
        self.url = url

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{self.url}/v1"

    def stats(self) -> dict[str, Any]:
        """The ledger: totals, keys, accounts, models, quotas."""
        return self._call("GET", "/stats")

    def quota(
        self, *, model: str = "*", key: str | None = None, account: str | None = None
    ) -> dict[str, Any]:
        """One quota's record; all zero if nothing was sent to it."""
        kind, name = ("key", key) if key is not None else ("account", account)
        for record in self.stats()["quotas"]:
            if record.get(kind) == name and record["model"] == model:
                return dict(record)
        figures = ("received_60s", "received_1s", "admitted_60s", "admitted_1s", "tokens_60s", "in_flight")
        return {"in_flight": 0, **{f"max_{figure}": 0 for figure in figures}}

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """Every admitted call with a higher sequence number that the ring still holds, in order."""
        calls: list[dict[str, Any]] = []
        while page := self._call("GET", f"/_sim/log?after={after}")["calls"]:
            calls += page
            after = page[-1]["sequence"]
        return calls

    def configure(self, **fields: Any) -> dict[str, Any]:
        """Replace top-level fields of the configuration, given as plain data or as values of `config`."""
        return self._call("POST", "/_sim/config", to_jsonable_python(fields))

    def set_faults(self, *faults: Fault | Mapping[str, Any]) -> dict[str, Any]:
        """Replace all fault rules; none clears them."""
        rules = [asdict(fault) if isinstance(fault, Fault) else dict(fault) for fault in faults]
        return self._call("POST", "/_sim/faults", rules)

    def start_clock(self, seconds: float = 0.0) -> None:
        """Restart the clock of fault schedules."""
        self._call("POST", "/_sim/clock", {"seconds": seconds})

    def reset(self) -> None:
        """Clear everything except the configuration."""
        self._call("POST", "/_sim/reset")

    def _call(self, method: str, path: str, data: object = None) -> dict[str, Any]:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=body, method=method)  # noqa: S310 - our own URL
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # nosec B310
                result: dict[str, Any] = json.load(answer)
                return result
        except urllib.error.HTTPError as error:
            raise ValueError(f"{method} {path}: {error.read().decode(errors='replace')}") from None


class SimulatorProcess(SimulatorControl):
    """A simulator process owned by this one: it also stops when this one dies.

    Use it as a context manager, or call `stop`.
    """

    def __init__(self, config: SimulatorConfig | None = None, *, port: int = 0) -> None:
        """Start it and wait until it listens. Raises RuntimeError with its output if it does not."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(to_plain(config or SimulatorConfig()), file)
            file.flush()
            self._process = subprocess.Popen(
                [sys.executable, *_COMMAND, "--port", str(port), "--config", file.name],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            super().__init__(self._wait_until_ready())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def stop(self) -> None:
        """Stop it and wait; safe if it has already ended."""
        with suppress(BrokenPipeError, OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        """The running simulator."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.stop()

    def _wait_until_ready(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line.startswith(_READY):
            self.stop()
            raise RuntimeError(f"the simulator did not start: {line.strip() or self._process.returncode}")
        return line.removeprefix(_READY).strip()
