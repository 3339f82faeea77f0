"""When alerts fire, resolve and are sent, on a clock moved by hand."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.reporting.domain.alerts import (
    Alert,
    AlertState,
    Digest,
    Mute,
    Place,
    all_is_well,
    compose,
    is_news,
    mark_notified,
    news,
    step,
)
from app.reporting.domain.recent_calls import CallWindow
from app.reporting.watch_alerts import build_alert_config, build_channel_addresses
from app.settings import ConfigError, load_settings
from app.settings.domain.alert_rules import RULES, Rule, Severity
from app.tasks.domain.attempt import Outcome

RATE = Rule("error_rate", Severity.WARNING, 0.05, 120, "{value} fail")
BY_NAME = {rule.name: rule for rule in RULES}


class Life:
    """One rule's alerts, looked at every five seconds."""

    def __init__(self, rule: Rule = RATE) -> None:
        self.rule = rule
        self.now = 1000.0
        self.alerts: dict[Place, Alert] = {}
        self.sent: list[Digest] = []

    def look(self, values: dict[str, float] | None, seconds: float = 0.0) -> None:
        """See these values now, and for so many seconds more."""
        until = self.now + seconds
        while True:
            self.alerts = step(self.alerts, [self.rule], {self.rule.name: values}, self.now)
            if self.now >= until:
                return
            self.now += 5

    def tell(self, mutes: tuple[Mute, ...] = (), group: float = 0.0) -> list[Digest]:
        """Send what is news."""
        digests = news(self.alerts.values(), self.now, mutes, group)
        for digest in digests:
            self.alerts = {place: mark_notified(alert, digest) for place, alert in self.alerts.items()}
        return digests

    def state(self, subject: str = "") -> AlertState | None:
        alert = self.alerts.get((self.rule.name, subject))
        return alert.state if alert else None


@pytest.mark.parametrize(
    ("name", "severity", "above", "seconds"),
    [
        ("error_rate", "warning", 0.05, 120),
        ("error_rate_high", "critical", 0.15, 60),
        ("no_success", "disaster", 0.5, 30),
        ("overhead", "warning", 1.5, 60),
        ("success_low", "critical", 0.05, 60),
        ("overloaded", "warning", 0.05, 60),
        ("cpu", "warning", 0.85, 180),
        ("requests", "warning", 1000, 10),
        ("oldest_wait", "warning", 0.5, 60),
        ("key_disabled", "critical", 0.5, 0),
        ("balance_low", "critical", 0.5, 0),
        ("budget", "warning", 0.8, 0),
    ],
)
def test_what_is_watched(name: str, severity: str, above: float, seconds: float) -> None:
    rule = BY_NAME[name]
    assert (rule.severity, rule.above, rule.seconds) == (severity, above, seconds)
    assert len(RULES) == 12


def test_it_fires_once_it_has_lasted_and_not_before() -> None:
    life = Life()
    life.look({"": 0.06})
    assert life.state() is AlertState.PENDING
    life.look({"": 0.06}, seconds=115)
    assert life.state() is AlertState.PENDING
    life.look({"": 0.06}, seconds=5)
    assert life.state() is AlertState.FIRING


def test_a_reading_at_the_limit_is_in_order() -> None:
    life = Life()
    life.look({"": 0.05}, seconds=600)
    assert life.state() is None


def test_one_good_look_begins_the_wait_anew() -> None:
    life = Life()
    life.look({"": 0.2}, seconds=115)
    life.look({"": 0.0})
    life.look({"": 0.2}, seconds=115)
    assert life.state() is AlertState.PENDING


def test_what_is_not_known_changes_nothing() -> None:
    life = Life()
    life.look({"": 0.2}, seconds=125)
    life.look(None, seconds=600)
    assert life.state() is AlertState.FIRING


def test_a_subject_that_is_not_named_any_more_resolves_and_others_stay() -> None:
    life = Life(BY_NAME["budget"])
    life.look({"alice": 0.9, "bob": 0.85})
    life.look({"bob": 0.85})
    assert (life.state("alice"), life.state("bob")) == (AlertState.RESOLVED, AlertState.FIRING)


def test_a_rule_that_is_not_watched_any_more_resolves() -> None:
    life = Life(BY_NAME["budget"])
    life.look({"alice": 0.9})
    assert step(life.alerts, [], {}, 2000.0)["budget", "alice"].state is AlertState.RESOLVED


def test_firing_and_its_end_are_told_once_each() -> None:
    life = Life()
    life.look({"": 0.2}, seconds=120)
    [digest] = life.tell()
    assert [alert.place for alert in digest.fired] == [("error_rate", "")]
    assert not digest.resolved
    assert life.tell() == []
    life.look({"": 0.0})
    [digest] = life.tell()
    assert not digest.fired
    assert [alert.place for alert in digest.resolved] == [("error_rate", "")]
    assert life.tell() == []


