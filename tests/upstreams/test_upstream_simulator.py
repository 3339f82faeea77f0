"""Every fault of the simulated upstream, and what a call that meets it comes to."""

import time
from collections.abc import Iterator
from contextlib import closing

import orjson
import pytest
from pydantic import SecretStr

from app.platform.ports import SystemClock
from app.settings import Settings, UpstreamSettings
from app.tasks.domain.attempt import Outcome
from app.upstreams.call_upstream import Upstreams
from app.upstreams.domain.classify import CallVerdict, classify
from app.upstreams.domain.request_parameters import ParameterFix
from simulator.client import SimulatorProcess
from simulator.config import SimulatorConfig
from simulator.faults import KINDS, Fault
from simulator.limits import Limit
from tests.attempts import PROFILE, a_claimed, a_permit
from tests.upstreams.calls import may

SECRET = "sk-simulated-one"

OUTCOMES = {
    "400": Outcome.INVALID_REQUEST,
    "401": Outcome.UNAUTHORIZED,
    "402": Outcome.NO_BALANCE,
    "403": Outcome.FORBIDDEN,
    "404": Outcome.UNKNOWN_MODEL,
    "408": Outcome.UNAVAILABLE,
    "422": Outcome.INVALID_REQUEST,
    "429": Outcome.RATE_LIMITED,
    "429-retry-after": Outcome.RATE_LIMITED,
    "429-insufficient-quota": Outcome.NO_BALANCE,
    "500": Outcome.UNAVAILABLE,
    "502": Outcome.UNAVAILABLE,
    "503": Outcome.OVERLOADED,
    "504": Outcome.UNAVAILABLE,
    "timeout": Outcome.TIMED_OUT,
    "reset": Outcome.UNAVAILABLE,
    "reset-mid-body": Outcome.MALFORMED,
    "blank": Outcome.MALFORMED,
    "error-200": Outcome.OVERLOADED,
    "malformed": Outcome.MALFORMED,
    "truncated": Outcome.MALFORMED,
    "no-choices": Outcome.MALFORMED,
    "wrong-content-type": Outcome.MALFORMED,
    "slow-keep-alive": Outcome.SUCCEEDED,
    "drip": Outcome.TIMED_OUT,
    "huge": Outcome.RESPONSE_TOO_LARGE,
    "content-filter": Outcome.CONTENT_REFUSED,
    "no-capacity": Outcome.OVERLOADED,
    "slow": Outcome.SUCCEEDED,
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(SimulatorConfig(keys={SECRET: "acme"})) as process:
        yield process


@pytest.fixture(scope="module")
def upstreams(simulator: SimulatorProcess) -> Iterator[Upstreams]:
    with closing(_upstreams(simulator, timeout=60.0)) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(simulator: SimulatorProcess) -> Iterator[Upstreams]:
    """The same, for what is never over: every other call may take as long as the machine needs."""
    with closing(_upstreams(simulator, timeout=1.0)) as made:
        yield made


def _upstreams(simulator: SimulatorProcess, timeout: float) -> Upstreams:
    settings = Settings(
        upstreams=(UpstreamSettings(name="up", base_url=simulator.base_url, timeout=timeout),)
    )
    return Upstreams(settings, {"k1": SecretStr(SECRET)}, concurrency=8, clock=SystemClock())


def call(
    upstreams: Upstreams, request: str = '{"messages":[{"role":"user","content":"hi"}]}', **of: str
) -> CallVerdict:
    claimed = a_claimed(a_permit(**of), request=request)
    back = upstreams.call(claimed, may)
    return classify(
        back, model=claimed.permit.upstream_model, now=time.time(), parse=orjson.loads, profile=PROFILE
    )


@pytest.mark.parametrize("name", [kind.name for kind in KINDS.values() if not kind.stream_only])
def test_each_fault_has_its_outcome(
    simulator: SimulatorProcess, upstreams: Upstreams, hasty: Upstreams, name: str
) -> None:
    simulator.set_faults(
        Fault(name, seconds=0.3 if name in ("blank", "slow-keep-alive") else None, interval=0.1)
    )
    verdict = call(hasty if OUTCOMES[name] is Outcome.TIMED_OUT else upstreams)
    simulator.set_faults()
    assert verdict.outcome is OUTCOMES[name]
    assert verdict.called


def test_a_good_answer_is_marked_as_simulated_and_counted(
    simulator: SimulatorProcess, upstreams: Upstreams
) -> None:
    verdict = call(upstreams)
    assert (verdict.outcome, verdict.simulated) == (Outcome.SUCCEEDED, True)
    assert verdict.usage is not None
    assert verdict.tokens == verdict.usage.prompt_tokens + verdict.usage.completion_tokens
    assert simulator.log()[-1]["task"] == "task_1"


def test_a_model_that_is_not_served_is_unknown(upstreams: Upstreams) -> None:
    assert call(upstreams, upstream_model="no-such-model").outcome is Outcome.UNKNOWN_MODEL


def test_too_many_tokens_asked_for_suggest_a_repair(upstreams: Upstreams) -> None:
    verdict = call(upstreams, '{"messages":[{"role":"user","content":"hi"}],"max_tokens":10000000}')
    assert verdict.outcome is Outcome.INVALID_REQUEST
    assert ParameterFix("clamp", "max_tokens", "1..65536") in verdict.fixes


@pytest.mark.parametrize("style", ["seconds", "date", "ms"])
def test_a_refusal_says_when_to_come_again(
    simulator: SimulatorProcess, upstreams: Upstreams, style: str
) -> None:
    limit = Limit(account="acme", rpm=6, burst_seconds=10, retry_after=style)
    simulator.configure(limits=[limit], ratelimit_headers=True)
    verdicts = [call(upstreams), call(upstreams)]
    simulator.configure(limits=[])
    assert [verdict.outcome for verdict in verdicts] == [Outcome.SUCCEEDED, Outcome.RATE_LIMITED]
    seconds = verdicts[1].retry_after_seconds
    assert seconds is not None
    assert 5 < seconds <= 11
    assert any(name.startswith("x-ratelimit") for name in verdicts[1].hints)
