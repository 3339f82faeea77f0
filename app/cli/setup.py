"""From options and environment to what `penstock up` will run: configuration, ports, secrets, folders."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.access.domain.caller import KEY_BYTES, make_key
from app.cli import ports, presets
from app.cli.failure import CommandFailure, Exit
from app.cli.profile import Profile, load, write_private
from app.cli.redis import PASSWORD_VARIABLE
from app.cli.simulated import read, simulate
from app.cli.stack import Stack
from app.cli.toml_text import to_toml
from app.settings import Settings, key_secrets, load_settings, outfits

NO_KEY = """\
Either  export DEEPSEEK_API_KEY=...  (https://platform.deepseek.com/api_keys)
  or      penstock init  (writes a penstock.toml for the provider of your choice)
  or      penstock up --simulate  (made-up answers, free of charge)"""


@dataclass(frozen=True, slots=True)
class UpParams:
    """What was asked for on the command line. `*_explicit`: that very port or none."""

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
    """What will run."""

    stack: Stack
    environment: dict[str, str]  # of every component, on top of our own
    profile: Profile
    configuration: Path
    simulated: bool
    new_admin_key: str | None  # made just now: to be shown once


def prepare(wish: UpParams, environ: Mapping[str, str]) -> Setup:
    """Decide everything; nothing is started, files are written in the data folder only.

    1. The configuration: checked, with its secrets there, or simulated.
    2. Ports that are free; the addresses of Redis and database.
    3. The secrets that were not given: made, and kept in the profile.

    Raises Failure, ConfigError.
    """
    source = find_configuration(wish, environ)
    settings = load_settings(source.file, environ)
    stack = _stack(wish, settings, simulated=source.simulated)
    configuration = configure(source, settings, stack, wish.latency)
    profile, new_admin_key = _profile(wish.data, stack, settings, environ, source.simulated)
    environment = {
        "PENSTOCK_CONFIG": str(configuration),
        "PENSTOCK_DATA": str(wish.data),
        "PENSTOCK_ADMIN_KEY": environ.get("PENSTOCK_ADMIN_KEY") or profile.api_key,
        "PENSTOCK_FLOWER_AUTH": environ.get("PENSTOCK_FLOWER_AUTH") or profile.flower_auth,
        "PENSTOCK_FLOWER_URL": environ.get("PENSTOCK_FLOWER_URL") or stack.flower_url,
        "PENSTOCK_DASHBOARD_URL": environ.get("PENSTOCK_DASHBOARD_URL") or stack.url,
        "DATABASE_URL": settings.database_url or profile.database_url,
        "REDIS_URL": settings.redis_url or profile.redis_url,
        PASSWORD_VARIABLE: urlsplit(profile.redis_url).password or "",
        "PROMETHEUS_MULTIPROC_DIR": str((wish.data / "run" / "metrics").absolute()),
        "PYTHONPATH": _python_path(environ),
    }
    return Setup(stack, environment, profile, configuration, source.simulated, new_admin_key)


@dataclass(frozen=True, slots=True)
class ConfigurationSource:
    """Which configuration, and whether its upstreams are simulated."""

    file: Path
    simulated: bool


def find_configuration(wish: UpParams, environ: Mapping[str, str]) -> ConfigurationSource:
    """The configuration to run. Raises Failure or ConfigError when there is no usable key."""
    settings = load_settings(wish.config, environ)
    if wish.simulate:
        return ConfigurationSource(
            settings.path if settings.keys and settings.path else presets.SIMULATED, simulated=True
        )
    if settings.keys and settings.path:
        # An unset one is an error, with the line and the mend. Keys of other regions are their workers' concern.
        opened = settings.open_keys
        key_secrets(settings, environ, opened)
        outfits(settings, environ, {key.upstream for key in settings.keys if key.name in opened})
        return ConfigurationSource(settings.path, simulated=False)
    if environ.get("DEEPSEEK_API_KEY") and settings.path is None:
        return ConfigurationSource(presets.DEEPSEEK, simulated=False)
    if wish.simulate_without_key:
        return ConfigurationSource(presets.SIMULATED, simulated=True)
    raise CommandFailure("no upstream key is configured", NO_KEY, Exit.CONFIGURATION)


def reconfigure(wish: UpParams, stack: Stack, environ: Mapping[str, str]) -> Settings:
    """Check what a reload would read and, where it is simulated, derive it again. Raises ConfigError, Failure."""
    source = find_configuration(wish, environ)
    if source.simulated != (stack.simulator_port is not None):
        raise CommandFailure(
            "a reload cannot change between simulated and real upstreams", "Stop it and start it again."
        )
    settings = load_settings(source.file, environ)
    configure(source, settings, stack, wish.latency)
    return settings


def _stack(wish: UpParams, settings: Settings, *, simulated: bool) -> Stack:
    host = "127.0.0.1"
    port = ports.choose(wish.host, wish.port, option="--port", explicit=wish.port_explicit)
    flower = ports.choose(
        host, wish.flower_port, option="--flower-port", explicit=wish.flower_port_explicit, taken=(port,)
    )
    own_redis = settings.redis_url is None
    return Stack(
        host=wish.host,
        port=port,
        flower_port=flower,
        workers=wish.workers,
        data=wish.data,
        drain_seconds=settings.worker.drain_seconds,
        redis_port=ports.any_free(host) if own_redis else None,
        redis_folder=wish.data / ("redis-simulated" if simulated else "redis") if own_redis else None,
        simulator_port=ports.any_free(host) if simulated else None,
        simulator_file=wish.data / "simulation" / "simulator.json" if simulated else None,
    )


def configure(source: ConfigurationSource, settings: Settings, stack: Stack, latency: str) -> Path:
    """The file that the components read: the operator's own, or what is derived from it to be simulated."""
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
    """The profile to write, and the administrator's key if it was made just now.

    What the environment gave is not written down: it is in the environment of those who may use it.
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
    """The one that the profile holds, as long as there is one."""
    return urlsplit(before.redis_url).password or secrets.token_urlsafe(24)


def _login() -> str:
    """A user and a password for Flower."""
    return f"penstock:{secrets.token_urlsafe(12)}"


def _python_path(environ: Mapping[str, str]) -> str:
    """The checkout first: components find `app`, `workers` and `migrations` from any folder."""
    checkout = str(Path(__file__).resolve().parents[2])
    return ":".join(filter(None, [checkout, environ.get("PYTHONPATH")]))
