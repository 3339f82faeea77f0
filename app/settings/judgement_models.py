"""Settings of limit estimation, circuit breakers, adaptive rates and health checks."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from app.settings.config_errors import config_error
from app.settings.values import Count, FromList, Positive, Section

_Pause = Annotated[float, Field(gt=0, le=60)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Down = Annotated[float, Field(gt=0, lt=1)]
_Up = Annotated[float, Field(gt=1, le=10)]


class LearningSettings(Section):
    """[learning]: estimation of limits that are not configured."""

    # Whether limits are estimated. If off, only configured limits apply, and a refusal just causes a pause.
    enabled: bool = True
    # Initial concurrency and calls per second; doubled each round until the first refusal.
    calls_at_once: Count = 20
    calls_a_second: Annotated[float, Field(ge=0.05)] = 20.0
    # Pause in seconds of a quota after a 429 without Retry-After; doubled each time until a call succeeds ...
    pause: _Pause = 1.0
    # ... up to this, which bounds the pauses after a 503 too.
    longest_pause: Annotated[float, Field(gt=0, le=3600)] = 32.0

    @model_validator(mode="after")
    def _longest_is_not_below(self) -> Self:
        if self.longest_pause < self.pause:
            raise config_error("has a longest_pause below its pause", "raise longest_pause or lower pause")
        return self


_HYSTRIX = {
    "share": 0.5,
    "calls": 20,
    "within": 10.0,
    "half_pace_for": 0.001,
}  # its circuitBreaker.* defaults
_OTHER_TIMES = ("open_for_waiting", "longest", "longest_waiting")


class BreakerSettings(Section):
    """[breaker]: what stands before each upstream and model, and stops calls to what fails."""

    # Whether there are any.
    enabled: bool = True
    # It opens on evidence that the upstream is dead, not for being noisy; with "hystrix", by Hystrix's defaults: half
    # of at least 20 calls within 10 s, then open for 5 s each time. What is set below takes precedence.
    preset: Literal["evidence", "hystrix"] = "evidence"
    # Instead of evidence: when this share of at least so many calls within so many seconds failed ...
    share: _Share | None = None
    calls: Count = 20
    within: Positive = 10.0
    # ... or so many in a row.
    in_a_row: Count | None = None
    # Seconds that it stays open, without and with waiting work. Doubled each time it opens again ...
    open_for: Positive = 5.0
    open_for_waiting: Positive = 2.0
    # ... up to these.
    longest: Positive = 60.0
    longest_waiting: Positive = 4.0
    # Seconds at a reduced rate, starting at one half, after it has closed.
    half_pace_for: Positive = 4.0
    # First pause in seconds of a quota after a 503 without Retry-After; see [learning] longest_pause.
    pause: _Pause = 1.0

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if given.get("preset") == "hystrix":
            open_for = given.get("open_for", 5.0)
            return {**_HYSTRIX, **dict.fromkeys(_OTHER_TIMES, open_for), **given}
        return {"share": 0.5, **given} if {"calls", "within"} & given.keys() else given

    @model_validator(mode="after")
    def _longest_are_not_below(self) -> Self:
        if self.longest < self.open_for or self.longest_waiting < self.open_for_waiting:
            raise config_error(
                "may stay open for longer than its longest times", "raise longest and longest_waiting"
            )
        if self.open_for_waiting > self.open_for:
            raise config_error(
                "stays open for longer while work waits", "lower open_for_waiting to open_for or below"
            )
        return self


class PaceSettings(Section):
    """[pace]: a pace that follows response times, beside all other limits."""

    # Whether it is used.
    enabled: bool = False
    # Upstreams it applies to; empty: all.
    upstreams: Annotated[tuple[str, ...], FromList] = ()
    # Mean seconds of the last `calls` calls above which the pace is multiplied by `down` at each further call; a
    # timeout, a 5xx or a broken connection counts as at least twice `slow` ...
    slow: Positive = 2.0
    # ... or, instead, so many times the median of that account and model.
    slow_times: Annotated[float, Field(gt=1)] | None = None
    # And below which it is multiplied by `up`.
    fast: Positive = 0.5
    calls: Count = 20
    down: _Down = 0.8
    up: _Up = 1.25
    # Calls per second: initial, minimum, maximum.
    start: Positive = 5.0
    floor: Positive = 1.0
    ceiling: Positive = 20.0

    @model_validator(mode="after")
    def _figures_are_in_order(self) -> Self:
        if not self.floor <= self.start <= self.ceiling:
            raise config_error("needs floor <= start <= ceiling", "correct one of the three")
        if self.slow_times is None and self.fast >= self.slow:
            raise config_error("takes the same calls for fast and slow", "lower fast or raise slow")
        return self


class HealthSettings(Section):
    """[health]: keys that an upstream refuses, and endpoints that nobody calls."""

    # Seconds after a refusal (401, 402) until the key, or its account's balance, is tested; doubled each time ...
    retest: Positive = 30.0
    # ... up to this.
    longest: Positive = 900.0
    # Seconds without a call after which an endpoint is asked for its list of models; 0: never.
    idle: Annotated[float, Field(ge=0)] = 300.0
    # Timeout of one test in seconds.
    timeout: Annotated[float, Field(gt=0, le=60)] = 10.0

    @model_validator(mode="after")
    def _longest_is_not_below(self) -> Self:
        if self.longest < self.retest:
            raise config_error("has a longest below its retest", "raise longest or lower retest")
        return self
