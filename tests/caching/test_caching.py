"""The exact cache's decisions: who uses it, under which key, what may be kept."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.caching.domain.caching import (
    DEFAULT_TTL,
    NO_CACHE,
    SHARED,
    CacheParams,
    CacheRules,
    CacheScope,
    CacheUse,
    Mode,
    cache_key,
    may_keep,
    model_version,
    scope_of,
    use_of,
)
from app.platform.domain.errors import Invalid

MESSAGES = [{"role": "user", "content": "2 + 2?"}]
COLD: dict[str, Any] = {"messages": MESSAGES, "temperature": 0}
ASKED = CacheParams()

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(texts, values, max_size=4)
slugs = st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True)


def use(wish: CacheParams | None, body: dict[str, Any], client: str = "alice", **rules: Any) -> CacheUse:
    return use_of(wish, CacheRules(**rules), client_id=client, model="m", version="v", body=body)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": MESSAGES},
        {"messages": MESSAGES, "temperature": 0.1},
        {"messages": MESSAGES, "temperature": None},
        {"messages": MESSAGES, "temperature": False},
        {"messages": MESSAGES, "temperature": "0"},
    ],
)
def test_without_being_asked_the_cache_is_off_above_temperature_zero(body: dict[str, Any]) -> None:
    assert use(None, body) == NO_CACHE


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_at_temperature_zero_the_cache_is_on_by_itself(zero: float) -> None:
    used = use(None, {"messages": MESSAGES, "temperature": zero})
    assert (used.look, used.keep_seconds) == (True, DEFAULT_TTL)


@pytest.mark.parametrize(
    ("mode", "look", "keep", "joins"),
    [
        (None, True, DEFAULT_TTL, True),
        (Mode.WRITE, True, DEFAULT_TTL, True),
        (Mode.READ, True, None, False),
        (Mode.REFRESH, False, DEFAULT_TTL, False),
    ],
)
def test_who_asks_is_served_at_any_temperature(
    mode: Mode | None, look: bool, keep: float | None, joins: bool
) -> None:
    used = use(CacheParams(mode=mode), {"messages": MESSAGES, "temperature": 1.3})
    assert used.key is not None
    assert (used.look, used.keep_seconds, used.joins) == (look, keep, joins)


def test_off_is_off_at_temperature_zero_too() -> None:
    assert use(CacheParams(mode=Mode.OFF), COLD) == NO_CACHE


def test_an_operator_can_switch_it_off_for_everybody() -> None:
    assert use(ASKED, COLD, enabled=False) == NO_CACHE


def test_a_wished_lifetime_holds_up_to_the_operators_longest() -> None:
    assert use(CacheParams(ttl=60), COLD).keep_seconds == 60
    assert use(CacheParams(ttl=10**9), COLD, longest_ttl=500.0).keep_seconds == 500.0
    assert use(None, COLD, ttl=10.0).keep_seconds == 10.0


def test_a_shared_scope_needs_the_operator_and_the_request() -> None:
    wish = CacheParams(scope=CacheScope.SHARED)
    with pytest.raises(Invalid, match=r"cache\.scope"):
        use(wish, COLD)
    alone, together = use(ASKED, COLD, shared=True), use(wish, COLD, shared=True)
    assert scope_of(alone.key or "") == "client:alice"
    assert scope_of(together.key or "") == SHARED
    assert use(wish, COLD, "bob", shared=True).key == together.key


@given(slugs, slugs, bodies, bodies)
def test_two_clients_never_have_one_key(
    one: str, other: str, body: dict[str, Any], more: dict[str, Any]
) -> None:
    mine, theirs = use(ASKED, body, one), use(ASKED, more, other)
    assert mine.key is not None
    assert theirs.key is not None
    assert scope_of(mine.key) == f"client:{one}"
    assert (mine.key == theirs.key) <= (one == other)


@given(bodies)
def test_a_key_does_not_depend_on_how_the_body_was_written(body: dict[str, Any]) -> None:
    again = json.loads(json.dumps(dict(reversed(body.items())), indent=2))
    assert cache_key("s", "m", "v", body) == cache_key("s", "m", "v", again)


@given(values, values)
def test_other_contents_have_other_keys(one: Any, other: Any) -> None:
    mine, theirs = ({"messages": [{"role": "user", "content": text}]} for text in (one, other))
    same = cache_key("s", "m", "v", mine) == cache_key("s", "m", "v", theirs)
    assert same == (_tagged(one) == _tagged(other))


def _tagged(value: Any) -> Any:
    """A value such that == means: the same JSON."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return (type(value).__name__, value)
    if isinstance(value, int | float):
        return ("number", int(value) if isinstance(value, float) and _whole(value) else value, _far(value))
    if isinstance(value, list):
        return [_tagged(part) for part in value]
    return {name: _tagged(part) for name, part in value.items()}


