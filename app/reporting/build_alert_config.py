"""From what is configured about alerts to what watching and sending need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.reporting.domain.alerts import Mute
from app.reporting.send_alerts import ChannelAddresses
from app.reporting.watch_alerts import Watching, rules_in_force
from app.settings import ConfigError
from app.settings.alert_models import AlertSettings, MuteSettings
from app.settings.domain.alert_rules import RULES, Rule, Severity
from app.settings.secrets import resolve_secret

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
RUNBOOK = "docs/runbook.md"


def lay_watching(settings: AlertSettings) -> Watching:
    """Rules, muted hours and times."""
    return Watching(
        rules=lay_alert_rules(settings),
        mutes=tuple(map(_mute, settings.mute)),
        every=settings.every,
        group_seconds=settings.group,
        heartbeat_seconds=settings.heartbeat_every,
    )


def lay_alert_rules(settings: AlertSettings) -> list[Rule]:
    """The rules in force."""
    changes = {name: (told.above, told.seconds, told.enabled) for name, told in settings.rule.items()}
    return rules_in_force(RULES, changes)


def lay_addresses(settings: AlertSettings, environ: Mapping[str, str]) -> ChannelAddresses:
    """Where to. The secrets are looked up whenever they are needed, so that a mended one is found."""

    def channels(severity: Severity) -> Sequence[tuple[str | None, str]]:
        references: tuple[str, ...] = getattr(settings, severity.value)
        return [_address(reference, environ) for reference in references]

    def heartbeat() -> tuple[str | None, str]:
        return _address(settings.heartbeat, environ) if settings.heartbeat else (None, "")

    return ChannelAddresses(channels, heartbeat)


def _address(reference: str, environ: Mapping[str, str]) -> tuple[str | None, str]:
    try:
        return resolve_secret(reference, environ), ""
    except ConfigError as error:
        return None, f"{error.file}: {error.message}"


def _mute(told: MuteSettings) -> Mute:
    return Mute(
        begin=_minutes(told.begin),
        end=_minutes(told.end),
        severities=frozenset(map(Severity, told.severities)),
        days=frozenset(map(_DAYS.index, told.days)),
        zone=told.timezone,
    )


def _minutes(time: str) -> int:
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes)
