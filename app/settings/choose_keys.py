"""Choose keys: whose queues a worker consumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from app.settings import ConfigError, Settings

STARTED_FOR = "PENSTOCK_WORKER_REGION"  # separated by spaces; a worker goes on to follow the keys of these


def started_regions(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The regions that a worker process was started for."""
    return tuple(environment.get(STARTED_FOR, "").split())


def keys_of_regions(settings: Settings, regions: Collection[str]) -> tuple[str, ...]:
    """The keys of upstreams in these regions, as `keys_in`. Raises ConfigError for a region without a key."""
    region_of = {upstream.name: upstream.region for upstream in settings.upstreams}
    known = {region_of[key.upstream] for key in settings.keys} - {""}
    for region in regions:
        if region not in known:
            there = ", ".join(sorted(known)) or "none so far"
            mend = f'write region = "{region}" into its [[upstream]], or name one of: {there}'
            raise ConfigError(str(settings.path), None, f'no key is in the region "{region}"', mend)
    return keys_in(settings, regions)


def keys_in(settings: Settings, regions: Collection[str]) -> tuple[str, ...]:
    """The keys of upstreams in these regions; none for a region that there is not."""
    inside = {upstream.name for upstream in settings.upstreams if upstream.region in regions}
    return tuple(key.name for key in settings.keys if key.upstream in inside)
