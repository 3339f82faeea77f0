"""Paths as clients write them: base URLs with /v1, without, twice, Azure's, and endpoints that are not offered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_OPENAI = r"(?:chat/completions|models|files|batches)(?:/.*)?"
_DEPLOYMENT = re.compile(rf"/openai/deployments/(?P<name>.+?)/(?P<rest>{_OPENAI})")
# Azure's /openai, OpenRouter's /api, /v1 left out or written twice.
_ROOTS = re.compile(rf"(?:/openai|/api)?(?:/v1)*/(?P<rest>{_OPENAI})")
_TWICE = re.compile(r"(?:/v1){2,}(?=/)")
_SLASHES = re.compile(r"/{2,}")
_ENDPOINT = re.compile(r"(?P<base>/.*?)??/(?P<end>chat/completions|models|files|batches)")


class ServedPath(NamedTuple):
    """A path as the routes have it; `deployment`: the model that an Azure path names."""

    path: str
    deployment: str | None = None


def canonical(path: str) -> ServedPath:
    """The served path that a client means; any other path unchanged, but for repeated slashes."""
    plain = _SLASHES.sub("/", path)
    trimmed = plain.rstrip("/") or "/"
    if found := _DEPLOYMENT.fullmatch(trimmed):
        return ServedPath(f"/v1/{found['rest']}", found["name"])
    if found := _ROOTS.fullmatch(trimmed):
        return ServedPath(f"/v1/{found['rest']}")
    return ServedPath(_TWICE.sub("/v1", plain))


_CHAT = "ask for chat completions instead"
_UNOFFERED: Mapping[str, str] = {
    "responses": f'{_CHAT}: openai.chat("MODEL") in the AI SDK, set_default_openai_api("chat_completions") in the '
    'Agents SDK (setOpenAIAPI in JavaScript), use_responses_api=False in LangChain, "openai-chat:MODEL" in Pydantic AI',
    "completions": f"{_CHAT}: is_chat_model=True in LlamaIndex's OpenAILike, ChatOpenAI in LangChain, "
    '"openai/MODEL" in LiteLLM',
    "messages": f"{_CHAT}, with an OpenAI client: this is Anthropic's endpoint",
    **dict.fromkeys(
        (
            *("assistants", "threads", "vector_stores", "conversations", "containers", "realtime", "evals"),
            *("fine_tuning", "uploads", "embeddings", "rerank", "moderations", "images", "audio", "videos"),
            *("organization", "engines", "edits"),
        ),
        "",
    ),
}
_OFFERED = "POST /v1/chat/completions, /v1/models, /v1/files, /v1/batches, /v1/tasks and /v1/batch; see /docs"


def not_found_words(path: str, root: str) -> str:
    """What to do about a path that is not served; `root` is our address, such as http://127.0.0.1:8000/."""
    base = f"{root.rstrip('/')}/v1"
    name = canonical(path).path.removeprefix("/v1").lstrip("/").partition("/")[0]
    if name in _UNOFFERED:
        hint = f"; {_UNOFFERED[name]}" if _UNOFFERED[name] else ""
        return f"/v1/{name} is not offered{hint}. Offered are {_OFFERED}"
    if (found := _ENDPOINT.fullmatch(path.rstrip("/"))) and found["base"]:
        return f"there is nothing at {path[:200]}: set your client's base_url to {base}; it adds /{found['end']} itself"
    return f"there is nothing at this path; offered are {_OFFERED}. The base_url of OpenAI clients is {base}"
