"""Alerts: when one starts and ends, and what is sent when. Pure; Unix seconds.

    (none) --above its limit--> pending --long enough--> firing --below--> resolved --announced, a week--> (none)

An unknown reading changes nothing: an outage of a source neither fires nor resolves the alerts it feeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from app.platform.domain.times import to_rfc3339
from app.settings.domain.alert_rules import Rule, Severity

KEPT_SECONDS = 7 * 86_400.0  # how long resolved alerts are kept


class AlertState(StrEnum):
    """The state of an alert."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


# By rule: the reading of each subject ("" if there is only one); None: unknown.
Readings = Mapping[str, Mapping[str, float] | None]


Place = tuple[str, str]  # rule and subject


NO_REASONS: Mapping[Place, str] = {}


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule's state for one subject.

    `notified`: its channels know that it fires. `unsure`: a message was started and its result is not recorded yet;
    if the sender dies, the current state is sent again.
    """

    rule: str
    subject: str
    severity: Severity
    state: AlertState
    since: float  # of this state
    value: float
    notified: bool = False
    unsure: bool = False

    @property
    def may_be_known(self) -> bool:
        """Whether its channels may know that it fires but not that it ended."""
        return self.notified or self.unsure

    @property
    def place(self) -> Place:
        """Its key."""
        return self.rule, self.subject


def step(
    alerts: Mapping[Place, Alert], rules: Iterable[Rule], readings: Readings, now: float
) -> dict[Place, Alert]:
    """The alerts after these readings. Alerts of rules that are no longer watched resolve."""
    watched = {rule.name: rule for rule in rules}
    found = dict(alerts)
    for rule in watched.values():
        values = readings.get(rule.reading or rule.name)
        if values is None:
            continue
        known = {subject for name, subject in alerts if name == rule.name}
        for subject in sorted(known | set(values)):
            place, value = (rule.name, subject), values.get(subject, 0.0)
            _put(found, place, _next(alerts.get(place), rule, subject, value, now))
    for place, alert in alerts.items():
        if place[0] not in watched:
            _put(found, place, _calm(alert, now))
    return found


def _put(found: dict[Place, Alert], place: Place, alert: Alert | None) -> None:
    if alert is None:
        found.pop(place, None)
    else:
        found[place] = alert


def _next(alert: Alert | None, rule: Rule, subject: str, value: float, now: float) -> Alert | None:
    if value <= rule.above:
        return None if alert is None else _calm(alert, now)
    if alert is None or alert.state is AlertState.RESOLVED:
        # If its end was never announced, its channels still see it firing.
        notified, unsure = (alert.notified, alert.unsure) if alert else (False, False)
        alert = Alert(rule.name, subject, rule.severity, AlertState.PENDING, now, value, notified, unsure)
    if alert.state is AlertState.PENDING and now - alert.since >= rule.seconds:
        return replace(alert, state=AlertState.FIRING, since=now, value=value)
    return replace(alert, value=value)


def _calm(alert: Alert, now: float) -> Alert | None:
    """The next state of an alert whose reading is below its limit."""
    if alert.state is AlertState.PENDING:
        return replace(alert, state=AlertState.RESOLVED, since=now) if alert.may_be_known else None
    if alert.state is AlertState.FIRING:
        return replace(alert, state=AlertState.RESOLVED, since=now)
    return None if not alert.may_be_known and now - alert.since > KEPT_SECONDS else alert


@dataclass(frozen=True, slots=True)
class Mute:
    """Hours in which nothing of these severities is sent; they may cross midnight."""

    begin: int  # minutes of the day
    end: int
    severities: frozenset[Severity] = frozenset({Severity.WARNING})
    days: frozenset[int] = frozenset(range(7))  # on which it begins; Monday is 0
    zone: str = "UTC"

    def holds(self, severity: Severity, now: float) -> bool:
        """Whether it applies now."""
        if severity not in self.severities:
            return False
        local = datetime.fromtimestamp(now, ZoneInfo(self.zone))
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return self.begin <= minute < self.end and today in self.days
        begun_today = minute >= self.begin and today in self.days
        return begun_today or (minute < self.end and (today - 1) % 7 in self.days)


@dataclass(frozen=True, slots=True)
class Digest:
    """Alerts sent together to the channels of one severity."""

    severity: Severity
    fired: tuple[Alert, ...]
    resolved: tuple[Alert, ...]


def due_again(
    alerts: Iterable[Alert], told: Mapping[Place, float], now: float, repeat_seconds: float
) -> frozenset[Place]:
    """Alerts that still fire, and whose channels have heard nothing of them for so long. 0 seconds: none.

    `told` is what this watcher knows; of others it counts from when the alert began to fire.
    """
    if not repeat_seconds:
        return frozenset()
    firing = (alert for alert in alerts if alert.state is AlertState.FIRING and alert.notified)
    return frozenset(one.place for one in firing if now - told.get(one.place, one.since) >= repeat_seconds)


def news(
    alerts: Iterable[Alert],
    now: float,
    mutes: Sequence[Mute] = (),
    group_seconds: float = 0.0,
    again: Collection[Place] = (),
) -> list[Digest]:
    """What to send now, the most severe first.

    Changes of one severity are grouped over `group_seconds`; a disaster is sent immediately. Alerts that fired and
    ended while muted are never sent. `again`: places of firing alerts to tell once more.
    """
    digests = []
    listed = sorted(alerts, key=lambda alert: alert.place)
    for severity in reversed(Severity):
        mine = [
            alert
            for alert in listed
            if alert.severity is severity and (is_news(alert) or alert.place in again)
        ]
        muted = any(mute.holds(severity, now) for mute in mutes)
        wait = 0.0 if severity is Severity.DISASTER else group_seconds
        if not mine or muted or now - min(alert.since for alert in mine) < wait:
            continue
        fired = tuple(alert for alert in mine if alert.state is AlertState.FIRING)
        digests.append(Digest(severity, fired, tuple(a for a in mine if a.state is AlertState.RESOLVED)))
    return digests


def is_news(alert: Alert) -> bool:
    """Whether its channels do not know its state yet."""
    if alert.state is AlertState.FIRING:
        return not alert.notified or alert.unsure
    return alert.state is AlertState.RESOLVED and alert.may_be_known


def all_is_well(alerts: Iterable[Alert]) -> bool:
    """Whether no alert fires."""
    return not any(alert.state is AlertState.FIRING for alert in alerts)


def begun(alert: Alert, digest: Digest) -> Alert:
    """The alert just before a digest is sent."""
    places = {one.place for one in (*digest.fired, *digest.resolved)}
    return replace(alert, unsure=True) if alert.place in places else alert


def mark_notified(alert: Alert, digest: Digest) -> Alert:
    """The alert after a digest was sent. Later changes are announced again."""
    if alert.place in {one.place for one in digest.fired}:
        return replace(alert, notified=True, unsure=False)
    if alert.place in {one.place for one in digest.resolved}:
        return replace(alert, notified=False, unsure=False)
    return alert


def sentence(alert: Alert, rule: Rule) -> str:
    """The alert as a sentence."""
    return rule.words.format(value=_shown(alert.value, rule.unit), subject=alert.subject)


def _shown(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value * 100:.1f} %"
    return f"{value:.1f} {unit}" if unit == "s" else f"{value:,.0f}{unit}"


def _entry(runbook: str, alert: Alert, rule: Rule | None) -> str:
    """Where to read on; rules of the operator have no entry."""
    return runbook if rule is None or rule.reading else f"{runbook}#{alert.rule}"


def alertmanager_alerts(
    digest: Digest, rules: Mapping[str, Rule], runbook: str, now: float, holds_seconds: float
) -> list[dict[str, object]]:
    """The body of Alertmanager's POST /api/v2/alerts. An alert holds until it is sent again, or resolved."""
    found: list[dict[str, object]] = []
    for alert in (*digest.fired, *digest.resolved):
        rule = rules.get(alert.rule)
        labels = {"alertname": alert.rule, "severity": alert.severity.value, "service": "penstock"}
        ends = now if alert.state is AlertState.RESOLVED else now + holds_seconds
        said = sentence(alert, rule) if rule else alert.rule
        found.append(
            {
                "labels": {**labels, **({"subject": alert.subject} if alert.subject else {})},
                "annotations": {"summary": said, "runbook_url": _entry(runbook, alert, rule)},
                "startsAt": to_rfc3339(min(alert.since, ends)),
                "endsAt": to_rfc3339(ends),
            }
        )
    return found


