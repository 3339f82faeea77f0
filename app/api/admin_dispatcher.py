"""What operators are answered: the dispatcher, its quotas, keys and pauses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from flask.typing import ResponseReturnValue
from pydantic import Field

from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import read_model
from app.api.openapi import Operation, ResponseDoc
from app.api.responses import answer
from app.composition.api import UseCases
from app.platform.domain.errors import Invalid, NotFound
from app.platform.domain.times import to_rfc3339
from app.reporting.domain.snapshot import (
    DispatcherSnapshot,
    KeyView,
    LeaderSnapshot,
    QuotaView,
    WorkerEntry,
)
from app.submission.bodies import Body
from app.tasks.domain.pauses import EVERYTHING, Kind, subject_of
from app.tasks.views import Shape, Time
from app.upstreams.domain.key_health import Probed


class Limits(Shape):
    """Limits per minute and on concurrency; null if unknown."""

    rpm: float | None
    tpm: float | None
    concurrency: int | None


class HoldupShape(Shape):
    """What currently limits throughput."""

    holder: Literal["nobody", "us", "upstream", "limits", "operator"]
    words: str


class Leader(Shape):
    """The leading dispatcher."""

    term: str
    beats: bool
    since: Time | None
    last_beat_at: Time | None
    ticks: int | None


class Worker(Shape):
    """A worker process; slots are null while Redis is away."""

    id: str
    host: str | None
    pid: int | None
    keys: list[str]
    slots: int | None
    held: int | None
    last_seen_at: Time


class Breaker(Shape):
    """A circuit breaker that is not closed."""

    state: Literal["closed", "open", "half_open"]
    reason: str
    opens_at: Time


class Quota(Shape):
    """A quota: its limits as configured (`told`), learned and in force, and its use."""

    id: str
    kind: str
    name: str
    model: str
    upstreams: list[str]
    told: Limits
    learned: Limits
    in_force: Limits
    in_flight: int
    last_minute: Annotated[int, Field(description="Calls started in the last 60 s.")]
    waiting: Annotated[int, Field(description="Waiting tasks of the models that use this quota.")]
    braked_until: Time | None
    why: str
    brakes: int
    breaker: Breaker | None


class WaitingModel(Shape):
    """The tasks waiting for a model."""

    name: str
    waiting: int
    waiting_for: str | None
    opens_in: Annotated[
        float | None,
        Field(
            description="Seconds until a task can start; null if unknown, or if it depends on the end of a "
            "running call."
        ),
    ]


class PauseShape(Shape):
    """A pause set by an operator."""

    subject: Annotated[str, Field(description="`everything`, `model:NAME`, `client:NAME` or `key:NAME`.")]
    since: Time


class PauseList(Shape):
    """All pauses."""

    object: Literal["list"]
    data: list[PauseShape]


class PauseBody(Body):
    """What to pause: exactly one of the fields."""

    everything: Literal[True] | None = None
    model: str | None = Field(None, min_length=1, max_length=200)
    client: str | None = Field(None, min_length=1, max_length=40)
    key: str | None = Field(None, min_length=1, max_length=200, description="The name of a [[key]].")


class LastTest(Shape):
    """A test of a key."""

    finding: Literal["works", "refused", "not_offered", "no_answer"]
    at: Time
    seconds: float
    status: int | None
    words: str


class LearnedFix(Shape):
    """A change that requests for a model need at this upstream."""

    model: str
    words: str


class UpstreamKey(Shape):
    """An upstream key, without its secret."""

    name: str
    object: Literal["upstream_key"]
    upstream: str
    account: str
    state: Literal["active", "paused", "disabled", "no_balance", "unreachable", "braked", "unused"]
    reason: str
    since: Time | None
    in_flight: int
    last_minute: int
    workers: Annotated[int, Field(description="Number of workers that consume its queue.")]
    next_test_at: Time | None
    last_test: LastTest | None
    fixes: list[LearnedFix]
    quotas: list[Quota]


class UpstreamKeyList(Shape):
    """All keys."""

    object: Literal["list"]
    data: list[UpstreamKey]


class KeyTest(LastTest):
    """The result of a test."""

    name: str
    object: Literal["key_test"]


class DispatcherShape(Shape):
    """The current state of the dispatcher."""

    object: Literal["dispatcher"]
    at: Time
    holdup: HoldupShape
    database: Annotated[bool, Field(description="Whether the database answers.")]
    redis: bool
    leader: Leader
    waiting: int
    in_flight: int
    slots: int
    pauses: list[PauseShape]
    models: list[WaitingModel]
    quotas: list[Quota]
    keys: list[UpstreamKey]
    workers: list[Worker]


def dispatcher(snapshot: DispatcherSnapshot) -> DispatcherShape:
    """The whole state."""
    quotas = {quota.id: quota for quota in snapshot.quotas}
    return DispatcherShape(
        object="dispatcher",
        at=to_rfc3339(snapshot.at),
        holdup=HoldupShape(holder=snapshot.holdup.holder.value, words=snapshot.holdup.words),
        database=snapshot.database,
        redis=snapshot.redis,
        leader=_leader(snapshot.leader),
        waiting=snapshot.waiting,
        in_flight=snapshot.flight,
        slots=snapshot.slots,
        pauses=pauses(snapshot.pauses),
        models=[WaitingModel(**asdict(model)) for model in snapshot.models],
        quotas=[_quota(quota) for quota in snapshot.quotas],
        keys=[key(one, quotas) for one in snapshot.keys],
        workers=[_worker(worker) for worker in snapshot.workers],
    )


def pauses(since: Mapping[str, float]) -> list[PauseShape]:
    """Pauses by subject."""
    return [PauseShape(subject=subject, since=to_rfc3339(at)) for subject, at in since.items()]


def key(one: KeyView, quotas: Mapping[str, QuotaView]) -> UpstreamKey:
    """Render a key. Its secret is not known here."""
    status = one.status
    return UpstreamKey(
        name=one.name,
        object="upstream_key",
        upstream=one.upstream,
        account=one.account,
        state=one.state.value,
        reason=one.reason,
        since=to_rfc3339(status.since) if status.since else None,
        in_flight=one.flight,
        last_minute=one.last_minute,
        workers=one.workers,
        next_test_at=to_rfc3339(status.next_test_at),
        last_test=None if status.last is None else LastTest(**_test(status.last)),
        fixes=[LearnedFix(model=model, words=words) for model, words in one.fixes],
        quotas=[_quota(quotas[name]) for name in one.quotas],
    )


def _test(tested: Probed) -> dict[str, Any]:
    return {
        "finding": tested.finding,
        "at": to_rfc3339(tested.at),
        "seconds": round(tested.seconds, 3),
        "status": tested.status,
        "words": tested.words,
    }


def _leader(leader: LeaderSnapshot) -> Leader:
    return Leader(
        term=leader.term,
        beats=leader.beats,
        since=to_rfc3339(leader.since),
        last_beat_at=to_rfc3339(leader.last_beat_at),
        ticks=leader.ticks,
    )


def _quota(quota: QuotaView) -> Quota:
    breaker = quota.breaker
    return Quota(
        id=quota.id,
        kind=quota.kind,
        name=quota.name,
        model=quota.model,
        upstreams=list(quota.upstreams),
        told=Limits(**asdict(quota.told)),
        learned=Limits(**asdict(quota.learned)),
        in_force=Limits(**asdict(quota.in_force)),
        in_flight=quota.flight,
        last_minute=quota.last_minute,
        waiting=quota.waiting,
        braked_until=to_rfc3339(quota.braked_until),
        why=quota.why,
        brakes=quota.brakes,
        breaker=None
        if breaker is None
        else Breaker(state=breaker.state.value, reason=breaker.reason, opens_at=to_rfc3339(breaker.opens_at)),
    )


def _worker(worker: WorkerEntry) -> Worker:
    return Worker(
        **{**asdict(worker), "keys": list(worker.keys), "last_seen_at": to_rfc3339(worker.last_seen_at)}
    )


_LIMIT = 4 * 1024  # bytes of a body
_GROUP = "Administration"


class DispatcherViews:
    """The /v1/admin/dispatcher, keys and pauses operations."""

    def __init__(self, use_cases: UseCases, callers: Callers) -> None:
        self._use_cases = use_cases
        self._callers = callers

    def operations(self) -> list[Operation]:
        """The operations of these views."""
        return [
            Operation(
                "GET",
                "/v1/admin/dispatcher",
                "Show the dispatcher: bottleneck, quotas, keys, leader and workers.",
                self.show,
                {200: ResponseDoc("The current state.", DispatcherShape)},
                _GROUP,
            ),
            Operation(
                "GET",
                "/v1/admin/pauses",
                "List pauses.",
                self.list_pauses,
                {200: ResponseDoc("All of them.", PauseList)},
                _GROUP,
            ),
            Operation(
                "POST",
                "/v1/admin/pauses",
                "Pause everything, a model, a client or a key.",
                self.pause,
                {
                    200: ResponseDoc(
                        "All pauses, effective within a second. Running calls are not interrupted.", PauseList
                    )
                },
                _GROUP,
                body=PauseBody,
                refusals=(404, 413),
            ),
            Operation(
                "POST",
                "/v1/admin/pauses/end",
                "Resume what was paused.",
                self.resume,
                {200: ResponseDoc("The remaining pauses.", PauseList)},
                _GROUP,
                body=PauseBody,
                refusals=(404, 413),
            ),
            *self._of_keys(),
        ]

    def _of_keys(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/v1/admin/keys",
                "List the upstream keys: state, reason, limits and use, without secrets.",
                self.list_keys,
                {200: ResponseDoc("All of them.", UpstreamKeyList)},
                _GROUP,
            ),
            Operation(
                "POST",
                "/v1/admin/keys/{name}/pause",
                "Pause a key.",
                self.pause_key,
                {200: ResponseDoc("The key; effective within a second.", UpstreamKey)},
                _GROUP,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/admin/keys/{name}/resume",
                "Resume a key that was paused or disabled.",
                self.resume_key,
                {200: ResponseDoc("The key; effective within a second.", UpstreamKey)},
                _GROUP,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/admin/keys/{name}/test",
                "Test a key by listing its upstream's models.",
                self.test_key,
                {200: ResponseDoc("The result. A key that works is used again.", KeyTest)},
                _GROUP,
                refusals=(404,),
            ),
        ]

    def show(self) -> ResponseReturnValue:
        """The whole state."""
        self._callers.current()
        return answer(dispatcher(self._use_cases.read_dispatcher.read()))

    def list_pauses(self) -> ResponseReturnValue:
        """All pauses."""
        self._callers.current()
        return self._pauses()

    def pause(self) -> ResponseReturnValue:
        """Pauses by subject."""
        self._callers.current()
        self._use_cases.steer.pause(self._subject())
        return self._pauses()

    def resume(self) -> ResponseReturnValue:
        """Pauses by subject."""
        self._callers.current()
        self._use_cases.steer.resume(self._subject())
        return self._pauses()

    def list_keys(self) -> ResponseReturnValue:
        """All pauses."""
        self._callers.current()
        snapshot = self._use_cases.read_dispatcher.read()
        quotas = {quota.id: quota for quota in snapshot.quotas}
        return answer(UpstreamKeyList(object="list", data=[key(one, quotas) for one in snapshot.keys]))

    def pause_key(self, name: str) -> ResponseReturnValue:
        """The paused key."""
        self._callers.current()
        self._use_cases.steer.pause(subject_of("key", name))
        return self._key(name)

    def resume_key(self, name: str) -> ResponseReturnValue:
        """The resumed key."""
        self._callers.current()
        self._use_cases.steer.resume_key(name)
        return self._key(name)

    def test_key(self, name: str) -> ResponseReturnValue:
        """The result of the test."""
        self._callers.current()
        tested = self._use_cases.steer.test_key(name)
        return answer(KeyTest(name=name, object="key_test", **_test(tested)))

    def _pauses(self) -> ResponseReturnValue:
        return answer(PauseList(object="list", data=pauses(self._use_cases.steer.pauses())))

    def _key(self, name: str) -> ResponseReturnValue:
        snapshot = self._use_cases.read_dispatcher.read()
        quotas = {quota.id: quota for quota in snapshot.quotas}
        found = next((one for one in snapshot.keys if one.name == name), None)
        if found is None:
            raise NotFound(f"key {name[:40]!r} is not configured")
        return answer(key(found, quotas))

    @staticmethod
    def _subject() -> str:
        """Raises Invalid unless exactly one thing is named."""
        body = read_model(PauseBody, _LIMIT)
        wanted: list[tuple[Kind, str]] = [(EVERYTHING, "")] if body.everything else []
        named: list[tuple[Kind, str | None]] = [
            ("model", body.model),
            ("client", body.client),
            ("key", body.key),
        ]
        wanted += [(kind, name) for kind, name in named if name is not None]
        if len(wanted) != 1:
            raise Invalid(
                "give exactly one of `everything`, `model`, `client` and `key`", code="invalid_value"
            )
        subject = subject_of(*wanted[0])
        note(subject=subject)
        return subject
