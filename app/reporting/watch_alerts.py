"""Evaluates alert rules: the leader does, or an API process while there is no leader; never two at once.

The watcher is a row taken by compare-and-set, with a heartbeat. If the heartbeat stands still for three checks, on the
checker's clock, another process takes over. Alerts are rows too, so that a new watcher neither repeats them nor forgets
to resolve them. An intent is recorded before each message: if the sender dies, the state is sent again, so a message
may arrive twice but is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import Connection

from app.platform.background_loop import BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable, RedisUnreachable
from app.platform.ports import Clock
from app.reporting.domain.alerts import (
    Alert,
    Digest,
    Mute,
    Place,
    Readings,
    all_is_well,
    begun,
    due_again,
    mark_notified,
    news,
    step,
)
from app.reporting.send_alerts import ChannelAddresses, SendAlerts
from app.reporting.store import alerts as rows
from app.reporting.store.alerts import note_vitals
from app.reporting.store.pacing_snapshot import PacingSnapshotReader
from app.settings import ConfigError
from app.settings.alert_models import AlertSettings, MuteSettings
from app.settings.domain.alert_rules import RULES, Rule, Severity, added_rule
from app.settings.secrets import resolve_secret

log = structlog.get_logger("penstock.alerts")

LOOKS = 3  # checks that a watcher may miss
SHORTEST_SILENCE = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Watching:
    """Rules, muted hours and intervals."""

    rules: Sequence[Rule]
    mutes: Sequence[Mute] = ()
    every: float = 5.0  # seconds between checks
    group_seconds: float = 10.0
    heartbeat_seconds: float = 60.0
    repeat_seconds: float = 0.0  # until an alert that still fires is sent again; 0: never


class AlertWatch:
    """The lock of the one process that evaluates alerts."""

    def __init__(self, me: str, clock: Clock) -> None:
        self._me = me
        self._clock = clock
        self._seen: tuple[str, int] | None = None
        self._since = 0.0

    def hold(self, conn: Connection, silence: float) -> bool:
        """Take or renew the watch, which is lost after `silence` seconds; returns whether this process has it."""
        seen = rows.watcher(conn)
        if seen != self._seen:
            self._seen, self._since = seen, self._clock.monotonic()
        mine = seen[0] in ("", self._me)
        if not mine and self._clock.monotonic() - self._since < silence:
            return False
        return rows.watch(conn, self._me, seen)


@dataclass(slots=True)
class WatchAlerts:
    """Evaluates the rules. Each process that may watch calls `tick` every `watching.every` seconds."""

    me: str
    database: Database
    measure: Callable[[], Readings]
    sending: SendAlerts
    watching: Watching
    clock: Clock
    watches: bool = False
    _watch: AlertWatch = field(init=False)
    _sending_now: set[Place] = field(default_factory=set)
    _beat_due: float = 0.0
    _told: dict[Place, float] = field(default_factory=dict)  # when, by this process

    def __post_init__(self) -> None:
        self._watch = AlertWatch(self.me, self.clock)

    def tick(self) -> bool:
        """Check once; returns whether this process watches. Raises DatabaseUnreachable.

        1. Take or renew the watch. 2. Measure. 3. Advance and store the alerts. 4. Send the changes.
        5. Send the heartbeat if no alert fires.
        """
        silence = max(SHORTEST_SILENCE, LOOKS * self.watching.every)
        self.watches = self.database.write(lambda conn: self._watch.hold(conn, silence))
        if not self.watches:
            return False
        readings, now = self.measure(), self.clock.now()
        alerts = self.database.write(lambda conn: self._step(conn, readings, now))
        pending = self._pending(alerts)
        again = due_again(pending, self._told, now, self.watching.repeat_seconds)
        for digest in news(pending, now, self.watching.mutes, self.watching.group_seconds, again):
            self._hand_out(digest)
        self._say_that_all_is_well(alerts)
        return True

    def leave(self) -> None:
        """Let another process watch immediately. Never raises."""
        try:
            if self.watches:
                self.database.write(lambda conn: rows.leave_watch(conn, self.me))
        except DatabaseUnreachable:
            log.warning("the alert watch could not be released; another process takes over in a few seconds")
        self.watches = False

    def _step(self, conn: Connection, readings: Readings, now: float) -> Mapping[Place, Alert]:
        before = rows.load_alerts(conn)
        after = step(before, self.watching.rules, readings, now)
        rows.save_alerts(conn, before, after)
        rows.forget_vitals(conn, now)
        return after

    def _pending(self, alerts: Mapping[Place, Alert]) -> list[Alert]:
        return [alert for place, alert in alerts.items() if place not in self._sending_now]

    def _hand_out(self, digest: Digest) -> None:
        places = {alert.place for alert in (*digest.fired, *digest.resolved)}
        self.database.write(lambda conn: _mark(conn, digest, begun))
        self._sending_now |= places
        self._told |= dict.fromkeys(places, self.clock.now())
        for alert in (*digest.fired, *digest.resolved):
            log.warning("alert", rule=alert.rule, subject=alert.subject, state=alert.state.value)

        def sent() -> None:
            try:
                self.database.write(lambda conn: _mark(conn, digest, mark_notified))
            except DatabaseUnreachable:
                log.warning("an alert message may be sent again: its delivery could not be recorded")
            self._sending_now -= places

        self.sending.send(digest, sent)

    def _say_that_all_is_well(self, alerts: Mapping[Place, Alert]) -> None:
        if all_is_well(alerts.values()) and self.clock.monotonic() >= self._beat_due:
            self._beat_due = self.clock.monotonic() + self.watching.heartbeat_seconds
            self.sending.beat()


def _mark(conn: Connection, digest: Digest, stage: Callable[[Alert, Digest], Alert]) -> None:
    before = rows.load_alerts(conn)
    rows.save_alerts(conn, before, {place: stage(alert, digest) for place, alert in before.items()})


def rules_in_force(
    rules: Sequence[Rule], changes: Mapping[str, tuple[float | None, float | None, bool]]
) -> list[Rule]:
    """The rules with their configured changes: limit, seconds, enabled."""
    found = []
    for rule in rules:
        above, seconds, enabled = changes.get(rule.name, (None, None, True))
        if enabled:
            above = rule.above if above is None else above
            found.append(replace(rule, above=above, seconds=rule.seconds if seconds is None else seconds))
    return found


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
RUNBOOK = "docs/runbook.md"


def build_alert_config(settings: AlertSettings) -> Watching:
    """Rules, muted hours and times."""
    return Watching(
        rules=build_alert_rules(settings),
        mutes=tuple(map(_mute, settings.mute)),
        every=settings.every,
        group_seconds=settings.group,
        heartbeat_seconds=settings.heartbeat_every,
        repeat_seconds=settings.repeat,
    )


_OWN_SECONDS = 60.0  # of a rule that says nothing of it


def build_alert_rules(settings: AlertSettings) -> list[Rule]:
    """The rules in force, those of the operator last."""
    changes = {name: (one.above, one.seconds, one.enabled) for name, one in settings.rule.items()}
    own = [
        added_rule(
            name,
            one.reading,
            Severity(one.severity or "warning"),
            one.above or 0.0,
            _OWN_SECONDS if one.seconds is None else one.seconds,
            one.words,
        )
        for name, one in settings.rule.items()
        if one.reading and one.enabled
    ]
    return rules_in_force(RULES, changes) + own


def build_channel_addresses(settings: AlertSettings, environ: Mapping[str, str]) -> ChannelAddresses:
    """Channel addresses. Secrets are resolved at each use, so that a corrected one takes effect."""

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


def _mute(one: MuteSettings) -> Mute:
    return Mute(
        begin=_minutes(one.begin),
        end=_minutes(one.end),
        severities=frozenset(map(Severity, one.severities)),
        days=frozenset(map(_DAYS.index, one.days)),
        zone=one.timezone,
    )


def _minutes(time: str) -> int:
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes)


VITALS_SECONDS = 10.0
_NO_BEAT = 4.0  # seconds without a heartbeat after which there is no leader


@dataclass(slots=True)
class NoteVitals:
    """Records the machine's CPU use and the HTTP requests per second, every ten seconds."""

    process: str
    host: str
    database: Database
    clock: Clock
    cpu: Callable[[], float]  # share in use since the last call
    requests: Callable[[], int] = field(default=lambda: 0)  # answered so far
    _due: float = -1.0
    _seen: tuple[float, int] | None = None

    def tick(self) -> None:
        """Record them if due. Raises DatabaseUnreachable."""
        now, count = self.clock.monotonic(), self.requests()
        if now < self._due:
            return
        self._due = now + VITALS_SECONDS
        at, before = self._seen or (now, count)
        self._seen = (now, count)
        rate, cpu, wall = (count - before) / max(1.0, now - at), self.cpu(), self.clock.now()
        self.database.write(lambda conn: note_vitals(conn, self.process, self.host, cpu, rate, wall))


