"""The command `simulate-upstream`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from simulator.config import (
    DEEPSEEK_LIMITS,
    DEFAULT_ACCOUNT,
    DEFAULT_KEY,
    SimulatorConfig,
    SimulatorConfigError,
    load_config,
)
from simulator.faults import KINDS, Fault
from simulator.latency import Latency, parse_latency
from simulator.limits import Limit
from simulator.server import run_simulator


class _ConfigurationRefused(click.ClickException):
    exit_code = 3  # the exit code of every command for a wrong configuration


class _LatencyType(click.ParamType[Latency]):
    name = "SPEC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Latency:
        try:
            return parse_latency(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _FaultType(click.ParamType[Fault]):
    name = "NAME=RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fault:
        name, _, rate = str(value).partition("=")
        try:
            return Fault(name, rate=float(rate or 1))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _KeyType(click.ParamType[tuple[str, str]]):
    name = "SECRET=ACCOUNT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        secret, _, account = str(value).partition("=")
        if not secret:
            self.fail("a key must not be empty", param, ctx)
        return secret, account or secret


_EPILOG = "\b\nFaults:\n" + "\n".join(f"  {kind.name:<22} {kind.summary}" for kind in KINDS.values())


@click.command("simulate-upstream", epilog=_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8089, show_default=True, help="Port to listen on; 0: any free one.")
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML or JSON file with the whole configuration; other options override it.",
)
@click.option(
    "--key",
    "keys",
    type=_KeyType(),
    multiple=True,
    help=f"A key to accept and its account (default: an account of its own). "
    f"Repeatable. Default: {DEFAULT_KEY}={DEFAULT_ACCOUNT}.",
)
@click.option("--rpm", type=click.FloatRange(min=0, min_open=True), help="Requests per minute, per key.")
@click.option("--tpm", type=click.FloatRange(min=0, min_open=True), help="Tokens per minute, per key.")
@click.option("--concurrency", type=click.IntRange(min=0), help="Concurrent calls, per key.")
@click.option(
    "--burst-seconds",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Bucket size of --rpm and --tpm, in seconds of their rate.",
)
@click.option(
    "--latency",
    type=_LatencyType(),
    help="Seconds until an answer: 0.2, uniform:0.1-0.5 or lognormal:MEAN,SIGMA. Default: 0.",
)
@click.option(
    "--tokens-per-second", type=click.FloatRange(min=0), help="Speed of streamed answers; 0: unlimited."
)
@click.option(
    "--fault",
    "faults",
    type=_FaultType(),
    multiple=True,
    help="Fail a call in this way with this probability; repeatable, the first that applies wins.",
)
@click.option("--seed", type=int, help="Random seed of latencies and faults.")
@click.option("--stop-with-stdin", is_flag=True, help="Stop when standard input is closed.")
def simulate_upstream(host: str, port: int, file: Path | None, stop_with_stdin: bool, **options: Any) -> None:
    """Run a simulated upstream with DeepSeek's API, limits, latency and faults, free of charge.

    It serves /chat/completions, /models and /user/balance (with and without /v1), reports the calls it admitted
    under /stats and /_sim/log, and can be changed while it runs with POST /_sim/config, /_sim/faults, /_sim/clock
    and /_sim/reset. Every answer has "simulated": true.

    Without --config and limits it uses DeepSeek's: 2,500 concurrent calls of deepseek-flash and 500 of
    deepseek-v4-pro per account.
    """
    try:
        config = load_config(file) if file else SimulatorConfig(limits=DEEPSEEK_LIMITS)
        run_simulator(apply_options(config, **options), host, port, stop_with_stdin=stop_with_stdin)
    except SimulatorConfigError as error:
        raise _ConfigurationRefused(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None


command = simulate_upstream


def apply_options(
    config: SimulatorConfig,
    *,
    keys: tuple[tuple[str, str], ...] = (),
    rpm: float | None = None,
    tpm: float | None = None,
    concurrency: int | None = None,
    burst_seconds: float = 2.0,
    latency: Latency | None = None,
    tokens_per_second: float | None = None,
    faults: tuple[Fault, ...] = (),
    seed: int | None = None,
) -> SimulatorConfig:
    """Apply the command line's options; limits and faults given here replace the configuration's."""
    changes: dict[str, Any] = {"latency": latency, "tokens_per_second": tokens_per_second, "seed": seed}
    if keys:
        changes["keys"] = dict(keys)
    if (rpm, tpm, concurrency) != (None, None, None):
        limit = Limit(key="*", rpm=rpm, tpm=tpm, concurrency=concurrency, burst_seconds=burst_seconds)
        changes["limits"] = (limit,)
    if faults:
        changes["faults"] = faults
    return dataclasses.replace(
        config, **{name: value for name, value in changes.items() if value is not None}
    )