def test_what_ends_and_comes_back_before_its_end_was_told_goes_on_silently() -> None:
    life = Life(BY_NAME["budget"])
    life.look({"alice": 0.9})
    life.tell()
    life.look({"alice": 0.1})
    life.look({"alice": 0.9})
    assert life.state("alice") is AlertState.FIRING
    assert life.tell() == []


def test_news_wait_for_others_of_their_severity_but_no_disaster_does() -> None:
    life = Life(BY_NAME["budget"])
    life.look({"alice": 0.9})
    assert life.tell(group=10) == []
    life.look({"alice": 0.9, "bob": 0.9}, seconds=10)
    [digest] = life.tell(group=10)
    assert [alert.subject for alert in digest.fired] == ["alice", "bob"]
    disaster = Alert("no_success", "", Severity.DISASTER, AlertState.FIRING, 1000.0, 1.0)
    assert len(news([disaster], 1000.0, group_seconds=10)) == 1


def test_the_worst_is_told_first() -> None:
    alerts = [Alert("r", s.value, s, AlertState.FIRING, 0.0, 1.0) for s in Severity]
    assert [digest.severity for digest in news(alerts, 0.0)] == ["disaster", "critical", "warning"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "muted"),
    [
        ("2026-11-21 21:59", False),  # a Saturday
        ("2026-11-21 22:00", True),
        ("2026-11-22 06:59", True),  # begun on Saturday
        ("2026-11-22 07:00", False),
        ("2026-11-22 22:30", False),  # a Sunday
        ("2026-11-21 03:00", False),  # begun on Friday
    ],
)
def test_muted_hours_reach_over_midnight_and_begin_on_their_days(moment: str, muted: bool) -> None:
    mute = Mute(22 * 60, 7 * 60, days=frozenset({5}))
    assert mute.holds(Severity.WARNING, at(moment)) == muted
    assert not mute.holds(Severity.CRITICAL, at(moment))


def test_muted_hours_are_those_of_their_zone() -> None:
    mute = Mute(9 * 60, 10 * 60, zone="Asia/Shanghai")
    assert mute.holds(Severity.WARNING, at("2026-11-21 01:30"))


def test_what_fires_on_after_the_muted_hours_is_told_then_and_what_ended_within_never() -> None:
    life = Life(BY_NAME["budget"])
    life.now = at("2026-11-21 22:00")
    mutes = (Mute(22 * 60, 7 * 60),)
    life.look({"alice": 0.9, "bob": 0.9})
    assert life.tell(mutes) == []
    life.look({"alice": 0.9})
    life.now = at("2026-11-22 07:00")
    [digest] = life.tell(mutes)
    assert [alert.subject for alert in digest.fired] == ["alice"]
    assert not digest.resolved


def test_a_message_says_what_is_the_case_and_where_it_is_explained() -> None:
    firing = Alert("key_disabled", "main", Severity.CRITICAL, AlertState.FIRING, 0.0, 1.0, notified=False)
    ended = Alert("success_low", "", Severity.CRITICAL, AlertState.RESOLVED, 0.0, 0.0, notified=True)
    title, text = compose(Digest(Severity.CRITICAL, (firing,), (ended,)), BY_NAME, "https://x/runbook")
    assert title == "Penstock critical: 1 firing, 1 resolved"
    assert "FIRING key_disabled (main): the upstream refuses the key main" in text
    assert "https://x/runbook#key_disabled" in text
    assert "RESOLVED success_low" in text
    reasons = {("key_disabled", "main"): "key main is disabled: the upstream answered 401: User not found."}
    _, text = compose(Digest(Severity.CRITICAL, (firing,), ()), BY_NAME, "https://x/runbook", reasons)
    assert (
        "FIRING key_disabled (main): key main is disabled: the upstream answered 401: User not found.\n"
        in text
    )


looks = st.lists(st.tuples(st.sampled_from([None, 0.0, 0.05, 0.06, 1.0]), st.booleans()), max_size=60)


@given(looks)
def test_channels_hear_of_starts_and_ends_in_turn_and_end_knowing_the_truth(
    seen: list[tuple[float | None, bool]],
) -> None:
    """Each look may be followed by a round of messages or not; the last one is."""
    life = Life()
    heard: list[AlertState] = []
    for value, speaks in [*seen, (None, True)]:
        life.look(None if value is None else {"": value})
        life.now += 60
        if speaks:
            for digest in life.tell():
                heard += [alert.state for alert in (*digest.fired, *digest.resolved)]
    assert heard == [AlertState.FIRING, AlertState.RESOLVED] * (len(heard) // 2) + [AlertState.FIRING] * (
        len(heard) % 2
    )
    if life.state() is not AlertState.PENDING:
        assert (life.state() is AlertState.FIRING) == (heard[-1:] == [AlertState.FIRING])


