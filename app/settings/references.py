"""What one table says about another: every name must stand for something, and for one thing only."""

import difflib
from collections.abc import Collection, Iterator

from app.settings.calendars import calendars
from app.settings.domain.routing import ANY
from app.settings.errors import ConfigProblem, Place
from app.settings.models import Settings
from app.settings.price_lists import built_in


def problems(settings: Settings) -> Iterator[ConfigProblem]:
    """Every dangling or doubled name, table by table."""
    yield from _doubled(settings)
    yield from _keys(settings)
    yield from _quotas(settings)
    yield from _models(settings)
    yield from _prices(settings)
    upstreams = [upstream.name for upstream in settings.upstreams]
    for name in settings.pace.upstreams:
        yield from _dangling(("pace", "upstreams"), "upstreams", name, "upstream", upstreams)
    if settings.default_model is not None:
        names = [model.name for model in settings.models]
        yield from _dangling(("default_model",), "default_model", settings.default_model, "model", names)


def _doubled(settings: Settings) -> Iterator[ConfigProblem]:
    named = {
        "upstream": [upstream.name for upstream in settings.upstreams],
        "key": [key.name for key in settings.keys],
        "model": [model.name for model in settings.models],
    }
    for table, names in named.items():
        for number, name in enumerate(names):
            if name in names[:number]:
                message = f'there is another [[{table}]] named "{name}"'
                yield ConfigProblem((table, number, "name"), message, "rename or remove one of them")


def _keys(settings: Settings) -> Iterator[ConfigProblem]:
    upstreams = [upstream.name for upstream in settings.upstreams]
    for number, key in enumerate(settings.keys):
        yield from _dangling(("key", number, "upstream"), "upstream", key.upstream, "upstream", upstreams)


def _quotas(settings: Settings) -> Iterator[ConfigProblem]:
    keys = [key.name for key in settings.keys]
    accounts = sorted({key.account for key in settings.keys})
    seen: set[tuple[str | None, str | None, str]] = set()
    for number, quota in enumerate(settings.quotas):
        if quota.key is not None:
            yield from _dangling(("quota", number, "key"), "key", quota.key, "key", keys)
        if quota.account is not None and quota.account not in accounts:
            mend = _suggestion(quota.account, accounts) or "name the account of a [[key]]"
            yield ConfigProblem(
                ("quota", number, "account"), f'no [[key]] has the account "{quota.account}"', mend
            )
        yield from _unmet(settings, number)
        subject = (quota.account, quota.key, quota.model)
        if subject in seen:
            message = (
                f'there is another [[quota]] of "{quota.account or quota.key}" for model "{quota.model}"'
            )
            yield ConfigProblem(("quota", number), message, "put all figures into one of them")
        seen.add(subject)


def _unmet(settings: Settings, number: int) -> Iterator[ConfigProblem]:
    """A quota of a model that its account or key is never asked for: it would limit nothing, and nobody would see."""
    quota = settings.quotas[number]
    mine = {key.name for key in settings.keys if quota.key == key.name or quota.account == key.account}
    routes = [route for model in settings.models for tier in model.routes() for route in tier]
    asked = sorted({route.upstream_model for route in routes if route.key in mine})
    if quota.model != ANY and asked and quota.model not in asked:
        owner = f"key {quota.key}" if quota.key else f"account {quota.account}"
        message = f'model: {owner} is never asked for "{quota.model}", so that this would limit nothing'
        known = f"write the upstream's own name of the model: {', '.join(asked)}"
        yield ConfigProblem(("quota", number, "model"), message, known)


def _models(settings: Settings) -> Iterator[ConfigProblem]:
    keys = [key.name for key in settings.keys]
    for number, model in enumerate(settings.models):
        yield from _dangling(("model", number, "retry"), "retry", model.retry, "retry", settings.retry)
        for index, tier in enumerate(model.routes()):
            place: Place = (
                ("model", number, "tier", index, "keys") if model.tier else ("model", number, "tiers")
            )
            for route in tier:
                yield from _dangling(place, str(place[-1]), route.key, "key", keys)
            if len(set(tier)) < len(tier):
                message = f"{place[-1]} names the same key and upstream model twice in one tier"
                yield ConfigProblem(place, message, "name it once and give the key a weight")


def _prices(settings: Settings) -> Iterator[ConfigProblem]:
    lists, upstreams = list(built_in()), [upstream.name for upstream in settings.upstreams]
    for number, upstream in enumerate(settings.upstreams):
        if upstream.prices and upstream.prices not in lists:
            mend = _suggestion(upstream.prices, lists) or f"there are: {', '.join(lists)}"
            yield ConfigProblem(
                ("upstream", number, "prices"), f'no built-in price list "{upstream.prices}"', mend
            )
    yield from _busy(settings)
    for number, price in enumerate(settings.prices):
        yield from _dangling(("price", number, "upstream"), "upstream", price.upstream, "upstream", upstreams)
        if price.calendar and price.calendar not in calendars():
            mend = _suggestion(price.calendar, calendars()) or f"there are: {', '.join(calendars())}"
            yield ConfigProblem(("price", number, "calendar"), f'no calendar "{price.calendar}"', mend)


def _busy(settings: Settings) -> Iterator[ConfigProblem]:
    known = [*calendars(), *(one.name for one in settings.calendars)]
    for number, upstream in enumerate(settings.upstreams):
        for name in upstream.busy or ():
            yield from _dangling(("upstream", number, "busy"), "busy", name, "calendar", known)


def _dangling(
    place: Place, field: str, name: str, table: str, known: Collection[str]
) -> Iterator[ConfigProblem]:
    if name not in known:
        header = f"[{table}.{name}]" if table == "retry" else f'[[{table}]] named "{name}"'
        mend = _suggestion(name, known) or f"add one, or name one of: {', '.join(known) or 'none so far'}"
        yield ConfigProblem(place, f"{field}: there is no {header}", mend)


def _suggestion(name: str, known: Collection[str]) -> str | None:
    close = difflib.get_close_matches(name, known, n=1)
    return f'did you mean "{close[0]}"?' if close else None
