"""A client whose requests are refused, beside one whose are not: real Redis, a leader, workers' decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.dispatching.key_supervisor import KeySupervisor
from app.execution.domain.retry import RetryContext, RetryPolicy, decide
from app.pacing.domain.brake import brakes
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.settings.domain.routing import Route, Topology
from app.tasks.domain.attempt import AttemptEnd, Message, Outcome, Permit, Settlement
from app.tasks.domain.task import Status
from app.upstreams.domain.classify import CallVerdict
from app.upstreams.domain.key_health import HealthRules, Held, KeyHealth, KeyTestResult, Probe, Probed
from app.upstreams.domain.refusals import about_a_key
from tests.attempts import a_claimed
from tests.pacing.pacing_world import GateWorld, HandClock

KEYS = ("k1", "k2", "k3")
CLAIMED_AT = a_claimed().started_at
STATUS = {
    Outcome.UNAUTHORIZED: 401,
    Outcome.NO_BALANCE: 402,
    Outcome.FORBIDDEN: 403,
    Outcome.UNKNOWN_MODEL: 404,
}
Answer = Callable[[str, str], Outcome]  # to a client's request, by a key


class Upstream:
    """Implements the Tester port."""

    def __init__(self, clock: HandClock, finding: KeyTestResult) -> None:
        self.clock = clock
        self.finding = finding

    def test(self, key: str, test: Probe) -> Probed:
        return Probed(self.finding, self.clock.at, 0.1, 401 if self.finding is KeyTestResult.REFUSED else 200)


class Service:
    """A gate, its leader's watch, and workers that answer at once. Tasks that wait come back as time passes."""

    def __init__(
        self, redis_url: str, folder: Path, keys: tuple[str, ...], answer: Answer, finding: KeyTestResult
    ):
        url = f"sqlite:///{folder}/hostile.db"
        upgrade(url)
        self.database = Database(url)
        routes = tuple(Route(key, f"u-{key}", f"a-{key}", "m") for key in keys)
        self.world = GateWorld(redis_url, Topology({"m": (routes,)}, {})).lead()
        self.clock = self.world.clock
        held = {key: Held(key, f"u-{key}", f"a-{key}") for key in keys}
        self.health = KeyHealth(held, HealthRules(idle=0))
        tester = Upstream(self.clock, finding)
        self.watch = KeySupervisor(
            self.database, self.health, tester, self.clock, self.world.gate.release_brake
        )
        self.world.dispatcher.watch = self.watch
        self.answer = answer
        self.waiting: dict[str, Message] = {}
        self.later: list[tuple[float, Message]] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self.ended: dict[str, AttemptEnd] = {}

    def publish(self, client: str, count: int) -> list[str]:
        messages = self.world.publish(count, client)
        self.waiting |= {message.task_id: message for message in messages}
        return [message.task_id for message in messages]

    def run(self, turns: int = 40) -> None:
        """Until nothing more is released."""
        for _ in range(turns):
            self.world.report()
            if not self.world.dispatcher.tick().released:
                return
            for task_id in list(self.waiting):
                permit = self.world.permits.redeem(task_id, "w1")
                if isinstance(permit, Permit):
                    self.call(self.waiting.pop(task_id), permit)

    def call(self, message: Message, permit: Permit) -> None:
        self.calls[message.client, permit.key] += 1
        outcome = self.answer(message.client, permit.key)
        verdict = CallVerdict(outcome, "its words", status_code=STATUS.get(outcome))
        claimed = a_claimed(permit, client_id=message.client, avoid=message.avoid)
        end = decide(claimed, verdict, RetryContext(RetryPolicy(), self.world.topology.keys, CLAIMED_AT, 0.0))
        braked = brakes(permit, verdict, 0.0)
        words = about_a_key(outcome, verdict.message)
        status = verdict.status_code
        settlement = Settlement(
            permit.task_id, permit.release, outcome, brakes=braked, status=status, words=words
        )
        self.world.permits.settle([settlement])
        if end.status is not Status.QUEUED:
            self.ended[message.task_id] = end
            return
        again = replace(message, avoid=end.avoid, front=True)
        if end.available_at == CLAIMED_AT:
            self.offer([again])
        else:
            assert end.available_at is not None
            self.later.append((self.clock.at + end.available_at - CLAIMED_AT, again))

    def offer(self, messages: list[Message]) -> None:
        assert self.world.publisher.publish(messages, feeding=True) == {}
        self.waiting |= {message.task_id: message for message in messages}

    def pass_time(self, seconds: float = 1.0) -> None:
        """Tests are made, and whoever waits for its time is back."""
        self.world.dispatcher.tick()
        self.watch.test()
        self.watch.look()
        self.clock.at += seconds
        self.offer([message for due, message in self.later if due <= self.clock.at])
        self.later = [(due, message) for due, message in self.later if due > self.clock.at]

    def statuses(self, tasks: list[str]) -> Counter[Status]:
        return Counter(self.ended[task].status for task in tasks if task in self.ended)


