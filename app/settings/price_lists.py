"""The price book, from the built-in lists (app/settings/prices/*.toml) and [[price]], and busy hours by model."""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from app.billing.domain.calendar import Calendar, Windows
from app.billing.domain.pricing import IsPeak, Price, PriceBook, Rates
from app.settings.cost_models import DatedPriceSettings, RateSettings, calendars
from app.settings.models import Settings, UpstreamSettings
from app.settings.values import Section

FOLDER = Path(__file__).parent / "prices"


class PriceList(Section):
    """A built-in list: whose it is, and its dated prices."""

    hosts: list[str]
    calendar: str = ""
    price: list[DatedPriceSettings]


@cache
def built_in() -> Mapping[str, PriceList]:
    """All built-in lists by name."""
    files = sorted(FOLDER.glob("*.toml"))
    return {file.stem: PriceList.model_validate(tomllib.loads(file.read_text("utf-8"))) for file in files}


def price_book(settings: Settings, peaks: Mapping[str, IsPeak] | None = None) -> PriceBook:
    """Every price that is known for the configured upstreams; [[price]] goes before the built-in lists.

    `peaks`: peak hours by calendar; the built-in ones by default.
    """
    known = {name: one.is_peak for name, one in calendars().items()} if peaks is None else peaks
    return PriceBook.of([*_listed(settings), *_configured(settings)], known)


def list_of(upstream: UpstreamSettings) -> str | None:
    """The name of an upstream's built-in list: the configured one, else the one of its address, else None."""
    if upstream.prices is not None:
        return upstream.prices or None
    host = urlsplit(upstream.base_url).hostname
    return next((name for name, found in built_in().items() if host in found.hosts), None)


def peak_calendar(settings: Settings) -> Calendar | None:
    """The peak hours of the first upstream whose built-in list has some."""
    names = (list_of(upstream) for upstream in settings.upstreams)
    found = (built_in()[name].calendar for name in names if name is not None)
    return next((calendars()[name] for name in found if name), None)


def _listed(settings: Settings) -> Iterator[tuple[str, str, Price]]:
    for upstream in settings.upstreams:
        name = list_of(upstream)
        if name is not None:
            found = built_in()[name]
            for price in found.price:
                yield upstream.name, price.model, _price(price, found.calendar)


def _configured(settings: Settings) -> Iterator[tuple[str, str, Price]]:
    for price in settings.prices:
        yield price.upstream, price.model, _price(price, price.calendar)


def _price(given: DatedPriceSettings, calendar: str) -> Price:
    since = datetime.combine(given.since, time(), UTC).timestamp() if given.since else 0.0
    peak = _rates(given.peak) if given.peak is not None else None
    return Price(since, given.currency, _rates(given), peak, calendar if peak else "")


def _rates(given: RateSettings) -> Rates:
    return Rates(
        hit=given.miss if given.hit is None else given.hit,
        miss=given.miss,
        output=given.output,
        reasoning=given.output if given.reasoning is None else given.reasoning,
    )


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
    """The calendars that an upstream goes by: the configured ones, else those of its price list."""
    if upstream.busy is not None:
        return upstream.busy
    prices = built_in().get(list_of(upstream) or "")  # another check refuses an unknown list
    return (prices.calendar,) if prices is not None and prices.calendar else ()
