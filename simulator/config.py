"""The simulator's configuration: one tree of values, from a file, the command line or a live change."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from simulator.faults import Fault
from simulator.latency import Latency, parse_latency
from simulator.limits import Limit
from simulator.prices import CHINESE_HOLIDAYS, DEEPSEEK_PRICES, Pricing, SimulatedPrice
from simulator.requests import ServedModel

DEFAULT_KEY = "sk-simulated"
DEFAULT_ACCOUNT = "demo"

# Concurrent calls per account and model, whatever the key (DeepSeek's documentation, 2026-11).
DEEPSEEK_LIMITS = (
    Limit(account="*", model="deepseek-flash", concurrency=2500),
    Limit(account="*", model="deepseek-v4-pro", concurrency=500),
)


_AT_ONCE = Latency()


class SimulatorConfigError(ValueError):
    """An invalid configuration; the message names the field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """An account; `balance` in USD, None for unlimited."""

    balance: Decimal | None = None


def _latency(value: object) -> object:
    if isinstance(value, int | float):
        return Latency(mean=value)
    return parse_latency(value) if isinstance(value, str) else value


_ALIASES = dict.fromkeys(("deepseek-chat", "deepseek-reasoner", "deepseek-7b"), "deepseek-flash")


@dataclasses.dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """All settings. The defaults are a fast upstream without faults or limits.

    Attributes:
        accounts: by name; an account that only `keys` names has no end of balance.
        keys: secret -> account.
        open_account: the account of callers with an unknown key; None answers them 401.
        models: what is served, with context and answer sizes.
        aliases: other names of models, as code found elsewhere has them.
        unknown_model_status: 400 as DeepSeek, or 404.
        limits: see Limit; none by default.
        ratelimit_headers: whether answers carry `x-ratelimit-*` of the tightest buckets.
        tokens_counted: what `tpm` counts: prompt and answer, the prompt alone, or the prompt and
            `max_tokens` (the answer where none is given).
        latency: seconds until an answer; also as `lognormal:1.0,0.5` and the like.
        tokens_per_second: pace of streamed answers; 0 sends them whole.
        answer_tokens: length of every answer in tokens; None for the answer's own.
        slots: how many calls are worked on at once; the rest wait while keep-alive lines are sent (0: all
            of them, until it is raised).
        slot_wait_seconds: after which a call still waiting for a slot is closed without an answer.
        keep_alive_seconds: pause between two keep-alive lines.
        prompt_cache_blocks: size of the prompt cache in blocks of 64 tokens; 0 turns it off.
        gzip_answers: whether whole answers are compressed for callers that accept it.
        max_request_bytes: size of a request body, unpacked; above it 413.
        prices, pricing, holidays: the bill; `pricing` is `calendar`, `peak` or `off-peak`.
        faults: see Fault; the first that matches strikes.
        seed: of latencies and faults.
        marked: whether answers say that they are simulated. False is for tests of what becomes of real
            answers alone: those that say so are never kept.
    """

    # Unknown names are errors, here and in every value below.
    __pydantic_config__ = ConfigDict(extra="forbid")

    accounts: dict[str, Account] = dataclasses.field(default_factory=dict)
    keys: dict[str, str] = dataclasses.field(default_factory=lambda: {DEFAULT_KEY: DEFAULT_ACCOUNT})
    open_account: str | None = None
    models: dict[str, ServedModel] = dataclasses.field(
        default_factory=lambda: {"deepseek-flash": ServedModel(), "deepseek-v4-pro": ServedModel()}
    )
    aliases: dict[str, str] = dataclasses.field(default_factory=lambda: dict(_ALIASES))
    unknown_model_status: Literal[400, 404] = 400
    limits: tuple[Limit, ...] = ()
    ratelimit_headers: bool = False
    tokens_counted: Literal["total", "prompt", "reserved"] = "total"
    latency: Annotated[Latency, BeforeValidator(_latency)] = _AT_ONCE
    tokens_per_second: float = 0.0
    answer_tokens: int | None = None
    slots: int | None = None
    slot_wait_seconds: float = 600.0
    keep_alive_seconds: float = 10.0
    prompt_cache_blocks: int = 100_000
    gzip_answers: bool = False
    max_request_bytes: int = 64 * 1024 * 1024
    prices: dict[str, SimulatedPrice] = dataclasses.field(default_factory=lambda: dict(DEEPSEEK_PRICES))
    pricing: Pricing = "calendar"
    holidays: frozenset[date] = frozenset(CHINESE_HOLIDAYS)
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    marked: bool = True

    def __post_init__(self) -> None:
        """Reject values that would stop the simulator."""
        if self.keep_alive_seconds <= 0:
            raise ValueError("keep_alive_seconds must be above 0")
        if self.slots is not None and self.slots < 0:
            raise ValueError("slots must not be negative")
        if self.tokens_per_second < 0 or self.slot_wait_seconds < 0:
            raise ValueError("tokens_per_second and slot_wait_seconds must not be negative")


@cache
def _adapter() -> TypeAdapter[SimulatorConfig]:
    return TypeAdapter(SimulatorConfig)


@cache
def _faults_adapter() -> TypeAdapter[tuple[Fault, ...]]:
    return TypeAdapter(tuple[Fault, ...])


def build_config(data: Mapping[str, Any]) -> SimulatorConfig:
    """A checked configuration from plain data. Raises SimulatorConfigError."""
    try:
        return _adapter().validate_python(dict(data))
    except ValidationError as error:
        raise SimulatorConfigError(_explain(error)) from None


def build_faults(data: object) -> tuple[Fault, ...]:
    """Checked fault rules from plain data. Raises SimulatorConfigError."""
    try:
        return _faults_adapter().validate_python(data)
    except ValidationError as error:
        raise SimulatorConfigError(_explain(error)) from None


def change_config(config: SimulatorConfig, change: Mapping[str, Any]) -> SimulatorConfig:
    """The configuration with the given top-level fields replaced whole. Raises SimulatorConfigError."""
    return build_config({**to_plain(config), **change})


def to_plain(config: SimulatorConfig) -> dict[str, Any]:
    """The configuration as plain data, the inverse of `build_config`."""
    plain: dict[str, Any] = _adapter().dump_python(config, mode="json")
    return plain


def load_config(path: Path) -> SimulatorConfig:
    """Read a TOML or (by its suffix) JSON file. Raises SimulatorConfigError with the file's name."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return build_config(data)
    except OSError as error:
        raise SimulatorConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # from JSON, TOML or our own checks
        raise SimulatorConfigError(f"{path}: {error}") from None


def _explain(error: ValidationError) -> str:
    lines = (f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
    return "; ".join(lines)
