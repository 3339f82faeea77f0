"""Checks of a whole configuration: pydantic's findings in an operator's terms, and names that tables refer to."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.settings.config_errors import ConfigProblem, Place
from app.settings.cost_models import calendars
from app.settings.domain.routing import ANY
from app.settings.models import Settings
from app.settings.price_lists import built_in
from app.settings.provider_profiles import profiles
from app.settings.tier_models import calendars_in

ENVIRONMENT = {
    "database_url": "DATABASE_URL",
    "redis_url": "REDIS_URL",
    "cache_url": "CACHE_URL",
    "flower_url": "PENSTOCK_FLOWER_URL",
    "metrics_address": "PENSTOCK_METRICS_ADDRESS",
    "admin_key": "PENSTOCK_ADMIN_KEY",
    "path": "PENSTOCK_CONFIG",
}
_HINTS = {  # by a setting's name, or by the beginning of pydantic's own types
    "jitter": 'write "full" or a fraction such as 0.1',
    "min_tls": 'write "1.2" or "1.3", or leave it out',
    "tiers": 'write lists of key names in a list: [["first", "second"], ["fallback:its-model-name"]]',
    "string": 'write text in quotes: name = "..."',
    "float": "write a number without quotes",
    "finite": "write a number that ends",
    "int": "write a whole number without quotes",
    "tuple": "write a list in brackets: [...]",
    "greater": "give a value inside this range",
    "less": "give a value inside this range",
    "dict": "write a table: [name]",
    "model": "write a table: [name]",
}


def unknown_tables(data: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    """What stands at the top of the file and means nothing there."""
    known = _names_in_file(Settings) - set(ENVIRONMENT)
    for name in data:
        if name in ENVIRONMENT:
            hint = f"take it out and set {ENVIRONMENT[name]} in the environment"
            yield ConfigProblem((name,), f'"{name}" does not belong into this file', hint)
        elif name not in known:
            yield _unknown((name,), name, known, "at the top of the file")


def refusals(error: ValidationError) -> Iterator[ConfigProblem]:
    """Each finding as a problem. No value of the file is quoted: it might be a secret."""
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] != "default_factory_not_called":  # follows from another finding
            yield _problem(detail)


def _problem(detail: ErrorDetails) -> ConfigProblem:
    place: Place = detail["loc"]
    name = str(place[-1]) if place else ""
    if detail["type"] == "extra_forbidden":
        return _unknown(place, name, _names_in_file(_model_at(place[:-1])), f"in {_header(place[:-1])}")
    if detail["type"] == "missing":
        return ConfigProblem(
            place[:-1], f'{_header(place[:-1])} lacks "{name}"', f'add a line "{name} = ..."'
        )
    field = _field(place)
    message = detail["msg"].replace("Input should be", "must be")
    return ConfigProblem(place, f"{field or _header(place)}: {message}", _hint(field, detail))


def _hint(field: str, detail: ErrorDetails) -> str:
    kind = detail["type"].split("_")[0]
    if len(detail["loc"]) == 1 and kind == "tuple":
        return f"write [[{field}]], once for each"
    given: str | None = detail.get("ctx", {}).get("hint")
    return given or _HINTS.get(field) or _HINTS.get(kind) or "correct this value"


def _unknown(place: Place, name: str, known: set[str], where: str) -> ConfigProblem:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(sorted(known))}"
    return ConfigProblem(place, f'unknown name "{name}" {where}', hint)


def _names_in_file(model: type[BaseModel] | None) -> set[str]:
    """How a model's fields are called in the file."""
    return {info.alias or name for name, info in model.model_fields.items()} if model else set()


