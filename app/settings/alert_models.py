"""Settings of alerts: where they go, when they are muted, and what differs from the usual limits."""

import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator

from app.settings.config_errors import config_error
from app.settings.domain.alert_rules import READINGS, RULES
from app.settings.values import FromList, Seconds, Section

_TIME = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
_OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RULES = frozenset(rule.name for rule in RULES)
SeverityName = Literal["warning", "critical", "disaster"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def _reference(value: str) -> str:
    if value.partition(":")[0] not in ("env", "file", "command"):
        raise config_error(
            "must say where the address is, not be it", 'write "env:NAME", "file:PATH" or "command:..."'
        )
    return value


class MuteSettings(Section):
    """[[alerts.mute]]: hours without messages."""

    # From and to, as "22:00"; over midnight where `from` is the later one.
    begin: str = Field(alias="from")
    end: str = Field(alias="to")
    # What is muted. Disasters too, if you say so.
    severities: Annotated[tuple[SeverityName, ...], FromList] = ("warning",)
    # Days on which it begins.
    days: Annotated[tuple[Day, ...], FromList] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    # Whose clock: a name such as "Asia/Shanghai".
    timezone: str = "UTC"

    @field_validator("begin", "end")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if not _TIME.match(value):
            raise config_error("must be a time of day", 'write it like "22:00"')
        return value

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value != "UTC" and value not in available_timezones():
            raise config_error("is no time zone that this machine knows", 'write it like "Europe/Berlin"')
        ZoneInfo(value)
        return value


class RuleSettings(Section):
    """[alerts.rule.NAME]: what differs from the usual, or a rule of your own."""

    # Whether it is watched.
    enabled: bool = True
    # The limit: a share such as 0.05, seconds for overhead, requests a second. Left out: the usual one.
    above: Annotated[float, Field(ge=0)] | None = None
    # For how many seconds it must lie above. Left out: the usual.
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None
    # Of a rule of your own: what it watches, such as "response_p99"; how bad it is; what its messages say.
    reading: str = ""
    severity: SeverityName | None = None
    words: Annotated[str, Field(max_length=200)] = ""

    @field_validator("reading")
    @classmethod
    def _is_offered(cls, value: str) -> str:
        if value and value not in READINGS:
            raise config_error("is no reading", f"there are: {', '.join(READINGS)}")
        return value


class AlertSettings(Section):
    """[alerts]: where alerts are sent."""

    # Where alerts of each severity are sent: references to apprise URLs or to alertmanager://HOST:PORT, such as
    # ["env:ALERTS_WECOM", "file:/run/secrets/mail"].
    warning: Annotated[tuple[str, ...], FromList] = Field(default=(), repr=False)
    critical: Annotated[tuple[str, ...], FromList] = Field(default=(), repr=False)
    disaster: Annotated[tuple[str, ...], FromList] = Field(default=(), repr=False)
    # Reference to a URL that is called while no alert fires (a dead man's switch); "": none.
    heartbeat: str = Field(default="", repr=False)
    # Seconds between these calls.
    heartbeat_every: Seconds = 60.0
    # Seconds between looks.
    every: Seconds = 5.0
    # Seconds that alerts of one severity are collected into one message; a disaster is sent at once.
    group: Annotated[float, Field(ge=0, le=3600)] = 10.0
    # Seconds until an alert that still fires is sent again; 0: never.
    repeat: Annotated[float, Field(ge=0, le=30 * 86400)] = 4 * 3600.0
    # URL of the runbook for links in messages and on the dashboard; "": its file name.
    runbook: str = ""
    mute: Annotated[tuple[MuteSettings, ...], FromList] = ()
    rule: dict[str, RuleSettings] = Field(default_factory=dict)

    @field_validator("warning", "critical", "disaster")
    @classmethod
    def _are_references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_reference, value))

    @field_validator("heartbeat")
    @classmethod
    def _is_a_reference(cls, value: str) -> str:
        return _reference(value) if value else value

    @field_validator("rule")
    @classmethod
    def _are_known(cls, value: dict[str, RuleSettings]) -> dict[str, RuleSettings]:
        for name, rule in value.items():
            own = bool(rule.reading)
            if own and name in _RULES:
                raise config_error(f'has a rule "{name}" already', "give your rule another name")
            if own and (rule.above is None or not _OWN_NAME.fullmatch(name)):
                raise config_error(
                    f'needs `above` and a plain name for "{name}"', "write [alerts.rule.slow_answers]"
                )
            if not own and (name not in _RULES or rule.severity or rule.words):
                hint = f"there are: {', '.join(sorted(_RULES))}; a rule of your own has a reading"
                raise config_error(f'has no such rule "{name}"', hint)
        return value