def hostile_beside_honest(outcome: Outcome) -> Answer:
    return lambda client, _key: outcome if client == "hostile" else Outcome.SUCCEEDED


@pytest.mark.parametrize("finding", [KeyTestResult.WORKS, KeyTestResult.NOT_OFFERED, KeyTestResult.NO_ANSWER])
@pytest.mark.parametrize("keys", [KEYS, ("k1",)], ids=["pool", "single"])
@pytest.mark.parametrize("outcome", STATUS)
def test_a_flood_of_refused_requests_costs_others_nothing_and_ends(
    redis_url: str, tmp_path: Path, outcome: Outcome, keys: tuple[str, ...], finding: KeyTestResult
) -> None:
    service = Service(redis_url, tmp_path, keys, hostile_beside_honest(outcome), finding)
    flood = service.publish("hostile", 30)
    for round_ in range(12):
        honest = service.publish("honest", 5)
        service.run()
        assert service.statuses(honest) == {Status.SUCCEEDED: 5}, f"round {round_}"
        assert "k1" not in service.watch.suspensions().keys
        service.pass_time()
    for _ in range(8):  # what was closed to the hostile client alone has opened again
        service.publish("honest", 2)
        service.run()
        service.pass_time(30)
    assert service.statuses(flood) == {Status.FAILED: 30}
    assert all(service.ended[task].failure.message == "its words" for task in flood)  # type: ignore[union-attr]
    assert sum(n for (client, _), n in service.calls.items() if client == "hostile") <= 30 * 7


@pytest.mark.parametrize("outcome", [Outcome.UNAUTHORIZED, Outcome.NO_BALANCE])
@pytest.mark.parametrize("finding", [KeyTestResult.REFUSED, KeyTestResult.NOT_OFFERED, KeyTestResult.WORKS])
@pytest.mark.parametrize("clients", [("a",), ("a", "b")], ids=["one-client", "two-clients"])
def test_a_dead_key_is_found_within_a_few_calls_and_fails_no_task(
    redis_url: str, tmp_path: Path, outcome: Outcome, finding: KeyTestResult, clients: tuple[str, ...]
) -> None:
    """Also where the key's test tells nothing, or tells that it works as the upstream checks no key there."""
    service = Service(
        redis_url,
        tmp_path,
        KEYS,
        lambda _client, key: outcome if key == "k1" else Outcome.SUCCEEDED,
        finding,
    )
    tasks = []
    for _ in range(20):
        for client in clients:
            tasks += service.publish(client, 3)
        service.run()
        service.pass_time()
    assert service.statuses(tasks) == {Status.SUCCEEDED: 60 * len(clients)}
    met = sum(n for (_, key), n in service.calls.items() if key == "k1")
    assert met <= 12


