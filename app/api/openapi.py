"""The table of HTTP operations, and what is generated from it: routes, /openapi.json and the /docs page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask, Response, render_template_string
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from app.api.shapes import ErrorEnvelope
from app.submission.domain.request import IDEMPOTENCY_KEY, LONGEST
from app.tasks.views import Shape

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
    body: type[Shape | BaseModel] | None = None  # of JSON, or of each line of JSONL
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


_REF = "#/components/schemas/{model}"
_MEANINGS = {
    400: "The request is malformed or cannot be fulfilled; `param` names the field.",
    401: "No valid API key.",
    402: "Over budget, or the price is unknown.",
    403: "The key lacks the scope, or a policy denies it.",
    404: "It does not exist or belongs to another client.",
    408: "The request took too long to arrive or to be answered.",
    409: "Its current state does not allow this.",
    413: "The body is too large.",
    415: "Unsupported Content-Encoding; only gzip is accepted.",
    422: "The Idempotency-Key was used with a different payload.",
    429: "Too many requests; see Retry-After.",
    500: "The task was interrupted while running.",
    502: "The upstream gave no usable answer in any attempt.",
    504: "The upstream did not answer in time, or the task's deadline has passed.",
    503: "The database is unreachable; nothing was accepted. See Retry-After.",
}
_INTRODUCTION = (
    "An asynchronous job queue for LLM APIs: submit prompts, read results, receive callbacks. All operations "
    "except probes and metrics require `Authorization: Bearer pk_...`. All errors share one envelope; all responses "
    "have an `x-request-id`."
)

Models = Mapping[tuple[Any, JsonSchemaMode], dict[str, Any]]


def openapi(operations: list[Operation], version: str) -> dict[str, Any]:
    """Build the document."""
    used = list(dict.fromkeys(_models(operations)))
    schemas, definitions = TypeAdapter.json_schemas(
        [(str(model), mode, TypeAdapter(model)) for model, mode in used], ref_template=_REF
    )
    models = {(model, mode): schemas[str(model), mode] for model, mode in used}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, models)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": version, "description": _INTRODUCTION},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "pk_..."}},
        },
        "security": [{"key": []}],
    }


def _models(operations: list[Operation]) -> Iterator[tuple[type[Shape | BaseModel], JsonSchemaMode]]:
    yield ErrorEnvelope, "serialization"
    for operation in operations:
        for model in (operation.body, operation.lines, operation.query, operation.form):
            if model is not None:
                yield model, "validation"
        for answer in operation.answers.values():
            if answer.body is not None:
                yield answer.body, "serialization"


def _operation(operation: Operation, models: Models) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.group],
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(operation.path),
            *_query_parameters(operation.query),
            *_headers(operation),
        ],
        "responses": {str(status): _answer(answer, models) for status, answer in operation.answers.items()},
    }
    if operation.description:
        entry["description"] = operation.description
    if operation.public:
        entry["security"] = []
    if operation.form is not None:
        schema = models[operation.form, "validation"]
        entry["requestBody"] = {"required": True, "content": {FORM: {"schema": schema}}}
    if operation.body is not None:
        entry["requestBody"] = _request_body(operation.body, operation, models)
    for status in _refusals(operation):
        entry["responses"][str(status)] = _refusal(status, models)
    return entry


def _refusals(operation: Operation) -> Iterable[int]:
    common = () if operation.public else (401, 403, 429, 503)
    takes_input = (400,) if operation.body or operation.query or operation.form else ()
    return sorted(
        {
            *common,
            *takes_input,
            *operation.refusals,
            *((415,) if operation.body else ()),
            *((402, 422) if operation.repeatable else ()),
        }
    )


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    schema = query.model_json_schema(ref_template=_REF)
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description", ""),
            "schema": field,
        }
        for name, field in schema["properties"].items()
    ]


def _headers(operation: Operation) -> list[dict[str, Any]]:
    if not operation.repeatable:
        return []
    return [
        {
            "name": IDEMPOTENCY_KEY,
            "in": "header",
            "required": False,
            "description": "A key of your choice for this request, kept for 24 hours: sending it again with the same "
            "payload returns the original result and creates nothing new.",
            "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST},
        }
    ]


def _request_body(body: type[BaseModel], operation: Operation, models: Models) -> dict[str, Any]:
    content = {JSON: {"schema": models[body, "validation"]}}
    if operation.lines is not None:
        for media in ("application/x-ndjson", "application/jsonl"):
            content[media] = {"schema": models[operation.lines, "validation"]}
    return {"required": True, "content": content}


def _answer(answer: ResponseDoc, models: Models) -> dict[str, Any]:
    entry: dict[str, Any] = {"description": answer.description}
    if answer.body is not None:
        entry["content"] = {answer.media: {"schema": models[answer.body, "serialization"]}}
    elif answer.media != JSON:
        entry["content"] = {answer.media: {"schema": {"type": "string"}}}
    return entry


def _refusal(status: int, models: Models) -> dict[str, Any]:
    schema = models[ErrorEnvelope, "serialization"]
    return {"description": _MEANINGS[status], "content": {JSON: {"schema": schema}}}


_FOLDER = Path(__file__).parent / "templates"
_PAGE = (_FOLDER / "docs.html").read_text("utf-8")
_STYLE = (_FOLDER / "docs.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def docs_html(document: Mapping[str, Any]) -> str:
    """Render the /docs page."""
    return render_template_string(
        _PAGE, document=document, style=_STYLE, groups=_groups(document), schemas=_schemas(document)
    )


def docs_page(html: str) -> Response:
    """The /docs page as a response."""
    return Response(
        html, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _POLICY}
    )


def _groups(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Operations by group, each with its method and path."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            entry = {**operation, "method": method.upper(), "path": path, "body": _body_name(operation)}
            groups.setdefault(operation["tags"][0], []).append(entry)
    return groups


def _body_name(operation: Mapping[str, Any]) -> str | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return _name(content["schema"]) if content else None


def _schemas(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The fields of each object, for display."""
    return {
        name: [
            {
                "name": field,
                "kind": kind_of(spec),
                "needed": field in schema.get("required", ()),
                "description": spec.get("description", ""),
            }
            for field, spec in schema.get("properties", {}).items()
        ]
        for name, schema in document["components"]["schemas"].items()
    }


def kind_of(schema: Mapping[str, Any]) -> str:
    """Describe a schema's type, such as `list of Task` or `text or null`."""
    return " or ".join(dict.fromkeys(_kinds(schema)))


_WORDS = {"string": "text", "object": "object", "boolean": "true/false"}


def _kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        for alternative in alternatives:
            yield from _kinds(alternative)
    elif "$ref" in schema:
        yield _name(schema) or "object"
    elif "const" in schema:
        yield f'"{schema["const"]}"'
    elif "enum" in schema:
        yield from (f'"{value}"' for value in schema["enum"])
    elif schema.get("type") == "array":
        yield f"list of {kind_of(schema.get('items', {})) or 'anything'}"
    else:
        kind = schema.get("type", "anything")
        yield "time" if schema.get("format") == "date-time" else _WORDS.get(kind, kind)


def _name(schema: Mapping[str, Any]) -> str | None:
    reference: str | None = schema.get("$ref")
    return reference.rpartition("/")[2] if reference else None
