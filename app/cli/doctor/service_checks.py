"""Checks of this machine and of the service's parts."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from app.cli.doctor.command import Found
from app.composition.container import Container
from app.diagnosis import probe_service
from app.diagnosis.domain.doctor_service import (
    judge_cache,
    judge_callback_workers,
    judge_channels,
    judge_cpu,
    judge_database,
    judge_disk,
    judge_disk_speed,
    judge_dispatcher,
    judge_files,
    judge_firewall,
    judge_firing,
    judge_memory,
    judge_page,
    judge_redis,
    judge_workers,
)
from app.diagnosis.domain.doctor_upstream import judge_skew
from app.diagnosis.domain.finding import Finding, fail, not_measured
from app.diagnosis.examine import Check, Look
from app.diagnosis.probe_upstream import get
from app.platform.domain.errors import PenstockError
from app.platform.domain.names import CALLBACKS
from app.reporting.domain.alerts import Alert, firing
from app.reporting.read_overview import read_alerts
from app.reporting.send_alerts import HEARTBEAT, AppriseNotifier
from app.reporting.watch_alerts import RUNBOOK, build_channel_addresses
from app.settings import Settings
from app.settings.domain.alert_rules import Severity


def alert_checks(settings: Settings) -> list[Check]:
    """One check for all alerts; sends nothing."""
    return [Check("Alerts", "alerts", lambda: _alerts(settings))]


def _alerts(settings: Settings) -> Sequence[Finding]:
    errors, alerts = _stored(settings)
    found = judge_channels(_problems(settings), errors)
    return [*found, *judge_firing(alerts, settings.alerts.runbook or RUNBOOK)]


def _problems(settings: Settings) -> dict[str, str | None]:
    """The problem with each address; None if none is visible without sending."""
    addresses, notifier = build_channel_addresses(settings.alerts, os.environ), AppriseNotifier()
    problems: dict[str, str | None] = {}
    for severity in Severity:
        for number, (url, problem) in enumerate(addresses.channels(severity), 1):
            problems[f"{severity} {number}"] = problem or notifier.problem(url or "")
    if settings.alerts.heartbeat:
        problems[HEARTBEAT] = addresses.heartbeat()[1] or None
    return problems


def _stored(settings: Settings) -> tuple[dict[str, str | None], list[Alert] | None]:
    """Channel errors and firing alerts; none known without the database, which has its own check."""
    if not settings.database_url:
        return {}, None
    database = Container(settings).database
    try:
        alerts, channels = read_alerts(database)
    except PenstockError:
        return {}, None
    finally:
        database.close()
    return {channel.name: channel.error for channel in channels}, firing(alerts)


_NO_ADDRESS = "Give the service's data folder: --data DIR."
_NO_REDIS = "Set REDIS_URL, or start the service once: penstock up"
_NO_DATABASE = "Set DATABASE_URL, or start the service once: penstock up"


def machine_checks(found: Found, ntp: str = "") -> list[Check]:
    """Checks of CPU, memory, open files, disks, firewall and clock. `ntp`: the server to ask; empty: none."""

    def measured() -> list[Finding]:
        machine = probe_service.measure_machine()
        concurrency = found.settings.worker.concurrency
        return [judge_cpu(machine), judge_memory(machine), judge_files(machine, concurrency)]

    def disks() -> list[Finding]:
        space = {**folders, "temporary files": Path(tempfile.gettempdir())}
        return [
            judge_disk(what, str(folder), *probe_service.free_space(folder)) for what, folder in space.items()
        ]

    folders = _folders(found)
    looks: dict[str, Look] = {
        "machine": measured,
        "disk": disks,
        "disk speed": lambda: [_disk_speed(what, folder) for what, folder in folders.items()],
        "firewall": lambda: [judge_firewall(probe_service.read_firewall(), _ports(found.settings))],
        "clock": lambda: [_clock(ntp)],
    }
    return [Check("This machine", name, look) for name, look in looks.items()]


def _folders(found: Found) -> dict[str, Path]:
    """The folders that the service writes to."""
    parts = urlsplit(found.settings.database_url or "")
    folders = {"data": found.folder}
    if parts.scheme.startswith("sqlite"):
        folders["database"] = Path(parts.path.removeprefix("/")).absolute().parent
    return folders


def _disk_speed(what: str, folder: Path) -> Finding:
    if not folder.is_dir():
        return judge_disk_speed(what, (), f"{folder} does not exist")
    try:
        return judge_disk_speed(what, probe_service.fsync_seconds(folder))
    except OSError as error:
        return judge_disk_speed(what, (), f"cannot write to {folder} ({error.strerror})")


def _ports(settings: Settings) -> list[int]:
    """The ports outside that calls go to."""
    ways = [urlsplit(upstream.proxy or upstream.base_url) for upstream in settings.upstreams]
    return sorted({way.port or (443 if way.scheme == "https" else 80) for way in ways})


def _clock(ntp: str) -> Finding:
    if not ntp:
        hint = "Name a server: penstock doctor --ntp HOST, or PENSTOCK_NTP. Upstreams' Date headers are compared below."
        return not_measured("clock", "no NTP server is named", hint)
    try:
        return judge_skew(probe_service.ntp_skew(ntp), ntp)
    except (OSError, ValueError) as error:
        reason = f"no time from {ntp} by NTP ({getattr(error, 'strerror', None) or error or 'no answer'})"
        hint = (
            "Allow UDP 123, or name another server by --ntp HOST. Upstreams' Date headers are compared below."
        )
        return not_measured("clock", reason, hint)


def service_checks(found: Found) -> list[Check]:
    """Checks of Redis, database, processes, API and Flower."""
    settings = found.settings
    checks = [
        Check("Redis", "Redis", lambda: _redis(settings)),
        Check("Database", "database", lambda: _database(settings)),
        Check("Processes", "dispatcher and workers", lambda: _gate(settings)),
        Check("Processes", "callback workers", lambda: _callback_workers(settings)),
    ]
    checks.append(Check("Processes", "API", lambda: _api(found.profile.url)))
    checks.append(Check("Processes", "Flower", lambda: _flower(settings.flower_url or "")))
    return checks + alert_checks(settings)


def _redis(settings: Settings) -> Sequence[Finding]:
    if not settings.redis_url:
        return [fail("reached", "no Redis is configured", _NO_REDIS)]
    findings = judge_redis(probe_service.measure_redis(settings.redis_url))
    if settings.cache_url:
        findings.append(judge_cache(probe_service.measure_redis(settings.cache_url)))
    return findings


def _database(settings: Settings) -> Sequence[Finding]:
    if not settings.database_url:
        return [fail("reached", "no database is configured", _NO_DATABASE)]
    return judge_database(probe_service.measure_database(settings.database_url))


def _gate(settings: Settings) -> Sequence[Finding]:
    """Dispatcher and workers. Redis and the database have their own checks."""
    if not settings.redis_url:
        return [fail("dispatcher", "cannot be checked without Redis", _NO_REDIS)]
    parts = Container(settings)
    try:
        gate = probe_service.watch_gate(parts.pacing_snapshots)
    except PenstockError:
        return [fail("dispatcher", "cannot be checked: Redis does not answer", "Fix Redis first.")]
    return [judge_dispatcher(gate), judge_workers(gate, _alive(settings))]


def _alive(settings: Settings) -> int | None:
    """Workers with a recent heartbeat; unknown without the database, which has its own check."""
    if not settings.database_url:
        return None
    parts = Container(settings)
    try:
        return parts.database.read(lambda conn: probe_service.alive(conn, time.time()))
    except PenstockError:
        return None
    finally:
        parts.database.close()


def _callback_workers(settings: Settings) -> Sequence[Finding]:
    if not settings.redis_url or probe_service.measure_redis(settings.redis_url).error:
        return [judge_callback_workers(None)]
    return [judge_callback_workers(probe_service.consumers(Container(settings).celery, CALLBACKS))]


def _api(url: str) -> Sequence[Finding]:
    if not url:
        return [not_measured("API", "its address is not known here", _NO_ADDRESS)]
    page = get(f"{url}/readyz")
    return [judge_page("API", url, page.status, page.error, "Start it: penstock api (penstock up does).")]


def _flower(url: str) -> Sequence[Finding]:
    """Check Flower's health page."""
    if not url:
        return [
            not_measured(
                "Flower", "its address is not known here", f"{_NO_ADDRESS} Or set PENSTOCK_FLOWER_URL."
            )
        ]
    parts = urlsplit(url)
    where = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    page = get(f"{where}/healthcheck")
    hint = "Start it: penstock flower (penstock up does). Nothing depends on it."
    return [judge_page("Flower", where, page.status, page.error, hint)]


def configuration_check(found: Found) -> Check:
    """The findings from reading the configuration."""
    return Check("Configuration", "configuration", lambda: found.findings)
