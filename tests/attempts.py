"""Ready-made values of an attempt's stages, to be changed where a test cares."""

from typing import Any

import orjson

from app.settings.provider_profiles import GENERIC, effective_profile
from app.tasks.domain.attempt import Claimed, Permit
from app.upstreams.domain.classify import UpstreamProfile
from app.upstreams.domain.reply import Reply

NOW = 1_790_000_000.0
PROFILE = UpstreamProfile(effective_profile(GENERIC))


def a_permit(**changes: Any) -> Permit:
    given: dict[str, Any] = {
        "task_id": "task_1",
        "release": 7,
        "key": "k1",
        "upstream": "up",
        "account": "acme",
        "upstream_model": "deepseek-flash",
        "quotas": (),
        "estimate": 100,
        "released_at": NOW - 0.1,
    }
    return Permit(**{**given, **changes})


def a_claimed(permit: Permit | None = None, **changes: Any) -> Claimed:
    given: dict[str, Any] = {
        "permit": permit or a_permit(),
        "worker": "worker_1",
        "client_id": "alice",
        "batch_id": None,
        "model": "deepseek-flash",
        "request": '{"messages":[{"role":"user","content":"hello"}],"max_tokens":9000}',
        "attempts": 0,
        "counted": 0,
        "lost": 0,
        "avoid": (),
        "retry": None,
        "created_at": NOW - 10,
        "started_at": NOW - 1,
        "expires_at": NOW + 86400,
        "callback_url": None,
        "metadata": None,
    }
    return Claimed(**{**given, **changes})


def a_reply(status: int = 200, body: Any = b"", **headers: str) -> Reply:
    """`body` is bytes, or a value to be written as JSON. a_reply(429, {...}, retry_after="2")."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def a_completion(**changes: Any) -> dict[str, Any]:
    """A proper chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"id": "c1", "object": "chat.completion", "choices": [choice], "usage": usage, **changes}
