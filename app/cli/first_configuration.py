"""The penstock.toml that `penstock init` writes, and the providers it knows (dated files in `presets/known`)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Annotated

from pydantic import Field

from app.cli.presets import FOLDER
from app.settings.provider_profiles import GENERIC, profile_name, profiles
from app.settings.values import Count, FromList, Name, Positive, Section

# What stands first in lists; the rest follow by their names.
_FIRST = [
    "deepseek",
    "siliconflow",
    "modelscope",
    "bailian",
    "tencent",
    "tencent-ti",
    "volcengine",
    "huawei",
    "aws",
]


class ProviderLimits(Section):
    """The limits a provider reports, by account and model."""

    model: Name
    rpm: Positive | None = None
    tpm: Positive | None = None
    concurrency: Count | None = None


class Preset(Section):
    """A provider as it was on a day."""

    title: Name
    # The day that its documentation bore when this was read there, else the day of reading; and where that is.
    date: date
    docs: str
    # Where its API begins; "": each has an own, which looks like `address`.
    base_url: str = ""
    address: str = ""
    # The environment's usual name for its key; "": it needs none.
    secret: str = ""
    # Some of its models: our name and its own.
    models: dict[str, str] = Field(default_factory=dict)
    # Other names under which clients ask for a model: our name and those.
    aliases: dict[str, list[str]] = Field(default_factory=dict)
    # Limits that it reports; the others are learned.
    quota: Annotated[tuple[ProviderLimits, ...], FromList] = ()
    note: str = ""


@cache
def presets() -> Mapping[str, Preset]:
    """All of them, by name."""
    read = {
        file.stem: Preset.model_validate(tomllib.loads(file.read_text("utf-8")))
        for file in sorted((FOLDER / "known").glob("*.toml"))
    }
    order = [*_FIRST, *(name for name in read if name not in _FIRST)]
    return {name: read[name] for name in order}


NO_KEY_NEEDED = "command:echo no-key-needed"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A provider that was chosen."""

    name: str  # of its preset
    preset: Preset
    base_url: str
    secrets: tuple[str, ...]  # references
    models: Mapping[str, str]  # our name and its own
    number: int = 0  # among those of its preset, from 1; 0: the only one

    @property
    def upstream(self) -> str:
        """The name of its upstream."""
        return f"{self.name}-{self.number}" if self.number else self.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its keys: its own, numbered where there are several."""
        if len(self.secrets) == 1:
            return (self.upstream,)
        return tuple(f"{self.upstream}-{number}" for number, _ in enumerate(self.secrets, 1))


def numbered(chosen: Sequence[Chosen]) -> list[Chosen]:
    """The same, those of one preset together and numbered where there are several."""
    found = []
    for name in dict.fromkeys(one.name for one in chosen):
        same = [one for one in chosen if one.name == name]
        found += [replace(one, number=number if len(same) > 1 else 0) for number, one in enumerate(same, 1)]
    return found


def configuration_text(chosen: Sequence[Chosen]) -> str:
    """The whole file. The first model of the first provider is what requests get that name none."""
    models = list(dict.fromkeys(name for one in chosen for name in one.models))
    return "\n".join([*_head(chosen, models[0]), *_upstreams(chosen), *_models(chosen, models)]) + "\n"


def _head(chosen: Sequence[Chosen], default: str) -> Iterator[str]:
    yield "# Penstock's configuration, written by `penstock init`."
    yield "# All settings are explained in deploy/penstock.example.toml. Secrets are never stored in this file."
    yield f"# Then: penstock up      Keys: {', '.join(key for one in chosen for key in one.keys)}"
    yield ""
    yield "# Model for requests that name none."
    yield f"default_model = {_text(default)}"
    yield ""


def _upstreams(chosen: Sequence[Chosen]) -> Iterator[str]:
    for one in chosen:
        yield f"# --- {one.preset.title}, as of {one.preset.date}. {one.preset.docs}"
        if one.preset.note:
            yield f"# {one.preset.note}"
        yield "[[upstream]]"
        yield f"name = {_text(one.upstream)}"
        yield f"base_url = {_text(one.base_url)}"
        if one.name in profiles() and profile_name(None, one.base_url) == GENERIC:
            yield "# What it says and accepts: docs/providers.md"
            yield f"profile = {_text(one.name)}"
        if one.base_url.startswith("https:"):
            yield '# The oldest TLS to speak; "1.2" for a provider that has no newer one.'
            yield 'min_tls = "1.3"'
        yield ""
        yield from _keys(one)
        yield from _quotas(one)


def _keys(one: Chosen) -> Iterator[str]:
    several = len(one.keys) > 1
    for key, secret in zip(one.keys, one.secrets, strict=True):
        yield "[[key]]"
        yield f"name = {_text(key)}"
        yield f"upstream = {_text(one.upstream)}"
        if secret == NO_KEY_NEEDED:
            yield "# It needs no key, but some value must be sent."
        yield f"secret = {_text(secret)}"
        if several:
            yield "# The account that owns the key. Keys of one account share its limits: give them the same account."
            yield f"account = {_text(key)}"
        yield ""


def _quotas(one: Chosen) -> Iterator[str]:
    served = set(one.models.values())
    known = [quota for quota in one.preset.quota if quota.model in served]
    if not known:
        yield f"# {one.preset.title} publishes no general limits: Penstock estimates them."
        yield "# If you know yours:"
        yield f'#   [[quota]]\n#   account = "{one.keys[0]}"\n#   rpm = 600\n#   concurrency = 50'
        yield ""
    for account in one.keys if known else ():
        for quota in known:
            yield "[[quota]]"
            yield f"account = {_text(account)}"
            yield f"model = {_text(quota.model)}"
            for name in ("rpm", "tpm", "concurrency"):
                if (figure := getattr(quota, name)) is not None:
                    yield f"{name} = {figure:g}" if figure < 1e6 else f"{name} = {int(figure)}"
            yield ""


def _models(chosen: Sequence[Chosen], models: Sequence[str]) -> Iterator[str]:
    yield "# --- What a client may ask for, and by which keys: tiers in the order of preference, the next for when the"
    yield "# one before has no room. docs/routing.md has whole set-ups."
    for model in models:
        tiers = _tiers(chosen, model)
        yield "[[model]]"
        yield f"name = {_text(model)}"
        aliases = dict.fromkeys(name for one in chosen for name in one.preset.aliases.get(model, ()))
        if free := [_text(name) for name in aliases if name not in models]:
            yield f"aliases = [{', '.join(free)}]"
        yield f"tiers = [{', '.join('[' + ', '.join(tier) + ']' for tier in tiers)}]"
        yield ""


def _tiers(chosen: Sequence[Chosen], model: str) -> list[list[str]]:
    """A tier for each preset that has the model; several providers of one preset are equals."""
    tiers: dict[str, list[str]] = {}
    for one in chosen:
        if model in one.models:
            tiers.setdefault(one.name, []).extend(_reference(key, model, one) for key in one.keys)
    return list(tiers.values())


def _reference(key: str, model: str, one: Chosen) -> str:
    theirs = one.models[model]
    return _text(key if theirs == model else f"{key}:{theirs}")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
