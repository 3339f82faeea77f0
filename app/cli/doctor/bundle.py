"""The support bundle: what somebody who helps needs to see, without secrets, prompts and answers."""

from __future__ import annotations

import platform
import re
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import orjson

from app.cli.doctor.command import Found
from app.composition.container import Container
from app.diagnosis.probe_service import latest_call_ids
from app.platform.domain.errors import PenstockError
from app.settings.values import is_reference

_HIDDEN = "(hidden)"
_LOG_BYTES = 64 * 1024  # the end of each log
_PLAIN = re.compile(r"env:\w+|file:\S+")
_SHOWN_VARIABLES = re.compile(r"PENSTOCK_|DATABASE_URL|REDIS_URL|CACHE_URL|OTEL_|.*_PROXY|.*_proxy|TZ$|LANG$")
# Credentials in a URL; keys as providers and Penstock make them, and the headers that carry them.
_SECRETS = (
    (re.compile(r"(\w://)[^/@\s\"']+@"), r"\1***@"),
    (re.compile(r"\b(sk|pk|ak|gsk|xai|whsec|hf|ghp|AIza)[-_A-Za-z0-9+/=]{12,}"), _HIDDEN),
    (re.compile(r"(?i)(bearer|basic)\s+[-_A-Za-z0-9.+/=:]{8,}"), r"\1 ***"),
)
# Settings of free text that is never a secret; any other text is hidden unless it is a reference, a name or a figure.
_TELLING = re.compile(
    r"name|upstream|model|tiers|base_url|status_page|account|region|default.*|path|order|window|kind|zone|preset|when"
    r"|currency|source|aliases|from|until|days|condition"
)


def write_bundle(
    file: Path, found: Found, examined: Mapping[str, Any], environ: Mapping[str, str]
) -> list[str]:
    """Write a ZIP archive, readable by this user only, and return the names in it. Raises OSError."""
    parts = {
        "doctor.json": orjson.dumps(examined, option=orjson.OPT_INDENT_2).decode(),
        "configuration.json": _json(_configuration(found)),
        "versions.json": _json(_versions()),
        "environment.json": _json(sorted(name for name in environ if _SHOWN_VARIABLES.match(name))),
        "calls.json": _json(_calls(found)),
        **_logs(found.folder / "logs"),
    }
    hidden = [*found.secrets.values(), *(value for each in found.headers.values() for value in each.hidden)]
    hidden += [each.proxy_auth for each in found.headers.values()]
    hidden += [found.profile.api_key, found.profile.flower_auth]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        file.chmod(0o600)
        for name, text in parts.items():
            archive.writestr(name, redact(text, hidden))
    return list(parts)


def redact(text: str, secrets: Iterable[str]) -> str:
    """A text without these secrets, and without what looks like one."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def _configuration(found: Found) -> Any:
    if found.settings.path is None:
        return "none"
    try:
        return shown(tomllib.loads(found.settings.path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        return f"unreadable ({type(error).__name__})"


def shown(value: Any, name: str = "") -> Any:
    """A configuration of which texts are kept where they are references or settings known to be harmless."""
    if isinstance(value, dict):
        return {each: shown(inner, "" if name == "headers" else each) for each, inner in value.items()}
    if isinstance(value, list):
        return [shown(each, name) for each in value]
    if not isinstance(value, str) or _PLAIN.fullmatch(value):
        return value
    if value.startswith("command:"):
        return f"command:{_HIDDEN}"
    harmless = name and _TELLING.fullmatch(name) and not is_reference(value)
    return value.partition("?")[0] if harmless else _HIDDEN


def _versions() -> dict[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in distributions()}
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }


def _calls(found: Found) -> Sequence[Mapping[str, Any]] | str:
    """The latest calls with the ids by which a provider finds them."""
    if not found.settings.database_url:
        return "no database is configured"
    database = Container(found.settings).database
    try:
        return database.read(latest_call_ids)
    except PenstockError as error:
        return f"not read ({type(error).__name__})"
    finally:
        database.close()


def _logs(folder: Path) -> dict[str, str]:
    texts = {}
    for path in sorted(folder.glob("*.log")) if folder.is_dir() else ():
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            texts[f"logs/{path.name}"] = file.read().decode(errors="replace")
    return texts