@given(looks)
def test_nothing_fires_that_was_not_above_its_limit_for_so_long(
    seen: list[tuple[float | None, bool]],
) -> None:
    life = Life()
    since = math.inf
    for value, _ in seen:
        if value is not None:
            since = min(since, life.now) if value > 0.05 else math.inf
        life.look(None if value is None else {"": value})
        if life.state() is AlertState.FIRING:
            assert life.now - since >= 120
        life.now += 30


def test_all_is_well_while_nothing_fires() -> None:
    pending = Alert("r", "", Severity.WARNING, AlertState.PENDING, 0.0, 1.0)
    assert all_is_well([pending])
    assert not is_news(pending)
    assert not all_is_well([Alert("r", "", Severity.WARNING, AlertState.FIRING, 0.0, 1.0)])


class TestCalls:
    """What the calls of the last minutes say."""

    def window(self, *outcomes: Outcome, overhead: float = 0.0) -> CallWindow:
        window = CallWindow()
        for number, outcome in enumerate(outcomes):
            window.add(outcome, 1000.0 + number / 100, overhead)
        return window

    def test_shares_count_what_they_are_about(self) -> None:
        calls = [Outcome.SUCCEEDED] * 70 + [Outcome.UNAVAILABLE] * 10 + [Outcome.OVERLOADED] * 10
        calls += [Outcome.RATE_LIMITED] * 5 + [Outcome.INVALID_REQUEST] * 5
        window = self.window(*calls)
        assert window.error_rate(1001.0) == pytest.approx(0.10)
        assert window.overloaded_rate(1001.0) == pytest.approx(0.10)
        assert window.failure_rate(1001.0) == pytest.approx(1 - 70 / 85)

    def test_a_handful_of_calls_says_nothing(self) -> None:
        assert self.window(*[Outcome.TIMED_OUT] * 19).error_rate(1001.0) == 0.0
        assert self.window(*[Outcome.TIMED_OUT] * 20).error_rate(1001.0) == 1.0

    def test_old_calls_and_calls_never_made_do_not_count(self) -> None:
        window = self.window(*[Outcome.TIMED_OUT] * 30, *[Outcome.RETURNED] * 30)
        assert window.error_rate(1000.5) == 1.0
        assert window.error_rate(1070.0) == 0.0
        window.forget(2000.0)
        assert window.failure_rate(1001.0) == 0.0

    def test_p99_is_what_one_call_in_a_hundred_exceeds(self) -> None:
        window = self.window(*[Outcome.SUCCEEDED] * 990, overhead=0.05)
        for _ in range(9):
            window.add(Outcome.SUCCEEDED, 1001.0, 3.0)
        assert window.overhead_p99(1002.0) < 0.2
        for _ in range(9):
            window.add(Outcome.SUCCEEDED, 1001.0, 3.0)
        assert window.overhead_p99(1002.0) == pytest.approx(3.0)


class TestSettings:
    """[alerts] in penstock.toml."""

    def load(self, folder: Path, text: str) -> object:
        file = folder / "penstock.toml"
        file.write_text(text)
        return load_settings(file, {}).alerts

    def test_addresses_are_references_and_found_when_they_are_needed(self, tmp_path: Path) -> None:
        alerts = self.load(tmp_path, '[alerts]\ncritical = ["env:HOOK", "env:NONE"]\n')
        environ = {"HOOK": "json://127.0.0.1:1/"}
        (url, _), (none, problem) = build_channel_addresses(alerts, environ).channels(Severity.CRITICAL)  # type: ignore[arg-type]
        assert (url, none) == ("json://127.0.0.1:1/", None)
        assert "NONE is not set" in problem
        assert "json" not in repr(alerts)

    def test_limits_mutes_and_times_can_be_others(self, tmp_path: Path) -> None:
        text = '[alerts]\ngroup = 3\n[[alerts.mute]]\nfrom = "22:00"\nto = "07:30"\ndays = ["sat"]\n'
        text += "[alerts.rule.no_success]\nseconds = 300\n[alerts.rule.cpu]\nenabled = false\n"
        watching = build_alert_config(self.load(tmp_path, text))  # type: ignore[arg-type]
        rules = {rule.name: rule for rule in watching.rules}
        assert rules["no_success"].seconds == 300
        assert "cpu" not in rules
        assert watching.group_seconds == 3
        assert watching.mutes == (Mute(1320, 450, days=frozenset({5})),)

    @pytest.mark.parametrize(
        "text",
        [
            '[alerts]\nwarning = ["json://127.0.0.1/"]\n',
            '[[alerts.mute]]\nfrom = "25:00"\nto = "07:00"\n',
            '[[alerts.mute]]\nfrom = "22:00"\nto = "07:00"\ntimezone = "Mars"\n',
            "[alerts.rule.unheard]\nseconds = 3\n",
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ConfigError):
            self.load(tmp_path, text)
