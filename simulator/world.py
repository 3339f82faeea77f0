"""The simulator's state since its last reset."""

from __future__ import annotations

import time
from collections.abc import Mapping
from random import Random
from typing import Any

from simulator.balances import Balances
from simulator.call_log import CallLog
from simulator.config import SimulatorConfig, change_config
from simulator.faults import FaultBook
from simulator.ledger import Ledger
from simulator.limits import Gate
from simulator.prompt_cache import PromptCache
from simulator.slots import Slots


class SimulatorClock:
    """A monotonic clock in Unix seconds: set from the wall clock once, unaffected by its later steps."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        """Reads the wall clock once."""
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """This instant in Unix seconds."""
        return time.monotonic() + self._offset


class World:
    """Configuration and state. A reset creates a new one; calls in flight end in the old one."""

    def __init__(self, config: SimulatorConfig, now: float) -> None:
        """A fresh state with its clock at 0."""
        self.config = config
        self.ledger = Ledger()
        self.log = CallLog()
        self.gate = Gate(config.limits, now)
        self.balances = Balances({name: account.balance for name, account in config.accounts.items()})
        self.cache = PromptCache(config.prompt_cache_blocks)
        self.slots = Slots(config.slots)
        self.latencies = Random(f"{config.seed}:latency")
        self._fault_chance = Random(f"{config.seed}:faults")
        self.faults = FaultBook(config.faults, self._fault_chance)
        self._zero_at = now

    def configure(self, change: Mapping[str, Any], now: float) -> None:
        """Replace top-level fields of the configuration while serving. Raises ConfigError, changing nothing.

        Accounts that are named get their balance anew. The size of the prompt cache and the seed count from
        the next reset.
        """
        config = change_config(self.config, change)
        self.config = config
        if "limits" in change:
            self.gate.replace(config.limits, now)
        if "accounts" in change:
            self.balances.set({name: account.balance for name, account in config.accounts.items()})
        if "faults" in change:
            self.faults = FaultBook(config.faults, self._fault_chance)
        self.slots.resize(config.slots)

    def clock_seconds(self, now: float) -> float:
        """The instant on the clock that fault schedules use."""
        return now - self._zero_at

    def set_clock(self, seconds: float, now: float) -> None:
        """Let the schedule clock show `seconds` now."""
        self._zero_at = now - seconds
