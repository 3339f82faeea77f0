"""LiteLLM as a client."""

import asyncio
import json
import time

import litellm
from checks import API_KEY, BASE_URL, MODEL, run

SAID = [{"role": "user", "content": "hello"}]
WAY = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": API_KEY}
FILES = {"custom_llm_provider": "openai", "api_base": BASE_URL, "api_key": API_KEY}


def completion_answers():
    assert litellm.completion(messages=SAID, **WAY).choices[0].message.content


def stream_comes_in_pieces():
    pieces = litellm.completion(messages=SAID, stream=True, **WAY)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)


def async_answers():
    assert asyncio.run(litellm.acompletion(messages=SAID, **WAY)).choices


def azure_answers():
    got = litellm.completion(
        f"azure/{MODEL}",
        messages=SAID,
        api_base=BASE_URL.removesuffix("/v1"),
        api_key=API_KEY,
        api_version="2024-10-21",
    )
    assert got.choices[0].message.content


def a_batch_over_a_file_ends():
    line = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"model": MODEL, "messages": SAID}}
    file = litellm.create_file(file=("in.jsonl", json.dumps(line).encode()), purpose="batch", **FILES)
    batch = litellm.create_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, **FILES
    )
    until = time.monotonic() + 120
    while batch.status not in ("completed", "failed") and time.monotonic() < until:
        time.sleep(0.5)
        batch = litellm.retrieve_batch(batch_id=batch.id, **FILES)
    assert batch.status == "completed", batch.status


run(completion_answers, stream_comes_in_pieces, async_answers, azure_answers, a_batch_over_a_file_ends)
