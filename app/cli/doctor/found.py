"""What there is to examine: the configuration in force, and the addresses of what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.cli import presets
from app.cli.profile import Profile, data_folder, load
from app.diagnosis.domain.finding import Finding, fail, ok
from app.settings import ConfigError, Settings, load_settings, resolve_secret
from app.settings.secrets import UpstreamHeaders, outfits


@dataclass(frozen=True, slots=True)
class Found:
    """Settings with the profile's addresses filled in; secrets by key, as far as they can be had."""

    settings: Settings
    findings: tuple[Finding, ...]
    folder: Path
    profile: Profile
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    outfits: Mapping[str, UpstreamHeaders] = field(default_factory=dict, repr=False)


def find(config: Path | None, data: Path | None, environ: Mapping[str, str]) -> Found:
    """Read the configuration; one that is wrong is a finding, and the rest is examined without it.

    The file is the one given, else what the service of this data folder was started with, else the usual one, else the
    preset that DEEPSEEK_API_KEY alone calls for.
    """
    folder = data_folder(environ, data)
    profile = load(folder)
    try:
        settings = load_settings(_file(config, folder, profile, environ), environ)
        findings = [ok("file", f"{settings.path or 'none'}: {_counted(settings)}")]
    except ConfigError as error:
        settings = Settings()
        findings = [fail("file", _placed(error), error.mend)]
    known = {
        "database_url": settings.database_url or environ.get("DATABASE_URL") or profile.database_url or None,
        "redis_url": settings.redis_url or environ.get("REDIS_URL") or profile.redis_url or None,
        "flower_url": settings.flower_url or profile.flower_url or None,
    }
    secrets, refused = _secrets(settings, environ)
    dressed, lacking = _outfits(settings, environ)
    told = (*findings, *refused, *lacking)
    return Found(settings.model_copy(update=known), told, folder, profile, secrets, dressed)


def _file(config: Path | None, folder: Path, profile: Profile, environ: Mapping[str, str]) -> Path | None:
    simulation = folder / "simulation" / "penstock.toml"
    if config is not None or environ.get("PENSTOCK_CONFIG"):
        return config
    if profile.simulator_url and simulation.exists():
        return simulation
    if profile.configuration and Path(profile.configuration).exists():
        return Path(profile.configuration)
    if not Path("penstock.toml").exists() and environ.get("DEEPSEEK_API_KEY"):
        return presets.DEEPSEEK
    return None


def _secrets(settings: Settings, environ: Mapping[str, str]) -> tuple[dict[str, str], list[Finding]]:
    secrets, refused = dict[str, str](), list[Finding]()
    for key in settings.keys:
        try:
            secrets[key.name] = resolve_secret(key.secret, environ)
        except ConfigError as error:
            refused.append(fail(f"secret of {key.name}", f"{error.file}: {error.message}", error.mend))
    return secrets, refused


def _outfits(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[dict[str, UpstreamHeaders], list[Finding]]:
    dressed, lacking = dict[str, UpstreamHeaders](), list[Finding]()
    for upstream in settings.upstreams:
        try:
            dressed |= outfits(settings, environ, {upstream.name})
        except ConfigError as error:
            lacking.append(fail(f"headers of {upstream.name}", _placed(error), error.mend))
    return dressed, lacking


def _counted(settings: Settings) -> str:
    if not settings.keys:
        return "no keys; write a penstock.toml from deploy/penstock.example.toml, or set DEEPSEEK_API_KEY"
    counts = (len(settings.upstreams), len(settings.keys), len(settings.models))
    return "{} upstreams, {} keys, {} models".format(*counts)


def _placed(error: ConfigError) -> str:
    where = error.file if error.line is None else f"{error.file}:{error.line}"
    return f"{where}: {error.message}"
