"""Fields of a chat call that are Penstock's and OpenAI's alike: to whom they go."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.caching.domain.caching import cache_key
from app.settings.provider_profiles import effective_profile, profiles
from app.submission.openai_bodies import ChatBody
from app.upstreams.call_upstream import body_of
from app.upstreams.domain.classify import UpstreamProfile
from tests.attempts import a_claimed

MESSAGES = [{"role": "user", "content": "hi"}]


def sent(profile: str, **fields: Any) -> dict[str, Any]:
    """What such a chat call becomes at such a provider, beside its model and messages."""
    body = ChatBody.model_validate({"model": "m", "messages": MESSAGES, **fields}).request()
    stored = orjson.dumps({"messages": body.messages, **body.parameters}).decode()
    passes = UpstreamProfile(effective_profile(profile)).passes
    plain = orjson.loads(body_of(a_claimed(request=stored), passes=passes))
    return {name: value for name, value in plain.items() if name not in ("model", "messages")}


BOTH = {"store": True, "metadata": {"job": "7"}}


@pytest.mark.parametrize("profile", sorted(profiles()))
def test_what_a_provider_shall_store_reaches_those_that_can(profile: str) -> None:
    knows = profile in ("openai", "azure", "azure-v1")
    assert sent(profile, **BOTH, service_tier="flex") == {**(BOTH if knows else {}), "service_tier": "flex"}


def test_without_consent_nothing_of_it_leaves() -> None:
    assert sent("openai", metadata={"job": "7"}) == {}
    assert sent("openai", metadata={"job": "7"}, store=False) == {}
    assert sent("openai", store=True) == {"store": True}
    assert sent("openai", penstock={"store": True, "metadata": {"job": "7"}}) == {}


def test_fields_that_are_handed_on_by_name_are_not_held_back() -> None:
    assert sent("generic", penstock={"store": False}, store=True)["store"] is True


def test_they_do_not_tell_answers_apart() -> None:
    plain = ChatBody.model_validate({"model": "m", "messages": MESSAGES}).request()
    shared = ChatBody.model_validate({"model": "m", "messages": MESSAGES, **BOTH}).request()
    keys = {cache_key("client:a", "m", "1", dict(one.parameters)) for one in (plain, shared)}
    assert len(keys) == 1
