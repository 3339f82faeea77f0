"""The rules of alerts: what is watched, above which limit, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is; each has channels of its own."""

    WARNING = "warning"
    CRITICAL = "critical"
    DISASTER = "disaster"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is watched: a reading `above` its limit for so many seconds."""

    name: str
    severity: Severity
    above: float
    seconds: float
    words: str  # the message; {value} in its unit, {subject}
    unit: str = "%"  # of the reading: a share as %, s, /s; "" shows none
    reading: str = ""  # what is watched, of a rule that the operator added; empty: the one of its name


RULES: tuple[Rule, ...] = (
    Rule("error_rate", Severity.WARNING, 0.05, 120, "{value} of upstream calls fail"),
    Rule("error_rate_high", Severity.CRITICAL, 0.15, 60, "{value} of upstream calls fail"),
    Rule("no_success", Severity.DISASTER, 0.5, 30, "work waits, and no call succeeds", ""),
    Rule("overhead", Severity.WARNING, 1.5, 60, "p99 is {value} over the upstream's own time", "s"),
    Rule("success_low", Severity.CRITICAL, 0.05, 60, "{value} of answered calls came to no result"),
    Rule("overloaded", Severity.WARNING, 0.05, 60, "{value} of upstream calls are answered by 503"),
    Rule("cpu", Severity.WARNING, 0.85, 180, "the CPUs of {subject} are {value} busy"),
    Rule("requests", Severity.WARNING, 1000.0, 10, "{value} requests come in", "/s"),
    Rule("oldest_wait", Severity.WARNING, 0.5, 60, "a task has waited for {value} of its deadline"),
    Rule("key_disabled", Severity.CRITICAL, 0.5, 0, "the upstream refuses the key {subject}", ""),
    Rule("balance_low", Severity.CRITICAL, 0.5, 0, "the account {subject} has no balance left", ""),
    Rule("budget", Severity.WARNING, 0.8, 0, "the client {subject} has used {value} of a budget"),
)

# Readings for rules that an operator adds, with their units: those of the rules above, and these.
READINGS: Mapping[str, str] = {
    **{rule.name: rule.unit for rule in RULES},
    "response_p50": "s",
    "response_p90": "s",
    "response_p99": "s",
    "refusals": "%",
}


def added_rule(
    name: str, reading: str, severity: Severity, above: float, seconds: float, words: str = ""
) -> Rule:
    """A rule of the operator's. `reading` is one of READINGS."""
    said = words.replace("{", "{{").replace("}", "}}") or reading.replace("_", " ")
    of = "{subject}: " if reading.startswith("response") or reading in ("cpu", "budget") else ""
    return Rule(name, severity, above, seconds, f"{of}{said} is {{value}}", READINGS[reading], reading)
