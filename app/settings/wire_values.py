"""Values that say how an upstream is reached: proxies and headers."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from app.settings.config_errors import config_error

REFERENCES = ("env", "file", "command")
# What is ours to say, or the connection's.
_OURS = frozenset(
    {
        "accept",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-penstock-task",
    }
)


def is_reference(value: str) -> bool:
    """Whether it says where a value is, as "env:NAME" does."""
    kind, _, rest = value.partition(":")
    return kind in REFERENCES and bool(rest.strip())


def _reference(value: str) -> str:
    if value and not is_reference(value):
        raise config_error(
            "must say where the secret is, not be it",
            'write "env:NAME", "file:PATH" or "command:PROGRAM ARGUMENTS"',
        )
    return value


def _proxy(value: str) -> str:
    if not value:
        return value
    mend = 'write it like "http://proxy.internal:3128"'
    try:
        parts = urlsplit(value)
        right = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        right = None
    if not right:
        raise config_error("must be an http address with a port", mend)
    if parts.username is not None or parts.password is not None:
        raise config_error("must not hold a name or password", 'put them into proxy_auth = "env:NAME"')
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise config_error("must not hold a path", mend)
    return f"http://{parts.netloc}"


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise config_error("has a name that no header can have", 'write { X-Title = "..." }')
    if value.lower() in _OURS:
        raise config_error(
            f"must not set {value}, which is set by itself",
            "a key's secret is sent as Authorization; a proxy's stands in proxy_auth",
        )
    return value


def _header_value(value: str) -> str:
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise config_error("has a value that no header can have", "write plain ASCII on one line")
    return value


Reference = Annotated[str, AfterValidator(_reference)]
ProxyAddress = Annotated[str, AfterValidator(_proxy)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
