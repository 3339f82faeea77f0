# ruff: noqa: E501  # paragraphs of the page
"""docs/providers.md, made from the profiles: `make providers` writes it, test_provider_profiles.py holds it equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.settings.provider_profiles import GENERIC, ProviderProfile, effective_profile, profiles

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
_MEANINGS = {
    "dead_key": (
        "dead key",
        "the key is disabled, tested with growing pauses; other keys and tiers are used",
    ),
    "terminated": ("terminated", "the same"),
    "no_balance": (
        "no balance",
        "the account is closed, tested with growing pauses; other accounts are used",
    ),
    "busy": ("busy", "pause, then again; never counts"),
    "loading": ("model loading", "the same"),
    "later": ("try again later", "the same, unless something broke"),
    "rate_limited": ("over a limit", "pause of the quota that it names, then again; never counts"),
    "context_too_long": (
        "context too long",
        "a smaller `max_tokens` where that helps, else the tier for it, else failed",
    ),
    "content_refused": ("content refused", "the tier for it, else failed; no key is touched"),
    "unknown_model": ("unknown model", "the next tier, else failed"),
    "forbidden": ("forbidden", "another key; failed once it is the request's fault"),
    "invalid": ("invalid request", "the fix that the message suggests, else failed"),
    "broken": ("broken", "again after a backoff; counts"),
}
_HEAD = """\
# Providers

<!-- Made by `make providers` from app/settings/profiles/*.toml. -->
What providers say and accept differs. Penstock keeps it as data: a profile for each provider, laid over one for all. An upstream gets
the profile of its address, or the one that `profile = "NAME"` names; without either the generic one. Where a word is missing or a
relay has its own, add it in `penstock.toml`; `quirks` has the same tables as a profile:
```toml
[[upstream]]
name = "relay"
base_url = "https://relay.example/v1"
profile = "one-api"

[upstream.quirks.words.busy]          # meanings: see below
begins = ["the oven is cold"]         # how a message begins; codes = [...] for codes, says = [...] anywhere in it,
                                      # unless = [...] for what rules the meaning out

[upstream.quirks]
statuses = { 418 = "busy" }           # what a status means here

[upstream.quirks.wait]
headers = ["x-come-back-in"]          # fields = [...] of the error's JSON, says = ["come back in {wait}"]

[upstream.quirks.request]             # changes to every request
auth = "x-api-key"                    # the header of the key; "authorization" sends Bearer KEY
query = { api-version = "2024-10-21" }
drop = ["logprobs"]
rename = { max_completion_tokens = "max_tokens" }
roles = { developer = "system" }
stream_options = false
max_tokens = 8192
```
Words that close a key or an account count only at the start of a message, after fillers such as "sorry": the rest may quote a prompt.

## What is understood
Common to all profiles: errors as an object, a list, JSON text inside a message, `code` beside `msg`, `detail` as text or list, plain text and
HTML pages. FastAPI's lists keep their words; `param` and the upstream's own code reach the client.

"""
_WAITS = """
## How long to wait
In this order: a header ({headers}; a date or a number; 0, a past date and negative numbers say nothing), a field of the error at any depth
({fields}), a phrase ("retry in 8s", "try again in 1m3.5s", "请在8秒后重试"), the reset of a limit that is used up ({resets}). Without
any, pauses double from 1 to 32 s with jitter, until a call succeeds.

## Requests that are fixed
An error that names a parameter is not passed on at once: the request is changed and sent again, without counting as an attempt. Ranges are
kept (`temperature`, `top_p`, `max_tokens` ...), parameters renamed or left out, `developer` sent as `system`, `stream_options` left out, and
`max_tokens` limited to what the context leaves. Up to 8 changes a task; its JSON lists them as `changes`. What worked is remembered for a
week by upstream and model, by all workers and over restarts, and applied before sending; `penstock keys` shows it. Not remembered are
`max_tokens` for one prompt's length, and what depends on another parameter.

## Profiles
Beyond what all have in common:

| profile | provider | hosts | key in | own words, codes and statuses | waits | requests |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return "".join([_HEAD, *_meanings(), _waits(), *_rows()])


def _meanings() -> Iterator[str]:
    yield "| meaning | in `quirks` | codes, beginnings, phrases known to all | what happens |\n|---|---|---|---|\n"
    words = effective_profile(GENERIC)["words"]
    for name, (title, then) in _MEANINGS.items():
        counts = ", ".join(str(len(words[name].get(kind, ()))) for kind in ("codes", "begins", "says"))
        yield f"| {title} | `{name}` | {counts} | {then} |\n"


def _waits() -> str:
    wait = effective_profile(GENERIC)["wait"]
    return _WAITS.format(**{name: _listed(wait[name]) for name in ("headers", "fields", "resets")})


def _rows() -> Iterator[str]:
    for name, one in profiles().items():
        if name == GENERIC:
            continue
        hosts = _listed(one.hosts) or "set `profile`"
        title = f"[{one.title}]({one.docs})" + (f". {one.note}" if one.note else "")
        auth = one.request.auth or "authorization"
        yield f"| `{name}` | {title} | {hosts} | `{auth}` | {_words(one)} | {_wait(one)} | {_request(one)} |\n"


def _words(one: ProviderProfile) -> str:
    said = [
        f"{_MEANINGS[meaning][0]}: {_listed((*words.codes, *words.begins, *words.says))}"
        for meaning, words in one.words.items()
    ]
    return "; ".join(said + [f"{status}: {_MEANINGS[m][0]}" for status, m in one.statuses.items()])


def _wait(one: ProviderProfile) -> str:
    return _listed((*one.wait.headers, *one.wait.fields, *one.wait.says, *one.wait.resets))


def _request(one: ProviderProfile) -> str:
    request = one.request
    parts = [f"without {_listed(request.drop)}"] if request.drop else []
    parts += [f"{_pairs(given)}" for given in (request.rename, request.roles) if given]
    parts += ["no `stream_options`"] if request.stream_options is False else []
    parts += [f"`?{key}={value}`" for key, value in request.query.items()]
    return "; ".join(parts)


def _pairs(given: Mapping[str, Any]) -> str:
    return ", ".join(f"`{old}` as `{new}`" for old, new in given.items())


def _listed(words: Any) -> str:
    return ", ".join(f"`{word}`".replace("|", "\\|") for word in words)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
