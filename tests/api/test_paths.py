"""Which path a client means, and what a path that is not served is told."""

import pytest

from app.api.paths import canonical, not_found_words

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "served"),
    [
        (CHAT, CHAT),
        ("/v1//chat/completions", CHAT),
        ("//v1/chat//completions/", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/chat/completions", CHAT),
        ("/openai/v1/chat/completions", CHAT),
        ("/openai/models", "/v1/models"),
        ("/api/v1/chat/completions", CHAT),
        ("/v1/models/", "/v1/models"),
        ("/models/org/second", "/v1/models/org/second"),
        ("/files/file_1/content", "/v1/files/file_1/content"),
        ("/batches/batch_1/cancel/", "/v1/batches/batch_1/cancel"),
        ("/v1/v1/tasks", "/v1/tasks"),
        # Left as they are.
        ("/v1/tasks", "/v1/tasks"),
        ("/api/v1/batch", "/api/v1/batch"),
        ("/", "/"),
        ("", ""),
        ("/dashboard/static/x.css", "/dashboard/static/x.css"),
        ("/modelsx", "/modelsx"),
        ("/v1/chat", "/v1/chat"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions/chat/completions"),
    ],
)
def test_a_path_is_served_as_its_client_means_it(path: str, served: str) -> None:
    assert canonical(path) == (served, None)


def test_azures_path_names_the_model() -> None:
    assert canonical("/openai/deployments/gpt/chat/completions") == (CHAT, "gpt")
    assert canonical("//openai/deployments/org/second/chat/completions/") == (CHAT, "org/second")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/responses", 'set_default_openai_api("chat_completions")'),
        ("/responses", 'openai.chat("MODEL")'),
        ("/openai/v1/responses/resp_1", "POST /v1/chat/completions"),
        ("/v1/completions", "is_chat_model=True"),
        ("/v1/messages", "Anthropic"),
        ("/v1/embeddings", "/v1/embeddings is not offered. Offered are"),
        ("/v1/audio/speech", "/v1/audio is not offered"),
        (
            "/v1beta/openai/chat/completions",
            "base_url to http://host:8000/v1; it adds /chat/completions itself",
        ),
        ("/v1/chat/completions/chat/completions", "base_url to http://host:8000/v1"),
        ("/api/paas/v4/chat/completions", "base_url to http://host:8000/v1"),
        ("/nowhere", "The base_url of OpenAI clients is http://host:8000/v1"),
    ],
)
def test_a_path_that_is_not_served_is_told_what_to_do(path: str, words: str) -> None:
    assert words in not_found_words(path, "http://host:8000/")
