"""Providers that `penstock init` knows: one file each in `known`, dated."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Annotated

from pydantic import Field

from app.cli.presets import FOLDER
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
    """What a provider tells of its limits, for an account and a model."""

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
    # Limits that it tells. What it does not is learned.
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
