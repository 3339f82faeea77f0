"""What the doctor says of alerts."""

from app.diagnosis.domain.doctor_service import judge_channels, judge_firing
from app.diagnosis.domain.finding import Level
from app.reporting.domain.alerts import Alert, AlertState
from app.settings.domain.alert_rules import Severity


def test_without_a_channel_it_says_where_alerts_are_seen() -> None:
    [finding] = judge_channels({}, {})
    assert finding.level is Level.OK
    assert "dashboard" in finding.message


def test_an_address_that_cannot_be_had_and_a_message_that_did_not_arrive_are_faults() -> None:
    problems = {"warning 1": None, "critical 1": "HOOK is not set in the environment", "disaster 1": None}
    found = judge_channels(problems, {"warning 1": None, "disaster 1": "it did not arrive"})
    assert [finding.level for finding in found] == [Level.OK, Level.FAIL, Level.FAIL]
    assert "penstock alerts test" in found[1].hint
    assert found[2].message == "it did not arrive"


def test_what_fires_is_as_bad_as_its_severity_and_names_its_entry() -> None:
    alerts = [
        Alert("budget", "alice", Severity.WARNING, AlertState.FIRING, 0.0, 0.9),
        Alert("no_success", "", Severity.DISASTER, AlertState.FIRING, 0.0, 1.0),
    ]
    found = judge_firing(alerts, "docs/runbook.md")
    assert [finding.level for finding in found] == [Level.WARN, Level.FAIL]
    assert found[0].hint == "See docs/runbook.md#budget"
    assert judge_firing([], "")[0].level is Level.OK
