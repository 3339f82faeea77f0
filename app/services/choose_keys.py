"""Choose keys: whose queues a worker consumes."""

from __future__ import annotations

from collections.abc import Collection

from app.settings import ConfigError, Settings


def keys_of_regions(settings: Settings, regions: Collection[str]) -> tuple[str, ...]:
    """The keys of upstreams in these regions. Raises ConfigError for a region without a key."""
    region_of = {upstream.name: upstream.region for upstream in settings.upstreams}
    known = {region_of[key.upstream] for key in settings.keys} - {""}
    for region in regions:
        if region not in known:
            there = ", ".join(sorted(known)) or "none so far"
            mend = f'write region = "{region}" into its [[upstream]], or name one of: {there}'
            raise ConfigError(str(settings.path), None, f'no key is in the region "{region}"', mend)
    return tuple(key.name for key in settings.keys if region_of[key.upstream] in regions)
