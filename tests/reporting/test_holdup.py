"""The first line of `penstock status`: who holds work up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.pacing.domain.why import Binding, Bound
from app.reporting.domain.bottleneck import Cause, ModelBacklog, Service, find_bottleneck

QUOTA = "account:acme:flash"
WELL = Service(workers=2, slots=200, flight=20, waiting=50, upstreams={QUOTA: "deepseek", "k1": "deepseek"})


def bound(binding: Binding) -> Service:
    return replace(
        WELL, backlogs=[ModelBacklog("small", 3, Binding(Bound.TURN)), ModelBacklog("flash", 40, binding)]
    )


@pytest.mark.parametrize(
    ("service", "holder", "words"),
    [
        (replace(WELL, waiting=0, flight=0), Cause.NOBODY, "nothing waits"),
        (replace(WELL, waiting=0), Cause.NOBODY, "nothing waits (20 calls in flight)"),
        (
            replace(WELL, waiting=0, flight=0, workers=0),
            Cause.NOBODY,
            "nothing waits (no worker is running: start `penstock worker`)",
        ),
        (
            replace(WELL, waiting=0, flight=0, paused=["model flash"]),
            Cause.NOBODY,
            "nothing waits (paused by an operator: model flash)",
        ),
        (replace(WELL, database=False), Cause.US, "us: the database does not answer"),
        (replace(WELL, redis=False), Cause.US, "us: Redis does not answer"),
        (replace(WELL, leads=False), Cause.US, "us: no dispatcher leads"),
        (replace(WELL, workers=0, slots=0), Cause.US, "us: no worker is running"),
        (
            replace(WELL, paused=["everything"], redis=False),
            Cause.OPERATOR,
            "paused by an operator: everything (50 tasks wait)",
        ),
        (replace(WELL, paused=["client bob"]), Cause.OPERATOR, "paused by an operator: client bob"),
        (WELL, Cause.NOBODY, "nothing is due: 50 tasks wait, scheduled"),
        (
            bound(Binding(Bound.PAUSED, why="paused by an operator: model flash")),
            Cause.OPERATOR,
            "paused by an operator: model flash (40 tasks wait for flash)",
        ),
        (
            bound(Binding(Bound.BRAKED, QUOTA, why="rate_limited (429)")),
            Cause.UPSTREAM,
            "the upstream: deepseek refuses, rate_limited (429) (account acme, model flash)",
        ),
        (
            bound(Binding(Bound.BREAKER, QUOTA, why="5 failures in a row")),
            Cause.UPSTREAM,
            "the upstream: deepseek fails, its circuit breaker is open",
        ),
        (
            bound(Binding(Bound.DISABLED, "k1", why="key k1 is disabled")),
            Cause.UPSTREAM,
            "the upstream: deepseek refuses, key k1 is disabled (40 tasks wait for flash)",
        ),
        (
            bound(Binding(Bound.REQUESTS, QUOTA, 600.0)),
            Cause.LIMITS,
            "limits: 600 rpm of account acme, model flash fully used",
        ),
        (
            bound(Binding(Bound.CALLS, QUOTA, 20.0)),
            Cause.LIMITS,
            "limits: 20 concurrent calls of account acme",
        ),
        (bound(Binding(Bound.TOKENS, QUOTA, 9e4)), Cause.LIMITS, "limits: 90000 tpm of"),
        (bound(Binding(Bound.ROUTE)), Cause.US, "us: no tier of the model may serve"),
        (
            replace(bound(Binding(Bound.SLOTS)), flight=200),
            Cause.US,
            "us: all 200 slots of 2 workers are in use",
        ),
        (bound(Binding(Bound.SLOTS)), Cause.US, "us: no worker with a free slot serves the keys"),
        (bound(Binding(Bound.TURN)), Cause.NOBODY, "work flows (40 tasks wait for flash)"),
    ],
)
def test_the_line_names_who_is_to_do_something(service: Service, holder: Cause, words: str) -> None:
    found = find_bottleneck(service)
    assert found.holder is holder
    assert found.words.startswith(words)


def test_one_task_waits_in_the_singular() -> None:
    assert find_bottleneck(replace(WELL, waiting=1, leads=False)).words.endswith("1 task waits")
