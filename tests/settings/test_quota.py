"""Told figures are kept in every window, whatever is asked and however sends jitter."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings.domain.routing import (
    JITTER,
    Bucket,
    ConfiguredQuota,
    QuotaState,
    request_bucket,
    token_bucket,
)


def sends_as_fast_as_possible(bucket: Bucket, seconds: float) -> list[float]:
    at, level, sends = 0.0, bucket.size, []
    while at <= seconds:
        if level >= 1 - 1e-9:
            level -= 1
            sends.append(at)
        else:
            step = (1 - level) / bucket.rate
            at, level = at + step, 1.0
    return sends


@given(st.integers(1, 5000), st.floats(1, 200), st.data())
def test_no_window_of_sixty_seconds_holds_more_than_rpm_sends_when_each_is_late_by_up_to_the_jitter(
    rpm: int, burst: float, data: st.DataObject
) -> None:
    bucket = request_bucket(ConfiguredQuota("q", rpm=rpm, burst=burst))
    assert bucket is not None
    releases = sends_as_fast_as_possible(bucket, 130)[:20_000]
    start = data.draw(st.integers(0, len(releases) - 1))
    # The worst case: the window's first release is sent as late as can be, all others at once.
    window = [at for at in releases[start:] if at < releases[start] + JITTER + 60]
    assert len(window) <= rpm


@pytest.mark.parametrize("rpm", [1, 2, 10, 59, 60, 600, 3000])
def test_the_pace_in_the_long_run_is_within_two_percent_of_the_figure(rpm: int) -> None:
    bucket = request_bucket(ConfiguredQuota("q", rpm=rpm))
    assert bucket is not None
    assert bucket.rate * 60 == pytest.approx(rpm, rel=0.02)


@given(st.integers(1, 10**7), st.none() | st.floats(1, 100), st.none() | st.floats(1, 10_000))
def test_tokens_of_a_window_stay_within_tpm(tpm: int, burst: float | None, rpm: float | None) -> None:
    bucket = token_bucket(ConfiguredQuota("q", tpm=tpm, burst=burst, rpm=rpm))
    assert bucket is not None
    assert bucket.size + bucket.rate * 60 <= tpm + 1e-6


def test_figures_left_out_have_no_bucket() -> None:
    assert request_bucket(ConfiguredQuota("q")) is None
    assert token_bucket(ConfiguredQuota("q")) is None


@pytest.mark.parametrize(
    ("state", "estimate", "seconds"),
    [
        (QuotaState(), 10, 0.0),
        (QuotaState(Bucket(5, 2), 1.0), 10, 0.0),
        (QuotaState(Bucket(5, 2), 0.5), 10, 0.25),
        (QuotaState(cap=3, flight=2), 10, 0.0),
        (QuotaState(cap=3, flight=3), 10, math.inf),
        (QuotaState(tokens=Bucket(100, 10), token_level=40), 60, 2.0),
        (
            QuotaState(tokens=Bucket(100, 10), token_level=40),
            1000,
            6.0,
        ),  # larger than the bucket: when it is full
        (QuotaState(tokens=Bucket(100, 10), token_level=100), 1000, 0.0),
        (QuotaState(tokens=Bucket(100, 10), token_level=-50), 10, 6.0),  # a debt is paid first
        (QuotaState(Bucket(5, 2), 5.0, braked_until=107.0), 10, 7.0),
        (QuotaState(Bucket(5, 0.1), 0.0, braked_until=101.0), 10, 10.0),
    ],
)
def test_a_quota_opens_when_the_last_of_its_limits_does(
    state: QuotaState, estimate: float, seconds: float
) -> None:
    assert state.opens_in(estimate, 100.0) == pytest.approx(seconds)
