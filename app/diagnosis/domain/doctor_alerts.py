"""Alerts, judged: whether anybody would hear of one, and what fires now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.diagnosis.domain.finding import Finding, fail, ok, warn
from app.reporting.domain.alerts import Alert
from app.settings.domain.alert_rules import Severity

_TRY = "Correct the address where the reference points, then try it: penstock alerts test"


def judge_channels(
    problems: Mapping[str, str | None], last_errors: Mapping[str, str | None]
) -> list[Finding]:
    """Each channel: what is wrong with its address (None: nothing), else how its last try fared."""
    if not problems:
        return [ok("channels", "none is configured: alerts show on the dashboard alone (docs/alerts.md)")]
    findings = []
    for name, problem in problems.items():
        error = problem or last_errors.get(name)
        findings.append(fail(name, error, _TRY) if error else ok(name, _fared(name, last_errors)))
    return findings


def judge_firing(alerts: Sequence[Alert], runbook: str) -> list[Finding]:
    """What fires now."""
    if not alerts:
        return [ok("firing", "nothing fires")]
    return [_firing(alert, f"{runbook}#{alert.rule}") for alert in alerts]


def _firing(alert: Alert, entry: str) -> Finding:
    name = f"{alert.rule} ({alert.subject})" if alert.subject else alert.rule
    judged = warn if alert.severity is Severity.WARNING else fail
    return judged(name, f"fires ({alert.severity})", f"See {entry}")


def _fared(name: str, last_errors: Mapping[str, str | None]) -> str:
    return "its last message arrived" if name in last_errors else "its address is known; nothing was sent yet"
