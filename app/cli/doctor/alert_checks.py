"""The checks of alerts: their channels, and what fires."""

from __future__ import annotations

import os
from collections.abc import Sequence

from app.composition.container import build
from app.diagnosis.domain.doctor_alerts import judge_channels, judge_firing
from app.diagnosis.domain.finding import Finding
from app.diagnosis.examine import Check
from app.platform.domain.errors import PenstockError
from app.reporting.build_alert_config import RUNBOOK, lay_addresses
from app.reporting.domain.alerts import Alert
from app.reporting.notifier import AppriseNotifier
from app.reporting.send_alerts import HEARTBEAT
from app.reporting.store.alerts import firing, load_channels
from app.settings import Settings
from app.settings.domain.alert_rules import Severity


def alert_checks(settings: Settings) -> list[Check]:
    """One for all; nothing is sent."""
    return [Check("Alerts", "alerts", lambda: _alerts(settings))]


def _alerts(settings: Settings) -> Sequence[Finding]:
    errors, alerts = _stored(settings)
    found = judge_channels(_problems(settings), errors)
    return [*found, *judge_firing(alerts, settings.alerts.runbook or RUNBOOK)]


def _problems(settings: Settings) -> dict[str, str | None]:
    """What is wrong with each address; None: nothing that could be seen without sending."""
    addresses, notifier = lay_addresses(settings.alerts, os.environ), AppriseNotifier()
    problems: dict[str, str | None] = {}
    for severity in Severity:
        for number, (url, problem) in enumerate(addresses.channels(severity), 1):
            problems[f"{severity} {number}"] = problem or notifier.problem(url or "")
    if settings.alerts.heartbeat:
        problems[HEARTBEAT] = addresses.heartbeat()[1] or None
    return problems


def _stored(settings: Settings) -> tuple[dict[str, str | None], list[Alert]]:
    """How channels fared, and what fires; nothing while the database is away, which has a heading of its own."""
    if not settings.database_url:
        return {}, []
    database = build(settings).database
    try:
        channels, alerts = database.read(lambda conn: (load_channels(conn), firing(conn)))
    except PenstockError:
        return {}, []
    finally:
        database.close()
    return {channel.name: channel.error for channel in channels}, alerts
