"""Derives what `penstock up` runs from options and environment: configuration, ports, secrets, folders."""

from __future__ import annotations

import json
import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.access.domain.caller import KEY_BYTES, make_key
from app.cli import presets
from app.cli.failure import CommandFailure, Exit
from app.cli.processes import PASSWORD_VARIABLE
from app.cli.profile import Profile, load, write_private
from app.cli.stack import Stack, any_free_port, choose_port
from app.settings import Settings, key_secrets, load_settings, secret_variables, upstream_headers
from app.settings.price_lists import list_of


@dataclass(frozen=True, slots=True)
class Simulation:
    """The configuration for simulated upstreams."""

    configuration: dict[str, Any]  # penstock.toml with addresses and secrets replaced
    upstream: dict[str, Any]  # the simulator's own configuration
    secrets: dict[Path, str]  # files that the configuration refers to


def simulate(
    data: Mapping[str, Any], settings: Settings, *, port: int, latency: str, folder: Path
) -> Simulation:
    """Derive a simulation from a configuration file's data and settings.

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
    """An upstream's table without proxy, headers and other connection settings."""
    way = ("proxy", "proxy_auth", "headers", "ca_file", "bound")
    return {name: value for name, value in upstream.items() if name not in way}


def simulator(settings: Settings) -> dict[str, Any]:
    """The simulator's configuration: the same keys, accounts and models, with the quotas as its limits."""
    models = {route.upstream_model for model in settings.models for tier in model.routes() for route in tier}
    return {
        "keys": {_secret(key.name): key.account for key in settings.keys},
        "models": {name: {} for name in sorted(models)},
        "limits": [_limit(quota.model_dump()) for quota in settings.quotas],
    }


def read(file: Path) -> dict[str, Any]:
    """Read a configuration file, already validated, as plain data."""
    return tomllib.loads(file.read_text(encoding="utf-8-sig"))


def _limit(quota: Mapping[str, Any]) -> dict[str, Any]:
    owner = {"account": quota["account"]} if quota["key"] is None else {"key": _secret(quota["key"])}
    figures = {name: quota[name] for name in ("rpm", "tpm", "concurrency") if quota[name] is not None}
    return {**owner, "model": quota["model"], **figures, "burst_seconds": _burst_seconds(quota)}


def _burst_seconds(quota: Mapping[str, Any]) -> float:
    """The simulator's default of 2 s, or more for a quota with a larger burst."""
    if quota["burst"] is None or quota["rpm"] is None:
        return 2.0
    return max(2.0, float(quota["burst"]) * 60 / float(quota["rpm"]))


def _secret(key: str) -> str:
    """The key's secret at the simulator; valid nowhere else."""
    return f"sk-simulated-{key}"


