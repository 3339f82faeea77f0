"""What providers say and accept, as data: profiles/*.toml, an upstream's choice of one, and its own `quirks` on top.

Every profile is laid over `generic.toml`, which holds what is common. Lists add up; other values replace.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from app.settings.config_errors import config_error
from app.settings.values import Count, FromList, Section

FOLDER = Path(__file__).parent / "profiles"
GENERIC = "generic"

Words = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], FromList]
Meaning = Literal[
    "no_balance",
    "dead_key",
    "terminated",
    "context_too_long",
    "content_refused",
    "unknown_model",
    "forbidden",
    "busy",
    "loading",
    "later",
    "rate_limited",
    "invalid",
    "broken",
]


class WordSettings(Section):
    """Words of one meaning. Case, spaces and punctuation do not matter; `*` is any text, `$` a message's end."""

    # Whole words of an error's code, type, status or reasons.
    codes: Words = ()
    # How a message begins, after fillers such as "sorry".
    begins: Words = ()
    # What it may say anywhere; not for meanings that would take a key out of use.
    says: Words = ()
    # What it may say anywhere that rules this meaning out, whatever else it says.
    unless: Words = ()


class WaitSettings(Section):
    """Where an answer says how long to wait."""

    # Headers with seconds, milliseconds (-ms) or a date, in order.
    headers: Words = ()
    # Fields of an error's JSON, at any depth.
    fields: Words = ()
    # Phrases of its message; {wait} stands for "8s", "1m3.5s" or "8 秒".
    says: Words = ()
    # Headers that tell when a limit is full again.
    resets: Words = ()


class ShapeSettings(Section):
    """Names of fields in errors, most common first."""

    errors: Words = ()
    messages: Words = ()
    codes: Words = ()
    types: Words = ()
    params: Words = ()


class FixSettings(Section):
    """Phrases by which an error suggests a change of the request: {name}, {min}, {max}, {context}, {input}, {other}."""

    clamp: Words = ()
    rename: Words = ()
    drop: Words = ()
    # Drops that depend on the rest of a request, and are not remembered.
    omit: Words = ()
    # {context} tokens hold prompt and answer together; {input} of them are the prompt.
    fit: Words = ()
    # A role that is refused, as {role}.
    role: Words = ()
    # Other names of parameters in messages.
    aliases: dict[str, str] = Field(default_factory=dict)
    # Which role takes the place of one that is refused.
    roles: dict[str, str] = Field(default_factory=dict)


class RequestSettings(Section):
    """What is changed in every request, before it is sent."""

    # Parameters to leave out.
    drop: Words = ()
    # Parameters to rename.
    rename: dict[str, str] = Field(default_factory=dict)
    # Roles of messages to replace, such as { developer = "system" }.
    roles: dict[str, str] = Field(default_factory=dict)
    # Whether a stream may be asked for its usage (stream_options).
    stream_options: bool | None = None
    # Fields of chat calls that are Penstock's, too, and go to the provider where a call says `store: true`.
    passes: Words = ()
    # The largest max_tokens that is sent.
    max_tokens: Count | None = None
    # Added to the address, such as { api-version = "2024-10-21" }.
    query: dict[str, str] = Field(default_factory=dict)
    # The header that carries the key; "authorization" carries it as "Bearer KEY".
    auth: str | None = None

    @field_validator("auth")
    @classmethod
    def _is_a_header(cls, value: str | None) -> str | None:
        if value is not None and not value.replace("-", "").isalnum():
            raise config_error(
                "must be the name of a header", 'write "authorization", "api-key" or "x-api-key"'
            )
        return None if value is None else value.lower()


class ProfileSettings(Section):
    """What differs by provider. An upstream's own stands in `quirks`."""

    words: dict[Meaning, WordSettings] = Field(default_factory=dict)
    # What an HTTP status means here, by itself, such as { 498 = "busy" }.
    statuses: dict[str, Meaning] = Field(default_factory=dict)
    wait: WaitSettings = WaitSettings()
    shape: ShapeSettings = ShapeSettings()
    fixes: FixSettings = FixSettings()
    request: RequestSettings = RequestSettings()
    # Words at the start of a message that carry no meaning.
    fillers: Words = ()


class ProviderProfile(ProfileSettings):
    """A profile that comes with Penstock."""

    title: str
    # Where this is documented.
    docs: str = ""
    # Hosts of its API; ".azure.com" stands for all that end so, and a path may follow.
    hosts: Words = ()
    note: str = ""


@cache
def profiles() -> Mapping[str, ProviderProfile]:
    """All that come with Penstock, by name."""
    files = sorted(FOLDER.glob("*.toml"))
    return {
        file.stem: ProviderProfile.model_validate(tomllib.loads(file.read_text("utf-8"))) for file in files
    }


def profile_name(profile: str | None, base_url: str) -> str:
    """The configured profile, else the one of the address's host, else the generic one."""
    if profile is not None:
        return profile
    address = urlsplit(base_url)
    named = [(len(k), name) for name, one in profiles().items() for k in one.hosts if _is_of(address, k)]
    return max(named, default=(0, GENERIC))[1]  # the longest says most


def _is_of(address: SplitResult, known: str) -> bool:
    host, _, path = known.partition("/")
    mine = address.hostname or ""
    is_host = mine.endswith(host) if host.startswith(".") else mine == host
    return is_host and address.path.lstrip("/").startswith(path)


def effective_profile(name: str, quirks: ProfileSettings | None = None) -> dict[str, Any]:
    """A profile over the generic one, with an upstream's own quirks on top, as plain values."""
    found: dict[str, Any] = {}
    for layer in (profiles()[GENERIC], profiles()[name] if name != GENERIC else None, quirks):
        if layer is not None:
            found = _over(found, layer.model_dump(exclude_unset=True))
    return found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        before = below.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[name] = _over(before, value)
        elif isinstance(value, tuple) and isinstance(before, tuple):
            merged[name] = (*value, *before)  # the more special words are tried first
        else:
            merged[name] = value
    return merged
