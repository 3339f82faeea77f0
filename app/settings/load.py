"""Load the configuration from a file and the environment."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr, ValidationError

from app.settings.checks import problems, refusals, unknown_tables
from app.settings.config_errors import ConfigError, ConfigProblem, line_of
from app.settings.models import Settings

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
    given = parse_qs(parts.query).get("db", [""])[0] or parts.path.strip("/")
    number = int(given) if given.isascii() and given.isdigit() else 0
    return "here" if host in _HERE else host, parts.port or 6379, number


DEFAULT_FILE = Path("penstock.toml")
SHORTEST_ADMIN_KEY = 24  # characters


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read, check and give everything that can be set.

    1. The file is `path`, else PENSTOCK_CONFIG, else penstock.toml here when there is one, else none.
    2. Its TOML, then every value by itself, then what tables say about each other.
    3. The environment: DATABASE_URL, REDIS_URL, CACHE_URL, PENSTOCK_ADMIN_KEY (an empty one counts as unset).

    Raises ConfigError for the first fault in the order of lines.
    """
    file = _file(path, environ)
    text = _text(file) if file else ""
    data = _parsed(str(file), text)
    _refuse(file, text, unknown_tables(data))
    outside = {
        "database_url": _database_url(environ.get("DATABASE_URL")),
        "redis_url": redis_address("REDIS_URL", environ.get("REDIS_URL")),
        "cache_url": cache_address(environ.get("CACHE_URL"), environ.get("REDIS_URL")),
        "flower_url": environ.get("PENSTOCK_FLOWER_URL") or None,
        "metrics_address": _listening("PENSTOCK_METRICS_ADDRESS", environ.get("PENSTOCK_METRICS_ADDRESS")),
        "admin_key": _admin_key(environ.get("PENSTOCK_ADMIN_KEY")),
        "path": file,
    }
    try:
        settings = Settings.model_validate({**data, **outside})
    except ValidationError as error:
        found = list(refusals(error))
    else:
        found = list(problems(settings))
        if not found:
            return settings
    raise _first(file, text, found)


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if named := environ.get("PENSTOCK_CONFIG"):
        return Path(named).expanduser()
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(file), line, "this is not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        hint = "correct the path given by --config or PENSTOCK_CONFIG, or make the file readable"
        raise ConfigError(str(file), None, f"cannot be read ({error.strerror})", hint) from None


def _parsed(file: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(file, text, str(error)) from None


def _syntax_error(file: str, text: str, said: str) -> ConfigError:
    """tomllib gives the place in its message only: "... (at line 3, column 5)" or "(at end of document)"."""
    where = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$", said)
    line = int(where[1]) if where and where[1] else text.count("\n") + 1
    message = said[: where.start()] if where else said
    hint = 'write it as TOML: name = "text", name = 12, [table] or [[table]]'
    return ConfigError(file, line, f"not TOML: {_without_values(message)}", hint)


def _without_values(message: str) -> str:
    """tomllib quotes single characters and names, never values; keep it so should that change."""
    return message if len(message) < 100 else message[:100]


def _refuse(file: Path | None, text: str, found: Iterable[ConfigProblem]) -> None:
    if listed := list(found):
        raise _first(file, text, listed)


def _first(file: Path | None, text: str, found: list[ConfigProblem]) -> ConfigError:
    located = [(line_of(text, problem.place), problem) for problem in found]
    line, problem = min(located, key=lambda pair: pair[0] or 0)
    return ConfigError(str(file), line, problem.message, problem.hint)


def _database_url(value: str | None) -> str | None:
    """The URL with psycopg 3 as the driver, which a plain postgresql:// would not choose."""
    if not value:
        return None
    scheme, _, rest = value.partition(":")
    if scheme in ("postgres", "postgresql"):
        return f"postgresql+psycopg:{rest}"
    if scheme not in ("postgresql+psycopg", "sqlite"):
        hint = "write postgresql://USER:PASSWORD@HOST/NAME or sqlite:///PATH"
        raise ConfigError("DATABASE_URL", None, "neither PostgreSQL nor SQLite", hint)
    return value


def _listening(name: str, value: str | None) -> str | None:
    """HOST:PORT to listen on, an IPv6 address in brackets."""
    if not value:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigError(name, None, "not HOST:PORT", "write it like 127.0.0.1:9100")
    return value


def _admin_key(value: str | None) -> SecretStr | None:
    if not value:
        return None
    if len(value.strip()) < SHORTEST_ADMIN_KEY:
        raise ConfigError(
            "PENSTOCK_ADMIN_KEY",
            None,
            f"it has fewer than {SHORTEST_ADMIN_KEY} characters, and could be guessed",
            "use a random one, such as the output of: openssl rand -hex 32",
        )
    return SecretStr(value)
