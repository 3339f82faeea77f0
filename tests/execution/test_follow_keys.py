"""Whose queues a worker consumes after a reload: all keys, those of its regions, or those it was told."""

from __future__ import annotations

import pytest

from app.composition.worker import followed, wanted_queues
from app.settings import Settings
from app.settings.topology import started_regions


def settings(**keys: str) -> Settings:
    """Keys by name, each with the region of its upstream; bound, but for `home`."""
    regions = sorted(set(keys.values()))
    return Settings.model_validate(
        {
            "upstream": [
                {"name": r, "base_url": "https://u.example/v1", "region": r, "bound": r != "home"}
                for r in regions
            ],
            "key": [{"name": k, "upstream": r, "secret": "env:K"} for k, r in keys.items()],
        }
    )


BEFORE = {"k1": "home", "e1": "eu", "u1": "us"}
AFTER = {"k1": "home", "k2": "home", "e2": "eu", "u1": "us", "a1": "asia"}


@pytest.mark.parametrize(
    ("queues", "regions", "then"),
    [
        (["key.k1"], "", ["key.k1", "key.k2"]),  # all that are open to everybody
        (["key.e1"], "eu", ["key.e2"]),
        (["key.e1", "key.u1"], "us eu", ["key.e2", "key.u1"]),
        (["key.e1", "key.u1"], "", ["key.u1"]),  # told by -Q
        (["key.u1"], "eu", ["key.u1"]),  # told by -Q, whatever the environment says
    ],
)
def test_who_follows_what(queues: list[str], regions: str, then: list[str]) -> None:
    begun = followed(settings(**BEFORE), queues, started_regions({"PENSTOCK_WORKER_REGION": regions}))
    assert list(wanted_queues(settings(**AFTER), queues, begun)) == then
