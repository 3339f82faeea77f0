"""What a reload changes in a running process, and what needs a new start."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.reload import AT_START, needs_restart
from app.settings import Settings


def settings(*keys: str, **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "upstream": [{"name": "up", "base_url": "https://upstream.example/v1"}],
            "key": [{"name": key, "upstream": "up", "secret": "env:K"} for key in keys],
            **more,
        }
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"quota": [{"account": "k1", "rpm": 5}]},
        {"model": [{"name": "m", "tiers": [["k1"]]}]},
        {"retry": {"patient": {"attempts": 9}}},
        {"health": {"retest": 5}},
    ],
)
def test_keys_quotas_and_models_are_taken_while_everything_runs(more: dict[str, Any]) -> None:
    assert not needs_restart(settings("k1"), settings("k1", "k2", **more))


@pytest.mark.parametrize(
    "more", [{"worker": {"concurrency": 7}}, {"api": {"waiters": 3}}, {"metrics": {"clients": 3}}]
)
def test_what_is_read_at_the_start_alone_needs_one(more: dict[str, Any]) -> None:
    assert needs_restart(settings("k1"), settings("k1", **more))


def test_every_such_section_exists() -> None:
    assert set(AT_START) <= set(Settings.model_fields)
