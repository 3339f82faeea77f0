"""What can be asked over HTTP: one table, from which routes, /openapi.json and /docs are all made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flask import Flask
from flask.typing import ResponseReturnValue
from pydantic import BaseModel

View = Callable[..., ResponseReturnValue]

JSON = "application/json"
JSONL = "application/jsonl"
TEXT = "text/plain"
BYTES = "application/octet-stream"
FORM = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class ResponseDoc:
    """One way a call may end well."""

    description: str
    body: type[BaseModel] | None = None  # of JSON, or of each line of JSONL
    media: str = JSON


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path, such as GET /v1/tasks/{id}, and what goes in and comes out."""

    method: str
    path: str
    summary: str
    view: View
    answers: Mapping[int, ResponseDoc]
    group: str = "Tasks"
    description: str = ""
    body: type[BaseModel] | None = None
    lines: type[BaseModel] | None = None  # a body of JSON lines is taken too
    query: type[BaseModel] | None = None
    refusals: tuple[int, ...] = ()  # beside those that any call may meet
    repeatable: bool = False  # takes an Idempotency-Key
    public: bool = False  # needs no API key
    aliases: tuple[str, ...] = field(default=())  # further paths, for clients that know another one
    whole_paths: tuple[str, ...] = ()  # names in the path that may hold slashes
    form: type[BaseModel] | None = None  # a body of multipart/form-data, in the place of JSON

    @property
    def name(self) -> str:
        """Its name in /openapi.json and in metrics."""
        words = re.findall(r"[a-z0-9]+", f"{self.method.lower()} {self.path.lower()}")
        return "_".join(words)


def _rule(path: str, whole: tuple[str, ...]) -> str:
    """A path as Flask writes it."""
    for name in whole:
        path = path.replace(f"{{{name}}}", f"<path:{name}>")
    return path.replace("{", "<").replace("}", ">")


def add_routes(app: Flask, operations: list[Operation]) -> None:
    """Make Flask's rules out of the table."""
    for operation in operations:
        for number, path in enumerate((operation.path, *operation.aliases)):
            app.add_url_rule(
                _rule(path, operation.whole_paths),
                endpoint=operation.name if number == 0 else f"{operation.name}_{number}",
                view_func=operation.view,
                methods=[operation.method],
                provide_automatic_options=False,
            )
