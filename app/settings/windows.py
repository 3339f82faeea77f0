"""The busy hours of each model's upstreams, from calendars built in and told."""

from collections.abc import Mapping

from app.billing.domain.calendar import Calendar, Windows
from app.settings.calendars import calendars
from app.settings.models import Settings, UpstreamSettings
from app.settings.price_lists import built_in, list_of


def all_calendars(settings: Settings) -> Mapping[str, Calendar]:
    """Every calendar that may be named; [[calendar]] goes before the built-in ones."""
    return {**calendars(), **{one.name: one.calendar() for one in settings.calendars}}


def windows_of(settings: Settings) -> dict[str, Windows]:
    """By model: the busy hours of the upstreams of its first tier. Models without any are left out."""
    known = all_calendars(settings)
    upstreams = {upstream.name: _busy(upstream) for upstream in settings.upstreams}
    upstream_of = {key.name: key.upstream for key in settings.keys}
    found = {}
    for model in settings.models:
        first = next((tier for tier in model.routes() if tier), ())
        names = {name for route in first for name in upstreams[upstream_of[route.key]]}
        if names:
            found[model.name] = Windows(tuple(known[name] for name in sorted(names)))
    return found


def _busy(upstream: UpstreamSettings) -> tuple[str, ...]:
    """The calendars that an upstream goes by: those told, else its price list's."""
    if upstream.busy is not None:
        return upstream.busy
    prices = built_in().get(list_of(upstream) or "")  # another check refuses an unknown list
    return (prices.calendar,) if prices is not None and prices.calendar else ()
