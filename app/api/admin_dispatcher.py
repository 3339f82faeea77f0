"""/v1/admin/dispatcher, /v1/admin/keys and /v1/admin/pauses: for operators."""

from __future__ import annotations

from flask.typing import ResponseReturnValue

from app.api import operator_rendering as rendering
from app.api.access_control import Callers
from app.api.auditing import note
from app.api.body import read_body
from app.api.operations import Operation, ResponseDoc
from app.api.operator_shapes import (
    DispatcherShape,
    KeyTest,
    PauseBody,
    PauseList,
    UpstreamKey,
    UpstreamKeyList,
)
from app.api.responses import answer
from app.api.use_cases import UseCases
from app.platform.domain.errors import Invalid, NotFound
from app.submission.validation import parse, parse_json
from app.tasks.domain.pauses import EVERYTHING, Kind, subject_of

_MOST = 4 * 1024  # bytes of a body
_GROUP = "Administration"


class DispatcherViews:
    """Parse, authenticate, call one service, render."""

    def __init__(self, house: UseCases, callers: Callers) -> None:
        self._house = house
        self._callers = callers

    def operations(self) -> list[Operation]:
        """What is offered."""
        return [
            Operation(
                "GET",
                "/v1/admin/dispatcher",
                "Show the dispatcher: who holds work up, quotas, keys, the leader, workers.",
                self.show,
                {200: ResponseDoc("As it stands now.", DispatcherShape)},
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
                {200: ResponseDoc("All pauses; in force within a second. Running calls go on.", PauseList)},
                _GROUP,
                body=PauseBody,
                refusals=(404, 413),
            ),
            Operation(
                "POST",
                "/v1/admin/pauses/end",
                "End a pause.",
                self.resume,
                {200: ResponseDoc("The pauses that are left.", PauseList)},
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
                "List the keys at upstreams: state, reason, limits, use. No secret is shown.",
                self.list_keys,
                {200: ResponseDoc("All of them.", UpstreamKeyList)},
                _GROUP,
            ),
            Operation(
                "POST",
                "/v1/admin/keys/{name}/pause",
                "Start no call by a key.",
                self.pause_key,
                {200: ResponseDoc("The key; in force within a second.", UpstreamKey)},
                _GROUP,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/admin/keys/{name}/resume",
                "Use a key again, whether it was paused or refused.",
                self.resume_key,
                {200: ResponseDoc("The key; in force within a second.", UpstreamKey)},
                _GROUP,
                refusals=(404,),
            ),
            Operation(
                "POST",
                "/v1/admin/keys/{name}/test",
                "Ask the key's upstream for its models.",
                self.test_key,
                {200: ResponseDoc("What it came to. A key that works is used again.", KeyTest)},
                _GROUP,
                refusals=(404,),
            ),
        ]

    def show(self) -> ResponseReturnValue:
        """All of it."""
        self._callers.current()
        return answer(rendering.dispatcher(self._house.read_dispatcher.read()))

    def list_pauses(self) -> ResponseReturnValue:
        """All."""
        self._callers.current()
        return self._pauses()

    def pause(self) -> ResponseReturnValue:
        """By subject."""
        self._callers.current()
        self._house.steer.pause(self._subject())
        return self._pauses()

    def resume(self) -> ResponseReturnValue:
        """By subject."""
        self._callers.current()
        self._house.steer.resume(self._subject())
        return self._pauses()

    def list_keys(self) -> ResponseReturnValue:
        """All."""
        self._callers.current()
        sight = self._house.read_dispatcher.read()
        quotas = {quota.id: quota for quota in sight.quotas}
        return answer({"object": "list", "data": [rendering.key(one, quotas) for one in sight.keys]})

    def pause_key(self, name: str) -> ResponseReturnValue:
        """The key, paused."""
        self._callers.current()
        self._house.steer.pause(subject_of("key", name))
        return self._key(name)

    def resume_key(self, name: str) -> ResponseReturnValue:
        """The key, in use."""
        self._callers.current()
        self._house.steer.resume_key(name)
        return self._key(name)

    def test_key(self, name: str) -> ResponseReturnValue:
        """Status and time."""
        self._callers.current()
        tested = self._house.steer.test_key(name)
        return answer({"name": name, "object": "key_test", **rendering.test(tested)})

    def _pauses(self) -> ResponseReturnValue:
        return answer({"object": "list", "data": rendering.pauses(self._house.steer.pauses())})

    def _key(self, name: str) -> ResponseReturnValue:
        sight = self._house.read_dispatcher.read()
        quotas = {quota.id: quota for quota in sight.quotas}
        found = next((one for one in sight.keys if one.name == name), None)
        if found is None:
            raise NotFound(f"there is no key {name[:40]!r}")
        return answer(rendering.key(found, quotas))

    @staticmethod
    def _subject() -> str:
        """Raises Invalid unless exactly one thing is named."""
        body = parse(PauseBody, parse_json(read_body(_MOST)))
        wanted: list[tuple[Kind, str]] = [(EVERYTHING, "")] if body.everything else []
        named: list[tuple[Kind, str | None]] = [
            ("model", body.model),
            ("client", body.client),
            ("key", body.key),
        ]
        wanted += [(kind, name) for kind, name in named if name is not None]
        if len(wanted) != 1:
            raise Invalid("name exactly one of everything, model, client and key", code="invalid_value")
        subject = subject_of(*wanted[0])
        note(subject=subject)
        return subject
