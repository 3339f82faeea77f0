"""Sends alert messages to their channels from a background thread, so that no channel blocks anything else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Protocol
from urllib.parse import urlsplit

import orjson
import structlog
import urllib3
from urllib3.util import make_headers, parse_url

from app.platform.background_loop import END, BackgroundLoop
from app.platform.database import Database
from app.platform.domain.errors import DatabaseUnreachable
from app.platform.ports import Clock
from app.reporting.domain.alerts import (
    Alert,
    AlertState,
    Channel,
    Digest,
    Place,
    alertmanager_alerts,
    compose,
)
from app.reporting.store.alerts import note_channels
from app.settings.domain.alert_rules import Rule, Severity
from app.upstreams.store.health import load_health

log = structlog.get_logger("penstock.alerts")

WAITS = (2.0, 10.0)  # seconds between attempts at one message
HOLDS = 1.5  # times the time between reminders: so long an alert holds at an Alertmanager without a word
UNTIL_RESOLVED = 7 * 86_400.0  # seconds that it holds where there are no reminders
TEST_HOLDS = 60.0
HEARTBEAT = "heartbeat"


class Notifier(Protocol):
    """Notifies people. Never raises; returns why a message failed, without the address, which is a secret."""

    def notify(self, url: str, title: str, text: str, severity: Severity, *, resolved: bool) -> str | None:
        """Send to one channel."""

    def post(self, url: str, body: Sequence[Mapping[str, object]]) -> str | None:
        """Send alerts to an Alertmanager."""

    def visit(self, url: str) -> str | None:
        """Call a heartbeat URL."""


@dataclass(frozen=True, slots=True)
class ChannelAddresses:
    """Resolves the secret addresses at each use: an address, or the reason why there is none."""

    channels: Callable[[Severity], Sequence[tuple[str | None, str]]]  # (address, reason why there is none)
    heartbeat: Callable[[], tuple[str | None, str]] = lambda: (None, "")


@dataclass(slots=True)
class SendAlerts:
    """Sends one message after the other. Any thread may put into the queue; its own thread sends."""

    notifier: Notifier
    addresses: ChannelAddresses
    rules: Mapping[str, Rule]
    runbook: str
    database: Database
    clock: Clock
    repeat_seconds: float = 0.0  # between reminders; 0: none are sent
    _queue: SimpleQueue[Callable[[], object] | None] = field(default_factory=SimpleQueue)
    _closed: threading.Event = field(default_factory=threading.Event)
    _loop: BackgroundLoop = field(init=False)

    def __post_init__(self) -> None:
        self._loop = BackgroundLoop("send-alerts", self._next)

    def send(self, digest: Digest, done: Callable[[], object]) -> None:
        """Queue a message; `done` is called in the sender's thread once every channel was tried."""

        def job() -> None:
            title, text = compose(digest, self.rules, self.runbook, self._reasons())
            holds = HOLDS * self.repeat_seconds if self.repeat_seconds else UNTIL_RESOLVED
            body = alertmanager_alerts(digest, self.rules, self.runbook, self.clock.now(), holds)
            self.deliver(digest.severity, title, text, resolved=not digest.fired, body=body)
            done()

        self._put(job)

    def _reasons(self) -> dict[Place, str]:
        """Why keys and accounts are not used. Empty if the database is unreachable: the alert is sent anyway."""
        try:
            statuses = self.database.read(load_health)
        except DatabaseUnreachable:
            return {}
        rules = {"key": "key_disabled", "account": "balance_low"}
        named = ((subject.partition(":"), one.reason) for subject, one in statuses.items() if one.reason)
        return {(rules[kind], name): reason for (kind, _, name), reason in named if kind in rules}

    def beat(self) -> None:
        """Queue a call of the heartbeat URL, if there is one."""
        self._put(self.beat_now)

    def deliver(
        self,
        severity: Severity,
        title: str,
        text: str,
        *,
        resolved: bool = False,
        body: Sequence[Mapping[str, object]] = (),
    ) -> list[Channel]:
        """Send to all channels of a severity; returns each result. `body` is for those that are an Alertmanager."""
        fared = []
        for number, (url, problem) in enumerate(self.addresses.channels(severity), 1):
            error: str | None = problem
            if url is not None:
                once = partial(self.notifier.notify, url, title, text, severity, resolved=resolved)
                if is_alertmanager(url):
                    once = partial(self.notifier.post, url, body or self._test_alert(severity, text))
                error = self._try(once)
            fared.append(self._fared(f"{severity} {number}", error))
        self._note(fared)
        return fared

    def _test_alert(self, severity: Severity, text: str) -> list[dict[str, object]]:
        alert = Alert("penstock_test", "", severity, AlertState.FIRING, self.clock.now(), 0.0)
        rule = Rule(alert.rule, severity, 0.0, 0.0, text.replace("{", "{{").replace("}", "}}"))
        tested = Digest(severity, (alert,), ())
        return alertmanager_alerts(tested, {rule.name: rule}, self.runbook, self.clock.now(), TEST_HOLDS)

    def close(self) -> None:
        """Stop retrying, and end the thread."""
        self._closed.set()
        self._queue.put(None)
        self._loop.join()

    def beat_now(self) -> list[Channel]:
        """Call the heartbeat URL; returns the result, or nothing if there is no URL."""
        url, problem = self.addresses.heartbeat()
        if url is None and not problem:
            return []
        fared = [self._fared(HEARTBEAT, self.notifier.visit(url) if url is not None else problem)]
        self._note(fared)
        return fared

    def _try(self, once: Callable[[], str | None]) -> str | None:
        error = once()
        for wait in WAITS:
            if error is None or self._closed.wait(wait):
                break
            error = once()
        return error

    def _fared(self, name: str, error: str | None) -> Channel:
        if error is not None:
            log.error("an alert channel failed", channel=name, reason=error)
        return Channel(name, self.clock.now(), error)

    def _note(self, fared: Sequence[Channel]) -> None:
        try:
            self.database.write(lambda conn: note_channels(conn, fared))
        except DatabaseUnreachable:
            return  # it was logged

    def _put(self, job: Callable[[], object]) -> None:
        self._loop.start()
        self._queue.put(job)

    def _next(self) -> object:
        job = self._queue.get()
        if job is None:
            return END
        return job()