def to_toml(data: Mapping[str, Any]) -> str:
    """Write `data` as TOML. None has no TOML form and is omitted."""
    return "\n".join(_lines(data, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Values come first: in TOML, whatever follows a header belongs to that table."""
    for name, value in table.items():
        if value is not None and not _is_table(value):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in table.items():
        header = ".".join(map(_key, (*path, name)))
        if isinstance(value, Mapping):
            yield f"\n[{header}]"
            yield from _lines(value, (*path, name))
        elif _is_table(value):
            for element in value:
                yield f"\n[[{header}]]"
                yield from _lines(element, (*path, name))


def _is_table(value: Any) -> bool:
    """Whether the value is a table or a non-empty list of tables."""
    listed = isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping) or listed


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "_").isidentifier() else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(name)} = {_value(item)}' for name, item in value.items())}}}"
    return str(value)  # numbers, dates and times already print as TOML


def _text(value: str) -> str:
    """JSON's escapes are valid TOML; only DEL must be escaped in addition."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


NO_KEY = """\
Either  export DEEPSEEK_API_KEY=...  (https://platform.deepseek.com/api_keys)
  or      penstock init  (writes a penstock.toml for the provider of your choice)
  or      penstock up --simulate  (simulated answers, free of charge)"""


@dataclass(frozen=True, slots=True)
class UpParams:
    """The command line's parameters. `*_explicit`: use exactly that port or fail."""

    data: Path
    config: Path | None = None
    simulate: bool = False
    simulate_without_key: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    port_explicit: bool = False
    flower_port: int = 5555
    flower_port_explicit: bool = False
    workers: int = 1
    latency: str = "lognormal:1.0,0.5"


@dataclass(frozen=True, slots=True)
class Setup:
    """What `penstock up` will run."""

    stack: Stack
    environment: dict[str, str]  # of every component, in addition to this process's
    profile: Profile
    configuration: Path
    simulated: bool
    new_admin_key: str | None  # just created; shown once
    local_callbacks: bool = False  # whether callbacks may go to this machine


def prepare(params: UpParams, environ: Mapping[str, str]) -> Setup:
    """Decide everything. Starts nothing; writes only to the data folder.

    1. The configuration: checked, with its secrets there, or simulated.
    2. Ports that are free; the addresses of Redis and database.
    3. The secrets that were not given: made, and kept in the profile.

    Raises CommandFailure, ConfigError.
    """
    source = find_configuration(params, environ)
    settings = load_settings(source.file, environ)
    stack = _stack(params, settings, simulated=source.simulated)
    configuration = configure(source, settings, stack, params.latency)
    profile, new_admin_key = _profile(params.data, stack, settings, environ, source.simulated)
    environment = {
        "PENSTOCK_CONFIG": str(configuration),
        "PENSTOCK_DATA": str(params.data),
        "PENSTOCK_PROFILE": f"{stack.url} {params.data / 'profile.json'}",
        "PENSTOCK_ADMIN_KEY": environ.get("PENSTOCK_ADMIN_KEY") or profile.api_key,
        "PENSTOCK_FLOWER_AUTH": environ.get("PENSTOCK_FLOWER_AUTH") or profile.flower_auth,
        "PENSTOCK_FLOWER_URL": environ.get("PENSTOCK_FLOWER_URL") or stack.flower_url,
        "PENSTOCK_DASHBOARD_URL": environ.get("PENSTOCK_DASHBOARD_URL") or stack.url,
        "DATABASE_URL": settings.database_url or profile.database_url,
        "REDIS_URL": settings.redis_url or profile.redis_url,
        PASSWORD_VARIABLE: urlsplit(profile.redis_url).password or "",
        "PROMETHEUS_MULTIPROC_DIR": str((params.data / "run" / "metrics").absolute()),
        "PYTHONPATH": _python_path(environ),
    }
    local = any(ip_address("127.0.0.1") in ip_network(one) for one in settings.callbacks.allow_networks)
    return Setup(stack, environment, profile, configuration, source.simulated, new_admin_key, local)


@dataclass(frozen=True, slots=True)
class ConfigurationSource:
    """A configuration file and whether its upstreams are simulated."""

    file: Path
    simulated: bool


def find_configuration(params: UpParams, environ: Mapping[str, str]) -> ConfigurationSource:
    """Find the configuration to run. Raises CommandFailure or ConfigError if there is no usable key."""
    settings = load_settings(params.config, environ)
    if params.simulate:
        return ConfigurationSource(
            settings.path if settings.keys and settings.path else presets.SIMULATED, simulated=True
        )
    if settings.keys and settings.path:
        # A missing secret raises ConfigError. Keys of other regions are left to their workers.
        opened = settings.open_keys
        key_secrets(settings, environ, opened)
        upstream_headers(settings, environ, {key.upstream for key in settings.keys if key.name in opened})
        return ConfigurationSource(settings.path, simulated=False)
    if environ.get("DEEPSEEK_API_KEY") and settings.path is None:
        return ConfigurationSource(presets.DEEPSEEK, simulated=False)
    if params.simulate_without_key:
        return ConfigurationSource(presets.SIMULATED, simulated=True)
    raise CommandFailure("no upstream key is configured", NO_KEY, Exit.CONFIGURATION)


def reconfigure(params: UpParams, stack: Stack, environ: Mapping[str, str]) -> Settings:
    """Check what a reload would read; if simulated, derive it again. Raises ConfigError, CommandFailure."""
    source = find_configuration(params, environ)
    if source.simulated != (stack.simulator_port is not None):
        raise CommandFailure(
            "a reload cannot change between simulated and real upstreams",
            "Stop `penstock up` and start it again.",
        )
    settings = load_settings(source.file, environ)
    configure(source, settings, stack, params.latency)
    return settings


def _stack(params: UpParams, settings: Settings, *, simulated: bool) -> Stack:
    host = "127.0.0.1"
    port = choose_port(params.host, params.port, option="--port", explicit=params.port_explicit)
    flower = choose_port(
        host, params.flower_port, option="--flower-port", explicit=params.flower_port_explicit, taken=(port,)
    )
    own_redis = settings.redis_url is None
    return Stack(
        host=params.host,
        port=port,
        flower_port=flower,
        workers=params.workers,
        data=params.data,
        drain_seconds=settings.worker.drain_seconds,
        redis_port=any_free_port(host) if own_redis else None,
        redis_folder=params.data / ("redis-simulated" if simulated else "redis") if own_redis else None,
        simulator_port=any_free_port(host) if simulated else None,
        simulator_file=params.data / "simulation" / "simulator.json" if simulated else None,
        secrets=secret_variables(settings),
    )


def configure(source: ConfigurationSource, settings: Settings, stack: Stack, latency: str) -> Path:
    """The file the components read: the operator's own, or the simulated one derived from it."""
    if stack.simulator_port is None or stack.simulator_file is None:
        return source.file.absolute()
    folder = stack.simulator_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    data = read(source.file)
    simulation = simulate(data, settings, port=stack.simulator_port, latency=latency, folder=folder)
    for file, secret in simulation.secrets.items():
        write_private(file, secret)
    write_private(stack.simulator_file, json.dumps(simulation.upstream, indent=2) + "\n")
    file = folder / "penstock.toml"
    write_private(file, to_toml(simulation.configuration))
    return file


def _profile(
    data: Path, stack: Stack, settings: Settings, environ: Mapping[str, str], simulated: bool
) -> tuple[Profile, str | None]:
    """The profile to write, and the administrator's key if it was just created.

    Values from the environment are not stored.
    """
    from app.platform.embedded_redis import url_of

    before = load(data)
    made = None
    if settings.admin_key is None and not before.api_key:
        made = make_key(os.urandom(KEY_BYTES)).shown
    database = "simulated.db" if simulated else "penstock.db"
    profile = Profile(
        url=stack.url,
        api_key="" if settings.admin_key is not None else made or before.api_key,
        flower_url=stack.flower_url,
        flower_auth="" if environ.get("PENSTOCK_FLOWER_AUTH") else before.flower_auth or _login(),
        database_url="" if settings.database_url else f"sqlite:///{data / database}",
        redis_url="" if stack.redis_port is None else url_of(stack.redis_port, _redis_password(before)),
        simulator_url=f"http://127.0.0.1:{stack.simulator_port}" if simulated else "",
        configuration=str(settings.path.absolute()) if settings.path else "",
    )
    return profile, made


def _redis_password(before: Profile) -> str:
    """The profile's password if it has one, else a new one."""
    return urlsplit(before.redis_url).password or secrets.token_urlsafe(24)


def _login() -> str:
    """A new user:password for Flower."""
    return f"penstock:{secrets.token_urlsafe(12)}"


def _python_path(environ: Mapping[str, str]) -> str:
    """The checkout first, so that components find `app`, `workers` and `migrations` from any folder."""
    checkout = str(Path(__file__).resolve().parents[2])
    return ":".join(filter(None, [checkout, environ.get("PYTHONPATH")]))
