"""The table of HTTP operations, from which routes, /openapi.json and /docs are generated."""

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
    """Documents a successful response."""

    description: str
    body: type[BaseModel] | None = None  # of JSON, or of each line of JSONL
    media: str = JSON


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path, such as GET /v1/tasks/{id}, with its input and its responses."""

    method: str
    path: str
    summary: str
    view: View
    answers: Mapping[int, ResponseDoc]
    group: str = "Tasks"
    description: str = ""
    body: type[BaseModel] | None = None
    lines: type[BaseModel] | None = None  # JSON Lines are accepted too
    query: type[BaseModel] | None = None
    refusals: tuple[int, ...] = ()  # besides those common to all operations
    repeatable: bool = False  # accepts an Idempotency-Key
    public: bool = False  # needs no API key
    aliases: tuple[str, ...] = field(default=())  # other paths to the same operation
    whole_paths: tuple[str, ...] = ()  # path parameters that may contain slashes
    form: type[BaseModel] | None = None  # a multipart/form-data body instead of JSON

    @property
    def name(self) -> str:
        """Its name in /openapi.json and in metrics."""
        words = re.findall(r"[a-z0-9]+", f"{self.method.lower()} {self.path.lower()}")
        return "_".join(words)


def _rule(path: str, whole: tuple[str, ...]) -> str:
    """The path in Flask's syntax."""
    for name in whole:
        path = path.replace(f"{{{name}}}", f"<path:{name}>")
    return path.replace("{", "<").replace("}", ">")


def add_routes(app: Flask, operations: list[Operation]) -> None:
    """Register the operations with Flask."""
    for operation in operations:
        for number, path in enumerate((operation.path, *operation.aliases)):
            app.add_url_rule(
                _rule(path, operation.whole_paths),
                endpoint=operation.name if number == 0 else f"{operation.name}_{number}",
                view_func=operation.view,
                methods=[operation.method],
                provide_automatic_options=False,
            )