def _model_at(place: Place) -> type[BaseModel] | None:
    """The model of the table at `place`; None where there is none."""
    model: type[BaseModel] | None = Settings
    for part in place:
        if isinstance(part, int) or model is None:
            continue
        fields = {info.alias or name: info for name, info in model.model_fields.items()}
        if part in fields:
            model = _model_in(fields[part].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model inside a type such as tuple[KeySettings, ...] or dict[str, RetrySettings]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _header(place: Place) -> str:
    """A table as it is written in the file: [[key]], [retry.default], [api]."""
    names = [str(part) for part in place if not isinstance(part, int)]
    if any(isinstance(part, int) for part in place):
        return f"[[{names[0]}]]"
    return f"[{'.'.join(names)}]" if names else "the file"


def _field(place: Place) -> str:
    """The setting's name at `place`, without what pydantic adds for unions and elements; "" for a table."""
    if len(place) > 1 and place[-1] in _names_in_file(_model_at(place[:-1])):
        return str(place[-1])
    names = _names_in_file(_model_at(place[:1])) if len(place) > 1 else set()
    inside = [part for part in place[1:] if isinstance(part, str) and part in names]
    if inside:
        return inside[0]
    return str(place[0]) if len(place) == 1 and not _is_table(place) else ""


def _is_table(place: Place) -> bool:
    """Whether the name at the top of the file is one table, such as [api], and no array of them."""
    info = Settings.model_fields.get(str(place[0]))
    return info is not None and _model_in(info.annotation) is info.annotation


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
    yield from _aliases(settings)
    for table, names in named.items():
        for number, name in enumerate(names):
            if name in names[:number]:
                message = f'there is another [[{table}]] named "{name}"'
                yield ConfigProblem((table, number, "name"), message, "rename or remove one of them")


def _aliases(settings: Settings) -> Iterator[ConfigProblem]:
    taken = {model.name for model in settings.models}
    for number, model in enumerate(settings.models):
        for alias in model.aliases:
            if alias in taken:
                message = f'aliases: "{alias}" is the name or an alias of another [[model]], or given twice'
                yield ConfigProblem(("model", number, "aliases"), message, "remove one of them")
            taken.add(alias)


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
            hint = _suggestion(quota.account, accounts) or "name the account of a [[key]]"
            yield ConfigProblem(
                ("quota", number, "account"), f'no [[key]] has the account "{quota.account}"', hint
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
            hint = _suggestion(upstream.prices, lists) or f"there are: {', '.join(lists)}"
            yield ConfigProblem(
                ("upstream", number, "prices"), f'no built-in price list "{upstream.prices}"', hint
            )
    yield from _busy(settings)
    yield from _profiles(settings)
    for number, price in enumerate(settings.prices):
        yield from _dangling(("price", number, "upstream"), "upstream", price.upstream, "upstream", upstreams)
        if price.calendar and price.calendar not in calendars():
            hint = _suggestion(price.calendar, calendars()) or f"there are: {', '.join(calendars())}"
            yield ConfigProblem(("price", number, "calendar"), f'no calendar "{price.calendar}"', hint)


def _busy(settings: Settings) -> Iterator[ConfigProblem]:
    known = [*calendars(), *(one.name for one in settings.calendars)]
    for number, upstream in enumerate(settings.upstreams):
        for name in upstream.busy or ():
            yield from _dangling(("upstream", number, "busy"), "busy", name, "calendar", known)
    for number, model in enumerate(settings.models):
        for index, tier in enumerate(model.tier):
            for name in calendars_in(tier.when or "true"):
                yield from _dangling(
                    ("model", number, "tier", index, "when"), "when", name, "calendar", known
                )


def _profiles(settings: Settings) -> Iterator[ConfigProblem]:
    for number, upstream in enumerate(settings.upstreams):
        if upstream.profile is not None and upstream.profile not in profiles():
            hint = _suggestion(upstream.profile, profiles()) or f"there are: {', '.join(profiles())}"
            yield ConfigProblem(
                ("upstream", number, "profile"), f'no built-in profile "{upstream.profile}"', hint
            )


def _dangling(
    place: Place, field: str, name: str, table: str, known: Collection[str]
) -> Iterator[ConfigProblem]:
    if name not in known:
        header = f"[{table}.{name}]" if table == "retry" else f'[[{table}]] named "{name}"'
        hint = _suggestion(name, known) or f"add one, or name one of: {', '.join(known) or 'none so far'}"
        yield ConfigProblem(place, f"{field}: there is no {header}", hint)


def _suggestion(name: str, known: Collection[str]) -> str | None:
    close = difflib.get_close_matches(name, known, n=1)
    return f'did you mean "{close[0]}"?' if close else None
