"""The official Python client, with strict validation of what comes back."""

import asyncio
import json
import time

import openai
from checks import API_KEY, BASE_URL, MODEL, run

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, _strict_response_validation=True)
SAID = [{"role": "user", "content": "hello"}]


def a_chat_is_answered():
    got = client.chat.completions.create(model=MODEL, messages=SAID, temperature=0.5, max_tokens=50)
    assert got.choices[0].message.content
    assert got.usage.total_tokens > 0


def code_found_on_the_web_runs():
    for name in ("gpt-4o-mini", "gpt-3.5-turbo", "deepseek-chat", "deepseek-reasoner"):
        assert client.chat.completions.create(model=name, messages=SAID).choices


def a_stream_makes_the_whole_answer_and_its_usage():
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=SAID, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage.total_tokens > 0


def fields_of_penstock_and_of_the_upstream_pass():
    body = {"priority": 0, "penstock": {"priority": "low", "metadata": {"row": 17}}}
    got = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=SAID, extra_body=body, extra_headers={"x-penstock-cache": "off"}
    )
    assert got.headers["x-penstock-task"]


def a_hundred_async_calls_are_all_answered():
    async def ask():
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as many:
            calls = [many.chat.completions.create(model=MODEL, messages=SAID) for _ in range(100)]
            return await asyncio.gather(*calls)

    assert len(asyncio.run(ask())) == 100


def base_urls_with_and_without_v1_work():
    root = BASE_URL.removesuffix("/v1")
    for url in (root, root + "/", BASE_URL + "/", BASE_URL + "/v1", root + "/openai/v1"):
        other = openai.OpenAI(base_url=url, api_key=API_KEY)
        assert other.chat.completions.create(model=MODEL, messages=SAID).choices, url


def the_azure_client_works():
    azure = openai.AzureOpenAI(
        azure_endpoint=BASE_URL.removesuffix("/v1"), api_key=API_KEY, api_version="2024-10-21"
    )
    assert azure.chat.completions.create(model=MODEL, messages=SAID).choices
    assert azure.models.list().data


def models_are_listed_and_retrieved():
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


def errors_are_typed():
    for call, kind in (
        (lambda: client.chat.completions.create(model="nobody", messages=SAID), openai.NotFoundError),
        (lambda: client.chat.completions.create(model=MODEL, messages=[]), openai.BadRequestError),
        (lambda: client.responses.create(model=MODEL, input="x"), openai.NotFoundError),
        (lambda: client.models.delete(MODEL), openai.PermissionDeniedError),
        (lambda: client.with_options(api_key="pk_x").models.list(), openai.AuthenticationError),
    ):
        try:
            call()
        except kind as error:
            assert error.body["message"]
        else:
            raise AssertionError(kind)


def a_file_becomes_a_batch_and_its_output():
    lines = [
        {
            "custom_id": "a",
            "url": "/v1/chat/completions",
            "method": "POST",
            "body": {"model": MODEL, "messages": SAID},
        },
        {"custom_id": 2, "body": {"model": MODEL, "messages": SAID, "max_tokens": -1}},
        {"custom_id": "wrong", "body": {"model": MODEL, "messages": SAID, "max_tokens": "4096"}},
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"custom_llm_provider": "openai"},
    )
    until = time.monotonic() + 120
    while batch.status not in ("completed", "failed") and time.monotonic() < until:
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 2, 1)
    assert len(client.files.content(batch.output_file_id).text.splitlines()) == 2
    assert "max_tokens" in client.files.content(batch.error_file_id).text


run(
    a_chat_is_answered,
    code_found_on_the_web_runs,
    a_stream_makes_the_whole_answer_and_its_usage,
    fields_of_penstock_and_of_the_upstream_pass,
    a_hundred_async_calls_are_all_answered,
    base_urls_with_and_without_v1_work,
    the_azure_client_works,
    models_are_listed_and_retrieved,
    errors_are_typed,
    a_file_becomes_a_batch_and_its_output,
)
