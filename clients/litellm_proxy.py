"""LiteLLM's proxy as the upstream of a second Penstock; its own upstream is the first. BASE_URL is the second's."""

import json
import urllib.error
import urllib.request

from checks import API_KEY, BASE_URL, run


def _ask(model, **more):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], **more}).encode()
    asked = urllib.request.Request(
        f"{BASE_URL}/chat/completions", body, {"api-key": API_KEY, "content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as answer:
        return answer.read()


def an_answer_comes_through_both():
    assert json.loads(_ask("through-proxy"))["choices"][0]["message"]["content"]


def a_stream_comes_through_both():
    assert b"data: [DONE]" in _ask("through-proxy", stream=True)


def a_model_that_the_proxy_does_not_have_is_an_error_with_its_words():
    try:
        _ask("not-there")
    except urllib.error.HTTPError as error:
        said = json.loads(error.read())["error"]["message"]
        assert 400 <= error.code < 500, (error.code, said)
    else:
        raise AssertionError("answered")


run(
    an_answer_comes_through_both,
    a_stream_comes_through_both,
    a_model_that_the_proxy_does_not_have_is_an_error_with_its_words,
)
