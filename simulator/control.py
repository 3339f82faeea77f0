"""The control endpoints: read the ledger; change configuration, faults and clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from simulator.config import SimulatorConfigError, build_faults, to_plain
from simulator.faults import KINDS
from simulator.world import SimulatorClock, World

CONTROL_PREFIX = "/_sim/"
CONTROL_BYTES = 16 * 1024 * 1024  # maximum body of a control request, whatever the limit for calls
LOG_PAGE = 2_000  # a page takes some milliseconds, which block other answers


class ControlError(Exception):
    """An invalid control request (422)."""


class ConnectionCount:
    """TCP connections, counted by the server."""

    __slots__ = ("max_open", "now_open", "opened")

    def __init__(self) -> None:
        """None yet."""
        self.opened = self.now_open = self.max_open = 0

    def open(self) -> None:
        """One more."""
        self.opened += 1
        self.now_open += 1
        self.max_open = max(self.max_open, self.now_open)

    def close(self) -> None:
        """One less."""
        self.now_open -= 1

    def reset(self) -> None:
        """Count from those open now."""
        self.opened, self.max_open = 0, self.now_open


class Control:
    """The endpoints under `/stats` and `/_sim/`. Holds the world because a reset replaces it."""

    def __init__(self, world: World, clock: SimulatorClock, connections: ConnectionCount) -> None:
        """`world` is served until the first reset."""
        self.world = world
        self._clock = clock
        self._connections = connections

    def stats(self, _: web.BaseRequest, __: Any) -> Any:
        """The ledger."""
        now, connections = self._clock.now(), self._connections
        return {
            "simulated": True,
            "now_at": now,
            "clock_seconds": self.world.clock_seconds(now),
            "connections_opened": connections.opened,
            "connections_open": connections.now_open,
            "max_connections_open": connections.max_open,
            **self.world.ledger.as_json(),
        }

    def log(self, request: web.BaseRequest, _: Any) -> Any:
        """A page of admitted calls: `?after=SEQUENCE&limit=N`."""
        after = _whole(request, "after", 0)
        limit = min(_whole(request, "limit", LOG_PAGE), LOG_PAGE)
        calls = self.world.log.after(after, limit)
        return {"calls": calls, "last": self.world.log.last, "simulated": True}

    def reset(self, _: web.BaseRequest, __: Any) -> Any:
        """Clear everything except the configuration."""
        self.world = World(self.world.config, self._clock.now())
        self._connections.reset()
        return {"simulated": True, "reset": True}

    def read_config(self, _: web.BaseRequest, __: Any) -> Any:
        """The configuration in force."""
        return to_plain(self.world.config)

    def change_config(self, _: web.BaseRequest, data: Any) -> Any:
        """Replace the given top-level fields."""
        if not isinstance(data, dict):
            raise ControlError("send a JSON object of configuration fields")
        self.world.configure(data, self._clock.now())
        return to_plain(self.world.config)

    def read_faults(self, _: web.BaseRequest, __: Any) -> Any:
        """The current rules with their hit counts, and all kinds of faults."""
        rules = to_plain(self.world.config)["faults"]
        struck = self.world.faults.struck()
        return {
            "faults": [{**rule, "struck": times} for rule, times in zip(rules, struck, strict=True)],
            "kinds": {name: kind.summary for name, kind in KINDS.items()},
            "simulated": True,
        }

    def change_faults(self, request: web.BaseRequest, data: Any) -> Any:
        """Replace all rules: a list, or `{"faults": [...]}`."""
        rules = data.get("faults") if isinstance(data, dict) else data
        self.world.configure({"faults": build_faults(rules)}, self._clock.now())
        return self.read_faults(request, None)

    def clear_faults(self, request: web.BaseRequest, _: Any) -> Any:
        """Remove all faults."""
        return self.change_faults(request, [])

    def read_clock(self, _: web.BaseRequest, __: Any) -> Any:
        """Seconds on the clock that fault schedules use."""
        return {"seconds": self.world.clock_seconds(self._clock.now()), "simulated": True}

    def start_clock(self, request: web.BaseRequest, data: Any) -> Any:
        """Restart that clock at 0 or at the given `seconds`."""
        seconds = data.get("seconds", 0) if isinstance(data, dict) else 0
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ControlError("seconds must be a number")
        self.world.set_clock(seconds, self._clock.now())
        return self.read_clock(request, None)

    def routes(self) -> dict[tuple[str, str], Callable[[web.BaseRequest, Any], Any]]:
        """(method, path) -> handler of the request and its JSON."""
        return {
            ("GET", "/stats"): self.stats,
            ("GET", "/_sim/stats"): self.stats,
            ("GET", "/_sim/log"): self.log,
            ("POST", "/_sim/reset"): self.reset,
            ("GET", "/_sim/config"): self.read_config,
            ("POST", "/_sim/config"): self.change_config,
            ("GET", "/_sim/faults"): self.read_faults,
            ("POST", "/_sim/faults"): self.change_faults,
            ("DELETE", "/_sim/faults"): self.clear_faults,
            ("GET", "/_sim/clock"): self.read_clock,
            ("POST", "/_sim/clock"): self.start_clock,
        }


async def answer_control(
    act: Callable[[web.BaseRequest, Any], Any], request: web.BaseRequest
) -> tuple[int, bytes]:
    """Carry out a control request: (status, JSON body). An invalid one changes nothing (422)."""
    body = await request.read()
    try:
        data = orjson.loads(body) if body else None
        return 200, orjson.dumps(act(request, data))
    except (SimulatorConfigError, ControlError, orjson.JSONDecodeError) as error:
        return 422, orjson.dumps({"error": {"message": str(error), "type": "invalid_configuration"}})


def _whole(request: web.BaseRequest, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise ControlError(f"{name} must be a whole number")
    return int(text)
