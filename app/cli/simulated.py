"""`--simulate`: the same configuration, with every upstream played by the simulator."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.settings import Settings
from app.settings.price_lists import list_of


@dataclass(frozen=True, slots=True)
class Simulation:
    """What stands in for the real upstreams."""

    configuration: dict[str, Any]  # penstock.toml with addresses and secrets replaced
    upstream: dict[str, Any]  # the simulator's own configuration
    secrets: dict[Path, str]  # files that the configuration refers to


def simulate(
    data: Mapping[str, Any], settings: Settings, *, port: int, latency: str, folder: Path
) -> Simulation:
    """Derive it from the file's data and from what was read of it.

    The simulator will listen on `port` and answer after `latency`, as `simulate-upstream` takes it; the keys'
    secrets will stand in `folder`. Each quota becomes a limit of the simulator, so that pacing has something to
    pace against.
    """
    address = f"http://127.0.0.1:{port}/v1"
    lists = {upstream.name: list_of(upstream) or "" for upstream in settings.upstreams}
    upstreams = [
        {**_without_way(upstream), "base_url": address, "prices": lists[upstream["name"]]}
        for upstream in data.get("upstream", [])
    ]
    files = {key.name: folder / f"{number}.key" for number, key in enumerate(settings.keys, 1)}
    keys = [{**key, "secret": f"file:{files[key['name']]}"} for key in data.get("key", [])]
    secrets = {file: _secret(name) for name, file in files.items()}
    upstream = {**simulator(settings), "latency": latency}
    return Simulation({**data, "upstream": upstreams, "key": keys}, upstream, secrets)


def _without_way(upstream: Mapping[str, Any]) -> dict[str, Any]:
    """An upstream's table without what is said of the way to the real one."""
    way = ("proxy", "proxy_auth", "headers", "ca_file", "bound")
    return {name: value for name, value in upstream.items() if name not in way}


def simulator(settings: Settings) -> dict[str, Any]:
    """The simulator's configuration: our keys and accounts, our quotas as its limits, our models."""
    models = {route.upstream_model for model in settings.models for tier in model.routes() for route in tier}
    return {
        "keys": {_secret(key.name): key.account for key in settings.keys},
        "models": {name: {} for name in sorted(models)},
        "limits": [_limit(quota.model_dump()) for quota in settings.quotas],
    }


def read(file: Path) -> dict[str, Any]:
    """A configuration file that was checked already, as plain data."""
    return tomllib.loads(file.read_text(encoding="utf-8-sig"))


def _limit(quota: Mapping[str, Any]) -> dict[str, Any]:
    owner = {"account": quota["account"]} if quota["key"] is None else {"key": _secret(quota["key"])}
    figures = {name: quota[name] for name in ("rpm", "tpm", "concurrency") if quota[name] is not None}
    return {**owner, "model": quota["model"], **figures, "burst_seconds": _burst_seconds(quota)}


def _burst_seconds(quota: Mapping[str, Any]) -> float:
    """The simulator's usual 2 s, or more where the quota says that more may start at once."""
    if quota["burst"] is None or quota["rpm"] is None:
        return 2.0
    return max(2.0, float(quota["burst"]) * 60 / float(quota["rpm"]))


def _secret(key: str) -> str:
    """Its secret at the simulator; not one anywhere else."""
    return f"sk-simulated-{key}"
