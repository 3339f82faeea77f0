"""Chat completions through the official client: as the upstream answers, whole or in pieces."""

import asyncio

import openai
import pytest

from tests.openai_client.world import FAST, ONE, RECORDED, SECOND, World, ask


def test_a_call_answers_as_the_upstream_does(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(model=FAST, messages=ask("Say hello"))
    assert got.choices[0].message.content == "This is a simulated answer. You said: Say hello"
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens > 0
    assert got._request_id


def test_a_hundred_async_calls_at_once_are_all_answered(world: World) -> None:
    async def main() -> list[str | None]:
        async with world.async_client() as client:
            calls = [client.chat.completions.create(model=FAST, messages=ask(f"n{n}")) for n in range(100)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == [f"This is a simulated answer. You said: n{n}" for n in range(100)]


def test_a_stream_comes_in_pieces_that_make_the_whole_answer(world: World, client: openai.OpenAI) -> None:
    with client.chat.completions.create(model=FAST, messages=ask("Tell me"), stream=True) as stream:
        task_id = stream.response.headers["x-penstock-task"]
        chunks = list(stream)
    assert len(chunks) > 3
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "This is a simulated answer. You said: Tell me"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    task = world.native.task(task_id)
    assert task["status"] == "succeeded"
    assert task["result"]["choices"][0]["message"]["content"] == text
    assert task["result"]["object"] == "chat.completion"
    assert task["usage"]["total_tokens"] > 0


def test_a_stream_tells_its_usage_where_asked(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=FAST, messages=ask("Usage"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


def test_an_async_stream_works_alike(world: World) -> None:
    async def main() -> str:
        async with world.async_client() as client:
            stream = await client.chat.completions.create(model=FAST, messages=ask("async"), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(main()) == "This is a simulated answer. You said: async"


def test_what_the_caller_adds_reaches_the_upstream_and_what_is_ours_does_not(
    world: World, client: openai.OpenAI
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    got = client.chat.completions.create(
        model=RECORDED,
        messages=ask("pass on"),
        temperature=0.5,
        logprobs=True,
        tools=[tool],  # type: ignore[list-item]
        response_format={"type": "json_object"},
        metadata={"mine": "yes"},
        extra_body={
            "thinking": {"type": "enabled"},
            "user_id": "u1",
            "priority": "high",
            "expires_in": "1h",
            "callback_url": "https://example.com/hook",
            "cache": {"mode": "off"},
        },
    )
    assert (got.id, got.choices[0].message.content) == ("chatcmpl-recorded", "recorded")
    assert world.recorder.bodies[-1] == {
        "model": "upstream-name",
        "messages": ask("pass on"),
        "temperature": 0.5,
        "logprobs": True,
        "tools": [tool],
        "response_format": {"type": "json_object"},
        "thinking": {"type": "enabled"},
        "user_id": "u1",
    }


def test_a_stream_of_an_upstream_that_does_not_stream_is_whole_all_the_same(
    world: World, client: openai.OpenAI
) -> None:
    chunks = list(client.chat.completions.create(model=RECORDED, messages=ask("whole"), stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "recorded"
    assert world.recorder.bodies[-1]["stream"] is True


def test_models_are_listed_and_found_by_their_names(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [FAST, ONE, SECOND, RECORDED]
    assert client.models.retrieve(SECOND).id == SECOND
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


def test_errors_are_those_of_the_client(world: World, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=ask("x"))
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=FAST, messages=[])
    assert refused.value.param == "messages"
    with pytest.raises(openai.AuthenticationError):
        world.client("pk_" + "x" * 43).models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model=FAST, input="x")
    assert missing.value.type == "not_found_error"


def test_an_upstreams_refusal_and_its_failure_are_answered_once_and_not_repeated(world: World) -> None:
    client = world.client(max_retries=2)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=FAST, messages=ask("[bad]"))
    assert "temperature is wrong" in refused.value.message
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model=FAST, messages=ask("[down] for good"))
    assert failed.value.response.headers["x-should-retry"] == "false"
    task = world.native.task(failed.value.response.headers["x-penstock-task"])
    assert (task["status"], task["attempts"]) == ("failed", 2)


def test_a_stream_that_fails_at_once_has_a_status_of_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=FAST, messages=ask("[bad]"), stream=True)


@pytest.mark.parametrize("words", ["[breaks] on the way", "[cut] on the way"])
def test_a_failure_in_mid_stream_is_an_error_and_is_not_tried_again(
    world: World, client: openai.OpenAI, words: str
) -> None:
    with client.chat.completions.create(model=FAST, messages=ask(words), stream=True) as stream:
        task_id = stream.response.headers["x-penstock-task"]
        with pytest.raises(openai.APIError):
            list(stream)
    task = world.task_ended(task_id)
    assert (task["status"], task["attempts"]) == ("failed", 1)


def test_a_stream_is_tried_again_before_its_first_chunk(world: World, client: openai.OpenAI) -> None:
    with client.chat.completions.create(model=FAST, messages=ask("[down once]"), stream=True) as stream:
        task_id = stream.response.headers["x-penstock-task"]
        assert "".join(c.choices[0].delta.content or "" for c in stream).endswith("[down once]")
    assert world.native.task(task_id)["attempts"] == 2


def test_stored_completions_are_listed_read_changed_and_deleted(world: World, client: openai.OpenAI) -> None:
    made = [
        client.chat.completions.create(
            model=FAST,
            messages=ask(f"keep {number}"),
            store=True,
            metadata={"shelf": shelf, "row": str(number)},
        )
        for number, shelf in enumerate(["a", "b", "a"])
    ]
    chunks = list(
        client.chat.completions.create(model=FAST, messages=ask("streamed"), store=True, stream=True)
    )
    other = client.chat.completions.create(model=FAST, messages=ask("unkept"))
    stored = client.chat.completions
    assert [one.id for one in stored.list(metadata={"shelf": "a"})] == [made[0].id, made[2].id]
    newest = stored.list(order="desc", limit=2, model=FAST)
    assert [one.id for one in newest.data] == [chunks[0].id, made[2].id]
    assert [one.id for one in newest] == [chunks[0].id, *(one.id for one in reversed(made))]
    assert stored.retrieve(made[1].id).choices == made[1].choices
    changed = stored.update(made[1].id, metadata={"shelf": "c"})
    assert changed.to_dict()["metadata"] == {"shelf": "c"}
    assert [one.id for one in stored.list(metadata={"shelf": "c"})] == [made[1].id]
    assert stored.delete(made[1].id).deleted
    for name in (made[1].id, other.id, "chatcmpl-nobody"):
        with pytest.raises(openai.NotFoundError):
            stored.retrieve(name)
    stranger = world.client(world.stack.add_client("stranger_of_stored").key)
    assert list(stranger.chat.completions.list()) == []
    with pytest.raises(openai.NotFoundError):
        stranger.chat.completions.retrieve(made[0].id)
