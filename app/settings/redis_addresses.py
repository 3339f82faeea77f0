"""Addresses of Redis servers: REDIS_URL for the queues, CACHE_URL for cached answers, never the same place."""

from urllib.parse import parse_qs, urlsplit

from app.settings.errors import ConfigError

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def redis_address(variable: str, value: str | None) -> str | None:
    """The address that a variable holds; None when it is unset or empty. Raises ConfigError."""
    if not value:
        return None
    if urlsplit(value).scheme in ("sentinel", "redis+sentinel"):
        raise ConfigError(
            variable,
            None,
            "the address of a Sentinel, and Penstock speaks to one server",
            "write the address of a name or TCP proxy that follows the primary, such as redis://redis-primary:6379/0 "
            "(docs/scale.md shows one); a failover is then to Penstock what a restart of Redis is",
        )
    if urlsplit(value).scheme not in ("redis", "rediss") or not urlsplit(value).hostname:
        raise ConfigError(
            variable, None, "not a Redis address", "write redis://HOST:6379/0 (rediss:// for TLS)"
        )
    return value


def cache_address(value: str | None, broker: str | None) -> str | None:
    """CACHE_URL, refused where it is the broker's own database. Raises ConfigError.

    Other spellings of one place are found when the cache is first used.
    """
    address = redis_address("CACHE_URL", value)
    if address and broker and place(address) == place(broker):
        raise ConfigError(
            "CACHE_URL",
            None,
            "the same Redis database as REDIS_URL; cached answers would take the queues' memory",
            "name another server, or another database of it, such as redis://HOST:6379/1; or unset it",
        )
    return address


def place(address: str) -> tuple[str, int, int]:
    """Host, port and number of the database that an address leads to. The user does not matter."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    told = parse_qs(parts.query).get("db", [""])[0] or parts.path.strip("/")
    number = int(told) if told.isascii() and told.isdigit() else 0
    return "here" if host in _HERE else host, parts.port or 6379, number