SECONDS = 10.0
_UNKNOWN = "apprise does not know this kind of address"


def is_alertmanager(url: str) -> bool:
    """Whether an address is an Alertmanager's: alertmanager://HOST:9093, or alertmanagers:// for https."""
    return url.startswith(("alertmanager://", "alertmanagers://"))


class AppriseNotifier:
    """Implements Notifier with the apprise library."""

    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(retries=False, timeout=SECONDS)

    def notify(self, url: str, title: str, text: str, severity: Severity, *, resolved: bool) -> str | None:
        """Send to one apprise URL; returns why it failed."""
        import apprise  # slow to import: only when there is something to send

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its log lines hold addresses
        kind = apprise.NotifyType.SUCCESS if resolved else _KINDS[severity](apprise)
        channel = apprise.Apprise()
        try:
            if not channel.add(url):
                return _UNKNOWN
            return None if channel.notify(body=text, title=title, notify_type=kind) else "it did not arrive"
        except Exception as error:  # noqa: BLE001  # a hundred services raise a hundred errors
            return type(error).__name__

    def problem(self, url: str) -> str | None:
        """What is wrong with an address, as far as can be checked without sending."""
        if is_alertmanager(url):
            return None if urlsplit(url).hostname else "has no host: write alertmanager://HOST:9093"
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL)
        return None if apprise.Apprise().add(url) else _UNKNOWN

    def post(self, url: str, body: Sequence[Mapping[str, object]]) -> str | None:
        """Send alerts to an Alertmanager (API v2); returns why it failed."""
        address = url.replace("alertmanager", "http", 1).rstrip("/")
        try:
            sent = parse_url(f"{address}/api/v2/alerts")
            login = make_headers(basic_auth=sent.auth) if sent.auth else {}
            headers = {"Content-Type": "application/json", **login}
            target = sent._replace(auth=None).url
            answer = self._pool.request("POST", target, body=orjson.dumps(body), headers=headers)
        except urllib3.exceptions.HTTPError as error:
            return type(error).__name__
        return None if answer.status < 400 else f"answered {answer.status}"

    def visit(self, url: str) -> str | None:
        """Call a heartbeat URL; returns why it failed."""
        try:
            answer = self._pool.request("GET", url, redirect=True)
        except urllib3.exceptions.HTTPError as error:
            return type(error).__name__
        return None if answer.status < 400 else f"answered {answer.status}"


_KINDS = {
    Severity.WARNING: lambda apprise: apprise.NotifyType.WARNING,
    Severity.CRITICAL: lambda apprise: apprise.NotifyType.FAILURE,
    Severity.DISASTER: lambda apprise: apprise.NotifyType.FAILURE,
}
