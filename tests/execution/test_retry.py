"""What becomes of a task after a call."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.execution.domain.retry import ModelRetryPolicy, Policies, RetryContext, RetryPolicy, decide
from app.tasks.domain.attempt import AttemptEnd, Claimed, Finish, Outcome, told_in
from app.tasks.domain.task import Status
from app.upstreams.domain.classify import CallVerdict
from app.upstreams.domain.request_parameters import MOST_FIXES, ParameterFix
from tests.attempts import NOW, a_claimed, a_permit

KEYS = ("k1", "k2")
WAITING = (Outcome.RATE_LIMITED, Outcome.OVERLOADED)
COUNTED = (Outcome.UNAVAILABLE, Outcome.TIMED_OUT, Outcome.MALFORMED)
ELSEWHERE = (Outcome.UNAUTHORIZED, Outcome.FORBIDDEN, Outcome.NO_BALANCE)


def ending(
    verdict: CallVerdict,
    claimed: Claimed | None = None,
    *,
    policy: RetryPolicy | None = None,
    keys: tuple[str, ...] = KEYS,
    now: float = NOW,
    chance: float = 0.5,
    falls: tuple[str, ...] = (),
) -> AttemptEnd:
    claimed = claimed or a_claimed()
    return decide(claimed, verdict, RetryContext(policy or RetryPolicy(), keys, now, chance, falls=falls))


def test_a_success_ends_the_task_with_its_result() -> None:
    end = ending(CallVerdict(Outcome.SUCCEEDED, result='{"a":1}', simulated=True))
    assert (end.status, end.result, end.simulated, end.failure) == (Status.SUCCEEDED, '{"a":1}', True, None)


def test_a_success_after_the_deadline_is_still_a_success() -> None:
    assert ending(CallVerdict(Outcome.SUCCEEDED), a_claimed(expires_at=NOW - 1)).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("outcome", "avoid"),
    [(Outcome.RATE_LIMITED, ("k1",)), (Outcome.OVERLOADED, ("k1", "upstream:up"))],
)
@pytest.mark.parametrize("keys", [KEYS, ("k1",)])
def test_a_refusal_brakes_the_quota_and_leaves_the_task_free_for_another(
    outcome: Outcome, avoid: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    """With a single key too: the dispatcher holds it by the brake, which the first key that opens ends."""
    end = ending(CallVerdict(outcome, retry_after_seconds=7), a_claimed(counted=4), keys=keys)
    assert (end.status, end.counts, end.available_at) == (Status.QUEUED, False, NOW)
    assert end.avoid == avoid


@pytest.mark.parametrize("outcome", COUNTED)
def test_a_failure_counts_backs_off_and_prefers_another_key(outcome: Outcome) -> None:
    end = ending(CallVerdict(outcome, "it broke"), a_claimed(counted=2, avoid=("k9",)), chance=0.5)
    assert (end.status, end.counts, end.available_at) == (Status.QUEUED, True, NOW + 2.0)
    assert end.avoid == ("k9", "k1", "upstream:up")
    assert end.error_message == "it broke"


@pytest.mark.parametrize("outcome", COUNTED)
def test_the_last_counted_attempt_fails_the_task_with_its_error(outcome: Outcome) -> None:
    end = ending(CallVerdict(outcome, "it broke"), a_claimed(counted=4))
    assert end.status is Status.FAILED
    assert end.failure is not None
    assert (end.failure.type, end.failure.message) == ("upstream_error", "it broke")


def test_a_failure_that_says_when_to_come_again_is_believed() -> None:
    end = ending(CallVerdict(Outcome.UNAVAILABLE, retry_after_seconds=90.0), chance=0.0)
    assert end.available_at == NOW + 90


@pytest.mark.parametrize("outcome", ELSEWHERE)
def test_a_refused_key_is_avoided_and_another_serves_at_once(outcome: Outcome) -> None:
    end = ending(CallVerdict(outcome))
    assert (end.status, end.counts, end.available_at) == (Status.QUEUED, False, NOW)
    assert end.avoid == ("k1", f"refused:k1:acme:1:0:{NOW - 0.1:.3f}")


@pytest.mark.parametrize("outcome", ELSEWHERE)
def test_without_another_key_the_task_waits_while_the_only_one_is_tested(outcome: Outcome) -> None:
    assert ending(CallVerdict(outcome), keys=("k1",)).available_at == NOW + 1


def test_an_unknown_model_tries_every_key_once_and_then_fails() -> None:
    first = ending(CallVerdict(Outcome.UNKNOWN_MODEL, "no such model"))
    assert (first.status, first.available_at) == (Status.QUEUED, NOW)
    second = ending(
        CallVerdict(Outcome.UNKNOWN_MODEL, "no such model"), a_claimed(a_permit(key="k2"), avoid=first.avoid)
    )
    assert second.status is Status.FAILED
    assert second.failure is not None
    assert second.failure.code == "model_not_found"


def test_a_key_avoided_for_another_reason_has_not_yet_been_asked_for_the_model() -> None:
    assert ending(CallVerdict(Outcome.UNKNOWN_MODEL), a_claimed(avoid=("k2",))).status is Status.QUEUED


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.INVALID_REQUEST, "invalid_request"),
        (Outcome.CONTENT_REFUSED, "content_filter"),
        (Outcome.CONTEXT_TOO_LONG, "context_length_exceeded"),
        (Outcome.RESPONSE_TOO_LARGE, "response_too_large"),
    ],
)
def test_what_cannot_be_mended_fails_at_once(outcome: Outcome, code: str) -> None:
    end = ending(CallVerdict(outcome, "the upstream's words"))
    assert end.status is Status.FAILED
    assert end.failure is not None
    assert (end.failure.code, end.failure.message) == (code, "the upstream's words")


CLAMP = ParameterFix("clamp", "max_tokens", "8192")


def test_a_suggested_repair_is_tried_once_and_does_not_count() -> None:
    verdict = CallVerdict(Outcome.INVALID_REQUEST, "too large", fixes=(CLAMP,))
    first = ending(verdict)
    assert (first.status, first.counts, first.avoid) == (Status.QUEUED, False, (str(CLAMP),))
    assert ending(verdict, a_claimed(avoid=first.avoid)).status is Status.FAILED


def test_two_faults_are_two_repairs() -> None:
    request = '{"messages":[{"role":"developer","content":"x"}],"max_tokens":9000,"temperature":3}'
    avoid: tuple[str, ...] = ()
    for fix in (
        CLAMP,
        ParameterFix("clamp", "temperature", "0..2"),
        ParameterFix("role", "developer", "system"),
    ):
        verdict = CallVerdict(Outcome.INVALID_REQUEST, "?", fixes=(fix,))
        end = ending(verdict, a_claimed(request=request, avoid=avoid))
        assert (end.status, end.avoid) == (Status.QUEUED, (*avoid, str(fix)))
        avoid = end.avoid


def test_a_task_is_not_changed_for_ever() -> None:
    names = [f"p{number}" for number in range(20)]
    request = json.dumps({"messages": [], **dict.fromkeys(names, 1)})
    avoid: tuple[str, ...] = ()
    for name in names:
        verdict = CallVerdict(Outcome.INVALID_REQUEST, "?", fixes=(ParameterFix("drop", name),))
        end = ending(verdict, a_claimed(request=request, avoid=avoid))
        if end.status is Status.FAILED:
            break
        avoid = end.avoid
    assert len(avoid) == MOST_FIXES


def test_the_upstreams_own_code_and_parameter_are_kept_for_the_client() -> None:
    verdict = CallVerdict(Outcome.INVALID_REQUEST, "no", code="invalid_value: 3", param="messages[0].role")
    assert told_in(ending(verdict).avoid) == ("messages[0].role", "invalid_value_3")
    assert told_in(("k1", "repair:drop:seed:")) == (None, None)


def test_a_repair_of_what_the_request_does_not_hold_is_not_tried() -> None:
    verdict = CallVerdict(Outcome.INVALID_REQUEST, "?", fixes=(ParameterFix("drop", "seed"),))
    assert ending(verdict).status is Status.FAILED


@pytest.mark.parametrize("called", [True, False])
def test_a_returned_task_goes_back_as_if_nothing_had_been(called: bool) -> None:
    end = ending(CallVerdict(Outcome.RETURNED, called=called), a_claimed(counted=4, expires_at=NOW - 1))
    assert (end.status, end.counts, end.called, end.available_at) == (Status.QUEUED, False, called, NOW)


VERDICTS = st.builds(
    CallVerdict,
    outcome=st.sampled_from([o for o in Outcome if o not in (Outcome.LOST, Outcome.CANCELLED)]),
    retry_after_seconds=st.none() | st.floats(0, 3600),
)
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 10),
    base=st.floats(0.01, 10),
    cap=st.floats(10, 100),
    jitter=st.just("full") | st.floats(0, 1),
    min=st.floats(0, 10),
)
CHANCES = st.floats(0, 1, exclude_max=True)
CLAIMED = st.builds(
    lambda counted, left, avoid: a_claimed(counted=counted, expires_at=NOW + left, avoid=tuple(avoid)),
    st.integers(0, 20),
    st.floats(-100, 100),
    st.lists(st.sampled_from(["k1", "k2", "unknown:k2", str(CLAMP)]), unique=True),
)


@given(VERDICTS, CLAIMED, POLICIES, CHANCES)
def test_429_and_503_never_count_and_never_fail(
    verdict: CallVerdict, claimed: Claimed, policy: RetryPolicy, chance: float
) -> None:
    verdict = replace(verdict, outcome=Outcome.RATE_LIMITED if chance < 0.5 else Outcome.OVERLOADED)
    end = ending(verdict, claimed, policy=policy, chance=chance)
    assert not end.counts
    assert end.status is (Status.QUEUED if claimed.expires_at > NOW else Status.EXPIRED)


@given(POLICIES, st.integers(1, 1000), CHANCES)
def test_a_wait_is_never_negative_and_never_above_the_cap(
    policy: RetryPolicy, failures: int, chance: float
) -> None:
    assert policy.min <= policy.delay(failures, chance) <= policy.cap


@given(POLICIES, st.integers(1, 30), CHANCES)
def test_more_failures_never_wait_less(policy: RetryPolicy, failures: int, chance: float) -> None:
    assert policy.delay(failures, chance) <= policy.delay(failures + 1, chance)


@given(VERDICTS, CLAIMED, POLICIES, CHANCES)
def test_every_decision_is_whole(
    verdict: CallVerdict, claimed: Claimed, policy: RetryPolicy, chance: float
) -> None:
    """Queued tasks know when they may run again, failed and expired ones why; nothing that ends is retried."""
    end = ending(verdict, claimed, policy=policy, chance=chance)
    assert (end.status is Status.QUEUED) == (end.available_at is not None)
    assert (end.status in (Status.FAILED, Status.EXPIRED)) == (end.failure is not None)
    assert end.available_at is None or end.available_at >= NOW
    assert set(claimed.avoid) <= set(end.avoid)


@given(VERDICTS, CLAIMED, POLICIES, CHANCES, st.floats(0, 1000))
def test_once_past_its_deadline_a_task_stays_past_it(
    verdict: CallVerdict, claimed: Claimed, policy: RetryPolicy, chance: float, later: float
) -> None:
    early = ending(verdict, claimed, policy=policy, chance=chance)
    late = ending(verdict, claimed, policy=policy, chance=chance, now=NOW + later)
    if early.status is Status.EXPIRED:
        assert late.status is Status.EXPIRED
    if late.status is Status.QUEUED:
        assert early.status is Status.QUEUED


@given(CLAIMED, POLICIES, CHANCES)
def test_the_policys_attempts_are_all_used_and_none_beyond(
    claimed: Claimed, policy: RetryPolicy, chance: float
) -> None:
    end = ending(CallVerdict(Outcome.UNAVAILABLE), claimed, policy=policy, chance=chance)
    assert end.counts
    assert (end.status is Status.FAILED) == (claimed.counted + 1 >= policy.attempts)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [(Outcome.CONTEXT_TOO_LONG, "context_length"), (Outcome.CONTENT_REFUSED, "content_filter")],
)
def test_a_task_falls_once_to_the_tier_named_for_it(outcome: Outcome, name: str) -> None:
    first = ending(CallVerdict(outcome), falls=(name,))
    assert (first.status, first.counts, first.avoid[-1]) == (Status.QUEUED, False, f"tier:{name}")
    again = ending(CallVerdict(outcome), a_claimed(avoid=first.avoid), falls=(name,))
    assert again.status is Status.FAILED
    assert ending(CallVerdict(outcome)).status is Status.FAILED


AGAIN = {"empty": [Finish.EMPTY, Finish.REASONING_ONLY], "truncated": [Finish.TRUNCATED]}


@pytest.mark.parametrize("finish", list(Finish))
@pytest.mark.parametrize("retry_on", [(), ("empty",), ("truncated",), ("empty", "truncated")])
def test_a_policy_asks_again_for_the_answers_it_names_and_keeps_the_last(
    finish: Finish, retry_on: tuple[str, ...]
) -> None:
    policy = RetryPolicy(attempts=3, jitter=0.0, retry_on=frozenset(retry_on))
    verdict = CallVerdict(Outcome.SUCCEEDED, result="{}", finish=finish)
    again = any(finish in AGAIN[name] for name in retry_on)
    end = ending(verdict, a_claimed(counted=1), policy=policy)
    assert (end.status, end.counts, end.outcome) == (
        Status.QUEUED if again else Status.SUCCEEDED,
        True,
        Outcome.SUCCEEDED,
    )
    assert end.available_at == (NOW + 2 if again else None)
    for last in (a_claimed(counted=2), a_claimed(expires_at=NOW + 0.5)):
        end = ending(verdict, last, policy=policy)
        assert (end.status, end.result, end.finish) == (Status.SUCCEEDED, "{}", finish)


def test_an_answer_that_the_client_has_seen_is_not_asked_for_again() -> None:
    policy = RetryPolicy(retry_on=frozenset({"truncated"}))
    at = RetryContext(policy, {"k1"}, NOW, 0.0, shown=True)
    end = decide(a_claimed(), CallVerdict(Outcome.SUCCEEDED, result="{}", finish=Finish.TRUNCATED), at)
    assert end.status is Status.SUCCEEDED


def test_an_answer_that_a_filter_withheld_fails_with_it() -> None:
    end = ending(CallVerdict(Outcome.CONTENT_REFUSED, result="{}", finish=Finish.CONTENT_FILTER))
    assert (end.status, end.result, end.finish) == (Status.FAILED, "{}", Finish.CONTENT_FILTER)
    assert end.failure is not None
    assert end.failure.code == "content_filter"


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (RetryPolicy(base=1, min=4, cap=10, jitter=0.0), [4, 4, 4, 8, 10, 10]),  # tenacity's wait_exponential
        (RetryPolicy(base=1, cap=32, jitter=0.0), [1, 2, 4, 8, 16, 32]),
        (RetryPolicy(base=2, min=3, cap=60, jitter=0.0), [3, 4, 8, 16, 32, 60]),
        (RetryPolicy(base=1, min=4, cap=10), [4, 4, 4, 6, 7, 7]),  # full jitter, half way
    ],
)
def test_waits_grow_between_min_and_cap(policy: RetryPolicy, waits: list[float]) -> None:
    assert [policy.delay(n, 0.5) for n in range(1, 7)] == waits


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.999])
def test_a_tenth_of_jitter_stays_within_a_tenth(chance: float) -> None:
    assert 7.2 <= RetryPolicy(base=8, jitter=0.1).delay(1, chance) <= 8.8


@pytest.mark.parametrize("outcome", WAITING)
@pytest.mark.parametrize(("before", "status"), [(0, Status.QUEUED), (1, Status.QUEUED), (2, Status.FAILED)])
def test_a_policy_may_bound_refusals(outcome: Outcome, before: int, status: Status) -> None:
    policy = RetryPolicy(refusals=3)
    end = ending(CallVerdict(outcome, "busy"), a_claimed(attempts=before + 2, counted=2), policy=policy)
    assert (end.status, end.counts) == (status, False)
    if end.failure is not None:
        assert (end.failure.code, end.failure.message) == (str(outcome), "busy")


def test_a_policy_may_let_the_task_wait_itself_when_refused() -> None:
    policy = RetryPolicy(min=4, cap=10, jitter=0.0, waits_when_refused=True)
    waits = []
    for refused in range(5):
        end = ending(CallVerdict(Outcome.RATE_LIMITED), a_claimed(attempts=refused), policy=policy)
        assert end.available_at is not None
        waits.append(end.available_at - NOW)
    assert waits == [4, 4, 4, 8, 10]
    asked = ending(CallVerdict(Outcome.RATE_LIMITED, retry_after_seconds=30), policy=policy, chance=0.0)
    assert asked.available_at == NOW + 30


@pytest.mark.parametrize(
    ("policy", "model", "timeout"), [(3.0, 9.0, 3.0), (None, 9.0, 9.0), (3.0, None, 3.0), (None, None, None)]
)
def test_the_timeout_of_a_call_is_its_policys_else_its_models(
    policy: float | None, model: float | None, timeout: float | None
) -> None:
    known = Policies(
        {"default": RetryPolicy(), "own": RetryPolicy(timeout=policy)},
        {a_claimed().model: ModelRetryPolicy("own", frozenset(KEYS), timeout=model)},
    )
    assert known.timeout_of(a_claimed()) == timeout
