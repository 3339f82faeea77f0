"""pydantic's findings, said in an operator's words."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.settings.errors import ConfigProblem, Place
from app.settings.models import Settings

ENVIRONMENT = {
    "database_url": "DATABASE_URL",
    "redis_url": "REDIS_URL",
    "cache_url": "CACHE_URL",
    "flower_url": "PENSTOCK_FLOWER_URL",
    "metrics_address": "PENSTOCK_METRICS_ADDRESS",
    "admin_key": "PENSTOCK_ADMIN_KEY",
    "path": "PENSTOCK_CONFIG",
}
_MENDS = {  # by a setting's name, or by the beginning of pydantic's own types
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
            mend = f"take it out and set {ENVIRONMENT[name]} in the environment"
            yield ConfigProblem((name,), f'"{name}" does not belong into this file', mend)
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
    return ConfigProblem(place, f"{field or _header(place)}: {message}", _mend(field, detail))


def _mend(field: str, detail: ErrorDetails) -> str:
    kind = detail["type"].split("_")[0]
    if len(detail["loc"]) == 1 and kind == "tuple":
        return f"write [[{field}]], once for each"
    told: str | None = detail.get("ctx", {}).get("mend")
    return told or _MENDS.get(field) or _MENDS.get(kind) or "correct this value"


def _unknown(place: Place, name: str, known: set[str], where: str) -> ConfigProblem:
    close = difflib.get_close_matches(name, known, n=1)
    mend = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(sorted(known))}"
    return ConfigProblem(place, f'unknown name "{name}" {where}', mend)


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
