"""The documentation page: /openapi.json as a person reads it, with nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flask import Response, render_template_string

_FOLDER = Path(__file__).parent / "templates"
_PAGE = (_FOLDER / "docs.html").read_text("utf-8")
_STYLE = (_FOLDER / "docs.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"


def docs_page(document: Mapping[str, Any]) -> Response:
    """Render the page."""
    html = render_template_string(
        _PAGE, document=document, style=_STYLE, groups=_groups(document), schemas=_schemas(document)
    )
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
    """The fields of every object, in words."""
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
    """A schema in a few words, such as `list of Task` or `text or null`."""
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
