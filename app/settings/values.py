"""The types of values in settings, and the base class of tables."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.settings.config_errors import checked_network, checked_ports, config_error


def _as_tuple(value: Any) -> Any:
    """TOML has lists; here they are tuples, all the way down."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _plain(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise config_error("must not begin or end with a space, nor hold control characters", "take them out")
    if "|" in value:
        raise config_error('must not hold "|", which separates names in what is stored', "use - or . instead")
    return value


def _no_separator(value: str) -> str:
    if ":" in value:
        raise config_error('must not hold a colon: in a tier one separates "key:model"', "use - or . instead")
    if "," in value:
        raise config_error(
            "must not hold a comma: one separates the queues of a worker", "use - or . instead"
        )
    return value


FromList = BeforeValidator(_as_tuple)
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
KeyName = Annotated[Name, AfterValidator(_no_separator)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Count = Annotated[int, Field(ge=1)]
Network = Annotated[str, AfterValidator(checked_network)]
Ports = Annotated[str, AfterValidator(checked_ports)]


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if value != "*" and (
        not parts.netloc
        or parts.scheme not in ("http", "https")
        or f"{parts.scheme}://{parts.netloc}" != value.lower()
    ):
        raise config_error(
            "is no origin",
            'write scheme, host and port alone, such as "https://app.example.com", or "*" for any',
        )
    return value.lower()


Origin = Annotated[str, AfterValidator(_origin)]


class Section(BaseModel):
    """A table: nothing unknown in it, no value of another type, unchangeable, and silent about its input."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
    )


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


PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def _proxy(value: str) -> str:
    if not value:
        return value
    schemes = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
    hint = f'write it like "http://proxy.internal:3128"; proxies may be {schemes}'
    try:
        parts = urlsplit(value)
        right = parts.scheme in PROXY_SCHEMES and parts.hostname and parts.port
    except ValueError:
        right = None
    if not right:
        raise config_error("must be the address of a proxy, with a port", hint)
    if parts.username is not None or parts.password is not None:
        raise config_error("must not hold a name or password", 'put them into proxy_auth = "env:NAME"')
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise config_error("must not hold a path", hint)
    return f"{parts.scheme}://{parts.netloc}"


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
