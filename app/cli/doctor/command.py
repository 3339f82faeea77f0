"""`penstock doctor`: check everything and say how to fix what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.cli import presets
from app.cli.failure import CommandFailure
from app.cli.profile import Profile, data_folder, load
from app.diagnosis.domain.finding import Finding, Level, fail, not_measured, ok, warn, worst
from app.diagnosis.examine import Check, Examined, examine
from app.settings import ConfigError, Settings, load_settings, resolve_secret
from app.settings.secrets import UpstreamHeaders, upstream_headers

_COLOURS = {Level.NOT_MEASURED: "dim", Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red bold"}

_NAMES = 23  # characters of the longest usual name


@click.command("doctor", short_help="check everything and say how to fix what is wrong")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration [default: the running service's, $PENSTOCK_CONFIG, ./penstock.toml].",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the profile [default: .penstock].")
@click.option(
    "--ntp",
    default="pool.ntp.org",
    show_default=True,
    envvar="PENSTOCK_NTP",
    help="NTP server; '' asks none.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a ZIP file for support: no secrets, no prompts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context, config: Path | None, data: Path | None, ntp: str, bundle: Path | None, as_json: bool
) -> None:
    """Check what an operator would: the connection to each upstream, its keys, this machine, the service.

    Costs nothing: it reads lists and balances and sends no prompt. Takes a few seconds. Exit code 0: everything that
    was measured passed; 1: there are warnings; 2: something failed.

    \b
    penstock doctor
    penstock doctor --data /srv/penstock/.penstock --bundle support.zip
    penstock doctor --json | jq '.checks[] | select(.level != "ok")'
    """

    from app.cli.doctor.service_checks import configuration_check, machine_checks, service_checks
    from app.cli.doctor.upstream_checks import upstream_checks

    found = find(config, data, os.environ)
    checks = [configuration_check(found), *machine_checks(found, ntp), *service_checks(found)]
    checks += upstream_checks(found.settings, found.secrets, found.headers)
    examined = _with_progress(checks)
    level = worst(finding for each in examined for finding in each.findings)
    if as_json:
        click.echo(orjson.dumps(as_data(examined, level), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(examined, level)
    if bundle is not None:
        _bundle(bundle, found, as_data(examined, level))
    ctx.exit(int(level))


def _bundle(file: Path, found: Found, examined: Mapping[str, object]) -> None:
    from app.cli.doctor.bundle import write_bundle

    try:
        names = write_bundle(file, found, examined, os.environ)
    except OSError as error:
        raise CommandFailure(f"cannot write {file}: {error.strerror}", "Name another file.") from None
    click.echo(
        f"Wrote {file}: {', '.join(names)}. Secrets are hidden; look through it before you send it.", err=True
    )


def as_data(examined: Sequence[Examined], level: Level) -> dict[str, object]:
    """The output of --json."""
    lines = [(each.check.section, finding) for each in examined for finding in each.findings]
    return {
        "worst": level.word,
        "exit_code": int(level),
        "checks": [
            {
                "section": section,
                "name": finding.name,
                "level": finding.level.word,
                "message": finding.message,
                "hint": finding.hint or None,
                "mend": finding.hint or None,  # the old name of `hint`
            }
            for section, finding in lines
        ],
    }


def _with_progress(checks: Sequence[Check]) -> list[Examined]:
    """Run the checks with a progress bar on standard error, if that is a terminal."""
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(checks))
        return examine(
            checks, came=lambda check: progress.update(bar, advance=1, description=escape(check.section))
        )


def _show(examined: Sequence[Examined], level: Level) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for section, each in groupby(examined, key=lambda one: one.check.section):
        console.print(f"[bold]{escape(section)}[/bold]")
        for finding in [finding for one in each for finding in one.findings]:
            _line(console, finding)
    console.print(f"[{_COLOURS[level]}]{summary([f for one in examined for f in one.findings])}[/]")


def summary(findings: Sequence[Finding]) -> str:
    """The last line: how many passed, failed, and were not measured."""
    counts = Counter(finding.level for finding in findings)
    warnings, unknown = counts[Level.WARN], counts[Level.NOT_MEASURED]
    said = f"{counts[Level.OK]:,} passed, {warnings:,} warning{'' if warnings == 1 else 's'}"
    said += f", {counts[Level.FAIL]:,} failed"
    return f"{said}, {unknown:,} not measured" if unknown else said


def _line(console: Console, finding: Finding) -> None:
    colour = _COLOURS[finding.level]
    console.print(
        f"  [{colour}]{finding.level.mark:<4}[/]  {escape(finding.name):<{_NAMES}}  {escape(finding.message)}"
    )
    if finding.hint:
        console.print(f"        {'':<{_NAMES}}  [dim]{escape(finding.hint)}[/dim]")


@dataclass(frozen=True, slots=True)
class Found:
    """Settings with the profile's addresses filled in, and the secrets that could be resolved, by key."""

    settings: Settings
    findings: tuple[Finding, ...]
    folder: Path
    profile: Profile
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, UpstreamHeaders] = field(default_factory=dict, repr=False)