class NobodyLeads:
    """Whether there is no leader, as an API process sees it."""

    def __init__(self, heartbeats: PacingSnapshotReader, clock: Clock) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._beat: tuple[str, int] | None = None
        self._since = clock.monotonic()

    def __call__(self) -> bool:
        """Check once. Without Redis there is no leader."""
        try:
            gate = self._heartbeats.look()
        except RedisUnreachable:
            return True
        beat = (gate.term, gate.beat)
        if beat != self._beat:
            self._beat, self._since = beat, self._clock.monotonic()
        return not gate.term or self._clock.monotonic() - self._since >= _NO_BEAT


class AlertLoop:
    """The background thread of a process for vitals and alerts. It survives all errors."""

    def __init__(
        self, vitals: NoteVitals, watch: WatchAlerts | None = None, may: Callable[[], bool] = lambda: False
    ) -> None:
        """`may` returns whether this process may watch now."""
        self._vitals = vitals
        self._watch = watch
        self._may = may
        every = watch.watching.every if watch is not None else VITALS_SECONDS
        self._loop = BackgroundLoop(
            "alerts",
            self.tick,
            every=every,
            at_once=False,
            expected=(DatabaseUnreachable,),
            backoff=(every, every),
        )

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    def close(self) -> None:
        """Stop, and leave the watch to others."""
        self._loop.close()
        if self._watch is not None:
            self._watch.leave()
            self._watch.sending.close()

    def tick(self) -> None:
        """Do what is due. Raises DatabaseUnreachable."""
        self._vitals.tick()
        if self._watch is not None:
            if self._may():
                self._watch.tick()
            else:
                self._watch.leave()
