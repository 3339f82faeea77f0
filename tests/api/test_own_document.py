"""What /openapi.json promises is held against generated requests: no 5xx, no status, type or body it does not name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.application import create_app
from app.platform.database import Database
from app.platform.migrate import upgrade
from app.tasks.domain.attempt import Message, Refusal
from tests.api.world import ADMIN_KEY, MODEL, Parts, WatchedPublisher, World

EXAMPLES = 3  # of each operation and mode
CHAT = "/v1/chat/completions"  # answers when a worker has
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_795_000_000,
    "model": "deepseek-flash",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """A database of its own: what is made here is no other test's business."""
    url = f"sqlite:///{tmp_path}/penstock.db"
    upgrade(url)
    parts = Parts(Database(url), url)
    world = World(parts)
    yield world
    world.app.close()
    parts.database.close()


def test_generated_requests_are_answered_as_the_document_says(own_world: World) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", own_world.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 50
    for operation in operations:
        if operation.path != CHAT:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _try(operation, mode)


class Worked(WatchedPublisher):
    """Whatever is published has been run by the time that is known."""

    def publish(self, messages: Sequence[Message], *, feeding: bool = False) -> Mapping[str, Refusal]:
        refused = super().publish(messages, feeding=feeding)
        result = orjson.dumps(COMPLETION).decode()
        self.world.end(*(message.task_id for message in messages), result=result)
        return refused

    world: World


def test_generated_chats_are_answered_as_the_document_says(own_world: World) -> None:
    publisher = Worked()
    publisher.world = own_world
    app = create_app(replace(own_world.parts, publisher=publisher))
    try:
        schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
        operations = [found.ok() for found in schema.get_all_operations()]
        (chat,) = [one for one in operations if (one.method.upper(), one.path) == ("POST", CHAT)]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _try(chat, mode)
        _try(chat, GenerationMode.POSITIVE, _that_can_be_run)
    finally:
        app.close()
    assert publisher.published  # some were run, and answered


def _that_can_be_run(case: Any) -> None:
    """What is generated names models and policies that there are not; the rest of it stays."""
    kept = {name: case.body[name] for name in ("stream", "store", "priority") if name in case.body}
    case.body = {**kept, "model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


def _try(
    operation: Any,
    mode: GenerationMode,
    change: Callable[[Any], None] = lambda _case: None,
) -> None:
    """`mode`: what the document allows, or what it does not."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered_as_said(case: Any) -> None:
        case.headers.update({"Authorization": f"Bearer {ADMIN_KEY}", "Accept-Encoding": "identity"})
        change(case)
        case.call_and_validate(checks=CHECKS)

    try:
        answered_as_said()
    except Unsatisfiable:  # nothing about this operation can be got wrong
        assert mode is GenerationMode.NEGATIVE
