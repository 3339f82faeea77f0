"""Alerts of the operator's own, reminders, and Alertmanager as a channel."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from app.reporting.domain.alerts import (
    Alert,
    AlertState,
    Digest,
    alertmanager_alerts,
    due_again,
    news,
    sentence,
    step,
)
from app.reporting.domain.recent_calls import CallWindow
from app.reporting.send_alerts import AppriseNotifier
from app.reporting.watch_alerts import build_alert_rules
from app.settings.alert_models import AlertSettings
from app.settings.domain.alert_rules import RULES, Severity, added_rule

NOW = 1_700_000_000.0
FIRING = Alert("slow", "m", Severity.CRITICAL, AlertState.FIRING, NOW, 2.5, notified=True)


def settings(**rules: dict[str, Any]) -> AlertSettings:
    return AlertSettings.model_validate({"rule": rules})


def test_a_rule_of_ones_own_fires_by_its_reading() -> None:
    own = {
        "reading": "response_p99",
        "above": 1.5,
        "seconds": 60,
        "severity": "critical",
        "words": "P99 {of} answers",
    }
    found = build_alert_rules(settings(slow=own, cpu={"above": 0.5}))
    rule = found[-1]
    assert [one.name for one in found] == [*(one.name for one in RULES), "slow"]
    assert (rule.severity, rule.above, rule.seconds) == (Severity.CRITICAL, 1.5, 60)
    readings = {"response_p99": {"deepseek-chat": 2.5, "other": 1.5}}
    alerts = step({}, [rule], readings, NOW)
    alerts = step(alerts, [rule], readings, NOW + 60)
    [(place, alert)] = alerts.items()
    assert place == ("slow", "deepseek-chat")
    assert alert.state is AlertState.FIRING
    assert sentence(alert, rule) == "deepseek-chat: P99 {of} answers is 2.5 s"


def test_a_second_level_of_a_usual_reading_and_one_that_is_off() -> None:
    found = build_alert_rules(
        settings(
            worse={"reading": "oldest_wait", "above": 0.9},
            off={"reading": "cpu", "above": 1, "enabled": False},
        )
    )
    assert (found[-1].name, found[-1].seconds, found[-1].severity) == ("worse", 60.0, Severity.WARNING)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"slow": {"above": 1}}, "has no such rule"),
        ({"slow": {"reading": "response_p42", "above": 1}}, "is no reading"),
        ({"slow": {"reading": "cpu"}}, "needs `above`"),
        ({"Slow answers": {"reading": "cpu", "above": 1}}, "needs `above` and a plain name"),
        ({"cpu": {"reading": "requests", "above": 1}}, "already"),
        ({"cpu": {"severity": "critical"}}, "has no such rule"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rules: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**rules)


def test_response_times_are_read_by_model_of_successes_and_refusals_as_a_share() -> None:
    window = CallWindow()
    for number in range(100):
        window.add("succeeded", NOW, 0.0, "m", 0.55 if number < 98 else 61.0)
        window.add("rate_limited", NOW, 0.0, "m", 300.0)
    for _ in range(19):
        window.add("succeeded", NOW, 0.0, "few", 90.0)
    assert window.response(NOW, 0.5) == {"m": pytest.approx(0.5), "few": 0.0}
    assert window.response(NOW, 0.99)["m"] == pytest.approx(61.0)
    assert window.refusal_rate(NOW) == pytest.approx(100 / 219)


@pytest.mark.parametrize(
    ("told", "after", "repeat", "again"),
    [
        ({}, 3599.0, 3600.0, False),
        ({}, 3600.0, 3600.0, True),
        ({FIRING.place: NOW + 3000}, 3600.0, 3600.0, False),
        ({FIRING.place: NOW + 3000}, 6600.0, 3600.0, True),
        ({}, 1e6, 0.0, False),
    ],
)
def test_what_still_fires_is_told_again(
    told: dict[tuple[str, str], float], after: float, repeat: float, again: bool
) -> None:
    found = due_again([FIRING], told, NOW + after, repeat)
    assert bool(found) is again
    assert [digest.fired for digest in news([FIRING], NOW + after, (), 10.0, found)] == (
        [(FIRING,)] if again else []
    )


def test_only_what_fires_and_has_been_told_is_told_again() -> None:
    over = Alert("slow", "m", Severity.CRITICAL, AlertState.RESOLVED, NOW, 2.5)
    untold = Alert("slow", "n", Severity.CRITICAL, AlertState.FIRING, NOW, 2.5)
    assert due_again([over, untold], {}, NOW + 1e6, 60.0) == frozenset()


def test_an_alertmanager_gets_labels_and_an_end_that_lies_ahead_while_it_fires() -> None:
    rule = added_rule("slow", "response_p99", Severity.CRITICAL, 1.5, 60)
    ended = Alert("cpu", "", Severity.WARNING, AlertState.RESOLVED, NOW + 50, 0.9)
    rules = {"slow": rule, "cpu": next(one for one in RULES if one.name == "cpu")}
    fires, over = alertmanager_alerts(
        Digest(Severity.CRITICAL, (FIRING,), (ended,)), rules, "book", NOW + 60, 600.0
    )
    assert fires["labels"] == {
        "alertname": "slow",
        "severity": "critical",
        "service": "penstock",
        "subject": "m",
    }
    assert fires["startsAt"] == "2023-11-14T22:13:20.000Z"
    assert fires["endsAt"] == "2023-11-14T22:24:20.000Z"
    assert over["endsAt"] == "2023-11-14T22:14:20.000Z"
    assert over["annotations"]["runbook_url"] == "book#cpu"  # type: ignore[index]
    assert fires["annotations"]["runbook_url"] == "book"  # type: ignore[index]


class _Alertmanager(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, self.headers["Authorization"], body))
        self.send_response(server.answers)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.mark.parametrize(("answers", "error"), [(200, None), (400, "answered 400")])
def test_alerts_reach_an_alertmanager_by_its_api(answers: int, error: str | None) -> None:
    server: Any = HTTPServer(("127.0.0.1", 0), _Alertmanager)
    server.seen, server.answers = [], answers
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    url = f"alertmanager://user:pass@127.0.0.1:{server.server_address[1]}/prefix/"
    try:
        assert AppriseNotifier().post(url, [{"labels": {"alertname": "x"}}]) == error
    finally:
        thread.join(30)
        server.server_close()
    assert server.seen == [("/prefix/api/v2/alerts", "Basic dXNlcjpwYXNz", [{"labels": {"alertname": "x"}}])]


def test_an_alertmanagers_address_is_checked_without_sending() -> None:
    assert AppriseNotifier().problem("alertmanagers://host:9093") is None
    assert "alertmanager://HOST" in (AppriseNotifier().problem("alertmanager:///x") or "")