@pytest.mark.parametrize("outcome", [Outcome.UNAUTHORIZED, Outcome.NO_BALANCE])
@pytest.mark.parametrize("finding", [KeyTestResult.REFUSED, KeyTestResult.NOT_OFFERED, KeyTestResult.WORKS])
def test_a_single_key_that_is_dead_lets_its_tasks_wait_and_serves_them_when_it_is_back(
    redis_url: str, tmp_path: Path, outcome: Outcome, finding: KeyTestResult
) -> None:
    dead = True
    service = Service(
        redis_url, tmp_path, ("k1",), lambda _c, _k: outcome if dead else Outcome.SUCCEEDED, finding
    )
    tasks = service.publish("a", 5) + service.publish("b", 5)
    for _ in range(20):
        service.run()
        service.pass_time()
    assert service.ended == {}
    assert sum(service.calls.values()) <= 40
    dead = False
    service.health.give_back("k1", service.clock.at)
    service.pass_time(120)
    for _ in range(5):
        service.run()
        service.pass_time(60)
    assert service.statuses(tasks) == {Status.SUCCEEDED: 10}


@pytest.mark.parametrize("outcome", [Outcome.UNAUTHORIZED, Outcome.NO_BALANCE])
@pytest.mark.parametrize("finding", [KeyTestResult.NOT_OFFERED, KeyTestResult.WORKS])
def test_one_task_alone_with_a_dead_key_shows_it_in_the_upstreams_words_and_calls_ever_more_seldom(
    redis_url: str, tmp_path: Path, outcome: Outcome, finding: KeyTestResult
) -> None:
    """Also where the upstream lists its models to anybody."""
    service = Service(redis_url, tmp_path, ("k1",), lambda _c, _k: outcome, finding)
    service.publish("a", 1)
    for _ in range(4):
        service.run()
        service.pass_time()
    (bad,) = service.watch.unhealthy().values()
    assert bad["condition"] == ("disabled" if outcome is Outcome.UNAUTHORIZED else "no_balance")
    assert f"the upstream answered {STATUS[outcome]}: its words" in bad["reason"]
    calls = []
    for _ in range(600):
        service.pass_time()
        service.run()
        calls.append(sum(service.calls.values()))
    assert calls[0] == 2
    assert calls[59] <= 3
    assert calls[-1] <= 7
    assert service.ended == {}
    service.answer = lambda _c, _k: Outcome.SUCCEEDED
    for _ in range(40):
        service.pass_time(60)
        service.run()
    assert service.statuses(list(service.ended)) == {Status.SUCCEEDED: 1}
    assert service.watch.unhealthy() == {}


@pytest.mark.parametrize("outcome", [Outcome.UNAUTHORIZED, Outcome.NO_BALANCE])
@pytest.mark.parametrize("finding", [KeyTestResult.NOT_OFFERED, KeyTestResult.WORKS])
def test_an_honest_client_that_arrives_later_is_served_at_once_and_opens_the_key_to_all(
    redis_url: str, tmp_path: Path, outcome: Outcome, finding: KeyTestResult
) -> None:
    service = Service(redis_url, tmp_path, ("k1",), hostile_beside_honest(outcome), finding)
    service.publish("hostile", 10)
    for _ in range(4):
        service.run()
        service.pass_time()
    assert service.watch.unhealthy()
    honest = service.publish("honest", 5)
    turn = service.world.dispatcher.tick()
    assert turn.released == 1  # a witness, until it has come back
    assert service.world.dispatcher.tick().released == 0
    for task_id in honest:
        permit = service.world.permits.redeem(task_id, "w1")
        if isinstance(permit, Permit):
            service.call(service.waiting.pop(task_id), permit)
    service.run()
    assert service.statuses(honest) == {Status.SUCCEEDED: 5}
    assert service.watch.unhealthy() == {}


def test_a_lone_403_of_the_only_key_fails_once_its_test_has_succeeded(redis_url: str, tmp_path: Path) -> None:
    service = Service(redis_url, tmp_path, ("k1",), lambda _c, _k: Outcome.FORBIDDEN, KeyTestResult.WORKS)
    (task,) = service.publish("a", 1)
    for _ in range(5):
        service.run()
        service.pass_time()
    assert service.statuses([task]) == {Status.FAILED: 1}
    assert service.calls["a", "k1"] == 2