def _whole(value: float) -> bool:
    return value.is_integer() and abs(value) < 2**53


def _far(value: float) -> str:
    """Beyond 2**53 whole numbers and floats are kept apart, as an upstream may."""
    return type(value).__name__ if abs(value) >= 2**53 else ""


@pytest.mark.parametrize(
    "other",
    [
        {**COLD, "temperature": 0.0},
        {**COLD, "n": 1},
        {**COLD, "top_p": None},
        {**COLD, "user": "u-17", "metadata": {"a": "b"}, "store": True, "stream_options": {}},
    ],
)
def test_what_decides_no_answer_is_no_part_of_the_key(other: dict[str, Any]) -> None:
    assert use(ASKED, other).key == use(ASKED, COLD).key


@pytest.mark.parametrize(
    "other",
    [
        {**COLD, "temperature": 0.5},
        {**COLD, "n": 2},
        {**COLD, "seed": 1},
        {**COLD, "max_tokens": 5},
        {**COLD, "messages": [{"role": "system", "content": "2 + 2?"}]},
        {**COLD, "messages": [{"role": "user", "content": "2 + 2? "}]},
        {**COLD, "messages": [*MESSAGES, *MESSAGES]},
        {**COLD, "thinking": {"type": "enabled"}},
    ],
)
def test_what_may_decide_an_answer_is(other: dict[str, Any]) -> None:
    assert use(ASKED, other).key != use(ASKED, COLD).key


def test_other_tiers_or_another_word_of_the_operator_are_another_version() -> None:
    tiers = [[("deepseek", "flash"), ("silicon", "V3")]]
    version = model_version(tiers, "")
    assert version == model_version([[("silicon", "V3"), ("deepseek", "flash"), ("deepseek", "flash")]], "")
    assert version != model_version(tiers, "2026-11")
    assert version != model_version([[("deepseek", "v4-pro")]], "")
    assert cache_key("s", "m", version, COLD) != cache_key("s", "m", "", COLD)


def answer(*reasons: Any, **more: Any) -> dict[str, Any]:
    choices = [{"index": n, "finish_reason": reason} for n, reason in enumerate(reasons)]
    return {"id": "c", "choices": choices, **more}


def kept(document: Any, *, simulated: bool = False, repaired: bool = False, size: int = 10) -> bool:
    return may_keep(document, simulated=simulated, repaired=repaired, size=size, most=100)


@pytest.mark.parametrize("document", [answer("stop"), answer("tool_calls"), answer("stop", "stop")])
def test_whole_answers_are_kept(document: Any) -> None:
    assert kept(document)


@pytest.mark.parametrize(
    "document",
    [
        answer("length"),
        answer("content_filter"),
        answer("stop", "length"),
        answer(None),
        answer(),
        answer("stop", error={"message": "no"}),
        answer("stop", degraded=True),
        answer("stop", simulated=True),
        {"choices": "stop"},
        {"choices": ["stop"]},
        [],
        None,
    ],
)
def test_errors_truncated_filtered_degraded_and_simulated_answers_are_never_kept(document: Any) -> None:
    assert not kept(document)


def test_neither_are_answers_marked_elsewhere_repaired_or_too_large() -> None:
    assert not kept(answer("stop"), simulated=True)
    assert not kept(answer("stop"), repaired=True)
    assert not kept(answer("stop"), size=101)