def compose(
    digest: Digest, rules: Mapping[str, Rule], runbook: str, reasons: Mapping[Place, str] = NO_REASONS
) -> tuple[str, str]:
    """Title and text of one message; `runbook` is the address that rule names are appended to.

    `reasons` replaces the rule's text for some alerts.
    """
    alerts = [*digest.fired, *digest.resolved]
    words = f"{len(digest.fired)} firing" if digest.fired else "resolved"
    if digest.fired and digest.resolved:
        words += f", {len(digest.resolved)} resolved"
    lines = []
    for alert in alerts:
        rule = rules.get(alert.rule)
        said = reasons.get(alert.place) or (sentence(alert, rule) if rule else "")
        name = f"{alert.rule} ({alert.subject})" if alert.subject else alert.rule
        if alert.state is AlertState.RESOLVED:
            lines.append(f"RESOLVED {name}")
        else:
            lines.append(f"FIRING {name}: {said}\n  {_entry(runbook, alert, rule)}")
    return f"Penstock {digest.severity}: {words}", "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Channel:
    """The result of a channel's last message."""

    name: str
    tried_at: float
    error: str | None


def firing(alerts: Iterable[Alert]) -> list[Alert]:
    """Those that fire, the most severe first."""
    order = list(reversed(Severity))
    found = [one for one in alerts if one.state is AlertState.FIRING]
    return sorted(found, key=lambda one: (order.index(one.severity), one.place))