def find(config: Path | None, data: Path | None, environ: Mapping[str, str]) -> Found:
    """Read the configuration. An invalid one is a finding; the other checks run without it.

    The file is the given one, else the one this data folder's service was started with, else the default one, else the
    preset for DEEPSEEK_API_KEY.
    """
    folder = data_folder(environ, data)
    profile = load(folder)
    try:
        settings = load_settings(_file(config, folder, profile, environ), environ)
        findings = [_read(settings), *_profile(folder, profile)]
    except ConfigError as error:
        settings = Settings()
        findings = [fail("file", _placed(error), error.hint)]
    known = {
        "database_url": settings.database_url or environ.get("DATABASE_URL") or profile.database_url or None,
        "redis_url": settings.redis_url or environ.get("REDIS_URL") or profile.redis_url or None,
        "flower_url": settings.flower_url or profile.flower_url or None,
    }
    secrets, refused = _secrets(settings, environ)
    dressed, lacking = _read_headers(settings, environ)
    all_findings = (*findings, *refused, *lacking)
    return Found(settings.model_copy(update=known), all_findings, folder, profile, secrets, dressed)


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
            refused.append(fail(f"secret of {key.name}", f"{error.file}: {error.message}", error.hint))
    return secrets, refused


def _read_headers(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[dict[str, UpstreamHeaders], list[Finding]]:
    dressed, lacking = dict[str, UpstreamHeaders](), list[Finding]()
    for upstream in settings.upstreams:
        try:
            dressed |= upstream_headers(settings, environ, {upstream.name})
        except ConfigError as error:
            lacking.append(fail(f"headers of {upstream.name}", _placed(error), error.hint))
    return dressed, lacking


def _read(settings: Settings) -> Finding:
    if not settings.keys:
        hint = (
            "Give --config FILE, or --data with the running service's folder; for a first file: penstock init"
        )
        return warn("file", f"{settings.path or 'none'}: no keys, so no upstream is checked", hint)
    counts = (len(settings.upstreams), len(settings.keys), len(settings.models))
    said = ", ".join(
        f"{count:,} {what}{'' if count == 1 else 's'}"
        for count, what in zip(counts, ("upstream", "key", "model"), strict=True)
    )
    return ok("file", f"{settings.path}: {said}")


def _profile(folder: Path, profile: Profile) -> list[Finding]:
    """What is missing of the service that this folder belongs to."""
    named = profile.configuration
    if named and not Path(named).exists():
        hint = "Put it back, or give --config FILE."
        return [warn("service's file", f"{named}, with which the service was started, is not there", hint)]
    if profile == Profile():
        hint = "Give the running service's folder: --data DIR (or PENSTOCK_DATA)."
        return [not_measured("service", f"no profile.json in {folder}, so no service is known", hint)]
    return []


def _placed(error: ConfigError) -> str:
    where = error.file if error.line is None else f"{error.file}:{error.line}"
    return f"{where}: {error.message}"
